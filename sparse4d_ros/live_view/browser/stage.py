"""The three-dimensional part of a page, of one browser or in a file."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import viser

from sparse4d_core.boxes import inverse

from ...perception.transforms import quaternion_from_matrix, quaternion_matrix
from ..drawing import MAX_LABELS, Drawing
from ..scene import CameraImage, Moment
from ..strip import decode, silence
from ..stroke_font import lines_in_space

LAYERS = ("boxes", "labels", "velocities", "trails", "cameras", "grid")
FRUSTUM_SCALE = 1.6  # m
LETTER_PIXELS = 9.0  # height of the labels' letters
LIVE_RGB, SILENT_RGB = (110, 170, 220), (220, 60, 60)
VEHICLE_M = (4.2, 1.9, 1.5)  # length, width, height of the marker at the base frame
GRID_M, CELL_M = 160.0, 10.0
BACKGROUND_RGB = (20, 22, 24)
VIEWS = {"behind": ((-26.0, 0.0, 16.0), (10.0, 0.0, 0.0)), "above": ((-0.01, 0.0, 75.0), (0.0, 0.0, 0.0))}


@dataclass(frozen=True)
class Viewpoint:
    """Where a page is seen from, where there is no browser to ask; its fields are those of viser's cameras."""

    position: np.ndarray  # [3] m, in the page's world
    wxyz: np.ndarray  # [4] rotation of the camera (x right, y down, z forward)
    fov: float = np.radians(75.0)  # vertical, as viser's pages have it at first
    image_height: int = 720  # pixels

    @classmethod
    def of(cls, view: str) -> Viewpoint:
        """One of VIEWS."""
        position, look_at = map(np.array, VIEWS[view])
        forward = (look_at - position) / np.linalg.norm(look_at - position)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        T = np.eye(4)
        T[:3, 0] = right / np.linalg.norm(right)
        T[:3, 1], T[:3, 2] = np.cross(forward, T[:3, 0]), forward
        return cls(position, np.roll(quaternion_from_matrix(T), 1))


