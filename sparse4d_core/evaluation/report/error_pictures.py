"""The worst misses and false positives as pictures: the camera that sees the place best, cut out around it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from ...boxes import inverse
from ...data.nuscenes.dataset import NuScenesDataset
from ...types import CLASS_NAMES, Frame
from ...visualization import GROUND_TRUTH_COLOR, box_corners, class_color, draw_boxes
from .detection_matches import Boxes, Matches, Objects

COUNT = 20
_CUT_WH = 460, 300  # pixels of a picture
_MIN_VIEW = 0.25  # of the image's width is shown at least
_ALERT = (60, 60, 255)  # BGR


@dataclass(frozen=True)
class ErrorPicture:
    title: str
    detail: str
    link: str  # path of the image within the data set
    jpeg: bytes | None  # None: no camera sees the place

    def source(self) -> str:
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg or b'').decode()}"


def worst_misses(objects: Objects, count: int = COUNT) -> np.ndarray:
    """Rows of objects that no box found within 2 m: the most visible ones first, among them the nearest."""
    missed = np.flatnonzero(np.isnan(objects.score))
    order = np.lexsort((objects.distance[missed], -objects.visibility[missed]))
    return missed[order][:count]


def worst_false_positives(boxes: Boxes, count: int = COUNT) -> np.ndarray:
    """Rows of boxes that found nothing within 2 m, by falling score."""
    wrong = np.flatnonzero(boxes.object < 0)
    return wrong[np.argsort(-boxes.score[wrong], kind="stable")][:count]


def pictures_of_misses(data: NuScenesDataset, matches: Matches, count: int = COUNT) -> list[ErrorPicture]:
    objects = matches.objects
    made = []
    for row in worst_misses(objects, count).tolist():
        visibility = f", visible {objects.visibility[row]} of 4" if objects.visibility[row] else ""
        detail = f"{objects.distance[row]:.0f} m away{visibility}"
        made.append(_picture(data, matches, objects, row, f"missed: {CLASS_NAMES[objects.label[row]]}", detail))
    return made


def pictures_of_false_positives(data: NuScenesDataset, matches: Matches, count: int = COUNT) -> list[ErrorPicture]:
    boxes = matches.boxes
    made = []
    for row in worst_false_positives(boxes, count).tolist():
        title = f"nothing there: {CLASS_NAMES[boxes.label[row]]} {boxes.score[row]:.2f}"
        made.append(_picture(data, matches, boxes, row, title, f"{boxes.distance[row]:.0f} m away"))
    return made


def _picture(
    data: NuScenesDataset, matches: Matches, side: Objects | Boxes, row: int, title: str, detail: str
) -> ErrorPicture:
    sample = str(side.sample[row])
    number = int(np.flatnonzero(data.index.tokens == sample)[0])
    frame = data.frame(number)
    box = boxes_in_model(side, np.array([row]), frame)
    camera = best_camera(frame, box[0, :3])
    detail = f"{detail}; {matches.scenes[side.scene[row]]}, sample {sample}"
    if camera is None:
        return ErrorPicture(title, f"{detail}; no camera sees it", "", None)
    link = str(data.index.files[number, camera])
    image = frame.images[camera].copy()
    calibration = frame.intrinsics[camera], frame.T_cam_from_model[camera]
    _draw_context(image, matches, sample, frame, calibration)
    draw_boxes(image, box, [_ALERT], *calibration, thickness=2)
    cut = _cut(image, box, *calibration)
    return ErrorPicture(title, f"{detail}, {data.camera_names[camera]}", link, _jpeg(cut))


def _draw_context(image: np.ndarray, matches: Matches, sample: str, frame: Frame, calibration: tuple) -> None:
    """All objects thin and grey, confident boxes in the colour of their class."""
    truth = np.flatnonzero(matches.objects.sample == sample)
    grey = [GROUND_TRUTH_COLOR] * len(truth)
    draw_boxes(image, boxes_in_model(matches.objects, truth, frame), grey, *calibration, thickness=1)
    found = np.flatnonzero((matches.boxes.sample == sample) & (matches.boxes.score >= 0.3))
    colours = [class_color(CLASS_NAMES[label]) for label in matches.boxes.label[found].tolist()]
    draw_boxes(image, boxes_in_model(matches.boxes, found, frame), colours, *calibration, thickness=1)


def boxes_in_model(side: Objects | Boxes, rows: np.ndarray, frame: Frame) -> np.ndarray:
    """[M, 7] x y z, length width height, yaw in the model frame of rows given in the global one."""
    T = inverse(frame.T_global_from_model)
    centres = side.centre[rows] @ T[:3, :3].T + T[:3, 3]
    w, x, y, z = side.rotation[rows].T
    if not len(rows):
        return np.zeros((0, 7))
    forward = Rotation.from_quat(np.stack([x, y, z, w], axis=-1)).as_matrix()[:, :, 0] @ T[:3, :3].T
    width, length, height = side.size[rows].T
    yaw = np.arctan2(forward[:, 1], forward[:, 0])
    return np.column_stack([centres, length, width, height, yaw])


def best_camera(frame: Frame, centre: np.ndarray) -> int | None:
    """The camera in whose image the point (model frame) lies most in the middle."""
    places = {}
    for camera, image in enumerate(frame.images):
        if image is None:
            continue
        point = frame.T_cam_from_model[camera] @ np.append(centre, 1.0)
        if point[2] <= 0.1:
            continue
        u, v = (frame.intrinsics[camera] @ point[:3])[:2] / point[2]
        height, width = image.shape[:2]
        if 0 <= u < width and 0 <= v < height:
            places[camera] = abs(u - width / 2) / width
    return min(places, key=places.get) if places else None


def _cut(image: np.ndarray, box: np.ndarray, intrinsics: np.ndarray, T_cam_from_model: np.ndarray) -> np.ndarray:
    """The part around a box, twice its size or more, as far as the image goes."""
    corners = box_corners(box)[0] @ T_cam_from_model[:3, :3].T + T_cam_from_model[:3, 3]
    in_front = corners[corners[:, 2] > 0.2]
    pixels = in_front @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    height, width = image.shape[:2]
    low, high = np.clip(pixels.min(0), 0, (width, height)), np.clip(pixels.max(0), 0, (width, height))
    aspect = _CUT_WH[0] / _CUT_WH[1]
    wide = min(max(_MIN_VIEW * width, 2.2 * (high[0] - low[0]), 2.2 * aspect * (high[1] - low[1])), width)
    tall = min(wide / aspect, height)
    left = int(np.clip((low[0] + high[0] - wide) / 2, 0, width - wide))
    top = int(np.clip((low[1] + high[1] - tall) / 2, 0, height - tall))
    return cv2.resize(image[top : top + max(int(tall), 1), left : left + max(int(wide), 1)], _CUT_WH)


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
