"""Backbones and neck against the reference: values, names, and what is frozen."""

from __future__ import annotations

import copy
import math
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from golden_data import Golden, fill, golden_parameters
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse4d_core.config import PRESETS, BackboneConfig, NeckConfig, preset
from sparse4d_core.network.backbones import FPN, build_backbone, deformable_conv
from sparse4d_core.network.backbones.deformable_conv import ModulatedDeformConv2d, modulated_deform_conv2d
from sparse4d_core.network.backbones.vovnet import EffectiveSqueezeExcitation, OneShotAggregation, osa_stage

STAGES = ("stem", "stage2", "stage3", "stage4", "stage5")
SMALL = BackboneConfig(depth=18, base_width=8)


def _sqrt2_gain(key: str) -> float | None:
    """Golden README section 11: VoVNet convolutions are drawn with gain sqrt(2)."""
    return math.sqrt(2.0) if key.endswith("/conv.weight") else None


# --- VoVNet -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vovnet_outputs(golden) -> dict[str, torch.Tensor]:
    """The five recorded maps for the image that golden README section 11 defines."""
    data = Golden(golden, "backbone_vovnet99")
    b, c, y, x = np.meshgrid(*(np.arange(n) for n in data["image_u8"].shape), indexing="ij")
    image = ((7 * x + 11 * y + 53 * c + 29 * b + (x * y) // 5 + int(data["image_s"])) % 256).astype(np.uint8)
    assert np.array_equal(image, data["image_u8"]), "the image formula does not give the recorded image"
    config = preset("v3_vov99").image
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (config.mean, config.std))
    backbone = build_backbone(preset("v3_vov99").backbone)
    fill(backbone, int(data["weight_seed"]), "img_backbone.", gain=_sqrt2_gain)
    network_input = ((torch.from_numpy(image).double() - mean) / std).float()
    with torch.inference_mode():
        return dict(zip(STAGES, [backbone.stem(network_input), *backbone(network_input)], strict=True))


@pytest.mark.parametrize(("file", "case"), golden_parameters("backbone_vovnet99", STAGES))
class TestVoVNet:
    def test_golden(self, golden, vovnet_outputs, file, case):
        data, output, atol = Golden(golden, file), vovnet_outputs[case], 2e-5
        assert tuple(output.shape) == tuple(data[f"{case}_shape"])
        data.check(f"{case}_mean", output.double().mean(dim=(0, 2, 3)), atol)
        data.check(f"{case}_std", output.double().std(dim=(0, 2, 3), correction=0), atol)
        data.check(f"{case}_absmax", output.abs().amax(dim=(0, 2, 3)), atol)
        data.check(f"{case}_center", output[..., output.shape[-1] // 2], atol)
        for key in data.keys(f"{case}_f"):  # the whole map of the coarse stages, four channels of the fine ones
            data.check(key, output if key.endswith("full") else output[:, :4], atol)


@pytest.mark.parametrize(
    ("file", "case"), golden_parameters("backbone_vovnet99", ["ese", "osa", "osa_id", "osa_stage"])
)
def test_golden(golden, file, case):
    data = Golden(golden, file)
    args = data.json("constructor_args_json")[case]
    if case == "ese":
        block: nn.Module = EffectiveSqueezeExcitation(args["channel"])
    elif case == "osa_stage":
        block = osa_stage(
            args["in_ch"],
            args["stage_ch"],
            args["concat_ch"],
            args["block_per_stage"],
            args["layer_per_block"],
            args["stage_num"],
        )
    else:
        channels = (args["in_ch"], args["stage_ch"], args["concat_ch"], args["layer_per_block"])
        block = OneShotAggregation(*channels, name=args["module_name"], identity=args["identity"])
    fill(block, int(data["weight_seed"]), f"{case}.", gain=_sqrt2_gain)
    with torch.inference_mode():
        data.check(f"{case}_output", block(data.tensor(f"{case}_input")), 2e-5)


# --- Names, order, shapes, what trains --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "case"),
    [
        pytest.param(file, name, id=f"{file}-{name}")
        for file, name in (
            ("state_dict_v3_r50", "v3_r50"),
            ("state_dict_v2_r50", "v2_r50"),
            ("state_dict_v1_r101_H1", "v1_r101_t1"),
            ("state_dict_v1_r101_H4", "v1_r101_t4"),
            ("state_dict_vovnet99", "v3_vov99"),
        )
    ],
)
class TestNames:
    def test_golden(self, golden, file, case):
        expected = {
            k: v for k, v in Golden(golden, file)["keys"].items() if k.startswith(("img_backbone.", "img_neck."))
        }
        config = preset(case)
        encoder = nn.Module()
        encoder.img_backbone = build_backbone(config.backbone)
        if any(key.startswith("img_neck.") for key in expected):
            encoder.img_neck = FPN(encoder.img_backbone.out_channels, config.embed_dims, config.neck)
        state, parameters = encoder.state_dict(), dict(encoder.named_parameters())
        assert list(state) == list(expected)
        for key, entry in expected.items():
            assert list(state[key].shape) == entry["shape"], key
            assert str(state[key].dtype) == f"torch.{entry['dtype']}", key
            if entry["kind"] == "parameter":
                assert parameters[key].requires_grad == entry["requires_grad"], key


# --- Deformable convolution -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "case"), golden_parameters("blocks_v1", ["dcn", "dcn_s2"]))
class TestDeformableConvolution:
    def test_golden(self, golden, file, case):
        data = Golden(golden, file)
        block = ModulatedDeformConv2d(**data.json("constructor_args_json")[case])
        block.load_state_dict({name: data.tensor(f"{case}_{name.replace('.', '__')}") for name in block.state_dict()})
        with torch.inference_mode():
            data.check(f"{case}_conv_offset_out", block.conv_offset(data.tensor(f"{case}_input")), 1e-5)
            data.check(f"{case}_output", block(data.tensor(f"{case}_input")), 1e-5)


def _scalar_deform_conv(x, offset, modulation, weight, stride, padding, groups):
    """The definition as loops, in float64, for one sample."""
    channels, height, width = x.shape
    out, _, kernel, _ = weight.shape
    result = np.zeros((out, *offset.shape[1:]))
    for h, w in np.ndindex(*offset.shape[1:]):
        for tap, c in np.ndindex(kernel * kernel, channels):
            group = c // (channels // groups)
            dy, dx = offset[(group * kernel * kernel + tap) * 2 : (group * kernel * kernel + tap) * 2 + 2, h, w]
            y, x_pos = h * stride - padding + tap // kernel + dy, w * stride - padding + tap % kernel + dx
            value = 0.0
            for row in (math.floor(y), math.floor(y) + 1):
                for column in (math.floor(x_pos), math.floor(x_pos) + 1):
                    if 0 <= row < height and 0 <= column < width:
                        value += (1 - abs(y - row)) * (1 - abs(x_pos - column)) * x[c, row, column]
            value *= modulation[group * kernel * kernel + tap, h, w]
            result[:, h, w] += weight[:, c, tap // kernel, tap % kernel] * value
    return result


@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    stride=st.integers(1, 2),
    kernel_padding=st.sampled_from([(1, 0), (3, 0), (3, 1)]),
    groups=st.sampled_from([1, 2]),
    spread=st.sampled_from([0.0, 0.7, 5.0]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_deformable_convolution_equals_its_definition(size, stride, kernel_padding, groups, spread, seed):
    kernel, padding = kernel_padding
    random = np.random.default_rng(seed)
    h, w = ((n + 2 * padding - kernel) // stride + 1 for n in size)
    x, weight = random.normal(size=(4, *size)), random.normal(size=(3, 4, kernel, kernel))
    offset = spread * random.normal(size=(groups * kernel**2 * 2, h, w))
    modulation = random.uniform(size=(groups * kernel**2, h, w))
    expected = _scalar_deform_conv(x, offset, modulation, weight, stride, padding, groups)
    tensors = [torch.from_numpy(a)[None] for a in (x, offset, modulation)]
    actual = modulated_deform_conv2d(*tensors, torch.from_numpy(weight), None, stride, padding, groups)
    np.testing.assert_allclose(actual[0].numpy(), expected, atol=1e-12)


def test_deformable_convolution_without_offsets_is_an_ordinary_convolution():
    torch.manual_seed(0)
    block = ModulatedDeformConv2d(6, 5, stride=2)
    x = torch.randn(2, 6, 9, 11)
    expected = 0.5 * nn.functional.conv2d(x, block.weight, stride=2, padding=1)
    torch.testing.assert_close(block(x), expected)


def test_deformable_convolution_gradients():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    offset = (0.6 * torch.randn(2, 18, 4, 5, dtype=torch.float64)).requires_grad_()
    modulation = torch.rand(2, 9, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(
        lambda *tensors: modulated_deform_conv2d(*tensors, None, 1, 1, 1), (x, offset, modulation, weight)
    )


def test_deformable_convolution_keeps_nan_visible():
    block = ModulatedDeformConv2d(2, 3)
    x = torch.randn(1, 2, 5, 5)
    offset = torch.zeros(1, 18, 5, 5)
    offset[0, 4, 2, 2] = float("nan")
    output = modulated_deform_conv2d(x, offset, torch.ones(1, 9, 5, 5), block.weight, None, 1, 1, 1)
    assert output[0, :, 2, 2].isnan().all()
    assert output.isnan().sum() == 3


def test_deformable_convolution_equals_torchvision():
    ops = pytest.importorskip(
        "torchvision.ops", reason="torchvision is not installed (no CPU build exists for this torch)"
    )
    torch.manual_seed(0)
    x, offset, modulation = torch.randn(2, 8, 9, 7), torch.randn(2, 36, 9, 7), torch.rand(2, 18, 9, 7)
    weight, bias = torch.randn(6, 8, 3, 3), torch.randn(6)
    expected = ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=modulation)
    actual = modulated_deform_conv2d(x, offset, modulation, weight, bias, 1, 1, 2)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


class OnGpu(torch.Tensor):
    """A tensor of the CPU that takes itself for one of a GPU."""

    is_cuda = True


@pytest.fixture
def torchvision(monkeypatch):
    """Stands in for torchvision: computes what its documentation says, from the definition in loops."""
    calls = []

    def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):
        calls.append({tensor.dtype for tensor in (input, offset, weight, mask)})
        assert dilation == (1, 1) and stride[0] == stride[1] and padding[0] == padding[1]
        groups = offset.shape[1] // (2 * weight.shape[2] * weight.shape[3])
        arrays = [tensor.detach().as_subclass(torch.Tensor).double().numpy() for tensor in (input, offset, mask)]
        kernels = weight.detach().double().numpy()
        samples = [
            _scalar_deform_conv(*sample, kernels, stride[0], padding[0], groups) for sample in zip(*arrays, strict=True)
        ]
        result = torch.from_numpy(np.stack(samples)).to(input.dtype)
        return result if bias is None else result + bias[:, None, None]

    package, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    package.ops, ops.deform_conv2d = ops, deform_conv2d
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    deformable_conv.torchvision_operator.cache_clear()
    yield calls
    deformable_conv.torchvision_operator.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("stride", "groups", "bias"), [(1, 1, False), (2, 2, True)])
@torch.no_grad()
def test_on_a_gpu_torchvision_computes_what_our_path_does(torchvision, dtype, stride, groups, bias):
    torch.manual_seed(2)
    block = ModulatedDeformConv2d(4, 3, stride=stride, bias=bias, deform_groups=groups)
    nn.init.normal_(block.conv_offset.weight, std=0.3)
    if bias:
        nn.init.normal_(block.bias)
    block, x = block.to(dtype), torch.randn(2, 4, 6, 5).to(dtype)
    expected = block(x)
    assert torchvision == [], "on the CPU our own path runs"
    actual = block(x.as_subclass(OnGpu)).as_subclass(torch.Tensor)
    assert torchvision == [{torch.float32}] and actual.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
    block.onednn = False
    block(x.as_subclass(OnGpu))
    assert len(torchvision) == 1, "the plain path stays plain"


@pytest.mark.parametrize("error", [ImportError("no"), RuntimeError("operator torchvision::nms does not exist")])
def test_without_a_torchvision_that_loads_our_own_path_runs_on_a_gpu(monkeypatch, error, caplog):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", Broken("torchvision.ops"))
    deformable_conv.torchvision_operator.cache_clear()
    block, x = ModulatedDeformConv2d(4, 3), torch.randn(1, 4, 6, 5)
    torch.testing.assert_close(block(x.as_subclass(OnGpu)).as_subclass(torch.Tensor), block(x))
    assert ("torchvision does not load" in caplog.text) == isinstance(error, RuntimeError)
    deformable_conv.torchvision_operator.cache_clear()


# --- Behaviour --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 96), (128, 352), (70, 101)])
def test_strides_of_backbone_and_neck(size):
    backbone = build_backbone(SMALL).eval()
    neck = FPN(backbone.out_channels, 16, NeckConfig(start_level=1, num_levels=4))
    with torch.inference_mode():
        stages = backbone(torch.randn(1, 3, *size))
        levels = neck(stages)
    assert [tuple(s.shape[1:]) for s in stages] == [
        (c, *(math.ceil(n / stride) for n in size)) for c, stride in zip((8, 16, 32, 64), (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(level.shape[1:]) for level in levels] == [
        (16, *(math.ceil(n / stride) for n in size)) for stride in (8, 16, 32, 64)
    ]


def test_frozen_parts_stay_frozen_in_training():
    backbone = build_backbone(preset("v1_r101_t1").backbone).train()
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    assert not any(p.requires_grad for p in backbone.layer1.parameters())
    assert backbone.layer2[0].conv1.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pooling_before_the_relu_changes_nothing(dtype):
    """In training, to the last bit: outputs, running statistics, gradients. Ties and negative windows included."""
    torch.manual_seed(0)
    backbone = build_backbone(SMALL).to(dtype).train()
    x = torch.randint(-2, 3, (2, 3, 8, 12)).to(dtype)  # plain areas, so that windows hold several equal maxima
    x = x.repeat_interleave(8, -1).repeat_interleave(8, -2)
    stem = [copy.deepcopy(module) for module in (backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool)]
    for module in (stem[0], backbone.conv1):
        module.weight.data = module.weight.data.sign()
    reached: list[torch.Tensor] = []
    backbone.layer1[0].register_forward_pre_hook(lambda module, inputs: reached.append(inputs[0]))
    backbone(x)
    expected = nn.Sequential(*stem)(x)
    assert 0.02 < (expected == 0).double().mean() < 0.9
    assert torch.equal(reached[0], expected)
    along = torch.randn_like(expected)
    reached[0].backward(along)
    expected.backward(along)
    assert torch.equal(backbone.conv1.weight.grad, stem[0].weight.grad) and stem[0].weight.grad.any()
    assert all(torch.equal(a, b) for a, b in zip(backbone.bn1.buffers(), stem[1].buffers(), strict=True))


@pytest.mark.parametrize("kind", ["resnet", "vovnet"])
def test_activation_checkpointing_changes_memory_only(kind):
    config = SMALL if kind == "resnet" else BackboneConfig("vovnet", depth=39)
    torch.manual_seed(0)
    plain = build_backbone(config).train()
    saving = build_backbone(config, activation_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for backbone in (plain, saving):
        sum(level.mean() for level in backbone(x)).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), f"{name}: statistics of one batch were counted twice"


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match=r"ResNet-42.*18.*50.*101"):
        build_backbone(BackboneConfig(depth=42))
    with pytest.raises(ValueError, match="bottleneck"):
        build_backbone(replace(SMALL, deformable_stages=(False, False, False, True)))
    with pytest.raises(ValueError, match=r"VoVNet-98.*99"):
        build_backbone(BackboneConfig("vovnet", depth=98))
    with pytest.raises(ValueError, match="VoVNet"):
        build_backbone(BackboneConfig("vovnet", depth=99, frozen_stages=1))
    with pytest.raises(ValueError, match="num_levels"):
        FPN((8, 16, 32, 64), 16, NeckConfig(num_levels=3))
    with pytest.raises(ValueError, match="expected 4 feature maps, got 1"):
        FPN((8, 16, 32, 64), 16, NeckConfig())([torch.zeros(1, 8, 4, 4)])


def test_every_preset_has_an_encoder():
    for config in PRESETS.values():
        with torch.device("meta"):
            backbone = build_backbone(config.backbone)
            neck = FPN(backbone.out_channels, config.embed_dims, config.neck)
            width, height = config.image.input_wh
            levels = neck(backbone(torch.empty(1, 3, height, width)))
        assert len(levels) == config.aggregation.num_levels, config.name
