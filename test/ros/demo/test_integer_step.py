"""When the demo computes in 8-bit integers, and what it says where it does not. test_demo.py runs it."""

from __future__ import annotations

import pytest

from sparse4d_core.export import exporter
from sparse4d_ros.demo import integer_step as module
from sparse4d_ros.demo.__main__ import DemoOptions, prepare_network
from sparse4d_ros.demo.integer_step import integer_step
from sparse4d_ros.demo.programs import DemoError

NAMES = ["operator", "calibration", "export"]


class Programs:
    """Takes the place of Processes: writes down what is run; the export makes its folder."""

    def __init__(self, fails: str | None = None):
        self.names, self.fails = [], fails

    def run(self, name, program, *arguments, show=False):
        self.names.append(name)
        if name == self.fails:
            raise DemoError(f"{name} failed with status 1")
        if "--out" in arguments:
            arguments[arguments.index("--out") + 1].mkdir()


@pytest.fixture(autouse=True)
def able(monkeypatch):
    """A machine with all that it takes."""
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, "avx512_vnni": True})


def test_it_is_exported_once_and_again_when_something_that_makes_it_changes(tmp_path, monkeypatch):
    programs = Programs()
    step = integer_step(tmp_path, programs)
    assert step == integer_step(tmp_path, programs)
    assert programs.names == [*NAMES, "operator"], "which a folder from elsewhere may lack"
    assert list(tmp_path.iterdir()) == [step]
    monkeypatch.setattr(exporter, "versions", lambda: {"torch": "another"})
    other = integer_step(tmp_path, programs)
    assert other != step and programs.names[-3:] == NAMES and list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("source", ["sparse4d_core/network/state.py", "cuda_ops/csrc/shared/storage.h"])
def test_its_name_changes_with_sources_and_weights(tmp_path, monkeypatch, source):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"one")
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_text("one")
    monkeypatch.setattr(module, "find_weights", lambda model: weights)
    monkeypatch.setattr(module, "PARENT", tmp_path)
    names = {module._digest()}
    for path in (weights, tmp_path / source):
        path.write_text("two")
        names.add(module._digest())
    assert len(names) == 3


def test_without_its_packages_or_the_instructions_pytorch_computes(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(module, "find_spec", lambda name: None if "onnx" in name else object())
        assert integer_step(tmp_path, Programs()) is None
    assert (
        "PyTorch computes, not 8-bit integers: onnx, onnxscript, onnxruntime: not installed" in capsys.readouterr().out
    )
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True, "avx512_vnni": False})
    assert integer_step(tmp_path, Programs()) is None
    assert "this processor has no instructions for them" in capsys.readouterr().out


@pytest.mark.parametrize("step", NAMES)
def test_an_export_that_fails_is_told_and_tried_again(tmp_path, capsys, step):
    assert integer_step(tmp_path, Programs(fails=step)) is None
    assert f"PyTorch computes, not 8-bit integers: {step} failed" in capsys.readouterr().out
    assert integer_step(tmp_path, Programs()).is_dir()


def test_other_weights_and_who_asks_for_pytorch_get_it(tmp_path):
    programs = Programs()
    for choice in ({"backend": "torch"}, {"model": "v3_r50"}, {"checkpoint": "my.pt"}):
        assert prepare_network(DemoOptions(tmp_path, **choice), programs) == {}
    assert programs.names == []
    assert prepare_network(DemoOptions(tmp_path), programs)["backend"] == "onnxruntime"
