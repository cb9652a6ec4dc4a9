"""What a check of a rig finds: a sentence for a person, and what it is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    kind: str  # missing_transform, optical_frame, degrees, units, upside_down, direction, swapped, motion, clock, ...
    camera: str
    text: str  # what is wrong, by how much, and what to do

    def __str__(self) -> str:
        return f"{self.camera}: {self.text}"
