"""Every command line: `ros2 run`, `python -m` and the table in README.md agree, and all behave alike."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pathlib
import re
import runpy
import sys
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# `ros2 run sparse4d_ros <name>` -> `python -m <module>`
COMMANDS = {
    "node": "sparse4d_ros.node",
    "replay": "sparse4d_ros.replay",
    "bag_player": "sparse4d_ros.bag_player",
    "box_recorder": "sparse4d_ros.box_recorder",
    "live_view": "sparse4d_ros.live_view",
    "write_submission": "sparse4d_ros.write_submission",
    "evaluate_bags": "sparse4d_ros.evaluate_bags",
    "nuscenes_to_rosbag": "sparse4d_ros.nuscenes_to_rosbag",
    "rosbag_to_nuscenes": "sparse4d_ros.rosbag_to_nuscenes",
    "check_rig": "sparse4d_ros.check_rig",
    "demo": "sparse4d_ros.demo",
    "models": "sparse4d_core.models",
    "checkpoint": "sparse4d_core.checkpoint",
    "synthetic": "sparse4d_core.data.synthetic",
    "anchors": "sparse4d_core.data.anchors",
    "train": "sparse4d_core.training.train",
    "plot": "sparse4d_core.training.plot",
    "release": "sparse4d_core.training.release",
    "export": "sparse4d_core.export",
    "export_frames": "sparse4d_core.export.frames",
    "tensorrt_engine": "sparse4d_core.export.tensorrt_engine",
    "evaluate": "sparse4d_core.evaluation.evaluate",
    "evaluate_dataset": "sparse4d_core.evaluation.run",
    "criteria": "sparse4d_core.evaluation.criteria",
    "robustness": "sparse4d_core.evaluation.robustness",
    "model_sheet": "sparse4d_core.evaluation.model_sheet",
    "rates": "sparse4d_core.evaluation.rates",
    "build_operator": "cuda_ops.build",
    "benchmark_operator": "cuda_ops.benchmark",
    "benchmark_compilers": "cuda_ops.benchmark_compilers",
    "benchmark_model": "sparse4d_core.benchmark",
    "benchmark_presets": "sparse4d_core.benchmark.preset_cost",
    "benchmark_gpu": "sparse4d_core.benchmark.gpu",
    "benchmark_loader": "sparse4d_core.benchmark.loader_throughput",
    "benchmark_scoring": "sparse4d_core.benchmark.tracking_scoring",
    "benchmark_fleet": "sparse4d_ros.benchmark.fleet",
    "benchmark_transport": "sparse4d_ros.benchmark.transport",
    "benchmark_intake": "sparse4d_ros.benchmark.intake",
    "benchmark_preprocessing": "sparse4d_ros.benchmark.preprocessing",
    "benchmark_throughput": "sparse4d_ros.benchmark.throughput",
    "benchmark_view": "sparse4d_ros.benchmark.view_cost",
    "faults": "sparse4d_ros.campaign.node_faults",
    "soak": "sparse4d_ros.campaign.soak",
    "recorded_rows": "sparse4d_ros.campaign.recorded_rows",
}
ALIASES = {"detector": "node"}  # the executable that the launch files start


def entry_points() -> dict[str, str]:
    """Name -> module:function, of setup.py."""
    return dict(re.findall(r'"(\w+) = ([\w.]+:\w+)"', (ROOT / "setup.py").read_text()))


def program(module: str) -> str:
    """The module that `python -m module` runs: of a package its __main__."""
    inner = f"{module}.__main__"
    return inner if importlib.util.find_spec(module).submodule_search_locations else inner.removesuffix(".__main__")


def main_of(name: str) -> Callable[..., int]:
    return importlib.import_module(program(COMMANDS[name])).main


def status(call: Callable[[], int | None]) -> int | None:
    """Exit status of a command line that returns it or raises SystemExit."""
    try:
        return call()
    except SystemExit as end:
        return end.code


def test_setup_has_these_commands_and_no_others():
    assert entry_points() == {name: f"{program(module)}:main" for name, module in COMMANDS.items()} | {
        alias: f"{program(COMMANDS[name])}:main" for alias, name in ALIASES.items()
    }


def test_every_module_that_can_be_run_is_a_command():
    """Found by the last lines of its file."""
    runnable = set()
    for top in ("sparse4d_ros", "sparse4d_core", "cuda_ops"):
        for path in (ROOT / top).rglob("*.py"):
            if 'if __name__ == "__main__":' in path.read_text():
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                runnable.add(name.removesuffix(".__main__"))
    assert runnable == set(COMMANDS.values())


def test_readme_has_a_row_for_each():
    section = (ROOT / "README.md").read_text().split("\n## Commands\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (.{10,}) \|$", section, re.MULTILINE)
    assert {name: module for name, module, _ in rows} == COMMANDS
    assert len(rows) == len(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_main_takes_the_words_and_returns_the_status(name):
    signature = inspect.signature(main_of(name))
    (argument,) = signature.parameters.values()
    assert (argument.name, argument.default) == ("arguments", None)
    assert argument.annotation == "Sequence[str] | None" and signature.return_annotation == "int"


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, capsys):
    """Handed to main, and as `python -m`: the same text, status 0."""
    assert status(lambda: main_of(name)(["--help"])) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ") and len(text.splitlines()) > 3


@pytest.mark.parametrize("name", COMMANDS)
def test_python_dash_m(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    assert status(lambda: runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)) == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_wrong_usage(name, capsys):
    assert status(lambda: main_of(name)(["--no-such-option"])) == 2
    assert "usage: " in capsys.readouterr().err
