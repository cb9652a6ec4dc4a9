"""Rows of the robustness sheet over the data set, through the replay and through the node's process: equal scores."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy")
from sparse4d_ros.campaign import recorded_rows
from sparse4d_ros.campaign.recorded_rows import WAYS, main
from sparse4d_ros.middleware import NoDomainError


@pytest.mark.slow
@pytest.mark.ros
def test_the_three_ways_give_the_same(tiny_dataset, tmp_path, capsys):
    """Key frames at 2 Hz, which a node of two cores has the time for."""
    command = ["--model", "demo", "--dataroot", str(tiny_dataset), "--out", str(tmp_path / "rows")]
    command += ["--rows", "images_lost_20_percent"]
    assert main(command) == 0
    row = json.loads((tmp_path / "rows" / "rows.json").read_text())["rows"]["images_lost_20_percent"]
    from_data, replayed, published = (row["scores"][way] for way in WAYS)
    assert (row["replayed"], row["published"]) == (3, 3)
    assert replayed == published, "the same sets, to the last digit"
    assert replayed["nds"] == pytest.approx(from_data["nds"], abs=0.01) and from_data["nds"] > 0.3
    assert replayed["amota"] == pytest.approx(from_data["amota"], abs=0.02)
    table = capsys.readouterr().out
    assert "| `images_lost_20_percent` |" in table and (tmp_path / "rows" / "rows.md").read_text() in table

    assert main(command) == 2 and "--resume" in capsys.readouterr().err, "what is there is not mixed with another run"
    assert main([*command, "--resume", "--sync-slop", "0.05"]) == 2 and "sync_slop was 0.09" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out == table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "fog_easy"], "'fog_easy' cannot be recorded: it is not in images, stamps or poses"),
        (["--rows", "clean", "--version", "v9"], "v9"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_made(tiny_dataset, tmp_path, capsys, words, message):
    assert main(["--model", "demo", "--dataroot", str(tiny_dataset), "--out", str(tmp_path / "rows"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "rows").exists()


def test_that_no_domain_is_free_is_told_in_a_sentence(tiny_dataset, tmp_path, monkeypatch, capsys):
    def none_free() -> None:
        raise NoDomainError("no ROS domain left")

    monkeypatch.setattr(recorded_rows, "claimed_domain", none_free)
    assert main(["--model", "demo", "--dataroot", str(tiny_dataset), "--out", str(tmp_path / "rows")]) == 1
    assert "no ROS domain left" in capsys.readouterr().err
