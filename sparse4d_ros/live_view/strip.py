"""The camera images side by side, as one looks around, with the boxes in them."""

from __future__ import annotations

import cv2
import numpy as np

from sparse4d_core.types import Detections
from sparse4d_core.visualization import BACKGROUND, class_color, draw_boxes

from .drawing import Choice
from .scene import CameraImage, Moment, T_cam_from_base

DEAD_AFTER = 2.0  # s without an image
FONT = cv2.FONT_HERSHEY_SIMPLEX
WARNING_BGR = (60, 60, 235)


def looking_around(images: dict[str, CameraImage], cameras: tuple[str, ...]) -> list[str]:
    """Cameras from the left rear over the front to the right rear; those without a known pose come last."""

    def azimuth(camera: str) -> float:
        pose = images[camera].T_base_from_cam if camera in images else None
        if pose is None:
            return -np.inf
        turn = float(np.arctan2(pose[1, 2], pose[0, 2]))  # of the optical axis, counter-clockwise from ahead
        return turn if turn > -np.pi * 0.99 else turn + 2 * np.pi  # straight back: the left end

    return sorted(cameras, key=lambda camera: -azimuth(camera))


def draw_strip(moment: Moment, cameras: list[str], choice: Choice, tile_wh: tuple[int, int]) -> np.ndarray:
    """[h, w * cameras, 3] uint8 RGB.

    Args:
        moment: what to show.
        cameras: from left to right.
        choice: which boxes.
        tile_wh: pixels of one camera.
    """
    tiles = [_tile(moment, camera, choice, tile_wh) for camera in cameras]
    return cv2.cvtColor(np.concatenate(tiles, axis=1), cv2.COLOR_BGR2RGB)


def silence(moment: Moment, camera: str) -> str | None:
    """A sentence, if the camera sends nothing."""
    age = moment.image_ages.get(camera)
    if age is None:
        return "no image"
    return f"no image for {age:.0f} s" if age > DEAD_AFTER else None


def decode(image: CameraImage, width: int | None = None) -> np.ndarray:
    """[H, W, 3] uint8 BGR, at most `width` pixels wide."""
    picture = cv2.imdecode(np.frombuffer(image.jpeg, np.uint8), cv2.IMREAD_COLOR)
    if width is None or picture.shape[1] <= width:
        return picture
    height = round(picture.shape[0] * width / picture.shape[1])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _tile(moment: Moment, camera: str, choice: Choice, tile_wh: tuple[int, int]) -> np.ndarray:
    image, silent = moment.images.get(camera), silence(moment, camera)
    tile = np.full((tile_wh[1], tile_wh[0], 3), BACKGROUND, np.uint8)
    if image is not None:
        factor = min(tile_wh[0] / image.size_wh[0], tile_wh[1] / image.size_wh[1])
        size = round(image.size_wh[0] * factor), round(image.size_wh[1] * factor)
        picture = cv2.resize(decode(image), size, interpolation=cv2.INTER_AREA)
        if silent:
            picture //= 4
        elif moment.objects is not None:
            scale = np.diag([size[0] / image.size_wh[0], size[1] / image.size_wh[1], 1.0])
            _draw_objects(picture, moment, image, scale, choice)
        left, top = (tile_wh[0] - size[0]) // 2, (tile_wh[1] - size[1]) // 2
        tile[top : top + size[1], left : left + size[0]] = picture
    _text(tile, camera, (6, 16), (255, 255, 255))
    if silent:
        _text(tile, silent, (6, tile_wh[1] // 2), WARNING_BGR)
    return tile


def _draw_objects(picture: np.ndarray, moment: Moment, image: CameraImage, scale: np.ndarray, choice: Choice) -> None:
    T = T_cam_from_base(moment.objects, image)
    if T is None:
        return
    boxes: Detections = moment.objects.boxes
    rows = choice.keeps(boxes)
    names = boxes.names()
    chosen = np.full(len(names), False) if boxes.ids is None else boxes.ids == choice.selected
    colors = [(255, 255, 255) if chosen[row] else class_color(names[row]) for row in rows]
    draw_boxes(picture, np.asarray(boxes.boxes, np.float64)[rows], colors, scale @ image.intrinsics, T, thickness=1)


def _text(tile: np.ndarray, text: str, position: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(tile, text, position, FONT, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(tile, text, position, FONT, 0.42, color, 1, cv2.LINE_AA)
