"""The compiled operator: built while the node is configured, if it is missing and a compiler is there.

The executor is busy with the transition meanwhile, so every step is published from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cuda_ops.build import CANNOT_BUILD, WITHOUT_CUDA, missing, prepare
from cuda_ops.library import BUILD_COMMAND, kernels_loaded

from .health import ComponentHealth, Level

COMPONENT = "operator"
REASONS = (CANNOT_BUILD, WITHOUT_CUDA)


class OperatorBuild:
    """Of one configuration.

    Args:
        device: of the model.
        logger: of rclpy.
        publish: diagnostics of these components, at once.
    """

    def __init__(self, device: str, logger: Any, publish: Callable[[Sequence[ComponentHealth]], None]):
        self._device, self._logger, self._publish = device, logger, publish
        self._why = f"not compiled for {device}; run: {BUILD_COMMAND}"

    def prepare(self, allowed: bool) -> None:
        """Builds the operator for the device, if it is missing or does not load, and that is allowed. Whatever fails, a
        sentence says so, and the slower PyTorch path is taken."""
        if allowed and missing(self._device):
            self._report(f"no compiled operator for {self._device} yet: building it, which takes about a minute, once")
            prepare(self._device, self._report)

    def health(self) -> ComponentHealth:
        """Which path the model takes on its device."""
        if kernels_loaded(self._device):
            return ComponentHealth(COMPONENT, Level.OK, "compiled kernels")
        return ComponentHealth(COMPONENT, Level.WARN, f"the slower PyTorch path; {self._why}")

    def _report(self, text: str) -> None:
        sentence = text.splitlines()[0]  # behind it comes all that the compiler wrote
        # The CPU kernels are built after a GPU's have failed: those steps do not say why these are missing.
        if sentence.startswith(REASONS) or not self._why.startswith(REASONS):
            self._why = sentence
        self._logger.info(f"operator: {sentence}")
        self._publish([ComponentHealth(COMPONENT, Level.WARN, sentence)])
