"""The network of a frame as one CUDA graph: from images and memory to the best boxes and the next memory, without the
host.

    inputs, state ──copied into──► fixed tensors ──replayed──► fixed tensors ──cloned──► output, next state

A frame is captured once the memory has its final shapes: from the second frame of a scene on (v2, v3), with a full
queue of past frames (v1), or at once (v1 without history). Frames before that run as they stand. A queue is copied in
and cloned out in every frame, which needs three times its memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...model_io import ModelInput, map_tensors, tensors_of
from ...network.state import TemporalState
from ..decode import BestInstances

log = logging.getLogger(__name__)

Step = tuple[BestInstances, TemporalState]
Replay = Callable[[], None]
"""Runs again what was captured: reads the same tensors, writes the same tensors."""
Capture = Callable[[Callable[[], Step], torch.device], tuple[Replay, Step]]

RETRY_AFTER = 300  # frames after a capture that ran out of memory
_WARM_UPS = 3  # runs before the capture, in which libraries choose their algorithms and allocate


def cuda_capture(run: Callable[[], Step], device: torch.device) -> tuple[Replay, Step]:
    """Captures `run` on the device and returns what replays it, with the result whose tensors every replay overwrites.

    `torch.cuda.graph` ends the capture before the error of a failing `run` comes out of it; where that fails too, its
    error hides the cause and the capturing stream stays current. Here the cause comes out, the streams are as before.
    """
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(side):
            result = _captured(graph, run)
        current.wait_stream(side)

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay, result


def _captured(graph: torch.cuda.CUDAGraph, run: Callable[[], Step]) -> Step:
    """What other threads do on the device meanwhile (decoding, another model) does not spoil the capture."""
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        result = run()
    except BaseException:
        try:
            graph.capture_end()
        except RuntimeError as error:
            log.debug("the failed capture did not end well either: %s", error)
        raise
    graph.capture_end()
    return result


class StepGraph:
    """A network that is captured once for each set of shapes in a row; what cannot be captured runs as it stands.

    A capture that runs out of memory is tried again with the next shapes, or after `RETRY_AFTER` frames; one that fails
    otherwise is not, as its cause does not go away.

    Args:
        network: inputs and state to output and next state; must never wait for the device.
        ready: whether the state has the shapes that it will keep.
        capture: as `cuda_capture`.
    """

    def __init__(
        self,
        network: Callable[[ModelInput, TemporalState], Step],
        ready: Callable[[TemporalState], bool],
        capture: Capture = cuda_capture,
    ):
        self._network, self._ready, self._capture = network, ready, capture
        self._forget()
        self._failed = False
        self._without: list[Any] | None = None  # signature for which there was not enough memory
        self._pause = 0  # frames until the next attempt with that signature

    def __call__(self, inputs: ModelInput, state: TemporalState) -> Step:
        if self._failed or not self._ready(state):
            return self._network(inputs, state)
        values = tensors_of((inputs, state))
        signature = [(tensor.shape, tensor.dtype, tensor.device) for tensor in values]
        if signature != self._signature and not self._prepare(inputs, state, signature):
            return self._network(inputs, state)
        for fixed, value in zip(self._fixed, values, strict=True):
            fixed.copy_(value)
        self._replay()
        return map_tensors(self._result, Tensor.clone)  # the next replay writes over the originals

    def _prepare(self, inputs: ModelInput, state: TemporalState, signature: list[Any]) -> bool:
        """Captures for these shapes; whether that worked."""
        if signature == self._without and self._pause > 0:
            self._pause -= 1
            return False
        self._forget()  # two graphs at once might not fit
        try:
            arguments = map_tensors((inputs, state), Tensor.clone)
            self._replay, self._result = self._capture(lambda: self._network(*arguments), inputs.images.device)
        except torch.cuda.OutOfMemoryError as error:
            log.warning("compile: no CUDA graph of the step for the next %d frames, there is not enough memory: %s",
                        RETRY_AFTER, error)  # fmt: skip
            self._without, self._pause = signature, RETRY_AFTER
            return False
        except Exception as error:  # a capture fails in many ways; the frame must not be lost
            log.warning("compile: no CUDA graph of the step, it runs without: %s", error)
            self._failed = True
            return False
        self._signature, self._fixed, self._without = signature, tensors_of(arguments), None
        return True

    def _forget(self) -> None:
        self._signature: list[Any] | None = None  # of the tensors that were captured
        self._fixed: list[Tensor] = []  # what a replay reads
        self._replay: Replay | None = None
        self._result: Step | None = None
