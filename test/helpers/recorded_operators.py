"""Which operators of torch run."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Recorded(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, arguments=(), keywords=None):
        self.names.add(func._schema.name)
        return func(*arguments, **(keywords or {}))
