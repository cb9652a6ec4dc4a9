"""A small rasteriser: textured parallelograms with a depth buffer, over a textured ground and a panorama.

Every face lies in a plane, so its texture arrives by one perspective warp and 1/depth is linear in the pixel: the
depth test needs no per-pixel division, and points behind the camera fail it by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...boxes import inverse
from .background import PANORAMA_ELEVATION, PANORAMA_WIDTH, paint_ground, paint_panorama
from .cameras import CameraMount, Rig
from .ego_body import body_mask, draw_body
from .ego_path import poses
from .shapes import SHAPES
from .textures import fill_transparent, pyramid, rim_colour, soft_shadow
from .world import World

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
    owners: np.ndarray  # [H, W] int16: index of the actor, then of the scenery, that a pixel shows; -1 = background
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
    texture_sizes: np.ndarray  # [F, L, 2] height, width of each level in pixels
    num_levels: np.ndarray  # [F]
    rims: list[tuple[int, int, int, int]]  # F colours around the textures: fully transparent
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
        textures += [pyramid(fill_transparent(t)) for t in shape.textures]
        owners += [owner] * len(shape.textures)
    sizes = np.array([size for _, size, _, _ in things])
    num_levels = np.array([len(levels) for levels in textures])
    texture_sizes = np.zeros((len(textures), num_levels.max(), 2))
    for i, levels in enumerate(textures):
        texture_sizes[i, : len(levels)] = [level.shape[:2] for level in levels]
    return _Mesh(
        origin=np.array(origins),
        u=np.array(us),
        v=np.array(vs),
        owner=np.array(owners),
        textures=textures,
        texture_sizes=texture_sizes,
        num_levels=num_levels,
        rims=[rim_colour(levels[0]) for levels in textures],
        radius=np.hypot(sizes[:, 0], sizes[:, 1]) / 2,
        height=sizes[:, 2],
    )


class Renderer:
    """Draws one world through the cameras of one rig; every view is a function of (camera, time) alone.

    Args:
        ego_body: with the own vehicle in the pictures, see `ego_body.py`.
    """

    def __init__(self, world: World, rig: Rig, ego_body: bool = False):
        self.world, self.rig = world, rig
        self._mesh = _build_mesh(world)
        self._motions = [thing.motion for thing in (*world.actors, *world.scenery)]
        self._ground, self._panorama = paint_ground(world), paint_panorama(world)
        self._shadow = soft_shadow()
        self._rays = [_panorama_map(camera, rig.image_wh) for camera in rig.cameras]
        width, height = rig.image_wh
        noise = np.random.default_rng([world.seed, world.index, 1003]).integers(0, _NOISE, (height + 64, width + 64, 3))
        self._noise = noise.astype(np.uint8)
        self._bodies = [body_mask(camera, rig.image_wh) for camera in rig.cameras] if ego_body else None

    def view(self, camera_index: int, t: float) -> View:
        """The image of one camera at the time t (s from the scene's start)."""
        camera = self.rig.cameras[camera_index]
        T_global_from_ego = ego_matrix(self.world.ego_pose(t))
        T_cam_from_global = inverse(T_global_from_ego @ camera.T_ego_from_cam)
        width, height = self.rig.image_wh
        image = np.zeros((height, width, 4), dtype=np.uint8)
        self._draw_sky(image, camera_index, t)
        self._draw_ground(image, camera, T_cam_from_global)
        pose = poses(self.world.path, self.world.ego, self._motions, np.array([t]))[:, 0]
        near = self._owners_in_view(pose, camera, T_cam_from_global)
        self._draw_shadows(image, camera, T_cam_from_global, pose, near)
        owners, covered = self._draw_faces(image, camera, T_cam_from_global, pose, near)
        shown = self._expose(image, camera_index, t)
        if self._bodies is not None:
            draw_body(shown, self._bodies[camera_index])
            owners[self._bodies[camera_index]] = -1
        visible = np.bincount(owners[owners >= 0], minlength=len(pose))
        actors = slice(0, len(self.world.actors))
        return View(shown, owners, visible[actors], covered[actors])

    def _draw_sky(self, image: np.ndarray, camera_index: int, t: float) -> None:
        columns, rows = self._rays[camera_index]
        turn = (-self.world.ego_pose(t)[2] * PANORAMA_WIDTH / (2 * np.pi)) % PANORAMA_WIDTH
        part = image[: len(rows)]
        part[:] = cv2.remap(
            self._panorama, columns + np.float32(turn), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _draw_ground(self, image: np.ndarray, camera: CameraMount, T_cam_from_global: np.ndarray) -> None:
        H_plane = camera.intrinsic @ T_cam_from_global[:, [0, 1, 3]][:3]  # (x, y, 1) on the ground -> pixel
        # 1/depth of the ground is linear in the pixel; its rows show where each level of detail begins.
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
        x, _, z = (_rotate(middle, T_cam_from_global) + T_cam_from_global[:3, 3]).T
        reach = np.hypot(mesh.radius, mesh.height / 2)
        f, (cx, _), width = camera.focal, camera.principal_point, self.rig.image_wh[0]
        left, right = np.arctan2(cx, f), np.arctan2(width - cx, f)
        inside = (x * np.cos(right) - z * np.sin(right) < reach) & (-x * np.cos(left) - z * np.sin(left) < reach)
        return np.flatnonzero(inside & (z > -reach) & (z < _FAR))

    def _draw_shadows(self, image, camera, T_cam_from_global, pose, near) -> None:
        owners = near[near < len(self.world.actors)]
        if not len(owners):
            return
        size = np.array([self.world.actors[owner].size for owner in owners])
        cos, sin = np.cos(pose[owners, 2]), np.sin(pose[owners, 2])
        spread = 1.5 * size[:, :2] * (1 + 0.1 * (size[:, 2:] > 2))
        zero = np.zeros_like(cos)
        u = _rotate(np.column_stack([cos, sin, zero]) * spread[:, :1], T_cam_from_global)
        v = _rotate(np.column_stack([sin, -cos, zero]) * spread[:, 1:], T_cam_from_global)
        origin = (
            _rotate(np.column_stack([pose[owners, :2], zero]), T_cam_from_global)
            + T_cam_from_global[:3, 3]
            - (u + v) / 2
        )
        boxes = _bounding_box(_corners(origin, u, v), camera, self.rig.image_wh)
        planes = _inverse_depth(np.cross(u, v), origin, camera)
        H = _texture_homography(origin, u, v, np.tile(self._shadow.shape[:2], (len(owners), 1)), camera, boxes)
        for i in np.flatnonzero(_area(boxes) & (origin[:, 2] < 60)):
            x0, y0, x1, y1 = boxes[i]
            factor = cv2.warpPerspective(self._shadow, H[i], (int(x1 - x0), int(y1 - y0)), borderValue=(255,) * 4)
            factor[_plane_values(planes[i], boxes[i]) <= 0] = 255
            part = image[y0:y1, x0:x1]
            cv2.multiply(part, factor, dst=part, scale=1 / 255)

    def _draw_faces(self, image, camera, T_cam_from_global, pose, near) -> tuple[np.ndarray, np.ndarray]:
        """Draw all faces in view; returns the owners of the pixels [H, W] and each owner's pixels without occlusion."""
        mesh = self._mesh
        wanted = np.zeros(len(pose), dtype=bool)
        wanted[near] = True
        chosen = np.flatnonzero(wanted[mesh.owner])
        place = pose[mesh.owner[chosen]]
        u_global, v_global = _turn(mesh.u[chosen], place), _turn(mesh.v[chosen], place)
        origin = _turn(mesh.origin[chosen], place)
        origin[:, :2] += place[:, :2]
        origin = _rotate(origin, T_cam_from_global) + T_cam_from_global[:3, 3]
        u, v = _rotate(u_global, T_cam_from_global), _rotate(v_global, T_cam_from_global)
        inward = np.cross(u, v)  # seen from outside u is right and v is down, so u x v points away from the viewer
        boxes = _bounding_box(_corners(origin, u, v), camera, self.rig.image_wh)
        drawn = np.flatnonzero((np.sum(inward * origin, axis=1) > 0) & _area(boxes))
        origin, u, v, inward, boxes, chosen = (array[drawn] for array in (origin, u, v, inward, boxes, chosen))
        depth = np.linalg.norm(origin + (u + v) / 2, axis=1)
        haze = 1 - np.exp(-_HAZE * depth)
        gain = self._shading(u_global[drawn], v_global[drawn]) * (1 - haze)
        planes = _inverse_depth(inward, origin, camera)
        level = _level_of_detail(mesh.texture_sizes[chosen, 0], u, v, depth, camera, mesh.num_levels[chosen])
        H = _texture_homography(origin, u, v, mesh.texture_sizes[chosen, level], camera, boxes)

        canvas = _Canvas(
            image, np.zeros(image.shape[:2], dtype=np.float32), np.full(image.shape[:2], -1, dtype=np.int16)
        )
        covered = np.zeros(len(pose))
        for i, face in enumerate(chosen):
            texture, owner = mesh.textures[face][level[i]], mesh.owner[face]
            covered[owner] += canvas.draw(
                texture, mesh.rims[face], H[i], boxes[i], planes[i], gain[i], 215 * haze[i], owner
            )
        return canvas.owners, covered

    def _shading(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """[F] brightness of faces by their angle to the sun; u, v in the global frame."""
        outward = np.cross(v, u)
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        return 0.72 + 0.38 * np.clip(np.sum(outward * self.world.light.sun, axis=1), -0.3, 1)

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


@dataclass
class _Canvas:
    """Image with its depth buffer (1/m, 0 = nothing yet) and, per pixel, whose face is seen (-1 = none)."""

    image: np.ndarray  # [H, W, 4] uint8
    inverse_depth: np.ndarray  # [H, W] float32
    owners: np.ndarray  # [H, W] int16

    def draw(self, texture, rim, H, box, plane, gain: float, fog: float, owner: int) -> int:
        """Draw what passes the depth test of one face; returns the number of its opaque pixels before the test."""
        x0, y0, x1, y1 = box
        warped = cv2.warpPerspective(texture, H, (int(x1 - x0), int(y1 - y0)), borderValue=rim)
        near = _plane_values(plane, box)
        opaque = warped[..., 3] > 127
        mask = opaque & (near > self.inverse_depth[y0:y1, x0:x1])
        bytes_mask = mask.view(np.uint8)
        cv2.copyTo(cv2.convertScaleAbs(warped, alpha=gain, beta=fog), bytes_mask, self.image[y0:y1, x0:x1])
        cv2.copyTo(near, bytes_mask, self.inverse_depth[y0:y1, x0:x1])
        self.owners[y0:y1, x0:x1][mask] = owner
        return int(np.count_nonzero(opaque))


def _plane_values(plane: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[h, w] float32: a column + b row + c over the pixels of a box."""
    (a, b, c), (x0, y0, x1, y1) = plane, box
    return (a * np.arange(x0, x1) + c).astype(np.float32) + (b * np.arange(y0, y1)).astype(np.float32)[:, None]


def _rotate(vectors: np.ndarray, T: np.ndarray) -> np.ndarray:
    """[F, 3] turned by the rotation in T. Not BLAS: its threads cost more than products of this size."""
    return np.einsum("fj,ij->fi", vectors, T[:3, :3])


def _turn(vectors: np.ndarray, place: np.ndarray) -> np.ndarray:
    """[F, 3] turned by the yaw of their owners' places [F, 3] (x, y, yaw)."""
    cos, sin = np.cos(place[:, 2]), np.sin(place[:, 2])
    x, y, z = vectors.T
    return np.column_stack([cos * x - sin * y, sin * x + cos * y, z])


def _area(boxes: np.ndarray) -> np.ndarray:
    """[F] bool: whether any pixel lies in them."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def ego_matrix(pose: np.ndarray) -> np.ndarray:
    """[4, 4] from a place on the ground (x, y, yaw)."""
    x, y, yaw = pose
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def _inverse_depth(normal: np.ndarray, point: np.ndarray, camera: CameraMount) -> np.ndarray:
    """[F, 3] a, b, c with 1/z = a column + b row + c on planes given by point and normal [F, 3] in the camera frame."""
    offset = np.sum(normal * point, axis=-1, keepdims=True)
    scaled = normal / np.where(np.abs(offset) > 1e-9, offset, 1e-9)
    f, (cx, cy) = camera.focal, camera.principal_point
    a, b = scaled[..., 0] / f, scaled[..., 1] / f
    return np.stack([a, b, scaled[..., 2] - a * cx - b * cy], axis=-1)


def _texture_homography(origin, u, v, texture_sizes: np.ndarray, camera: CameraMount, boxes: np.ndarray) -> np.ndarray:
    """[F, 3, 3]: pixel of the texture -> pixel of the image, counted from the corner of each face's box.

    Args:
        texture_sizes: [F, 2] height and width in pixels.
    """
    u, v = u / texture_sizes[:, 1:], v / texture_sizes[:, :1]
    plane = np.stack([u, v, origin + 0.5 * (u + v)], axis=2)  # a pixel's coordinates are those of its centre
    f, (cx, cy) = camera.focal, camera.principal_point
    z = plane[:, 2]
    columns = f * plane[:, 0] + (cx - boxes[:, :1]) * z
    rows = f * plane[:, 1] + (cy - boxes[:, 1:2]) * z
    return np.stack([columns, rows, z], axis=1)


def _level_of_detail(
    texture_sizes: np.ndarray, u, v, depth: np.ndarray, camera: CameraMount, num_levels: np.ndarray
) -> np.ndarray:
    """[F] index of the level whose pixels are about as large as the image's."""
    extent = np.stack([np.linalg.norm(v, axis=1), np.linalg.norm(u, axis=1)], axis=1)
    pixels = extent * camera.focal / np.maximum(depth, 1.0)[:, None]
    ratio = (texture_sizes / np.maximum(pixels, 1e-6)).max(axis=1)
    return np.clip(np.log2(np.maximum(ratio, 1.0)).astype(int), 0, num_levels - 1)


def _corners(origin, u, v) -> np.ndarray:  # [F, 4, 3]
    return np.stack([origin, origin + u, origin + u + v, origin + v], axis=1)


def _bounding_box(corners: np.ndarray, camera: CameraMount, image_wh: tuple[int, int]) -> np.ndarray:
    """[F, 4] int (left, top, right, bottom; ends exclusive) of quadrilaterals [F, 4, 3], within the image.

    Only what lies beyond the near plane counts.
    """
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
