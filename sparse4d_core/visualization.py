"""Pictures for people: boxes on the camera images, a bird's-eye view beside them, and the drive seen from above.

Colours are BGR, as OpenCV draws them. The first camera of a frame is taken to look forward.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import cv2
import numpy as np

from .types import Detections, Frame

CLASS_COLORS_RGB = {
    "car": (255, 158, 10), "truck": (255, 99, 71), "construction_vehicle": (233, 150, 70),
    "bus": (255, 69, 0), "trailer": (255, 140, 105), "barrier": (150, 160, 175),
    "motorcycle": (255, 61, 99), "bicycle": (220, 20, 60), "pedestrian": (60, 140, 255),
    "traffic_cone": (47, 190, 112),
}  # fmt: skip

GROUND_TRUTH_COLOR = (200, 200, 200)
BACKGROUND = (24, 22, 20)
GRID = (58, 54, 50)
NEAR_PLANE = 0.2  # m; edges are cut here, so that a box partly behind the camera is drawn as far as it is seen

# Corners of a unit box: index = 4 * (x < 0) + 2 * (y < 0) + (z < 0); corners 0 to 3 are the front face.
_CORNERS = np.array([[x, y, z] for x in (0.5, -0.5) for y in (0.5, -0.5) for z in (0.5, -0.5)])
BOX_EDGES = [(0, 1), (1, 3), (3, 2), (2, 0), (4, 5), (5, 7), (7, 6), (6, 4), (0, 4), (1, 5), (2, 6), (3, 7)]
FRONT_CROSS = [(0, 3), (1, 2)]


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners [M, 8, 3] of boxes [M, >=7] (x y z, length width height, yaw) in the boxes' frame; 0 to 3 in front."""
    boxes = np.asarray(boxes, dtype=np.float64)
    local = _CORNERS * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = cos * local[..., 0] - sin * local[..., 1]
    y = sin * local[..., 0] + cos * local[..., 1]
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def class_color_rgb(name: str) -> tuple[int, int, int]:
    """Colour of a class; one that nuScenes does not have gets a bright colour that depends on its name alone."""
    if name in CLASS_COLORS_RGB:
        return CLASS_COLORS_RGB[name]
    hue = zlib.crc32(name.encode()) % 360
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue / 360, 0.65, 1.0))


def class_color(name: str) -> tuple[int, int, int]:
    """The same in BGR."""
    red, green, blue = class_color_rgb(name)
    return blue, green, red


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    intrinsics: np.ndarray,
    T_cam_from_model: np.ndarray,
    captions: Sequence[str] = (),
    thickness: int = 2,
) -> None:
    """Draw wire frames of boxes [M, >=7] (model frame) onto `image` [H, W, 3], in place; a cross is in front."""
    corners = box_corners(boxes) @ T_cam_from_model[:3, :3].T + T_cam_from_model[:3, 3]
    order = np.argsort(-np.linalg.norm(corners.mean(axis=1), axis=1))  # far ones first, near ones over them
    for i in order:
        if (corners[i, :, 2] <= NEAR_PLANE).all():
            continue
        segments = [_clip_near(corners[i, a], corners[i, b]) for a, b in BOX_EDGES]
        crosses = [_clip_near(corners[i, a], corners[i, b]) for a, b in FRONT_CROSS]
        pixels = [_to_pixels(segment, intrinsics) for segment in segments if segment is not None]
        for start, end in pixels:
            cv2.line(image, start, end, colors[i], thickness, cv2.LINE_AA)
        for segment in crosses:
            if segment is not None:
                cv2.line(image, *_to_pixels(segment, intrinsics), colors[i], max(1, thickness - 1), cv2.LINE_AA)
        if captions and captions[i] and pixels:
            _caption(image, captions[i], pixels, colors[i])


