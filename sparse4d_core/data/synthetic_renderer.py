"""A small rasteriser: textured parallelograms with a depth buffer, over a textured ground and a panorama.

Every face lies in a plane, so its texture arrives by one perspective warp and 1/depth is linear in the pixel: the
depth test needs no per-pixel division, and points behind the camera fail it by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .synthetic_background import PANORAMA_ELEVATION, PANORAMA_WIDTH, paint_ground, paint_panorama
from .synthetic_path import poses
from .synthetic_rig import CameraMount, Rig
from .synthetic_shapes import SHAPES
from .synthetic_textures import pyramid, soft_shadow
from .synthetic_world import World

_NEAR = 0.2  # m
_FAR = 90.0  # m: objects beyond are not drawn
_HORIZON = 160.0  # m: the ground ends here and the panorama begins
_BANDS = (9.0, 32.0)  # m: the ground's finer pictures end at these distances
_HAZE = 0.0035  # 1/m
_NOISE = 10  # grey levels from end to end


@dataclass(frozen=True)
class View:
    """One rendered image."""

    image: np.ndarray  # [H, W, 3] uint8, BGR
    visible_pixels: np.ndarray  # [A] per actor of the world: pixels that show it
    covered_pixels: np.ndarray  # [A] pixels it would have without anything in front of it (each face for itself)


@dataclass(frozen=True)
class _Mesh:
    """All faces of the world, in their owners' frames."""

    origin: np.ndarray  # [F, 3] m
    u: np.ndarray  # [F, 3] m
    v: np.ndarray  # [F, 3] m
    owner: np.ndarray  # [F] index of the actor, then of the scenery
    textures: list[list[np.ndarray]]  # F pyramids
    radius: np.ndarray  # [O] m, of the owner's bounding circle
    height: np.ndarray  # [O] m


def _build_mesh(world: World) -> _Mesh:
    origins, us, vs, owners, textures = [], [], [], [], []
    things = [(a.name, a.size, a.motion.moving, a.look) for a in world.actors]
    things += [(s.kind, s.size, False, s.look) for s in world.scenery]
    for owner, (kind, size, moving, look) in enumerate(things):
        shape = SHAPES[kind](size, moving, np.random.default_rng(look))
        origins += shape.origins
        us += shape.u
        vs += shape.v
        textures += [pyramid(np.ascontiguousarray(t)) for t in shape.textures]
        owners += [owner] * len(shape.textures)
    sizes = np.array([size for _, size, _, _ in things])
    return _Mesh(
        np.array(origins),
        np.array(us),
        np.array(vs),
        np.array(owners),
        textures,
        np.hypot(sizes[:, 0], sizes[:, 1]) / 2,
        sizes[:, 2],
    )