class Stage:
    """Nodes of a page, made once and changed with every moment. Units metres.

    The page's world is the vehicle while it is followed; else it is where the vehicle was when that ended.

    Args:
        target: the browser; or a server, whose scene is recorded.
        camera: where the page is seen from; labels are turned to it.
        cameras: names of the rig's cameras.
        picture_width: pixels of a camera's image at most; None: as it is.
    """

    def __init__(
        self,
        target: viser.ClientHandle | viser.ViserServer,
        camera: viser.CameraHandle | Viewpoint,
        cameras: tuple[str, ...],
        picture_width: int | None = None,
    ):
        self._target, self._camera, scene = target, camera, target.scene
        scene.set_background_image(np.full((1, 1, 3), BACKGROUND_RGB, np.uint8))
        scene.set_up_direction("+z")
        self._vehicle = scene.add_frame("/vehicle", show_axes=False)
        self._global = scene.add_frame("/global", show_axes=False)
        scene.add_box("/vehicle/body", (225, 225, 225), dimensions=VEHICLE_M, position=(1.4, 0.0, 0.75), opacity=0.6)
        scene.add_frame("/vehicle/axes", axes_length=3.0, axes_radius=0.06)
        self._grid = scene.add_grid(  # of the world: it stands still where the vehicle drives
            "/grid", GRID_M, GRID_M, cell_size=CELL_M, section_size=5 * CELL_M,
            cell_color=(58, 62, 66), section_color=(84, 90, 96), fade_distance=3 * GRID_M, shadow_opacity=0.0,
        )  # fmt: skip
        self._edges = _Lines(scene, "/vehicle/boxes", 2.0)
        self._trails = _Lines(scene, "/global/trails", 2.0)
        self._arrows: viser.ArrowsHandle | None = None
        self._labels = _Lines(scene, "/vehicle/labels", 1.5)
        self._T_world_from_base = np.eye(4)
        self._frustums = {camera: _Frustum(scene, camera, picture_width) for camera in cameras}
        self._anchor: np.ndarray | None = None  # T_global_from_world while the vehicle is not followed

    def look(self, view: str) -> None:
        """Puts the browser's camera at one of VIEWS."""
        self._camera.position, self._camera.look_at = map(np.array, VIEWS[view])

    def draw(self, moment: Moment, drawing: Drawing | None, layers: Set[str], follow: bool) -> None:
        """Shows a moment.

        Args:
            drawing: of its objects; None: there are none.
            layers: the names in LAYERS to show.
            follow: whether the vehicle stays in the middle.
        """
        with self._target.atomic():
            self._place(None if moment.objects is None else moment.objects.T_global_from_base, follow)
            self._grid.visible = "grid" in layers
            self._edges.draw(drawing and drawing.edges, drawing and drawing.edge_colors, "boxes" in layers)
            self._trails.draw(drawing and drawing.trails, drawing and drawing.trail_colors, "trails" in layers)
            self._draw_arrows(drawing if "velocities" in layers else None)
            self._draw_labels(drawing if "labels" in layers else None)
            for camera, frustum in self._frustums.items():
                frustum.draw(moment.images.get(camera), silence(moment, camera) is not None, "cameras" in layers)

    def to_base(self, origin: np.ndarray, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A ray of the browser's world in the base frame."""
        T_base_from_world = inverse(self._T_world_from_base)
        return T_base_from_world[:3, :3] @ origin + T_base_from_world[:3, 3], T_base_from_world[:3, :3] @ direction

    def on_screen(self, point: np.ndarray) -> tuple[float, float]:
        """Where a point of the base frame is seen: 0 to 1 from the left and from the top of the scene."""
        camera = self._camera
        in_world = self._T_world_from_base[:3, :3] @ point + self._T_world_from_base[:3, 3]
        x, y, depth = inverse(self._T_world_from_camera())[:3] @ np.append(in_world, 1.0)
        half = np.tan(camera.fov / 2)
        return 0.5 + x / depth / half / camera.aspect / 2, 0.5 + y / depth / half / 2

    def _place(self, T_global_from_base: np.ndarray | None, follow: bool) -> None:
        if follow or T_global_from_base is None:
            self._anchor = None
        elif self._anchor is None:
            self._anchor = T_global_from_base
        self._T_world_from_base = np.eye(4)
        if T_global_from_base is not None:
            T_world_from_global = inverse(T_global_from_base if self._anchor is None else self._anchor)
            self._T_world_from_base = T_world_from_global @ T_global_from_base
            _set_pose(self._global, T_world_from_global)
        _set_pose(self._vehicle, self._T_world_from_base)

    def _draw_arrows(self, drawing: Drawing | None) -> None:
        if drawing is None or not len(drawing.arrows):
            if self._arrows is not None:
                self._arrows.visible = False
        elif self._arrows is None:
            self._arrows = self._target.scene.add_arrows(
                "/vehicle/velocities", drawing.arrows.astype(np.float32), drawing.arrow_colors,
                shaft_radius=0.07, head_radius=0.2, head_length=0.5,
            )  # fmt: skip
        else:
            self._arrows.points, self._arrows.colors = drawing.arrows.astype(np.float32), drawing.arrow_colors
            self._arrows.visible = True

    def _draw_labels(self, drawing: Drawing | None) -> None:
        if drawing is None:
            self._labels.draw(None, None, False)
            return
        boxes = drawing.boxes[:MAX_LABELS]
        places = boxes[:, :3] + np.stack([0 * boxes[:, 5], 0 * boxes[:, 5], boxes[:, 5] / 2 + 0.3], axis=1)
        camera = self._camera
        metres_per_depth = 2 * np.tan(camera.fov / 2) * LETTER_PIXELS / camera.image_height
        T_base_from_camera = inverse(self._T_world_from_base) @ self._T_world_from_camera()
        lines, owners = lines_in_space(drawing.labels[:MAX_LABELS], places, T_base_from_camera, metres_per_depth)
        self._labels.draw(lines, np.repeat(drawing.colors[owners], 2, axis=0).reshape(-1, 2, 3), True)

    def _T_world_from_camera(self) -> np.ndarray:
        T = quaternion_matrix(np.roll(self._camera.wxyz, -1))
        T[:3, 3] = self._camera.position
        return T

    def camera_pose(self) -> tuple[float, ...]:
        """Where the browser looks from, rounded; labels turn to it."""
        camera = self._camera
        return (*np.round(camera.position, 2), *np.round(camera.wxyz, 3), camera.image_height)


def linear(colors: np.ndarray) -> np.ndarray:
    """uint8 sRGB ► uint8 as lines take them: a browser shows their colours brightened, as if they were linear."""
    return np.round(255 * (colors / 255) ** 2.2).astype(np.uint8)


class _Lines:
    """Line segments that change their number. Where there are none the node is hidden."""

    def __init__(self, scene: viser.SceneApi, name: str, thickness: float):
        self._scene, self._name, self._thickness = scene, name, thickness
        self._handle: viser.LineSegmentsHandle | None = None

    def draw(self, points: np.ndarray | None, colors: np.ndarray | None, visible: bool) -> None:
        if points is None or not len(points) or not visible:
            if self._handle is not None:
                self._handle.visible = False
            return
        points, colors = points.astype(np.float32), linear(colors)
        if self._handle is None:
            self._handle = self._scene.add_line_segments(
                self._name, points, colors, thickness=self._thickness, thickness_units="screen"
            )
        self._handle.points, self._handle.colors, self._handle.visible = points, colors, True


class _Frustum:
    """One camera with its image."""

    def __init__(self, scene: viser.SceneApi, camera: str, picture_width: int | None):
        self._scene, self._name, self._width = scene, f"/vehicle/cameras/{camera}", picture_width
        self._handle: viser.CameraFrustumHandle | None = None
        self._shown: int | None = None  # stamp of the image that the browser has

    def draw(self, image: CameraImage | None, silent: bool, visible: bool) -> None:
        """No image where there never was one, or none with a pose."""
        if image is None or image.T_base_from_cam is None or not visible:
            if self._handle is not None:
                self._handle.visible = False
            return
        width, height = image.size_wh
        if self._handle is None:
            field_of_view = 2 * np.arctan2(height / 2, image.intrinsics[1, 1])
            self._handle = self._scene.add_camera_frustum(
                self._name, float(field_of_view), width / height, scale=FRUSTUM_SCALE, format="jpeg"
            )
        if self._shown != image.stamp_ns:
            self._handle.image = decode(image, self._width)[:, :, ::-1]
            self._shown = image.stamp_ns
        self._handle.color = SILENT_RGB if silent else LIVE_RGB
        self._handle.visible = True
        _set_pose(self._handle, image.T_base_from_cam)


def _set_pose(handle: viser.SceneNodeHandle, T_parent_from_node: np.ndarray) -> None:
    handle.wxyz = np.roll(quaternion_from_matrix(T_parent_from_node), 1)
    handle.position = T_parent_from_node[:3, 3]
