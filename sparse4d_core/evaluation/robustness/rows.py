"""The rows of the sheet: each a fault at a level, or a frame rate, by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data.nuscenes.dataset import NuScenesDataset
from ...types import Frame
from .corruptions import CORRUPTIONS, SEVERITIES
from .frame_faults import (
    CamerasGone,
    EgoNoise,
    EgoStampsOff,
    ExtrinsicsOff,
    Fault,
    ImagesLost,
    Instant,
    IntrinsicsOff,
    SpoiledImages,
    StampsOff,
    Untouched,
)

CLEAN = "clean"
_OF_SIX = (2, 4, 5)  # cameras that crash, and images of a set that are lost on average, by severity (RoboBEV)


@dataclass(frozen=True)
class Row:
    """A plan for every scene (`keyframe_run.ScenePlan`)."""

    group: str
    level: str
    fault: Fault
    rate: float | None = None  # Hz; None: the key frames
    benchmark: bool = False  # one of the eight corruptions that mCE and mRR are of

    @property
    def name(self) -> str:
        return self.group if not self.level else f"{self.group}_{self.level}"

    @property
    def holds(self) -> bool:
        """At other rates a key frame may lie between two results."""
        return self.rate is not None

    def rows(self, data: NuScenesDataset, scene: str) -> list[int]:
        """Frames at the row's rate, the first of the scene among them: the nearest that there are, none twice."""
        every = data.scene_frames(scene)
        if self.rate is None:
            return [int(row) for row in every if data.index.tokens[row]]
        seconds = (data.index.stamp_us[every] - data.index.stamp_us[every[0]]) * 1e-6
        wanted = np.arange(0, seconds[-1] + 0.25 / self.rate, 1 / self.rate)
        nearest = np.abs(seconds[None, :] - wanted[:, None]).argmin(axis=1)
        return [int(every[number]) for number in np.unique(nearest)]

    def frame(self, data: NuScenesDataset, scene: str, row: int) -> Frame:
        frame = data.frame(row)
        return self.fault.apply(frame, Instant(data, scene, frame.stamp_ns))


def all_rows(camera_names: Sequence[str]) -> list[Row]:
    """Every row of the sheet for a rig with these cameras; the first is the clean one."""
    rows = [Row(CLEAN, "", Untouched())]
    for kind in CORRUPTIONS:
        rows += [Row(kind, SEVERITIES[level], SpoiledImages(kind, level), benchmark=True) for level in range(3)]
    rows += [Row("camera_crash", SEVERITIES[i], CamerasGone(of_six=n), benchmark=True) for i, n in enumerate(_OF_SIX)]
    rows += [Row("frame_lost", SEVERITIES[i], ImagesLost(n / 6), benchmark=True) for i, n in enumerate(_OF_SIX)]
    rows += [Row("camera_gone", name.lower(), CamerasGone(names=(name,))) for name in camera_names]
    rows += [Row("images_lost", f"{percent}_percent", ImagesLost(percent / 100)) for percent in (1, 5, 20)]
    rows += [Row("extrinsics_turned", f"{deg:g}_deg", ExtrinsicsOff(degrees=deg)) for deg in (0.25, 0.5, 1, 2)]
    rows += [Row("extrinsics_moved", f"{cm}_cm", ExtrinsicsOff(metres=cm / 100)) for cm in (1, 3, 10)]
    rows += [Row("intrinsics", f"{percent:g}_percent", IntrinsicsOff(percent / 100)) for percent in (0.5, 1, 2)]
    rows += [Row("camera_stamps", f"{ms}_ms", StampsOff(ms / 1000)) for ms in (10, 50, 100, 200)]
    rows += [Row("ego_stamps", f"{ms}_ms", EgoStampsOff(ms / 1000)) for ms in (10, 50, 100, 200)]
    rows += [Row("ego_noise", name, EgoNoise(m, deg)) for name, m, deg in _EGO_NOISE]
    rows += [Row("rate", f"{rate:g}_hz", Untouched(), rate=rate) for rate in (1, 2, 5, 10, 20)]
    return rows


_EGO_NOISE = (("2_cm", 0.02, 0.05), ("5_cm", 0.05, 0.1), ("20_cm", 0.2, 0.5))  # with degrees of heading


def chosen(rows: Sequence[Row], patterns: Sequence[str], highest_rate: float) -> list[Row]:
    """The rows whose names match, the clean one always among them. Without patterns: the middle level of each group.

    Args:
        highest_rate: Hz of the data set; rows above it are left out where no pattern names them.

    Raises:
        ValueError: a pattern that no row matches.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.rate is None or row.rate <= highest_rate * 1.1:
            groups.setdefault(row.group, []).append(row)
    if not patterns:
        return [group[(len(group) - 1) // 2] for group in groups.values()]
    for pattern in patterns:
        if not any(fnmatch.fnmatch(row.name, pattern) for row in rows):
            raise ValueError(f"rows: none is called {pattern!r}; --list shows their names, * stands for any letters")
    named = {row.name for row in rows for pattern in patterns if fnmatch.fnmatch(row.name, pattern)}
    for row in rows:
        if row.name in named and row.rate is not None and row.rate > highest_rate * 1.1:
            if row.name in patterns:
                raise ValueError(f"rows: {row.name} needs more than the {highest_rate:.3g} Hz of this data set")
            named.discard(row.name)
    return [row for row in rows if row.name in named or row.name == CLEAN]


def data_rate(data: NuScenesDataset) -> float:
    """Frames a second, of the median gap within scenes."""
    gaps = [np.diff(data.index.stamp_us[data.scene_frames(name)]) for name in data.index.scene_names.tolist()]
    joined = np.concatenate(gaps) if gaps else np.empty(0)
    return float(1e6 / np.median(joined)) if len(joined) else 0.0