class Renderer:
    """Draws one world through the cameras of one rig. Holds no state that changes: every view is a function of (camera, time)."""

    def __init__(self, world: World, rig: Rig):
        self.world, self.rig = world, rig
        self._mesh = _build_mesh(world)
        self._motions = [thing.motion for thing in (*world.actors, *world.scenery)]
        self._ground, self._panorama = paint_ground(world), paint_panorama(world)
        self._shadow = soft_shadow()
        self._rays = [_panorama_map(camera, rig.image_wh) for camera in rig.cameras]
        width, height = rig.image_wh
        noise = np.random.default_rng([world.seed, world.index, 1003]).integers(0, _NOISE, (height + 64, width + 64, 3))
        self._noise = noise.astype(np.uint8)

    def view(self, camera_index: int, t: float) -> View:
        """The image of one camera at the time t (s from the scene's start)."""
        camera = self.rig.cameras[camera_index]
        T_global_from_ego = ego_matrix(self.world.ego_pose(t))
        T_cam_from_global = np.linalg.inv(T_global_from_ego @ camera.T_ego_from_cam)
        width, height = self.rig.image_wh
        image = np.zeros((height, width, 4), dtype=np.uint8)
        self._draw_sky(image, camera_index, t)
        self._draw_ground(image, camera, T_cam_from_global)
        pose = poses(self.world.path, self.world.ego, self._motions, np.array([t]))[:, 0]
        near = self._owners_in_view(pose, camera, T_cam_from_global)
        self._draw_shadows(image, camera, T_cam_from_global, pose, near)
        visible, covered = self._draw_faces(image, camera, T_cam_from_global, pose, near)
        return View(self._expose(image, camera_index, t), visible, covered)

    def _draw_sky(self, image: np.ndarray, camera_index: int, t: float) -> None:
        columns, rows = self._rays[camera_index]
        turn = (-self.world.ego_pose(t)[2] * PANORAMA_WIDTH / (2 * np.pi)) % PANORAMA_WIDTH
        part = image[: len(rows)]
        part[:] = cv2.remap(
            self._panorama, columns + np.float32(turn), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _draw_ground(self, image: np.ndarray, camera: CameraMount, T_cam_from_global: np.ndarray) -> None:
        H_plane = camera.intrinsic @ T_cam_from_global[:, [0, 1, 3]][:3]  # (x, y, 1) on the ground -> pixel
        # 1/depth of the ground is linear in the pixel; its rows tell where each level of detail begins.
        a, b, c = _inverse_depth(T_cam_from_global[:3, 2], T_cam_from_global[:3, 3], camera)
        width, height = self.rig.image_wh
        columns = np.arange(width)
        ends = (1 / _HORIZON, 1 / _BANDS[1], 1 / _BANDS[0], np.inf)
        if b <= 0:
            return  # not a camera that stands upright: no ground
        edge = [np.clip((np.minimum(e, 1e3) - c - a * columns) / b, 0, height) for e in ends]
        for level, low, high in ((2, edge[0], edge[1]), (1, edge[1], edge[2]), (0, edge[2], edge[3])):
            top, bottom = int(np.floor(low.min())), int(np.ceil(high.max()))
            if bottom <= top:
                continue
            shift = np.array([[1, 0, 0], [0, 1, -top], [0, 0, 1.0]])
            H = shift @ H_plane @ self._ground.T_global_from_pixel(level)
            band = cv2.warpPerspective(
                self._ground.levels[level],
                H,
                (width, bottom - top),
                flags=cv2.INTER_LINEAR,
                borderValue=(*self._ground.colour, 255),
            )
            mask = (np.arange(top, bottom)[:, None] >= np.floor(low)[None]).astype(np.uint8)
            cv2.copyTo(band, mask, image[top:bottom])

    def _owners_in_view(self, pose: np.ndarray, camera: CameraMount, T_cam_from_global: np.ndarray) -> np.ndarray:
        """Indices of actors and scenery that may touch the image."""
        mesh = self._mesh
        middle = np.column_stack([pose[:, :2], mesh.height / 2])
        x, _, z = T_cam_from_global[:3, :3] @ middle.T + T_cam_from_global[:3, 3:]
        reach = np.hypot(mesh.radius, mesh.height / 2)
        f, (cx, _), width = camera.focal, camera.principal_point, self.rig.image_wh[0]
        left, right = np.arctan2(cx, f), np.arctan2(width - cx, f)
        inside = (x * np.cos(right) - z * np.sin(right) < reach) & (-x * np.cos(left) - z * np.sin(left) < reach)
        return np.flatnonzero(inside & (z > -reach) & (z < _FAR))

    def _draw_shadows(self, image, camera, T_cam_from_global, pose, near) -> None:
        for owner in near[near < len(self.world.actors)]:
            length, width, height = self.world.actors[owner].size
            spread = 1.5 * np.array([length, width]) * (1 + 0.1 * (height > 2))
            T = T_cam_from_global @ ego_matrix(pose[owner])
            u, v = T[:3, 0] * spread[0], -T[:3, 1] * spread[1]
            origin = T[:3, 3] - (u + v) / 2
            box = _bounding_box(_corners(origin, u, v)[None], camera, self.rig.image_wh)[0]
            if box[2] <= box[0] or box[3] <= box[1] or origin[2] > 60 or (box[2] - box[0]) > 4 * image.shape[1]:
                continue
            H = _texture_homography(origin, u, v, self._shadow.shape, camera, box)
            size = (int(box[2] - box[0]), int(box[3] - box[1]))
            factor = cv2.warpPerspective(self._shadow, H, size, borderValue=(255,) * 4)
            a, b, c = _inverse_depth(np.cross(u, v), origin, camera)
            part = image[box[1] : box[3], box[0] : box[2]]
            ahead = a * np.arange(box[0], box[2]) + (b * np.arange(box[1], box[3]) + c)[:, None] > 0
            factor[~ahead] = 255
            cv2.multiply(part, factor, dst=part, scale=1 / 255)

    def _draw_faces(self, image, camera, T_cam_from_global, pose, near) -> tuple[np.ndarray, np.ndarray]:
        mesh, num_actors = self._mesh, len(self.world.actors)
        chosen = np.flatnonzero(np.isin(mesh.owner, near))
        owner = mesh.owner[chosen]
        x, y, yaw = pose[owner].T
        cos, sin = np.cos(yaw), np.sin(yaw)

        def turn(vectors: np.ndarray) -> np.ndarray:
            return np.column_stack(
                [cos * vectors[:, 0] - sin * vectors[:, 1], sin * vectors[:, 0] + cos * vectors[:, 1], vectors[:, 2]]
            )

        u_global, v_global = turn(mesh.u[chosen]), turn(mesh.v[chosen])
        R, t = T_cam_from_global[:3, :3], T_cam_from_global[:3, 3]
        origin = (turn(mesh.origin[chosen]) + np.column_stack([x, y, np.zeros_like(x)])) @ R.T + t
        u, v = u_global @ R.T, v_global @ R.T
        inward = np.cross(u, v)  # seen from outside u is right and v is down, so u x v points away from the viewer
        facing = np.einsum("fi,fi->f", inward, origin) > 0
        boxes = _bounding_box(
            np.stack([origin, origin + u, origin + u + v, origin + v], axis=1), camera, self.rig.image_wh
        )
        drawn = np.flatnonzero(facing & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        normals = -np.cross(u_global, v_global)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        light = 0.72 + 0.38 * np.clip(normals @ np.array(self.world.light.sun), -0.3, 1)
        depth = np.linalg.norm(origin + (u + v) / 2, axis=1)
        haze = 1 - np.exp(-_HAZE * depth)
        inverse = np.array(
            [_inverse_depth(n, o, camera) for n, o in zip(inward[drawn], origin[drawn], strict=True)]
        ).reshape(-1, 3)

        buffer = np.zeros(image.shape[:2], dtype=np.float32)
        owners = np.full(image.shape[:2], -1, dtype=np.int16)
        covered = np.zeros(len(pose))
        for i, plane in zip(drawn, inverse, strict=True):
            textures, box = mesh.textures[chosen[i]], boxes[i]
            texture = _level_of_detail(textures, u[i], v[i], depth[i], camera)
            H = _texture_homography(origin[i], u[i], v[i], texture.shape, camera, box)
            gain, fog = light[i] * (1 - haze[i]), 215 * haze[i]
            covered[owner[i]] += _draw_face(image, buffer, owners, texture, H, box, plane, gain, fog, owner[i])
        visible = np.bincount(owners[owners >= 0], minlength=len(pose))
        return visible[:num_actors], covered[:num_actors]

    def _expose(self, image: np.ndarray, camera_index: int, t: float) -> np.ndarray:
        """Light of the moment, sensor noise; BGR."""
        factor = self.world.light.at(t) * (1 + 0.04 * np.sin(1.7 * camera_index + self.world.index))
        table = np.clip(np.arange(256)[:, None] * factor[None] - _NOISE / 2, 0, 255).astype(np.uint8)
        bgr = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR), table[:, None])
        offset = np.random.default_rng([self.world.seed, camera_index, int(round(t * 1e6)) & 0x7FFFFFFF]).integers(
            0, 64, 2
        )
        height, width = bgr.shape[:2]
        return cv2.add(
            bgr, np.ascontiguousarray(self._noise[offset[0] : offset[0] + height, offset[1] : offset[1] + width])
        )


