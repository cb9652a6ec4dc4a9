"""A rig file names masks; frames come with the own vehicle hidden."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
from sparse4d_core.config import preset
from sparse4d_core.ego_mask import hidden_colour
from sparse4d_ros.bags.sets import BagFrames
from sparse4d_ros.parameters import NodeParameters
from sparse4d_ros.perception.rig import RigError, load_rig
from sparse4d_ros.share import config_file


@pytest.fixture
def masked_rig(tmp_path):
    """The nuScenes rig with the lower fifth of the front camera masked."""
    content = yaml.safe_load(config_file("nuscenes_rig.yaml").read_text())
    content["cameras"][0]["ego_mask"] = "masks/front.png"
    (tmp_path / "masks").mkdir()
    mask = np.zeros((10, 16), np.uint8)
    mask[8:] = 255
    cv2.imwrite(str(tmp_path / "masks" / "front.png"), mask)
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "rig.yaml"


def test_frames_of_a_masked_rig(masked_rig, tiny_bag):
    parameters = NodeParameters(model="demo")
    frames = []
    for rig in (load_rig(), load_rig(masked_rig)):
        made = BagFrames(tiny_bag, rig, parameters)
        first = next(made.sets())
        frames.append(made.builder.build(first)[0])
        made.builder.close()
    plain, masked = (frame.images for frame in frames)
    height = plain[0].shape[0]
    edge = int(0.8 * height)
    assert (masked[0][edge + 1 :] == hidden_colour(preset("demo").image)).all()
    assert np.array_equal(masked[0][: edge - 1], plain[0][: edge - 1])
    assert all(np.array_equal(one, two) for one, two in zip(plain[1:], masked[1:], strict=True))


def test_a_mask_that_is_not_there_is_named(masked_rig):
    (masked_rig.parent / "masks" / "front.png").unlink()
    with pytest.raises(RigError, match=r"rig.yaml: ego_mask: .*front.png is no picture"):
        load_rig(masked_rig)
