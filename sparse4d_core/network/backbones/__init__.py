"""Image encoders: backbones that give four feature maps, and the pyramid on top of them."""

from __future__ import annotations

from ...config import BackboneConfig
from .fpn import FPN
from .resnet import ResNet
from .vovnet import VoVNet

__all__ = ["FPN", "ResNet", "VoVNet", "build_backbone"]


def build_backbone(config: BackboneConfig, activation_checkpointing: bool = False) -> ResNet | VoVNet:
    """The backbone of a configuration; its `out_channels` are the widths of its four outputs."""
    backbone = {"resnet": ResNet, "vovnet": VoVNet}[config.kind]
    return backbone(config, activation_checkpointing)