def _draw_face(image, buffer, owners, texture, H, box, plane, gain, fog, owner) -> int:
    """Draw what passes the depth test; returns the number of opaque pixels before it."""
    x0, y0, x1, y1 = box
    warped = cv2.warpPerspective(texture, H, (int(x1 - x0), int(y1 - y0)), flags=cv2.INTER_LINEAR)
    a, b, c = plane
    near = (a * np.arange(x0, x1) + c).astype(np.float32) + (b * np.arange(y0, y1)).astype(np.float32)[:, None]
    opaque = warped[..., 3] > 127
    mask = (opaque & (near > buffer[y0:y1, x0:x1])).view(np.uint8)
    cv2.copyTo(cv2.convertScaleAbs(warped, alpha=gain, beta=fog), mask, image[y0:y1, x0:x1])
    cv2.copyTo(near, mask, buffer[y0:y1, x0:x1])
    owners[y0:y1, x0:x1][mask.view(bool)] = owner
    return int(np.count_nonzero(opaque))


def ego_matrix(pose: np.ndarray) -> np.ndarray:
    """[4, 4] from a place on the ground (x, y, yaw)."""
    x, y, yaw = pose
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def _inverse_depth(normal: np.ndarray, point: np.ndarray, camera: CameraMount) -> tuple[float, float, float]:
    """(a, b, c) with 1/z = a column + b row + c for the plane through `point` with this normal, both in the camera frame."""
    offset = float(normal @ point)
    offset = offset if abs(offset) > 1e-9 else 1e-9
    nx, ny, nz = normal / offset
    f, (cx, cy) = camera.focal, camera.principal_point
    return nx / f, ny / f, nz - nx * cx / f - ny * cy / f


