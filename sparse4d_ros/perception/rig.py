"""The rig file: which cameras in which order, on which topics, and the frames that they hang together by.

A rig has 1 to 12 cameras, of any image sizes; the order is the one the model was trained with. Example, a robot with
two cameras whose model frame is given by numbers, as pose in the base frame (metres; quaternion x y z w):

    base_frame: base_link
    global_frame: odom                   # the default: it drifts, but never jumps (REP-105)
    model_frame:
      translation: [0.2, 0.0, 1.1]
      rotation_xyzw: [0.0, 0.0, -0.7071068, 0.7071068]   # published models: x right, y forward, z up
    cameras:
      - {name: front, frame: front_optical, image_topic: /front/image_rect, transport: raw}
      - {name: rear, frame: rear_optical, image_topic: /rear/image_rect/compressed}

Topics without a leading slash are below the node's namespace, and in a bag below whatever namespace it was recorded in.

`model_frame: lidar_top` instead takes the frame from TF. A camera's `rectified: true` or `false` states whether its
images are rectified; without it they are if the topic's name contains `image_rect` (see `camera_model.py`).
`ego_mask: FILE` names a picture, relative to the rig file, that is white where the camera sees the own vehicle.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import yaml

from sparse4d_core.ego_mask import read_mask

from ..share import config_file
from .camera_model import is_rectified
from .transforms import TransformBuffer, quaternion_matrix

MAX_CAMERAS = 12


class RigError(ValueError):
    """A rig file that does not describe a rig."""


@dataclass(frozen=True)
class RigFrames:
    """Names of the frames that a rig hangs together by."""

    cameras: Mapping[str, str]  # camera name -> optical frame, in the order of the model's cameras
    global_frame: str = "odom"
    base_frame: str = "base_link"
    model_frame: str = "lidar_top"
    T_base_from_model: np.ndarray | None = None  # [4, 4]; None: TF has `model_frame`
    rectified: frozenset[str] = frozenset()  # names of the cameras whose images are rectified
    ego_masks: Mapping[str, np.ndarray] = field(default_factory=dict)  # camera name -> [H, W] bool, the own vehicle

    def base_from_model(self, buffer: TransformBuffer, stamp_ns: int) -> np.ndarray:
        """[4, 4] pose of the model frame in the base frame, metres: the rig's own, or that of TF at the stamp.

        Raises:
            TransformError: TF has none.
        """
        if self.T_base_from_model is not None:
            return self.T_base_from_model
        return buffer.lookup(self.base_frame, self.model_frame, stamp_ns).matrix


@dataclass(frozen=True)
class RigCamera:
    name: str
    frame: str  # optical frame: x right, y down, z forward; header.frame_id of its images
    image_topic: str
    info_topic: str
    transport: Literal["raw", "compressed"]
    rectified: bool = True  # P and R of its CameraInfo count, else K and D
    ego_mask: str | None = None  # picture that is white where the own vehicle is, relative to the rig file


@dataclass(frozen=True)
class Rig:
    cameras: tuple[RigCamera, ...]  # in the order of the model
    frames: RigFrames

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    def with_topics(self, rename: Callable[[str], str]) -> Rig:
        """The same cameras with other names of their topics."""
        cameras = (
            replace(camera, image_topic=rename(camera.image_topic), info_topic=rename(camera.info_topic))
            for camera in self.cameras
        )
        return replace(self, cameras=tuple(cameras))


def default_rig() -> pathlib.Path:
    """The file of the nuScenes rig."""
    return config_file("nuscenes_rig.yaml")


def load_rig(path: str | pathlib.Path = "") -> Rig:
    """Reads a rig file; without a name that of the nuScenes rig.

    Raises:
        RigError: no such file, or something in it that is not as it must be; the message names the key.
    """
    path = pathlib.Path(path) if path else default_rig()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RigError(f"rig: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RigError(f"rig: {path} is not YAML: {error}") from error
    try:
        return _with_masks(parse_rig(content), path.parent)
    except RigError as error:
        raise RigError(f"{path}: {error}") from None


def _with_masks(rig: Rig, folder: pathlib.Path) -> Rig:
    """The rig with the pictures that its cameras name."""
    try:
        masks = {camera.name: read_mask(folder / camera.ego_mask) for camera in rig.cameras if camera.ego_mask}
    except ValueError as error:
        raise RigError(str(error)) from None
    return replace(rig, frames=replace(rig.frames, ego_masks=masks))


def parse_rig(content: Any) -> Rig:
    """A rig from the content of its file; see the module's example."""
    _check_keys("rig", content, {"cameras"}, {"base_frame", "global_frame", "model_frame"})
    listed = content["cameras"]
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_CAMERAS:
        raise RigError(f"cameras: expected a list of 1 to {MAX_CAMERAS} cameras, got {listed!r}")
    cameras = tuple(_camera(entry, f"cameras[{i}]") for i, entry in enumerate(listed))
    for key in ("name", "image_topic", "frame"):
        values = [getattr(camera, key) for camera in cameras]
        if len(set(values)) != len(values):
            raise RigError(f"cameras: two have the same {key}: {', '.join(values)}")
    _check_calibrations(cameras)
    base_frame = _text(content.get("base_frame", "base_link"), "base_frame")
    model_frame, T_base_from_model = _model_frame(content.get("model_frame", "lidar_top"))
    frames = RigFrames(
        cameras={camera.name: camera.frame for camera in cameras},
        global_frame=_text(content.get("global_frame", RigFrames.global_frame), "global_frame"),
        base_frame=base_frame,
        model_frame=model_frame or base_frame,
        T_base_from_model=T_base_from_model,
        rectified=frozenset(camera.name for camera in cameras if camera.rectified),
    )
    return Rig(cameras, frames)


