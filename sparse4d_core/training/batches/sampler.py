"""Which sample comes next in every slot of the batch: each slot walks through one sequence after the other.

    group order (shared by all slots) ──► slot: sequence, maybe reversed ──► frames at an interval ──► some skipped

All of it is a function of the seed and can be saved and restored, so that a resumed run sees the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..run.run_state import pack_random_state, unpack_random_state
from ..schedule import SamplingConfig

_JITTER = 0.02  # s by which a frame may miss the end of its interval


def sequence_ids(num_earlier: Sequence[int], splits: int | str) -> list[int]:
    """Sequence of every sample (in time order), each scene cut into `splits` parts of nearly equal length.

    Args:
        num_earlier: how many earlier samples of its scene each sample has; 0 starts a scene.
        splits: parts per scene, or "all": every sample on its own.
    """
    scene_lengths: list[int] = []
    for count in num_earlier:
        if count == 0 or not scene_lengths:
            scene_lengths.append(0)
        scene_lengths[-1] += 1
    ids: list[int] = []
    sequence = 0
    for length in scene_lengths:
        part = 1 if splits == "all" else -(-length // int(splits))
        for start in range(0, length, part):
            ids += [sequence] * min(part, length - start)
            sequence += 1
    return ids


def stretches(
    frames: Sequence[int], seconds: Sequence[float], config: SamplingConfig, rng: np.random.RandomState
) -> list[int]:
    """Some of the frames, in their order: stretches of one interval each, from one frame to the nearest to its end.

    The first is any frame of the first interval, so that every frame has its turn. Frames further apart than the
    interval follow one another.

    Args:
        frames: of one sequence.
        seconds: when each of them was, rising or falling.
    """
    elapsed = np.abs(np.asarray(seconds) - seconds[0])
    interval = rng.choice(config.intervals)
    place = int(rng.randint(max(1, np.count_nonzero(elapsed < interval - _JITTER))))
    kept = [place]
    while kept[-1] + 1 < len(frames):
        if len(kept) % config.interval_frames == 0:
            interval = rng.choice(config.intervals)
        later = elapsed[kept[-1] + 1 :] - elapsed[kept[-1]] - interval
        if later[-1] < -_JITTER:
            break
        kept.append(kept[-1] + 1 + int(np.abs(later).argmin()))
    return [frames[i] for i in kept]


@dataclass(frozen=True)
class Draw:
    """One slot's sample of an iteration."""

    index: int  # into the data set
    slot: int  # over all processes
    sequence_number: int  # counts the sequences that the process has started
    position: int  # of the sequence in the endless order, over all processes: seeds its augmentation
    step: int  # frames of this sequence given before; 0 = the state of the slot starts anew


@dataclass
class _Slot:
    slot: int
    rng: np.random.RandomState
    position: int  # in the endless order of sequences
    frames: list[int] = field(default_factory=list)  # still to come
    sequence_number: int = -1
    step: int = 0


class SequenceSampler:
    """Endless batches for one process.

    Args:
        sequences: sequence id of every sample of the data set.
        batch_size: slots of this process.
        rank, world_size: process and number of processes; slots are numbered over all of them.
        seconds: when every sample was taken; only `config.intervals` needs it.
        random: one generator per slot of this process (default: seeded by (seed, slot), so that the division into
            processes does not change what a slot sees).
    """

    def __init__(
        self,
        sequences: Sequence[int],
        batch_size: int,
        config: SamplingConfig,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        random: Sequence[np.random.RandomState] | None = None,
        seconds: Sequence[float] | None = None,
    ):
        if len(sequences) == 0:
            raise ValueError("sequences: the data set has no samples")
        if config.intervals and (seconds is None or not min(config.intervals) > 0):
            raise ValueError(f"intervals: expected seconds above 0 and the samples' times, got {config.intervals}")
        self.config = config
        self._seconds = seconds
        self.stride = batch_size * world_size
        self._members: list[list[int]] = [[] for _ in range(max(sequences) + 1)]
        for index, sequence in enumerate(sequences):
            self._members[sequence].append(index)
        self._order = _EndlessOrder(len(self._members), seed)
        slots = [rank * batch_size + i for i in range(batch_size)]
        random = random or [np.random.RandomState([seed, slot]) for slot in slots]
        self._slots = [_Slot(slot, rng, slot) for slot, rng in zip(slots, random, strict=True)]
        self._sequences_started = 0

    def __iter__(self) -> Iterator[list[Draw]]:
        while True:
            yield self.draw()

    def draw(self) -> list[Draw]:
        """The next batch."""
        return [self._next(slot) for slot in self._slots]

    def _next(self, slot: _Slot) -> Draw:
        skip = slot.rng.uniform() < self.config.skip_probability and len(slot.frames) > 1
        if not slot.frames:
            slot.frames = list(self._members[self._order[slot.position]])
            slot.position += self.stride
            if slot.rng.uniform() < self.config.reverse_probability:
                slot.frames.reverse()
            if self.config.intervals:
                seconds = [self._seconds[frame] for frame in slot.frames]
                slot.frames = stretches(slot.frames, seconds, self.config, slot.rng)
            self._sequences_started += 1
            slot.sequence_number, slot.step = self._sequences_started, 0
        if skip:
            slot.frames.pop(0)
        draw = Draw(slot.frames.pop(0), slot.slot, slot.sequence_number, slot.position - self.stride, slot.step)
        slot.step += 1
        return draw

    def state(self) -> dict[str, Any]:
        """Everything that decides about later draws, as numbers, lists and tensors."""
        return {
            "sequences_started": self._sequences_started,
            "slots": [
                {
                    "position": slot.position,
                    "frames": list(slot.frames),
                    "sequence_number": slot.sequence_number,
                    "step": slot.step,
                    "rng": pack_random_state(slot.rng),
                }
                for slot in self._slots
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        if len(state["slots"]) != len(self._slots):
            raise ValueError(
                f"resume: the checkpoint has {len(state['slots'])} slots per process, this run has {len(self._slots)}; "
                "give the same batch size and number of processes"
            )
        self._sequences_started = state["sequences_started"]
        for slot, saved in zip(self._slots, state["slots"], strict=True):
            slot.position, slot.frames = saved["position"], list(saved["frames"])
            slot.sequence_number, slot.step = saved["sequence_number"], saved["step"]
            unpack_random_state(slot.rng, saved["rng"])


class _EndlessOrder:
    """Position -> sequence: one random permutation after the other, made as far as it is asked for."""

    def __init__(self, size: int, seed: int):
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)
        self._order: list[int] = []

    def __getitem__(self, position: int) -> int:
        while position >= len(self._order):
            self._order += torch.randperm(self._size, generator=self._generator).tolist()
        return self._order[position]
