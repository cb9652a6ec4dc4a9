"""The network of a frame as one CUDA graph: from images and memory to boxes and the next memory, without the host.

    inputs, state ──copied into──► fixed tensors ──replayed──► fixed tensors ──cloned──► output, next state

Only frames that continue a memory are captured; the first frame of a scene runs as it stands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..network.state import TemporalState
from ..types import ModelInput, ModelOutput, map_tensors, tensors_of

log = logging.getLogger(__name__)

Step = tuple[ModelOutput, TemporalState]
Replay = Callable[[], None]
"""Runs again what was captured: reads the same tensors, writes the same tensors."""

_WARM_UPS = 3  # runs before the capture, in which libraries choose their algorithms and allocate


def cuda_capture(run: Callable[[], Step]) -> tuple[Replay, Step]:
    """Captures `run` and returns what replays it, with the result whose tensors every replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result


class StepGraph:
    """A network that is captured once for each set of shapes in a row; what cannot be captured runs as it stands.

    Args:
        network: inputs and state to output and next state; must never wait for the device.
        capture: as `cuda_capture`.
    """

    def __init__(
        self,
        network: Callable[[ModelInput, TemporalState], Step],
        capture: Callable[[Callable[[], Step]], tuple[Replay, Step]] = cuda_capture,
    ):
        self._network, self._capture = network, capture
        self._signature: list[Any] | None = None  # of the tensors that were captured
        self._fixed: list[Tensor] = []  # what a replay reads
        self._failed = False

    def __call__(self, inputs: ModelInput, state: TemporalState) -> Step:
        if state.instances is None or self._failed:
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
        arguments = map_tensors((inputs, state), Tensor.clone)
        try:
            self._replay, self._result = self._capture(lambda: self._network(*arguments))
        except Exception as error:  # a capture fails in many ways; the frame must not be lost
            log.warning("compile: no CUDA graph of the step, it runs without: %s", error)
            self._failed = True
            return False
        self._signature, self._fixed = signature, tensors_of(arguments)
        return True
