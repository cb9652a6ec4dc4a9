"""Memories of several frames, so that a model looks back as far as in its training, at any rate of the cameras.

Every frame takes up that one of the memories whose age is nearest to the stride. With a stride of 0.5 s at 10 Hz:

    frame                     0.0  0.1  0.2  0.3  0.4  0.5  0.6  0.7  0.8  0.9  1.0  1.1 ...
    two:          it takes up  -   0.0  0.0  0.0  0.0  0.0  0.0  0.0  0.5  0.5  0.5  0.5
                  it leaves   0.0                      0.5                      1.0
    interleaved:  it takes up  -   0.0  0.0  0.0  0.0  0.0  0.1  0.2  0.3  0.4  0.5  0.6
                  it leaves   0.0  0.1  0.2  0.3  0.4  0.5  0.6  0.7  0.8  0.9  1.0  1.1

"two" is one chain of memories a stride apart, of which the last two are kept. "interleaved" are as many chains as
frames come in a stride; they take turns. Where frames come a stride apart, both are the one memory of the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ..model_io import map_tensors
from ..network.state import TemporalState
from .shared_ids import SharedIds

Keeping = Literal["one", "two", "interleaved"]
MEMORIES = get_args(Keeping)
JITTER = 0.1  # of the stride that a frame may come early and still count as one of the next


@dataclass(frozen=True)
class Memories:
    """What flows from one frame to the next: a value, as `TemporalState` is."""

    states: tuple[TemporalState, ...] = ()  # oldest first; each has `seconds`
    next_id: Tensor | None = None  # [] int64; ids are counted over all frames, so that none is given twice
    shared: SharedIds = field(default_factory=SharedIds)  # one id for an object, whatever a frame's memory calls it
    seconds: float | None = None  # the stamp of the last frame

    @property
    def batch_size(self) -> int | None:
        return self.states[-1].batch_size if self.states else None

    def nearest(self, seconds: float) -> TemporalState:
        """The memory of the frame nearest to a time, of two the newer; an empty one where there is none."""
        if not self.states:
            return TemporalState(next_id=self.next_id)
        best = min(reversed(self.states), key=lambda state: abs(state.seconds - seconds))
        return replace(best, next_id=self.next_id)

    def after(self, state: TemporalState, stride: float, every: bool, shared: SharedIds) -> Memories:
        """What the next frame is given: with one more memory, without those that no later frame is nearest to.

        Args:
            state: that the frame left.
            stride: seconds that a memory should be old when a frame takes it up.
            every: keep the memory of every frame; else that of the frame which comes nearest to a stride after the last
                one kept, as far as the time since the frame before can tell.
        """
        states, seconds = tuple(one for one in self.states if one.seconds < state.seconds), state.seconds
        early = stride - (seconds - states[-1].seconds) if states else 0.0
        if every or early <= 0 or early <= seconds - self.seconds - early:
            states = (*states, state)
        overdue = sum(one.seconds <= seconds - stride for one in states)
        return Memories(states[max(overdue - 1, 0) :], state.next_id, shared, seconds)

    def forget(self) -> Memories:
        """No memories; ids go on counting, so that no id is given twice."""
        return Memories(next_id=self.next_id)

    def to(self, device: torch.device | str) -> Memories:
        return map_tensors(self, lambda tensor: tensor.to(device))


State = TemporalState | Memories


def known_ids(ids: Tensor, next_id: Tensor) -> Tensor:
    """Ids [B, A] that instances of the memory carry; -1 for those given in this frame, `next_id` [] and later."""
    return torch.where(ids < next_id, ids, -1)


def memory_age(state: State | None, seconds: float) -> float | None:
    """Seconds from the frame that the state remembers (batch 1) to one stamped `seconds`; None without one.

    `step` notes the stamp on the host. Of a state from elsewhere it is read from the device, which the host waits for.
    """
    if state is None or state.batch_size is None:
        return None
    if state.seconds is not None:
        return seconds - state.seconds
    newest = state.instances if state.instances is not None else state.history[0]
    return seconds - float(newest.timestamp[0])
