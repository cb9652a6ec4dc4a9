"""The table of the live view's cost; its figures are not judged here."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

from sparse4d_ros.benchmark import view_cost
from sparse4d_ros.benchmark.view_cost import Turn


def test_turns_of_a_case_become_one_row():
    turns = [
        Turn(100, 9.0, [50.0] * 99 + [150.0], {"node": 0.9, "view": 0.2}, {"node": 500.0, "view": 200.0}),
        Turn(100, 10.0, [60.0] * 100, {"node": 0.7, "view": 0.4}, {"node": 510.0, "view": 190.0}),
    ]
    row = view_cost.summary(turns)
    assert (row["turns"], row["sets"]) == (2, 200)
    assert row["rate_hz"] == {"mean": 9.5, "min": 9.0, "max": 10.0}
    assert row["latency_ms"]["p50"] == 60.0 and row["latency_ms"]["p99_of_turns"] == pytest.approx([51.0, 60.0])
    assert row["processors"] == pytest.approx({"node": 0.8, "view": 0.3})
    assert row["memory_mib"] == {"node": 510.0, "view": 200.0}
    (line,) = view_cost.table({"view": row}).splitlines()[2:]
    assert line.startswith("| view | 200 | 9.50 (9.00 to 10.00) | 60 / 60 ms | node 0.80, view 0.30 |")


def test_shares_are_of_the_time_in_which_the_bag_was_played(tmp_path):
    lines = [f'{{"topic": "/tf", "stamp_ns": 1, "wall_ns": {wall}}}' for wall in (5_000_000_000, 6_500_000_000)]
    (tmp_path / "played.jsonl").write_text("\n".join(lines) + "\n")
    assert view_cost.played_seconds(tmp_path / "played.jsonl") == 1.5


def test_a_machine_without_a_browser_is_told_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(view_cost, "CHROMIUM", None)
    with pytest.raises(SystemExit):
        view_cost.main([])
    assert "--no-browser leaves it out" in capsys.readouterr().err
    assert not view_cost.parse_arguments(["--no-browser"]).browser