def _clip_near(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The part of segment a-b (camera frame) in front of the near plane."""
    if a[2] <= NEAR_PLANE and b[2] <= NEAR_PLANE:
        return None
    if a[2] > NEAR_PLANE and b[2] > NEAR_PLANE:
        return a, b
    cut = a + (b - a) * (NEAR_PLANE - a[2]) / (b[2] - a[2])
    return (cut, b) if b[2] > NEAR_PLANE else (a, cut)


def _to_pixels(
    segment: tuple[np.ndarray, np.ndarray], intrinsics: np.ndarray
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Integer pixel ends; clamped to what OpenCV's fixed-point lines can hold."""
    ends = []
    for point in segment:
        u, v, depth = intrinsics @ point
        limit = 1 << 14
        ends.append((int(np.clip(u / depth, -limit, limit)), int(np.clip(v / depth, -limit, limit))))
    return ends[0], ends[1]


def _caption(image: np.ndarray, text: str, pixels: Sequence, color: tuple[int, int, int]) -> None:
    points = np.array(pixels).reshape(-1, 2)
    x, y = points.min(axis=0)
    height, width = image.shape[:2]
    if not (0 <= points[:, 0].mean() < width and 0 <= points[:, 1].mean() < height):
        return
    origin = (int(np.clip(x, 2, width - 20)), int(np.clip(y - 4, 12, height - 4)))
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)


def _captions(boxes: Detections) -> list[str]:
    ids = boxes.ids if boxes.ids is not None else [None] * len(boxes.labels)
    return [
        f"{name} {score:.2f}" if number is None else f"{name} #{number} {score:.2f}"
        for name, score, number in zip(boxes.names(), boxes.scores, ids, strict=True)
    ]


# -------------------------------------------------------------------------------------------------- six images and BEV


def draw_overlay(
    frame: Frame, boxes: Detections, tile_width: int = 480, ground_truth: Detections | None = None, title: str = ""
) -> np.ndarray:
    """Boxes on all images of a frame, arranged as one looks around, with a bird's-eye view at the right.

    Args:
        frame: images and calibration; a missing image becomes a labelled grey tile.
        boxes: in the model frame at the frame's stamp.
        tile_width: pixels; images keep the first image's aspect ratio.
        ground_truth: drawn thin and grey below the boxes.

    Returns:
        [H, W, 3] uint8 BGR.
    """
    rows = _arrange(frame)
    first = next((image for image in frame.images if image is not None), None)
    aspect = 9 / 16 if first is None else first.shape[0] / first.shape[1]
    tile_height = round(tile_width * aspect)
    columns = max(len(row) for row in rows)
    mosaic = np.full((tile_height * len(rows), tile_width * columns, 3), BACKGROUND, np.uint8)
    for r, row in enumerate(rows):
        offset = (columns - len(row)) * tile_width // 2
        for c, camera in enumerate(row):
            tile = _camera_tile(frame, camera, (tile_width, tile_height), boxes, ground_truth)
            left = offset + c * tile_width
            mosaic[r * tile_height : (r + 1) * tile_height, left : left + tile_width] = tile
    bev = draw_bev(boxes, mosaic.shape[0], forward=_forward(frame), ground_truth=ground_truth)
    picture = np.concatenate([mosaic, bev], axis=1)
    if title:
        _title(picture, title)
    return picture


