"""A stand-in for a GPU that sees every transfer between host and device, on machines without one.

Tensors of the device report another device than the host's (`DEVICE`) but hold host values, so everything runs for
real, backward passes and the aggregation operator too:

    with Crossings() as crossings:
        values = to_device(host_values)
        ...
    crossings.uploads, crossings.downloads      where each took place, as file:line

An operator that is given tensors of both kinds raises, as on a GPU; single numbers of the host may go anywhere, because
kernels take them as arguments.
"""

from __future__ import annotations

import pathlib
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

DEVICE = torch.device("meta")  # the one device other than the host that every build of PyTorch has
ROOT = pathlib.Path(__file__).resolve().parents[2]

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
# The size of these results depends on the values, so the host waits for them.
DATA_DEPENDENT = (aten.nonzero.default, aten.masked_select.default, aten._unique2.default)
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
READS_ON_THE_HOST = ("sparse4d::",)  # operators that take their tables from the host


class DeviceTensor(Tensor):
    """Values of the host that claim to lie on the device."""

    @staticmethod
    def __new__(cls, value: Tensor) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(
            cls, value.size(), strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            layout=value.layout, requires_grad=value.requires_grad, device=DEVICE,
        )  # fmt: skip

    def __init__(self, value: Tensor):
        self.value = value.detach()

    def __repr__(self, **_) -> str:
        return f"DeviceTensor({self.value})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func}: a tensor of the device was used outside of Crossings()")


class Crossings(TorchDispatchMode):
    """Runs operators on what the tensors hold and notes the transfers; see the module."""

    def __init__(self):
        super().__init__()
        self.uploads: list[str] = []
        self.downloads: list[str] = []
        self._literals = _Literals(self)

    def __enter__(self) -> Crossings:
        self._literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._literals.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        on_device = [isinstance(tensor, DeviceTensor) for tensor in tensors]
        target = kwargs.get("device")
        to_device = any(on_device) if target is None else torch.device(target) == DEVICE
        if func in COPIES:
            goes_up = to_device if func is aten._to_copy.default else on_device[0]
            if on_device[-1] != goes_up:
                self._note(goes_up)
            to_device = goes_up
        elif func is aten._local_scalar_dense.default:
            if any(on_device):
                self._note(False)
        elif any(on_device):
            self._check(func, args, tensors, on_device)
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        plain_args, plain_kwargs = tree_map_only(DeviceTensor, lambda tensor: tensor.value, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if not to_device:
            return result
        wrapped = tree_map_only(Tensor, DeviceTensor, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _check(self, func: Callable, args: tuple, tensors: list[Tensor], on_device: list[bool]) -> None:
        if func in DATA_DEPENDENT:
            self._note(False)
        elif func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self._note(False)  # a mask: its number of rows is counted first
            if isinstance(args[0], DeviceTensor) and not all(isinstance(index, DeviceTensor) for index in indices):
                self._note(True)
        elif not func._schema.name.startswith(READS_ON_THE_HOST):
            strays = [tensor for tensor, there in zip(tensors, on_device, strict=True) if not there and tensor.dim()]
            if strays:
                shapes = [tuple(tensor.shape) for tensor in strays]
                raise AssertionError(f"{func}: tensors of host and device together; those of the host: {shapes}")

    def _note(self, goes_up: bool) -> None:
        (self.uploads if goes_up else self.downloads).append(_caller())


class _Literals(TorchFunctionMode):
    """Numbers that become tensors of the device, and tensors that become numbers, for which PyTorch has no operator."""

    def __init__(self, crossings: Crossings):
        super().__init__()
        self._crossings = crossings

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist and isinstance(args[0], DeviceTensor):
            return args[0].cpu().tolist()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], DeviceTensor):
            return func(args[0], _with_tensors(args[1]), *args[2:])
        if func is torch.Tensor.new_tensor and isinstance(args[0], DeviceTensor) and "device" not in kwargs:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(DEVICE)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


def _with_tensors(index: Any) -> Any:
    """An index with its lists as tensors of the host, which is what PyTorch makes of them before it copies them."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part) if isinstance(part, list) else part for part in parts)


def _caller() -> str:
    """The innermost line of the project's packages that is at work."""
    for frame in reversed(traceback.extract_stack()):
        path = pathlib.Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("sparse4d_core", "cuda_ops"):
            return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return "backward or test"


def to_device(value: Any) -> Any:
    """A module or tensor, moved as `.to` would; what comes in stays as it is."""
    if isinstance(value, Tensor):
        return DeviceTensor(value)
    assert isinstance(value, nn.Module)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = nn.Parameter(DeviceTensor(parameter.data), parameter.requires_grad)
                module._parameters[name] = moved
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = DeviceTensor(buffer)
    return value
