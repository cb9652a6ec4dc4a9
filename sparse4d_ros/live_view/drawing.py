"""A moment ► arrays to draw. No viser in here: what is drawn can be tested without a browser."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from sparse4d_core.types import CLASS_NAMES, Detections
from sparse4d_core.visualization import BOX_EDGES, FRONT_CROSS, box_corners, class_color_rgb

SELECTED_RGB = (255, 255, 255)
SLOWEST_ARROW = 0.3  # m/s; slower objects have no arrow
MAX_LABELS = 60  # the best ones; more would not be legible


@dataclass(frozen=True)
class Choice:
    """What a person wants to see."""

    min_score: float = 0.3
    hidden_classes: Set[str] = frozenset()
    selected: int | None = None  # track id

    def keeps(self, boxes: Detections) -> np.ndarray:
        """Rows of `boxes` to draw, [K] int."""
        rows = zip(boxes.names(), np.asarray(boxes.scores).tolist(), strict=True)
        return np.array(
            [i for i, (name, score) in enumerate(rows) if score >= self.min_score and name not in self.hidden_classes],
            np.int64,
        )


@dataclass(frozen=True)
class Drawing:
    """Arrays for one moment; lines and arrows are [N, 2, 3] in metres, base frame, trails in the global frame."""

    boxes: np.ndarray  # [K, 10] float64
    ids: tuple[int | None, ...]  # of each box
    colors: np.ndarray  # [K, 3] uint8 RGB
    labels: tuple[str, ...]
    edges: np.ndarray
    edge_colors: np.ndarray  # [N, 2, 3] uint8
    arrows: np.ndarray
    arrow_colors: np.ndarray  # [N, 3] uint8
    trails: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 3)))
    trail_colors: np.ndarray = field(default_factory=lambda: np.zeros((0, 2, 3), np.uint8))


def draw(boxes: Detections, choice: Choice, trails: Mapping[int, np.ndarray] | None = None) -> Drawing:
    """What a browser shows of the boxes of one set.

    Args:
        boxes: in the base frame.
        choice: what to leave out.
        trails: track id -> positions [K, 3] in the global frame, oldest first.
    """
    rows = choice.keeps(boxes)
    shown = np.asarray(boxes.boxes, np.float64).reshape(-1, 10)[rows]
    names = [boxes.names()[row] for row in rows]
    numbers = [None] * len(rows) if boxes.ids is None else [int(i) if i >= 0 else None for i in boxes.ids[rows]]
    colors = np.array([_color(name, i, choice) for name, i in zip(names, numbers, strict=True)], np.uint8)
    colors = colors.reshape(-1, 3)
    lines = [*BOX_EDGES, *FRONT_CROSS]
    edges = box_corners(shown)[:, lines].reshape(-1, 2, 3)
    arrows, arrow_rows = velocity_arrows(shown)
    trail_lines, trail_colors = _trail_lines(trails or {}, dict(zip(numbers, colors, strict=True)))
    return Drawing(
        boxes=shown,
        ids=tuple(numbers),
        colors=colors,
        labels=tuple(name if i is None else f"{name} #{i}" for name, i in zip(names, numbers, strict=True)),
        edges=edges,
        edge_colors=np.repeat(colors, 2 * len(lines), axis=0).reshape(-1, 2, 3),
        arrows=arrows,
        arrow_colors=colors[arrow_rows],
        trails=trail_lines,
        trail_colors=trail_colors,
    )


def velocity_arrows(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Arrows [N, 2, 3] from the middle of each moving box to where it will be in a second, and their rows [N]."""
    rows = np.flatnonzero(np.hypot(boxes[:, 7], boxes[:, 8]) > SLOWEST_ARROW)
    start = boxes[rows, :3]
    ahead = np.concatenate([boxes[rows, 7:9], np.zeros((len(rows), 1))], axis=1)
    return np.stack([start, start + ahead], axis=1), rows


def hit(boxes: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> int | None:
    """The box [K, 10] that a ray meets first: its row, or None. Ray and boxes in one frame, metres."""
    if not len(boxes):
        return None
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    R_box = np.array([[cos, sin, zero], [-sin, cos, zero], [zero, zero, one]]).transpose(2, 0, 1)  # base to box
    start = np.einsum("kij,kj->ki", R_box, origin - boxes[:, :3])
    along = R_box @ direction
    half = boxes[:, 3:6] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = np.sort(np.stack([(-half - start) / along, (half - start) / along]), axis=0)
    parallel = along == 0
    inside = np.abs(start) <= half
    near = np.where(parallel, np.where(inside, -np.inf, np.inf), near).max(axis=1)
    far = np.where(parallel, np.where(inside, np.inf, -np.inf), far).min(axis=1)
    distance = np.where((near <= far) & (far >= 0), np.maximum(near, 0), np.inf)
    nearest = int(np.argmin(distance))
    return nearest if np.isfinite(distance[nearest]) else None


def best_first(boxes: Detections, class_names: tuple[str, ...] = CLASS_NAMES) -> tuple[str, ...]:
    """The classes to offer: the published ones, and others that occur."""
    return class_names + tuple(sorted(set(boxes.names()) - set(class_names)))


def _color(name: str, identity: int | None, choice: Choice) -> tuple[int, int, int]:
    chosen = choice.selected is not None and identity == choice.selected
    return SELECTED_RGB if chosen else class_color_rgb(name)


def _trail_lines(
    trails: Mapping[int, np.ndarray], colors: Mapping[int | None, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Trails of the boxes that are shown, as lines [N, 2, 3] and their colours, which fade towards the oldest end."""
    lines, shades = [np.zeros((0, 2, 3))], [np.zeros((0, 2, 3))]
    for identity, points in trails.items():
        if identity in colors and len(points) > 1:
            lines.append(np.stack([points[:-1], points[1:]], axis=1))
            strength = np.linspace(0.25, 1.0, len(points))[:, None] * colors[identity]
            shades.append(np.stack([strength[:-1], strength[1:]], axis=1))
    return np.concatenate(lines), np.concatenate(shades).astype(np.uint8)
