"""The prepared image encoder gives what the model's backbone and neck give."""

from __future__ import annotations

import copy
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from golden_data import fill
from torch import nn

from sparse4d_core.config import BackboneConfig, preset
from sparse4d_core.inference.fused_convolution import FusedBlock, FusedConvolution, has_fused_convolution
from sparse4d_core.inference.image_encoder import ImageEncoder
from sparse4d_core.network.sparse4d import Sparse4D

BACKBONES = {
    "basic": BackboneConfig(depth=18, base_width=16),
    "bottleneck": BackboneConfig(depth=50, base_width=8),
    "deformable": BackboneConfig(depth=50, base_width=8, deformable_stages=(False, False, True, True)),
}


def _model(kind: str) -> Sparse4D:
    return fill(Sparse4D(replace(preset("demo"), backbone=BACKBONES[kind])), seed=3)


def _images() -> torch.Tensor:
    return torch.randn(2, 2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def _is_fused(encoder: ImageEncoder) -> bool:
    return any(isinstance(module, (FusedBlock, FusedConvolution)) for module in encoder.modules())


def _relative_errors(model: Sparse4D, encoder: ImageEncoder) -> list[float]:
    with torch.inference_mode():
        expected, actual = model.image_features(_images()), encoder(_images())
    assert all(a.dtype == encoder.dtype and a.shape == e.shape for a, e in zip(actual, expected, strict=True))
    return [float((a - e).abs().max() / e.abs().max()) for a, e in zip(actual, expected, strict=True)]


@pytest.mark.parametrize("kind", BACKBONES)
def test_folded_equals_model(kind):
    model = _model(kind)
    encoder = ImageEncoder(model)
    assert max(_relative_errors(model, encoder)) < 1e-4
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert bool(norms) == (kind == "deformable")
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()), "the model itself stays as it was"


@pytest.mark.parametrize("kind", BACKBONES)
def test_bfloat16_is_as_exact_as_the_model_in_bfloat16(kind):
    """At most twice the error of plain modules in the same precision."""
    model = _model(kind)
    plain = copy.deepcopy(model).bfloat16()
    with torch.inference_mode():
        expected, rounded = model.image_features(_images()), plain.image_features(_images().bfloat16())
    own = [float((a - e).abs().max() / e.abs().max()) for a, e in zip(rounded, expected, strict=True)]
    errors = _relative_errors(model, ImageEncoder(model, torch.bfloat16))
    assert all(0 < error <= 2 * allowed for error, allowed in zip(errors, own, strict=True)), (errors, own)


class OneLevel(nn.Module):
    """A neck that passes on what the backbone gives; counts the calls that no compiler replaced."""

    def __init__(self):
        super().__init__()
        self.interpreted = 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not torch.compiler.is_compiling():
            self.interpreted += 1
        return [x]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: no g++ here")
def test_a_compiled_encoder_gives_the_same(caplog):
    """The real compiler, on a single convolution: its time grows with the network."""
    model = _model("basic")
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()).eval()
    model.neck = OneLevel()
    encoder = ImageEncoder(model, compile=True)
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # for one kernel they would not pay
        for _ in range(2):
            assert max(_relative_errors(model, encoder)) < 1e-5
    assert encoder.neck.interpreted == 0
    assert not [record for record in caplog.records if record.name.startswith("sparse4d_core")]
    assert model.neck.interpreted == 2


def test_a_compiler_that_fails_is_reported_once_and_survived(caplog, monkeypatch):
    def broken(_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda _: broken)
    model = _model("basic")
    encoder = ImageEncoder(model, compile=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert max(_relative_errors(model, encoder)) < 1e-4
    (line,) = caplog.messages
    assert "no C++ compiler" in line


@pytest.mark.skipif(not has_fused_convolution(torch.float32), reason="this torch has no fused convolutions of oneDNN")
def test_a_torch_without_the_private_operator_takes_the_plain_path_and_says_so_once(monkeypatch, caplog):
    model = _model("basic")
    assert _is_fused(ImageEncoder(model))
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_linear_pointwise=torch.ops.mkldnn._linear_pointwise))
    has_fused_convolution.cache_clear()
    try:
        encoders = [ImageEncoder(model) for _ in range(2)]
        assert max(_relative_errors(model, encoders[1])) < 1e-4
    finally:
        has_fused_convolution.cache_clear()
    assert not _is_fused(encoders[0])
    (line,) = caplog.messages
    assert "mkldnn::_convolution_pointwise cannot be used" in line


class InFloat32Alone:
    """oneDNN's fused convolution on a processor without instructions for lower precisions."""

    def __init__(self):
        self._run = torch.ops.mkldnn._convolution_pointwise

    def __call__(self, x: torch.Tensor, *others) -> torch.Tensor:
        return self._checked(self._run, x, *others)

    def binary(self, x: torch.Tensor, *others) -> torch.Tensor:
        return self._checked(self._run.binary, x, *others)

    def _checked(self, run, x: torch.Tensor, *others) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("mkldnn_convolution: bf16 path needs the cpu support")
        return run(x, *others)


@pytest.mark.skipif(not has_fused_convolution(torch.float32), reason="this torch has no fused convolutions of oneDNN")
def test_a_processor_without_a_precision_takes_the_plain_path_in_it_alone(monkeypatch, caplog):
    model = _model("basic")
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_convolution_pointwise=InFloat32Alone()))
    has_fused_convolution.cache_clear()
    try:
        full, half = ImageEncoder(model), ImageEncoder(model, torch.bfloat16)
        assert _is_fused(full) and not _is_fused(half)
        assert max(_relative_errors(model, full)) < 1e-4 and max(_relative_errors(model, half)) < 0.1
    finally:
        has_fused_convolution.cache_clear()
    (line,) = caplog.messages
    assert "plain PyTorch runs: mkldnn_convolution: bf16 path needs the cpu support" in line


def test_float16_runs_on_every_processor():
    """Few compute in it; the others imitate it, as PyTorch's own convolution does."""
    model = _model("basic")
    with torch.inference_mode():
        expected, found = model.image_features(_images()), ImageEncoder(model, torch.float16)(_images())
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=0.02 * float(one.abs().max()))
