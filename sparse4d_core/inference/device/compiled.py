"""torch.compile with a way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)


class Compiled:
    """`function` through torch.compile; once that failed, as it stands, and the log has the reason.

    Args:
        what: the function's name in the log.
    """

    def __init__(self, function: Callable[..., Any], what: str):
        self._function = function
        self._what = what
        self._compiled: Callable[..., Any] | None = torch.compile(function)

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is not None:
            try:
                return self._compiled(*arguments)
            except Exception as error:  # compilers fail in many ways; the frame must not be lost
                log.warning("compile: torch.compile failed, %s runs without it: %s", self._what, error)
                self._compiled = None
        return self._function(*arguments)
