"""The own vehicle: drawn by the renderer, hidden before the network."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.data.synthetic.cameras import NUSCENES_RIG
from sparse4d_core.data.synthetic.dataset_renderer import render_dataset
from sparse4d_core.data.synthetic.ego_body import body_mask
from sparse4d_core.ego_mask import hidden_colour, hide, read_mask
from sparse4d_core.evaluation.masked_scenes import MaskedScenes
from sparse4d_core.preprocess import preprocess

RIG = NUSCENES_RIG.resized(160, 90)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The same scene without and with the own vehicle."""
    roots = [tmp_path_factory.mktemp(name) for name in ("plain", "body")]
    for root, ego_body in zip(roots, (False, True), strict=True):
        render_dataset(root, 1, 100_555, duration=0.5, rate=2, rig=RIG, ego_body=ego_body)
    return [NuScenesDataset(root, cache=None) for root in roots]


def test_the_renderer_changes_the_masked_part_alone(worlds):
    """But for what JPEG carries over its blocks' edges."""
    plain, body = (data.frame(0).images for data in worlds)
    assert not (worlds[0].dataroot / "ego_masks").exists()
    for camera, before, after in zip(RIG.cameras, plain, body, strict=True):
        mask = read_mask(worlds[1].dataroot / "ego_masks" / f"{camera.channel}.png")
        assert np.array_equal(mask, body_mask(camera, RIG.image_wh)) and 0.01 < mask.mean() < 0.25
        far = cv2.dilate(mask.astype(np.uint8), np.ones((33, 33))) == 0
        change = np.abs(before.astype(int) - after).max(axis=2)
        assert not change[far].any() and change[mask].mean() > 15


def test_what_the_body_covers_is_less_visible(worlds):
    points = [data.index.num_lidar_points.sum() for data in worlds]
    assert points[1] < points[0]


def test_hidden_pixels_carry_nothing(worlds):
    """In the network's input they are as good as zero, in both channel orders."""
    frame, config = worlds[1].frame(0), preset("demo")
    plan = MaskedScenes.read(worlds[1].dataroot / "ego_masks", worlds[1].camera_names, config)
    masked = plan.frame(worlds[1], worlds[1].index.scene_names[0], 0)
    inputs = preprocess(masked, config).images[0].numpy()
    width, height = config.image.input_wh
    assert np.abs(inputs[0, :, height - 4 :, width // 2]).max() < 0.02
    assert np.abs(preprocess(frame, config).images[0].numpy()[0, :, height - 4 :, width // 2]).max() > 0.2
    assert hidden_colour(preset("v1_r101_t4").image) == hidden_colour(preset("v3_r50").image) == (104, 116, 124)


def test_masked_scenes_hide_what_the_vehicle_shows(worlds):
    """With masks both worlds look alike to the network, but for what JPEG carries over its blocks' edges."""
    plan = MaskedScenes.read(worlds[1].dataroot / "ego_masks", worlds[1].camera_names, preset("demo"))
    scene = worlds[0].index.scene_names[0]

    def apart(images) -> list[float]:
        return [np.abs(one.astype(int) - two).mean() for one, two in zip(*images, strict=True)]

    hidden = apart([plan.frame(data, scene, 0).images for data in worlds])
    shown = apart([data.frame(0).images for data in worlds])
    assert all(with_masks < 0.3 * without for with_masks, without in zip(hidden, shown, strict=True))


def test_a_mask_of_another_size_is_scaled(worlds):
    image = worlds[0].frame(0).images[0]
    mask = np.zeros((9, 16), bool)
    mask[8] = True
    hidden = hide(image, mask, (1, 2, 3))
    assert (hidden[80:] == (1, 2, 3)).all() and np.array_equal(hidden[:80], image[:80])
    assert not (image[80:] == (1, 2, 3)).all(), "the image itself was changed"


def test_bad_masks_are_named(tmp_path):
    with pytest.raises(ValueError, match="none.png is no picture"):
        read_mask(tmp_path / "none.png")
    cv2.imwrite(str(tmp_path / "white.png"), np.full((4, 4), 255, np.uint8))
    with pytest.raises(ValueError, match="white throughout"):
        read_mask(tmp_path / "white.png")
    with pytest.raises(ValueError, match="has none of CAM_A.png"):
        MaskedScenes.read(tmp_path, ["CAM_A"], preset("demo"))
