"""Initial weights of the image encoder from files of other tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparse4d_core.checkpoint.backbone import load_backbone
from sparse4d_core.checkpoint.file import CheckpointError
from sparse4d_core.config import BackboneConfig, NeckConfig
from sparse4d_core.network.backbones import FPN, build_backbone

R50 = BackboneConfig(depth=50, base_width=8)
R101 = BackboneConfig(depth=101, base_width=8)
R101_DCN = BackboneConfig(depth=101, base_width=8, deformable_stages=(False, False, True, True))
VOVNET = BackboneConfig("vovnet", depth=39)


def donor(config: BackboneConfig, seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        name: torch.randn_like(t) if t.is_floating_point() else t
        for name, t in build_backbone(config).state_dict().items()
    }


def assert_equal(module: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_imagenet_file(tmp_path):
    """torchvision's names; its older files have no counters, and a classifier that is of no use here."""
    state = {n: t for n, t in donor(R50).items() if not n.endswith("num_batches_tracked")}
    torch.save(state | {"fc.weight": torch.zeros(2, 3), "fc.bias": torch.zeros(2)}, tmp_path / "resnet50.pth")
    backbone = build_backbone(R50)
    report = load_backbone(tmp_path / "resnet50.pth", backbone)
    for name, tensor in state.items():
        assert torch.equal(backbone.state_dict()[name], tensor), name
    assert set(report.used) == set(state)
    assert report.left == {"fc": 2}
    assert report.kept_initial
    assert all(name.endswith("num_batches_tracked") for name in report.kept_initial)
    assert "left: fc (2)" in str(report)


def test_fcos3d_file_fills_the_pyramid_too(tmp_path):
    """mmdetection's names; five pyramid levels there, four here; deformable offsets in the older spelling."""
    state = donor(R101_DCN)
    theirs = FPN((32, 64, 128, 256), 16, NeckConfig(start_level=1, num_levels=5))
    content = {f"backbone.{n.replace('conv2.conv_offset', 'conv2_offset')}": t for n, t in state.items()}
    content |= {f"neck.{name}": tensor for name, tensor in theirs.state_dict().items()}
    content |= {"bbox_head.conv_cls.weight": torch.zeros(4)}
    torch.save({"meta": {}, "state_dict": content}, tmp_path / "fcos3d.pth")
    backbone, neck = build_backbone(R101_DCN), FPN((32, 64, 128, 256), 16, NeckConfig(start_level=1, num_levels=4))
    report = load_backbone(tmp_path / "fcos3d.pth", backbone, neck)
    assert_equal(backbone, state)
    assert_equal(neck, theirs.state_dict())
    assert report.prefix == "backbone."
    assert report.kept_initial == ()
    assert report.left == {"neck": 2, "bbox_head": 1}
    assert sum(name.startswith("neck.") for name in report.used) == len(neck.state_dict())


def test_nuimages_file_leaves_pyramid_and_heads(tmp_path):
    state = donor(R101)
    content = {f"backbone.{name}": tensor for name, tensor in state.items()}
    content |= {"neck.lateral_convs.0.conv.weight": torch.zeros(1), "rpn_head.rpn_conv.weight": torch.zeros(1)}
    content |= {f"roi_head.bbox_head.{i}.fc_cls.weight": torch.zeros(1) for i in range(3)}
    torch.save({"state_dict": content, "optimizer": {}}, tmp_path / "nuimages.pth")
    backbone = build_backbone(R101)
    report = load_backbone(tmp_path / "nuimages.pth", backbone)
    assert_equal(backbone, state)
    assert report.left == {"neck": 1, "rpn_head": 1, "roi_head": 3}


@pytest.mark.parametrize("prefix", ["img_backbone.", "backbone.bottom_up.", "backbone.", "", "module.backbone."])
def test_vovnet_under_every_known_prefix(tmp_path, prefix):
    state = donor(VOVNET)
    torch.save({prefix + name: tensor for name, tensor in state.items()}, tmp_path / "vovnet.pth")
    backbone = build_backbone(VOVNET)
    load_backbone(tmp_path / "vovnet.pth", backbone)
    assert_equal(backbone, state)


def test_plain_weights_in_deformable_stages_start_without_offsets(tmp_path):
    torch.save(donor(R101), tmp_path / "r101.pth")
    backbone = build_backbone(R101_DCN)
    report = load_backbone(tmp_path / "r101.pth", backbone)
    assert {name.split(".")[3] for name in report.kept_initial} == {"conv_offset"}
    assert not backbone.layer4[0].conv2.conv_offset.weight.any()


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (R50, R101, r"holds a ResNet-50, the model has a ResNet-101: .* missing \(layer3\.6"),
        (R101, R50, r"holds a ResNet-101, the model has a ResNet-50: .* unknown \(layer3\.6"),
        (VOVNET, R50, "holds a VoVNet .*the model has a ResNet-50"),
        (R101_DCN, R101, "a ResNet-101 with deformable convolutions, the model has a ResNet-101: "),
        (BackboneConfig(depth=50, base_width=16), R50, r"conv1\.weight is \(16, 3, 7, 7\), expected \(8, 3, 7, 7\)"),
    ],
)
def test_another_backbone_is_refused_and_nothing_changes(tmp_path, theirs, ours, message):
    torch.save(donor(theirs), tmp_path / "a.pth")
    backbone = build_backbone(ours)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_backbone(tmp_path / "a.pth", backbone)
    assert_equal(backbone, before)


def test_file_without_a_backbone(tmp_path):
    torch.save({"head.weight": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="neither a ResNet"):
        load_backbone(tmp_path / "a.pth", build_backbone(R50))
