"""Rigid transforms, projection into cameras, and the anchor state as a geometric object.

Everything is batched over leading dimensions and differentiable. Frames as in :mod:`sparse4d_core.types`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .types import COS_YAW, LOG_LENGTH, SIN_YAW, VX, X

MIN_DEPTH = 1e-5  # m; depths below it (points behind a camera) are raised to it, which sends their pixels far outside

_CENTRE = slice(X, LOG_LENGTH)
_SIZE = slice(LOG_LENGTH, SIN_YAW)
_VELOCITY = slice(VX, None)


def rotate(R: Tensor, vectors: Tensor) -> Tensor:
    """R [B, 3, 3] applied to vectors [B, ..., 3]."""
    flat = vectors.flatten(1, -2) @ R.transpose(-1, -2)
    return flat.view_as(vectors)


def transform(T: Tensor, points: Tensor) -> Tensor:
    """T_b_from_a [B, 4, 4] applied to points [B, ..., 3] given in a; returns them in b."""
    translation = T[:, :3, 3].view(-1, *(1,) * (points.dim() - 2), 3)
    return rotate(T[:, :3, :3], points) + translation


def invert_rigid(T: Tensor) -> Tensor:
    """Inverse of rigid transforms [..., 4, 4] (orthonormal rotation), without a matrix factorisation."""
    R_inverse = T[..., :3, :3].transpose(-1, -2)
    inverse = T.clone()
    inverse[..., :3, :3] = R_inverse
    inverse[..., :3, 3:] = -R_inverse @ T[..., :3, 3:]
    return inverse


def relative_transform(T_global_from_dst: Tensor, T_global_from_src: Tensor) -> Tensor:
    """T_dst_from_src [B, 4, 4] float32, multiplied in float64: global coordinates are about 1e3 m."""
    return (invert_rigid(T_global_from_dst.double()) @ T_global_from_src.double()).float()


def elapsed(now: Tensor, then: Tensor) -> Tensor:
    """Seconds from `then` to `now` [B], float64 stamps subtracted before the cast to float32."""
    return (now - then).float()


def project(points: Tensor, projection: Tensor, image_wh: Tensor | None = None) -> Tensor:
    """Points in the model frame to image positions of every camera.

    Args:
        points: [B, A, P, 3] metres.
        projection: [B, N, 4, 4] model frame homogeneous -> pixels (depth in slot 2).
        image_wh: [B, N, 2] pixels; given, positions are relative to the image size, inside means 0 to 1.

    Returns:
        [B, N, A, P, 2]; points behind a camera come out far outside its image.
    """
    # Sums in this order, without a matrix product: libraries add in another order on each processor, and the depth of a
    # point in the plane of the camera is what remains of numbers that cancel out.
    x, y, z = points[:, None].unbind(-1)  # [B, 1, A, P]
    factors = projection[:, :, :3, :, None, None]  # [B, N, 3, 4, 1, 1]
    u, v, depth = (
        ((factors[:, :, row, 0] * x + factors[:, :, row, 1] * y) + factors[:, :, row, 2] * z) + factors[:, :, row, 3]
        for row in range(3)
    )
    pixels = torch.stack([u, v], dim=-1) / depth.clamp(min=MIN_DEPTH)[..., None]
    return pixels if image_wh is None else pixels / image_wh[:, :, None, None]


def project_anchors(
    anchor: Tensor, T_dst_from_src: Tensor, interval: Tensor | None = None, swap_yaw: bool = False
) -> Tensor:
    """Anchors of one frame as another frame sees them: ego motion and, over `interval`, the object's own motion.

    Args:
        anchor: [B, A, 11] (or less columns: without velocity the object does not move).
        T_dst_from_src: [B, 4, 4] float32.
        interval: [B] seconds from destination to source (t_src - t_dst): the centre moves by -velocity * interval.
            None leaves the centre where it was.
        swap_yaw: write the rotated yaw as (cos, sin) into the (sin, cos) slots, which published v3 weights expect.

    Source: Sparse4D v2, section 3.1 (temporal instances); log sizes are unchanged, velocity and yaw are rotated.
    """
    centre = anchor[..., _CENTRE]
    velocity = anchor[..., _VELOCITY]
    if interval is not None:
        centre = centre - velocity * interval[:, None, None]
    cos_sin = anchor[..., SIN_YAW:VX].flip(-1) @ T_dst_from_src[:, :2, :2].transpose(-1, -2)
    yaw = cos_sin if swap_yaw else cos_sin.flip(-1)
    R = T_dst_from_src[:, :3, :3]
    return torch.cat([transform(T_dst_from_src, centre), anchor[..., _SIZE], yaw, rotate(R, velocity)], dim=-1)


def decode_boxes(anchor: Tensor) -> Tensor:
    """Anchor states [..., 11] to boxes [..., 10]: x y z, length width height (m), yaw (rad), vx vy vz (m/s)."""
    yaw = torch.atan2(anchor[..., SIN_YAW], anchor[..., COS_YAW]).unsqueeze(-1)
    return torch.cat([anchor[..., _CENTRE], anchor[..., _SIZE].exp(), yaw, anchor[..., _VELOCITY]], dim=-1)


def encode_boxes(boxes: Tensor) -> Tensor:
    """Boxes [..., 7 + v] (x y z, sizes, yaw, velocity) to anchor states [..., 8 + v]; the inverse of `decode_boxes`."""
    yaw = boxes[..., 6:7]
    return torch.cat([boxes[..., :3], boxes[..., 3:6].log(), yaw.sin(), yaw.cos(), boxes[..., 7:]], dim=-1)
