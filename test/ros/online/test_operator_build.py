"""The operator, built while the node is configured: what log and diagnostics tell, and what remains without it.

Compilers are scripts that pretend; test/ops/test_build.py has the ways in which a build fails.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ops.pretended_machine import Machine

pytest.importorskip("rclpy")

import torch

from cuda_ops import build, library
from sparse4d_ros.online import operator_build
from sparse4d_ros.online.health import Level
from sparse4d_ros.online.operator_build import OperatorBuild


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Without kernels, and with a C++ compiler."""
    yield Machine(tmp_path, monkeypatch)
    library.forget_library()  # what was found there


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """Devices with kernels: none of those that pretend is ever loaded."""
    devices: list[str] = []
    for module in (build, operator_build):
        monkeypatch.setattr(module, "kernels_loaded", devices.__contains__)
    return devices


class Operator:
    """Of a node, and what that says of it."""

    def __init__(self, device: str = "cpu"):
        self.logged: list[str] = []
        self.published: list[tuple[Level, str]] = []
        self.build = OperatorBuild(device, SimpleNamespace(info=self.logged.append), self._publish)

    def _publish(self, components) -> None:
        self.published += [(component.level, component.message) for component in components]

    @property
    def said(self) -> list[str]:
        return [message for _, message in self.published]


def test_a_missing_operator_is_built_and_every_step_is_told(machine, loaded):
    operator = Operator()
    operator.build.prepare(allowed=True)
    assert library.find_library() is not None
    assert operator.said[0].startswith("no compiled operator for cpu yet: building it")
    assert [text for text in operator.said if text.endswith("(5 of 5)")] and operator.said[-1].startswith("built ")
    assert {level for level, _ in operator.published} == {Level.WARN}, "not ready yet"
    assert operator.logged == [f"operator: {text}" for text in operator.said]
    loaded.append("cpu")
    assert (operator.build.health().level, operator.build.health().message) == (Level.OK, "compiled kernels")


def test_an_operator_that_is_there_is_not_built_again(machine, loaded):
    machine.build()
    calls, operator = machine.calls("c++"), Operator()
    operator.build.prepare(allowed=True)
    assert machine.calls("c++") == calls and not operator.said


def test_without_a_compiler_the_slower_path_is_taken_with_the_reason(machine, loaded):
    (machine.bin / "c++").unlink()
    operator = Operator()
    operator.build.prepare(allowed=True)
    sentence = "the kernels cannot be built, the slower PyTorch path is taken: no C++ compiler"
    assert operator.said[-1].startswith(sentence)
    health = operator.build.health()
    assert health.level == Level.WARN and sentence in health.message


def test_what_a_failing_compiler_wrote_is_told_in_one_line(machine, loaded):
    machine.cxx(compile="echo 'x.cpp:1: error: expected a semicolon' >&2; echo and much more >&2; exit 1")
    operator = Operator()
    operator.build.prepare(allowed=True)
    assert "error: expected a semicolon" in operator.said[-1]
    assert not any("\n" in text for text in operator.logged + operator.said)


def test_a_gpu_whose_kernels_cannot_be_compiled_is_told_why_at_every_start(machine, loaded, monkeypatch):
    """The CPU kernels that are built in their place do not hide it, nor that nothing is built the second time."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    machine.nvcc(compile="echo '#error -- unsupported GNU version!' >&2; exit 1")
    for start in range(2):
        operator = Operator("cuda")
        operator.build.prepare(allowed=True)
        health = operator.build.health()
        assert health.level == Level.WARN and "#error -- unsupported GNU version!" in health.message, start
    assert len(machine.calls("nvcc")) == 1 and len(operator.said) == 2
    (machine.bin / "c++").unlink()
    library.find_library().path.unlink()
    operator = Operator("cuda")
    operator.build.prepare(allowed=True)
    assert "no C++ compiler" in operator.build.health().message


def test_nothing_is_built_where_that_is_not_wanted(machine, loaded):
    operator = Operator()
    operator.build.prepare(allowed=False)
    assert not machine.calls("c++") and not operator.said
    health = operator.build.health()
    assert health.level == Level.WARN and "run: python -m cuda_ops.build" in health.message
