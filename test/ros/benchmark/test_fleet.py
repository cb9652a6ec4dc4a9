"""The benchmark of fleets compares what runs gave, byte by byte, and notices a run that gave something else."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy")
from sparse4d_ros.benchmark import fleet


@pytest.fixture
def commands(monkeypatch):
    """Takes the place of `evaluate_bags`: (words, what each bag's boxes are); runs take a second for each of them."""
    given = []

    def timed_command(words, out, meanwhile):
        boxes = given.pop(0)
        for number, (bag, content) in enumerate(boxes.items()):
            (out / bag).mkdir(parents=True)
            (out / bag / "boxes.jsonl").write_bytes(content)
            (out / bag / "measured.json").write_text(
                json.dumps({"sets": 16, "step_ms": {"median": number + len(given)}})
            )
            meanwhile()
        return float(len(boxes))

    monkeypatch.setattr(fleet, "timed_command", timed_command)
    return given


def test_runs_are_compared_with_the_first(commands, tmp_path):
    same = {"a": b"1", "b": b"2"}
    commands += [same, same, {"a": b"1", "b": b"3"}, {"a": b"1"}]
    benchmark = fleet.Benchmark(fleet.Work(["command"], "*/measured.json", fleet.bag_content, 2), tmp_path)
    seen = []
    for number in range(4):
        benchmark.run("somewhere", number, [], lambda out: seen.append(sorted(path.name for path in out.iterdir())))
    assert [run.same for run in benchmark.runs] == [True, True, False, False]
    assert [run.sets for run in benchmark.runs] == [32, 32, 32, 16]
    assert seen[:2] == [["a"], ["a", "b"]]
    assert fleet.row(benchmark.runs[2], benchmark.runs[0]) == "| somewhere | 2 | 2.0 | 16.00 | 1.00 | NO |"


def test_what_scenes_gave(tmp_path):
    (tmp_path / "scenes").mkdir()
    for name in ("results.json", "tracking.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "scenes" / "scene.json").write_text('{"detection": {"a": [], "b": []}}')
    sets, content = fleet.scene_content(tmp_path)["scene"]
    assert sets == 2 and content[1] == (b"results.json", b"tracking.json")


def test_a_command_that_fails_is_told(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho unknown bag >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(fleet.sys, "executable", str(program))
    with pytest.raises(OSError, match="module ended with status 2: unknown bag"):
        fleet.timed_command(["module"], tmp_path / "out", lambda: None)