def _camera(entry: Any, where: str) -> RigCamera:
    _check_keys(where, entry, {"name"}, {"frame", "image_topic", "info_topic", "transport", "rectified", "ego_mask"})
    name = _text(entry["name"], f"{where}.name")
    image_topic = _text(entry.get("image_topic", f"/{name}/image_rect/compressed"), f"{where}.image_topic")
    transport = entry.get("transport", "compressed" if image_topic.endswith("/compressed") else "raw")
    if transport not in ("raw", "compressed"):
        raise RigError(f"{where}.transport: expected 'raw' or 'compressed', got {transport!r}")
    rectified = entry.get("rectified", "auto")
    setting = str(rectified).lower() if isinstance(rectified, bool) else rectified
    if setting not in ("auto", "true", "false"):
        raise RigError(f"{where}.rectified: expected auto, true or false, got {rectified!r}")
    return RigCamera(
        name=name,
        frame=_text(entry.get("frame", name), f"{where}.frame"),
        image_topic=image_topic,
        info_topic=_text(entry.get("info_topic", _sibling(image_topic)), f"{where}.info_topic"),
        transport=transport,
        rectified=is_rectified(image_topic, setting),
        ego_mask=_text(entry["ego_mask"], f"{where}.ego_mask") if "ego_mask" in entry else None,
    )


def _check_calibrations(cameras: tuple[RigCamera, ...]) -> None:
    """Each needs a CameraInfo of its own; where two images lie in one folder, the default gives both the same topic."""
    owners: dict[str, str] = {}
    for camera in cameras:
        other = owners.setdefault(camera.info_topic, camera.name)
        if other != camera.name:
            raise RigError(
                f"cameras: {other} and {camera.name} have the same info_topic: {camera.info_topic}; "
                "state each camera's own with `info_topic:`"
            )


def _sibling(image_topic: str) -> str:
    """camera_info beside the image topic, where image_transport puts it."""
    folder, slash, _ = image_topic.removesuffix("/compressed").rpartition("/")
    return f"{folder}{slash}camera_info"


def _model_frame(value: Any) -> tuple[str, np.ndarray | None]:
    """(TF frame, None), or ("", T_base_from_model [4, 4] metres) for a frame given by numbers."""
    if isinstance(value, str):
        return _text(value, "model_frame"), None
    _check_keys("model_frame", value, {"translation", "rotation_xyzw"}, set())
    translation = _numbers(value["translation"], 3, "model_frame.translation")
    rotation = _numbers(value["rotation_xyzw"], 4, "model_frame.rotation_xyzw")
    if abs(float(np.linalg.norm(rotation)) - 1.0) > 1e-3:
        raise RigError(f"model_frame.rotation_xyzw: expected a quaternion of length 1, got {rotation.tolist()}")
    T_base_from_model = quaternion_matrix(rotation / np.linalg.norm(rotation))
    T_base_from_model[:3, 3] = translation
    return "", T_base_from_model


def _numbers(value: Any, count: int, where: str) -> np.ndarray:
    try:
        numbers = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise RigError(f"{where}: expected {count} finite numbers, got {value!r}")
    return numbers


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RigError(f"{where}: expected a name, got {value!r}")
    return value


def _check_keys(where: str, entry: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(entry, Mapping):
        raise RigError(f"{where}: expected a mapping with {', '.join(sorted(required))}, got {entry!r}")
    missing, unknown = required - entry.keys(), entry.keys() - required - optional
    if missing or unknown:
        raise RigError(
            f"{where}: missing {sorted(missing)}, unknown {sorted(map(str, unknown))}; known keys: "
            f"{', '.join(sorted(required | optional))}"
        )