def _texture_homography(origin, u, v, shape, camera: CameraMount, box) -> np.ndarray:
    """[3, 3]: pixel of the texture -> pixel of the image, counted from the corner of `box`."""
    height, width = shape[:2]
    plane = np.column_stack([u / width, v / height, origin + 0.5 * u / width + 0.5 * v / height])
    shift = np.array([[1, 0, -box[0]], [0, 1, -box[1]], [0, 0, 1.0]])
    return shift @ camera.intrinsic @ plane


def _level_of_detail(textures: list[np.ndarray], u, v, depth: float, camera: CameraMount) -> np.ndarray:
    """The level whose pixels are about as large as the image's."""
    height, width = textures[0].shape[:2]
    pixels = camera.focal / max(depth, 1.0)
    ratio = max(width / max(np.linalg.norm(u) * pixels, 1e-6), height / max(np.linalg.norm(v) * pixels, 1e-6))
    return textures[int(np.clip(np.log2(max(ratio, 1e-6)), 0, len(textures) - 1))]


def _corners(origin, u, v) -> np.ndarray:
    return np.stack([origin, origin + u, origin + u + v, origin + v])


def _bounding_box(corners: np.ndarray, camera: CameraMount, image_wh: tuple[int, int]) -> np.ndarray:
    """[F, 4] int (left, top, right, bottom; ends exclusive) of quadrilaterals [F, 4, 3], cut at the near plane and the image."""
    following = np.roll(corners, -1, axis=1)
    z, next_z = corners[..., 2], following[..., 2]
    crossing = (z < _NEAR) != (next_z < _NEAR)
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = np.where(crossing, (_NEAR - z) / (next_z - z), 0.0)[..., None]
    points = np.concatenate([corners, corners + fraction * (following - corners)], axis=1)
    valid = np.concatenate([z >= _NEAR, crossing], axis=1)
    f, (cx, cy) = camera.focal, camera.principal_point
    depth = np.where(valid, np.maximum(points[..., 2], _NEAR * 0.999), 1.0)
    x, y = f * points[..., 0] / depth + cx, f * points[..., 1] / depth + cy
    width, height = image_wh
    low = [np.where(valid, value, np.inf).min(axis=1) for value in (x, y)]
    high = [np.where(valid, value, -np.inf).max(axis=1) for value in (x, y)]
    left, right = np.clip(np.floor(low[0]), 0, width), np.clip(np.ceil(high[0]) + 1, 0, width)
    top, bottom = np.clip(np.floor(low[1]), 0, height), np.clip(np.ceil(high[1]) + 1, 0, height)
    return np.stack([left, top, right, bottom], axis=1).astype(np.int64)


def _panorama_map(camera: CameraMount, image_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the panorama for the upper part of the image [rows, width], at ego heading zero; float32."""
    width, height = image_wh
    horizon = camera.principal_point[1] + 0.15 * camera.focal
    u, v = np.meshgrid(np.arange(width), np.arange(int(np.clip(horizon, 1, height))))
    f, (cx, cy) = camera.focal, camera.principal_point
    rays = (
        np.stack([(u - cx) / f, (v - cy) / f, np.ones_like(u, dtype=np.float64)], axis=-1)
        @ camera.T_ego_from_cam[:3, :3].T
    )
    azimuth = np.arctan2(rays[..., 1], rays[..., 0])
    middle = camera.T_ego_from_cam[:3, 2]
    centre = np.arctan2(middle[1], middle[0])
    azimuth = centre + (azimuth - centre + np.pi) % (2 * np.pi) - np.pi
    elevation = np.degrees(np.arctan2(rays[..., 2], np.hypot(rays[..., 0], rays[..., 1])))
    # The panorama is seen from inside: columns grow to the right, azimuth to the left.
    columns = -azimuth * PANORAMA_WIDTH / (2 * np.pi)
    columns -= np.floor(columns.min() / PANORAMA_WIDTH) * PANORAMA_WIDTH if columns.min() < 0 else 0.0
    rows = (PANORAMA_ELEVATION[1] - elevation) * PANORAMA_WIDTH / 360
    return columns.astype(np.float32), rows.astype(np.float32)