def _title(picture: np.ndarray, title: str) -> None:
    position = (10, picture.shape[0] - 10)
    cv2.putText(picture, title, position, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.putText(picture, title, position, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (255, 255, 255), 1, cv2.LINE_AA)


def _camera_tile(
    frame: Frame, camera: int, size_wh: tuple[int, int], boxes: Detections, ground_truth: Detections | None
) -> np.ndarray:
    name = frame.camera_names[camera] if camera < len(frame.camera_names) else f"camera {camera}"
    image = frame.images[camera]
    if image is None:
        tile = np.full((size_wh[1], size_wh[0], 3), 70, np.uint8)
        name += ": no image"
    else:
        tile = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
        scale = np.diag([size_wh[0] / image.shape[1], size_wh[1] / image.shape[0], 1.0])
        calibration = scale @ frame.intrinsics[camera], frame.T_cam_from_model[camera]
        if ground_truth is not None:
            draw_boxes(
                tile, ground_truth.boxes, [GROUND_TRUTH_COLOR] * len(ground_truth.boxes), *calibration, thickness=1
            )
        draw_boxes(tile, boxes.boxes, [class_color(name) for name in boxes.names()], *calibration, _captions(boxes))
    cv2.putText(tile, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(tile, name, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return tile


def _viewing_directions(frame: Frame) -> np.ndarray:
    """Azimuth [N] of every camera's optical axis in the model's x-y plane, radians, counter-clockwise."""
    axes = frame.T_cam_from_model[:, 2, :3]  # the camera's z axis in model coordinates
    return np.arctan2(axes[:, 1], axes[:, 0])


def _forward(frame: Frame) -> float:
    return float(_viewing_directions(frame)[0])


def _arrange(frame: Frame) -> list[list[int]]:
    """Camera indices in rows: those looking forward from left to right, then those looking back."""
    azimuth = _viewing_directions(frame)
    relative = np.mod(azimuth - azimuth[0] + np.pi, 2 * np.pi) - np.pi  # left positive
    front = [i for i in np.argsort(-relative) if abs(relative[i]) <= np.deg2rad(95)]
    back = [i for i in np.argsort(np.mod(relative, 2 * np.pi)) if abs(relative[i]) > np.deg2rad(95)]
    return [row for row in (front, back) if row]


def draw_bev(
    boxes: Detections,
    size: int = 540,
    extent: float = 50.0,
    forward: float = np.pi / 2,
    ground_truth: Detections | None = None,
) -> np.ndarray:
    """Bird's-eye view, forward up, the ego vehicle in the middle.

    Args:
        boxes: in the model frame.
        size: pixels of the square picture.
        extent: metres from the middle to the edge.
        forward: azimuth of "up" in the model frame, radians.
    """
    picture = np.full((size, size, 3), BACKGROUND, np.uint8)
    scale = size / (2 * extent)
    for radius in np.arange(10, extent * 1.5, 10):
        cv2.circle(picture, (size // 2, size // 2), int(radius * scale), GRID, 1, cv2.LINE_AA)
        text_at = (size // 2 + 3, int(size / 2 - radius * scale) + 12)
        cv2.putText(
            picture, f"{radius:.0f} m", text_at, cv2.FONT_HERSHEY_SIMPLEX, 0.32, (110, 105, 100), 1, cv2.LINE_AA
        )
    turn = np.pi / 2 - forward
    R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])

    def pixels(xy: np.ndarray) -> np.ndarray:
        turned = xy @ R.T
        return (
            np.stack([size / 2 + turned[..., 0] * scale, size / 2 - turned[..., 1] * scale], axis=-1)
            .round()
            .astype(int)
        )

    ego = pixels(np.array([[0.0, 2.4], [-1.0, -1.8], [1.0, -1.8]]) @ R)
    cv2.fillPoly(picture, [ego.reshape(-1, 1, 2)], (235, 235, 235), cv2.LINE_AA)
    if ground_truth is not None and len(ground_truth.boxes):
        for corners in pixels(box_corners(ground_truth.boxes)[:, [0, 2, 6, 4], :2]):
            cv2.polylines(picture, [corners.reshape(-1, 1, 2)], True, GROUND_TRUTH_COLOR, 1, cv2.LINE_AA)
    _bev_boxes(picture, boxes, pixels)
    return picture


def _bev_boxes(picture: np.ndarray, boxes: Detections, pixels) -> None:
    footprints = pixels(box_corners(boxes.boxes)[:, [0, 2, 6, 4], :2])
    noses = pixels(box_corners(boxes.boxes)[:, [0, 2], :2].mean(axis=1))
    centres = pixels(np.asarray(boxes.boxes)[:, :2])
    tips = pixels(np.asarray(boxes.boxes)[:, :2] + np.asarray(boxes.boxes)[:, 7:9])
    for i, name in enumerate(boxes.names()):
        color = class_color(name)
        cv2.polylines(picture, [footprints[i].reshape(-1, 1, 2)], True, color, 2, cv2.LINE_AA)
        cv2.line(picture, tuple(map(int, centres[i])), tuple(map(int, noses[i])), color, 1, cv2.LINE_AA)
        if np.hypot(*boxes.boxes[i, 7:9]) > 0.3:
            cv2.arrowedLine(
                picture, tuple(map(int, centres[i])), tuple(map(int, tips[i])), (255, 255, 255), 1, cv2.LINE_AA
            )
        if boxes.ids is not None:
            at = (int(centres[i, 0]) + 5, int(centres[i, 1]) - 5)
            cv2.putText(picture, str(boxes.ids[i]), at, cv2.FONT_HERSHEY_SIMPLEX, 0.33, color, 1, cv2.LINE_AA)


# ------------------------------------------------------------------------------------------------ the drive from above


@dataclass(frozen=True)
class Trail:
    """Positions of one object over time."""

    xy: np.ndarray  # [K, 2] metres, global frame
    class_name: str


def draw_drive(
    ego_xy: np.ndarray,
    tracks: Mapping[int, Trail],
    ground_truth: Mapping[str, Trail] | None = None,
    size: int = 1000,
    title: str = "",
) -> np.ndarray:
    """The whole drive from above in the global frame: the ego path, ground truth in grey, every track as a trail.

    Args:
        ego_xy: [K, 2] metres.
        tracks: by track id.
        ground_truth: by instance token.

    Returns:
        [size, size, 3] uint8 BGR.
    """
    everything = [ego_xy, *(t.xy for t in tracks.values()), *(t.xy for t in (ground_truth or {}).values())]
    points = np.concatenate([xy for xy in everything if len(xy)])
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    extent = max(float((points.max(axis=0) - points.min(axis=0)).max()) / 2 * 1.08, 10.0)
    scale = size / (2 * extent)
    picture = np.full((size, size, 3), BACKGROUND, np.uint8)

    def pixels(xy: np.ndarray) -> np.ndarray:
        offset = (np.asarray(xy) - centre) * scale
        return np.stack([size / 2 + offset[:, 0], size / 2 - offset[:, 1]], axis=-1).round().astype(np.int32)

    _drive_grid(picture, scale, extent)
    for trail in (ground_truth or {}).values():
        _polyline(picture, pixels(trail.xy), (120, 120, 120), 5)
    for number, trail in tracks.items():
        path = pixels(trail.xy)
        _polyline(picture, path, class_color(trail.class_name), 2)
        at = (int(path[-1, 0]) + 5, int(path[-1, 1]) - 5)
        cv2.putText(
            picture, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.35, class_color(trail.class_name), 1, cv2.LINE_AA
        )
    _polyline(picture, pixels(ego_xy), (255, 255, 255), 2)
    _drive_legend(picture, {trail.class_name for trail in tracks.values()}, ground_truth is not None, title)
    return picture


def _polyline(picture: np.ndarray, path: np.ndarray, color: tuple[int, int, int], thickness: int) -> None:
    cv2.polylines(picture, [path.reshape(-1, 1, 2)], False, color, thickness, cv2.LINE_AA)
    cv2.circle(picture, tuple(map(int, path[-1])), thickness + 1, color, -1, cv2.LINE_AA)


def _drive_grid(picture: np.ndarray, scale: float, extent: float) -> None:
    size = picture.shape[0]
    for offset in np.arange(0, extent, 20):
        for position in (size / 2 + offset * scale, size / 2 - offset * scale):
            cv2.line(picture, (int(position), 0), (int(position), size), GRID, 1)
            cv2.line(picture, (0, int(position)), (size, int(position)), GRID, 1)


def _drive_legend(picture: np.ndarray, class_names: Set[str], with_truth: bool, title: str) -> None:
    lines = [(title, (255, 255, 255))] if title else []
    lines += [("ego path; grid 20 m", (255, 255, 255))]
    lines += [("ground truth", (150, 150, 150))] if with_truth else []
    lines += [(name, class_color(name)) for name in [*CLASS_COLORS_RGB, *sorted(class_names - CLASS_COLORS_RGB.keys())]]
    for row, (text, color) in enumerate(lines):
        cv2.putText(picture, text, (12, 24 + 20 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.48, color, 1, cv2.LINE_AA)
