"""A small rendered data set, shared by the tests of this folder."""

from __future__ import annotations

import pytest

from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Root of a data set of two scenes, 2 s each, sets at 4 Hz."""
    root = tmp_path_factory.mktemp("world")
    render_dataset(root, 2, 123, duration=2.0, rate=4, rig=NUSCENES_RIG.resized(160, 90))
    return root
