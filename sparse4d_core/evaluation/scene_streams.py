"""Which scenes a memory passes through, one after the other.

A stream is a row of scenes in order of time. With `scene_reset: reference` a little of a scene leaks into the next one
of its stream, so scores depend on how many streams there are, and on nothing else: a stream is run from its beginning
to its end by whoever takes it, and the number of processes decides only how many streams run at once.

The default is a stream for each scene: nothing leaks, and every scene is a task of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stream:
    scenes: tuple[str, ...]  # names, in the order in which they are run

    @property
    def is_chain(self) -> bool:
        """Whether a memory goes from scene to scene."""
        return len(self.scenes) > 1


def divide(scenes: Sequence[str], count: int = 0) -> list[Stream]:
    """Consecutive scenes in `count` streams of nearly equal length, as consecutive ranks of a data loader take them.

    Args:
        count: 0: a stream for each scene.

    Raises:
        ValueError: more streams than scenes.
    """
    if count < 0 or count > len(scenes):
        raise ValueError(f"streams: expected 0 (one a scene) to {len(scenes)} (there are so many scenes), got {count}")
    count = count or len(scenes)
    bounds = [round(len(scenes) * part / count) for part in range(count + 1)]
    return [Stream(tuple(scenes[first:last])) for first, last in zip(bounds[:-1], bounds[1:], strict=True)]
