"""One id for an object, whichever of several memories a frame took up.

An instance keeps its id along the chain of frames that its memory goes through. Frames that leave no memory, and other
chains, give the same object other ids. It is found by place: where an object was seen since the memory was left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..boxes import along_the_ground, transform_boxes
from ..types import Detections

NEAR = 2.0  # m between centres on the ground, as the tracking score takes a box for an object's
OTHER_CLASS, NOT_LAST, SAME_NAME = 1.0, 0.6, 0.3  # m that weigh as much as: another class, not seen last, the own name
FORGOTTEN_AFTER = 2.0  # s without a box: as long as a memory may be old


@dataclass(frozen=True)
class Objects:
    """K tracked objects where they were seen last, in the global frame."""

    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # [K] shared ids
    centres: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))  # [K, 2] m
    velocities: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))  # [K, 2] m/s
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # [K]
    seconds: np.ndarray = field(default_factory=lambda: np.empty(0))  # [K]

    def select(self, rows: np.ndarray) -> Objects:
        return Objects(*(column[rows] for column in vars(self).values()))

    def joined(self, other: Objects) -> Objects:
        columns = zip(vars(self).values(), vars(other).values(), strict=True)
        return Objects(*(np.concatenate(pair) for pair in columns))


@dataclass(frozen=True)
class SharedIds:
    """What is known of objects and of what the memories call them. Never changed; every frame makes a new one."""

    objects: Objects = field(default_factory=Objects)
    names: Mapping[int, tuple[int, float]] = field(default_factory=dict)  # a memory's id -> shared id, last seen (s)


def share_ids(
    found: Detections,
    tracked: np.ndarray,
    shared: SharedIds,
    seconds: float,
    since: float | None,
    T_global_from_model: np.ndarray,
    chains: bool,
) -> tuple[np.ndarray, SharedIds]:
    """Shared ids of a frame's boxes, no two the same; and what the next frame is to know.

    Args:
        found: boxes in the model frame, best first, with the ids of the memory that the frame took up.
        tracked: [M] bool, boxes that are confident enough to be tracks: only these are looked for.
        seconds: stamp of the frame.
        since: stamp of the memory that it took up; None at the start.
        T_global_from_model: [4, 4] at the frame's stamp.
        chains: whether there are several chains of memories, each with ids of its own. In a single one an id that was
            given before is right, and place decides on new boxes only.

    Returns:
        ids [M] int64, -1 for a box that never was a track, and the new value.
    """
    boxes = transform_boxes(along_the_ground(found.boxes[tracked]), T_global_from_model)
    here = Objects(found.ids[tracked], boxes[:, :2], boxes[:, 7:9], np.asarray(found.labels)[tracked])
    names = np.array([shared.names.get(i, (i, 0.0))[0] for i in here.ids.tolist()], np.int64)
    recent = shared.objects.select(shared.objects.seconds > (np.inf if since is None else since))
    ids = np.full(len(names), -1, np.int64)
    if not chains:
        _keep_known(ids, names, shared.objects.ids)
    if len(recent.ids):
        _find_by_place(ids, here, names, recent, seconds)
    _keep_rest(ids, names, here.ids)
    rest = ~np.isin(shared.objects.ids, ids) & (shared.objects.seconds > seconds - FORGOTTEN_AFTER)
    objects = replace(here, ids=ids, seconds=np.full(len(ids), seconds)).select(ids >= 0)
    objects = objects.joined(shared.objects.select(rest))
    renamed = _renamed(shared.names, here.ids, ids, found.ids, seconds)
    every = _ids_of_all(found.ids, tracked, ids, renamed, objects.ids if len(recent.ids) else None)
    return every, SharedIds(objects, renamed)


def _keep_known(ids: np.ndarray, names: np.ndarray, known: np.ndarray) -> None:
    """Boxes whose name is that of an object keep it, the best box where there are two."""
    for row in np.flatnonzero(np.isin(names, known)).tolist():
        if names[row] not in ids:
            ids[row] = names[row]


def _find_by_place(ids: np.ndarray, here: Objects, names: np.ndarray, recent: Objects, seconds: float) -> None:
    """Boxes without an id get that of an object near to them, of which no other box is; the best box chooses first.

    So the id stays with the best box of an object of which one memory shows two. What two memories call differently
    becomes one, as the objects of the frame before come first.
    """
    moved = recent.centres + recent.velocities * (seconds - recent.seconds)[:, None]
    named = names[:, None] == recent.ids
    cost = np.linalg.norm(here.centres[:, None] - moved, axis=-1)
    cost[cost > np.where(named, 2 * NEAR, NEAR)] = np.inf
    cost[:, np.isin(recent.ids, ids)] = np.inf
    cost += OTHER_CLASS * (here.labels[:, None] != recent.labels) + NOT_LAST * (recent.seconds < recent.seconds.max())
    cost -= SAME_NAME * named
    for row in np.flatnonzero(ids < 0).tolist():
        best = int(cost[row].argmin())
        if np.isfinite(cost[row, best]):
            ids[row] = recent.ids[best]
            cost[:, best] = np.inf


def _keep_rest(ids: np.ndarray, names: np.ndarray, own: np.ndarray) -> None:
    """What has no id yet keeps the name it had, or its memory's own id if another box has that name now."""
    for row in np.flatnonzero(ids < 0).tolist():
        free = [name for name in (int(names[row]), int(own[row])) if name not in ids]
        ids[row] = free[0] if free else -1


def _renamed(
    names: Mapping[int, tuple[int, float]], own: np.ndarray, result: np.ndarray, seen: np.ndarray, seconds: float
) -> dict[int, tuple[int, float]]:
    visible = set(seen.tolist())
    renamed = {
        i: (name, seconds if i in visible else last)
        for i, (name, last) in names.items()
        if i in visible or last > seconds - FORGOTTEN_AFTER
    }
    for i, name in zip(own.tolist(), result.tolist(), strict=True):
        renamed.pop(i, None)
        if name not in (i, -1):
            renamed[i] = (name, seconds)
    return renamed


def _ids_of_all(
    own: np.ndarray,
    tracked: np.ndarray,
    result: np.ndarray,
    names: Mapping[int, tuple[int, float]],
    known: np.ndarray | None,
) -> np.ndarray:
    """Boxes below the tracking threshold keep what they are known by; the others get an id when they become tracks.

    Args:
        known: ids of objects; None: there is one memory, and its own ids hold.
    """
    ids = np.array([names.get(i, (i, 0.0))[0] for i in own.tolist()], np.int64)
    ids[tracked] = -1
    first = np.unique(ids, return_index=True)[1]
    ids[np.setdiff1d(np.arange(len(ids)), first)] = -1
    ids[np.isin(ids, result) | (False if known is None else ~np.isin(ids, known))] = -1
    ids[tracked] = result
    return ids
