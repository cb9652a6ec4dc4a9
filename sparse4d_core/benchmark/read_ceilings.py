"""How fast a GPU reads its second-level cache and its memory: what the operator's rate of reading is held against."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch

from cuda_ops.graph_timing import median_milliseconds

READ_KERNEL = "read_rate"  # for compile_apart
_CACHED_SHARE = 4  # of the second-level cache, a quarter: all of it stays there
_CACHED_ROUNDS = 64
_MEMORY_BYTES = 2 * 2**30  # far more than any cache
_BLOCKS = 4  # of each multiprocessor, of 512 threads: as many as fit


def read_ceilings(library: ctypes.CDLL, device: str) -> dict[str, float]:
    """Bytes a second, read from the second-level cache and from memory, in 1e9."""
    properties = torch.cuda.get_device_properties(device)
    cached = properties.L2_cache_size // _CACHED_SHARE // 16 * 16
    blocks = _BLOCKS * properties.multi_processor_count
    return {
        "l2_gb_per_s": _rate(library, device, cached, _CACHED_ROUNDS, blocks),
        "memory_gb_per_s": _rate(library, device, _MEMORY_BYTES, 1, blocks),
    }


def _rate(library: ctypes.CDLL, device: str, size: int, rounds: int, blocks: int) -> float:
    milliseconds = median_milliseconds(_reader(library, device, size, rounds, blocks), device, cold=False)
    return size * rounds / milliseconds * 1e-6


def _reader(library: ctypes.CDLL, device: str, size: int, rounds: int, blocks: int) -> Callable[[], None]:
    buffer = torch.randint(0, 2**16, (size // 4,), dtype=torch.int32, device=device)
    sink = torch.zeros(1, device=device)

    def run() -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (buffer, sink)]
        status = library.read_rate(pointers[0], ctypes.c_int64(size // 16), rounds, blocks, pointers[1], stream)
        if status != 0:
            raise RuntimeError(f"the reading kernel did not start: CUDA error {status}")

    return run
