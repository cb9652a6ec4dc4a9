"""The throughput benchmark runs the node's worker and tells what came of it; its figures are not judged here."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy")

from sparse4d_ros.benchmark import throughput

pytestmark = pytest.mark.ros


def test_sets_go_through_the_worker_and_are_reported(tmp_path, capsys):
    out = tmp_path / "bench" / "throughput.json"
    stages = ["--prepare", "2", "--network", "4", "--publish", "1"]
    status = throughput.main([*stages, "--rate", "300", "--sets", "20", "--out", str(out)])
    written = json.loads(out.read_text())
    assert written == json.loads(capsys.readouterr().out)
    assert written["rates_of_the_stages"] == {"slowest_stage": 250.0, "one_after_another": 142.86}
    assert 0 < written["sets_per_second"] <= 300
    assert written["arrival_to_publish_ms"]["p99"] >= 7
    assert status == (0 if written["ok"] else 1)


def test_times_that_can_not_be_are_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        throughput.main(["--network", "0"])
    assert caught.value.code == 2 and "expected more than 0" in capsys.readouterr().err
