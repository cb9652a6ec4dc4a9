"""A device that is not there: tensors that report it, refuse to be seen by the host unnoticed, and hold real numbers.

    with StandInDevice() as device:
        x = torch.ones(3).to("meta")      # device.uploads is 1
        x + 1                             # runs on the CPU, inside
        x.cpu(), bool(x.sum()), x[x > 0]  # device.downloads is 1, device.waits are 2

PyTorch's meta device lends its name. Unlike real meta tensors these can be sorted, compared and matched.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = torch.device("meta")
_aten = torch.ops.aten
_READS = {_aten._local_scalar_dense.default, _aten.item.default, _aten.equal.default, _aten.is_nonzero.default}
_SIZED_BY_VALUES = {_aten.nonzero.default, _aten.masked_select.default, _aten._unique2.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class DeviceTensor(Tensor):
    """Reports NAME as its device."""

    @staticmethod
    def __new__(cls, values: Tensor):
        return Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=NAME,
        )

    def __init__(self, values: Tensor):
        self.values_inside = values

    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: a tensor of the stand-in device is used outside of it")


class StandInDevice(TorchDispatchMode):
    """Runs everything and notes what a real device would wait for.

    uploads, downloads: sizes in bytes of copies between host and device.
    waits: operators that hand a value to the host, or whose result has a size that only the device knows.
    mixed: operators that take tensors of both; each is an upload in hiding.
    on_host: operators on the host's tensors alone, after something went up and before anything came down.
    """

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.uploads: list[int] = []
        self.downloads: list[int] = []
        self.waits: list[str] = []
        self.mixed: list[str] = []
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        inside = [isinstance(x, DeviceTensor) for x in tensors]
        target = kwargs.get("device")
        goes_up = target is not None and torch.device(target) == NAME
        if goes_up:
            kwargs["device"] = torch.device("cpu")
        self._note(func, args, tensors, inside, target, goes_up)
        wrappers = {id(x.values_inside): x for x in tensors if isinstance(x, DeviceTensor)}
        args, kwargs = tree_map(_values, (args, kwargs))
        if func is _aten._to_copy.default:
            kwargs["non_blocking"] = False
        result = func(*args, **kwargs)
        stays = goes_up or (any(inside) and target is None)
        return tree_map(lambda x: wrappers[id(x)] if id(x) in wrappers else _wrapped(x), result) if stays else result

    def _note(self, func, args, tensors, inside, target, goes_up: bool) -> None:
        copies = func in (_aten._to_copy.default, _aten.copy_.default)
        if goes_up and tensors and not any(inside):
            self.uploads.append(tensors[0].nbytes)
        elif func is _aten.copy_.default and inside == [True, False]:
            self.uploads.append(tensors[1].nbytes)
        elif any(inside) and (target is not None and not goes_up or func is _aten.copy_.default and not inside[0]):
            self.downloads.append(tensors[0].nbytes)
        elif any(inside) and not all(inside) and not copies:
            self.mixed.append(str(func))
        elif tensors and not any(inside) and self.uploads and not self.downloads:
            self.on_host.append(str(func))
        masks = func in _INDEXED and any(x is not None and x.dtype == torch.bool for x in args[1])
        if any(inside) and (func in _READS or func in _SIZED_BY_VALUES or masks):
            self.waits.append(str(func))


def _values(x):
    return x.values_inside if isinstance(x, DeviceTensor) else x


def _wrapped(x):
    if not isinstance(x, Tensor):
        return x
    with torch.inference_mode(False):  # views of parameters must be ordinary tensors in inference mode too
        return DeviceTensor(x)
