"""Whether a camera's images move as its pose and the vehicle's motion say: no target, no map, a short drive.

Points that are followed from one set to the next must lie on the epipolar lines of the relative pose, and in front of
the camera. A camera whose images fit the pose of another one better than its own is swapped with it.

Source: Hartley and Zisserman, Multiple View Geometry, sections 9.6 (essential matrix) and 11.4 (Sampson distance).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from sparse4d_core.boxes import inverse
from sparse4d_core.types import Frame

from .findings import Finding

MIN_MOTION = 0.2  # m that the camera must have moved between two sets
MIN_POINTS = 15  # followed ones, of a pair of images
MIN_PAIRS = 3  # of images, before a verdict
FITS = 2.0  # pixels of a 704 pixels wide image; moving objects and rolling shutters stay below in the median
BETTER = 0.5  # of its own distance: what another pose must reach to be named
NOISE = 0.5  # pixels, the same; below it no other pose is asked for
MOVED_SHARE, BEHIND_SHARE = 0.3, 0.8  # of the points with parallax among all, of those behind the camera among them
_REFERENCE_WIDTH = 704
_BEHIND = 1e3  # pixels; a pose that puts most points behind the camera fits not at all


@dataclass
class CameraMotion:
    """Median distances of followed points from where a camera's pose expects them: pixels, for each pair of images."""

    camera: str
    distances: dict[str, list[float]] = field(default_factory=dict)  # name of the camera whose pose is tried -> pixels

    def median(self, pose_of: str) -> float:
        return float(np.median(self.distances[pose_of]))

    @property
    def pairs(self) -> int:
        return len(self.distances.get(self.camera, ()))


def followed_points(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of an image and where they are in the next one, [n, 2] pixels each; those that lead back to themselves.

    Args:
        before, after: [H, W, 3] uint8.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) for image in (before, after)]
    corners = cv2.goodFeaturesToTrack(grey[0], maxCorners=300, qualityLevel=0.01, minDistance=8)
    if corners is None:
        return np.empty((0, 2)), np.empty((0, 2))
    there, found, _ = cv2.calcOpticalFlowPyrLK(*grey, corners, None)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(*grey[::-1], there, None)
    good = (found & found_back).ravel().astype(bool) & (np.linalg.norm((back - corners)[:, 0], axis=-1) < 0.5)
    return corners[good, 0].astype(np.float64), there[good, 0].astype(np.float64)


def epipolar_distance(
    before: np.ndarray, after: np.ndarray, intrinsics: np.ndarray, T_after_from_before: np.ndarray
) -> float:
    """Median Sampson distance of point pairs, pixels; `_BEHIND` if most of them would lie behind the camera.

    Args:
        before, after: [n, 2] pixels.
        intrinsics: [3, 3].
        T_after_from_before: [4, 4], the camera at the second image from the camera at the first.
    """
    R, t = T_after_from_before[:3, :3], T_after_from_before[:3, 3]
    K_inverse = np.linalg.inv(intrinsics)
    rays = [np.column_stack([points, np.ones(len(points))]) @ K_inverse.T for points in (before, after)]
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    F = K_inverse.T @ E @ K_inverse
    x, y = (np.column_stack([points, np.ones(len(points))]) for points in (before, after))
    lines_after, lines_before = x @ F.T, y @ F
    error = (y * lines_after).sum(1) ** 2
    slope = (lines_after[:, :2] ** 2).sum(1) + (lines_before[:, :2] ** 2).sum(1)
    distance = np.sqrt(error / np.maximum(slope, 1e-12))
    # Depth d along the first ray: rays[1] x (d R rays[0] + t) = 0.
    turned = rays[0] @ R.T
    a, b = np.cross(rays[1], turned), np.cross(rays[1], np.broadcast_to(t, turned.shape))
    depth = -(a * b).sum(1) / np.maximum((a * a).sum(1), 1e-12)
    moved = (
        np.linalg.norm(a, axis=1) > 0.5 / intrinsics[0, 0]
    )  # half a pixel of parallax: the sign of a depth is certain
    # Oncoming traffic lies "behind" too; a wrong pose puts nearly everything there.
    if moved.sum() >= max(5, MOVED_SHARE * len(depth)) and (depth[moved] < 0).mean() > BEHIND_SHARE:
        return _BEHIND
    return float(np.median(distance))


def measure_motion(frames: Sequence[Frame]) -> list[CameraMotion]:
    """Every camera's images against every camera's pose, over neighbouring frames.

    Args:
        frames: in time order, of one drive.
    """
    cameras = frames[0].camera_names
    measured = [CameraMotion(name) for name in cameras]
    for first, second in zip(frames, frames[1:], strict=False):
        poses = [_relative_pose(first, second, camera) for camera in range(len(cameras))]
        for index, motion in enumerate(measured):
            images = first.images[index], second.images[index]
            if any(image is None for image in images) or images[0].shape != images[1].shape:
                continue
            if np.linalg.norm(poses[index][:3, 3]) < MIN_MOTION:
                continue
            points = followed_points(*images)
            if len(points[0]) < MIN_POINTS:
                continue
            scale = _REFERENCE_WIDTH / images[0].shape[1]
            for name, pose in zip(cameras, poses, strict=True):
                distance = epipolar_distance(*points, first.intrinsics[index], pose) * scale
                motion.distances.setdefault(name, []).append(distance)
    return measured


def _relative_pose(first: Frame, second: Frame, camera: int) -> np.ndarray:
    """[4, 4] T_second_from_first of one camera."""
    T_global_from_first = first.T_global_from_model @ inverse(first.T_cam_from_model[camera])
    return second.T_cam_from_model[camera] @ inverse(second.T_global_from_model) @ T_global_from_first


def check_motion(measured: Sequence[CameraMotion]) -> Iterator[Finding]:
    """Cameras whose images do not move as their pose says; with the camera whose pose they fit."""
    judged = [motion for motion in measured if motion.pairs >= MIN_PAIRS]
    better = {motion.camera: _better_pose(motion) for motion in judged}
    for motion in judged:
        own, other = motion.median(motion.camera), better[motion.camera]
        text = "points lie behind the camera" if own >= _BEHIND else f"points are {own:.1f} px off"
        if other is not None and better.get(other) == motion.camera:
            text += f"; its images move as those of {other} should ({motion.median(other):.1f} px): swapped?"
            yield Finding("swapped", motion.camera, text)
        elif own > FITS:
            text += (
                ": its pose or the vehicle's motion in TF is not right, or other traffic fills its image; record longer"
            )
            yield Finding("motion", motion.camera, text)


def _better_pose(motion: CameraMotion) -> str | None:
    """The camera whose pose the images fit much better than their own camera's, if there is one."""
    own = motion.median(motion.camera)
    best = min(motion.distances, key=motion.median)
    return best if own > NOISE and motion.median(best) < min(FITS, BETTER * own) else None
