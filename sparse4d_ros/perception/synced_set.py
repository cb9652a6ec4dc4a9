"""A set of images that belong together, and what is to be known about it: ages, spread, who is missing and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MissingReason = Literal["absent", "late", "clock", "quarantined"]
"""Why a set lacks a camera: no image came; it came when the set was gone already; its stamp is in doubt, which is not
decided yet; the camera's clock disagrees with the others for so long that its images are not used."""


@dataclass(frozen=True)
class Missing:
    """Why a camera is not in a set."""

    reason: MissingReason
    offset_ns: int | None = None  # of the camera's clock against the others, positive ahead; where it was measured

    def __str__(self) -> str:
        if self.reason == "quarantined" and self.offset_ns is not None:
            return f"quarantined, clock {self.offset_ns * 1e-9:+.3f} s"
        return self.reason


@dataclass(frozen=True)
class SetStatus:
    """Which cameras a set saw, and which not: what is published and recorded beside its boxes."""

    stamp_ns: int  # of the set: of its newest image
    ages_ns: Mapping[str, int]  # camera -> how much older its image is than the set's stamp
    missing: Mapping[str, Missing] = field(default_factory=dict)  # camera that the set went without -> why

    @property
    def spread_ns(self) -> int:
        """Time between the oldest and the newest image."""
        return max(self.ages_ns.values())


@dataclass(frozen=True)
class SyncedSet:
    """One image of each camera that belong together."""

    stamp_ns: int  # newest image of the set
    images: Mapping[str, tuple[int, Any]]  # camera -> (stamp in nanoseconds, item); a masked camera is absent
    infos: Mapping[str, Any]  # camera -> its CameraInfo: of the same stamp where there is one, else the newest
    missing: tuple[str, ...] = ()  # masked cameras
    epoch: int = 0  # grows whenever time jumps back
    why_missing: Mapping[str, Missing] = field(default_factory=dict)  # of each masked camera

    @property
    def status(self) -> SetStatus:
        """All of it but the images."""
        why = {camera: self.why_missing.get(camera, Missing("absent")) for camera in self.missing}
        return SetStatus(self.stamp_ns, self.ages_ns, why)

    @property
    def spread_ns(self) -> int:
        """Time between the oldest and the newest image."""
        return self.status.spread_ns

    @property
    def ages_ns(self) -> dict[str, int]:
        """Camera -> how much older its image is than the set's stamp."""
        return {camera: self.stamp_ns - stamp for camera, (stamp, _) in self.images.items()}
