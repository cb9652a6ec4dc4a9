"""Nodes in this process, with a small model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

pytest.importorskip("rclpy")
import rclpy
from node_driver import Driver
from rig_messages import SIZE

from sparse4d_core.config import PRESETS, AnchorEncoderConfig, BackboneConfig, ImageConfig, TemporalConfig


@pytest.fixture
def small_model(monkeypatch, tmp_path) -> None:
    """The same kind of model as `demo`, with less of everything: for tests that are about messages."""
    small = replace(
        PRESETS["demo"],
        image=ImageConfig((176, 64), original_wh=SIZE),
        backbone=BackboneConfig(depth=18, base_width=8),
        embed_dims=32,
        num_anchors=32,
        num_decoder_layers=2,
        anchor_encoder=AnchorEncoderConfig(dims=(16, 4, 4, 8), out_loops=1),
        temporal=TemporalConfig(num_instances=16),
        num_output=16,
    )
    monkeypatch.setitem(PRESETS, "demo", small)
    # The shipped weights fit the full-size model alone.
    monkeypatch.setattr("sparse4d_core.checkpoint.published.SHIPPED", tmp_path)


@pytest.fixture(scope="module")
def module_context(module_domain) -> Iterator[rclpy.Context]:
    """One context for the nodes of a file."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=module_domain)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make_driver(module_context, small_model) -> Iterator[Callable[..., Driver]]:
    """Nodes by their parameters; closed at the end."""
    drivers: list[Driver] = []

    def make(**parameters) -> Driver:
        drivers.append(Driver(context=module_context, **parameters))
        return drivers[-1]

    yield make
    for driver in drivers:
        driver.node.close()


@pytest.fixture
def driver(make_driver) -> Driver:
    """An active node."""
    return make_driver().start()
