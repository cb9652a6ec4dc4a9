"""Settings of the whole process: memory that stays between frames, threads of one operation."""

from __future__ import annotations

import ctypes
import os
import platform

import torch

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep what a frame frees for the next frame; call it first thing in a program.

    Every frame allocates the same maps of tens of megabytes. By default each is fetched from the operating system and
    given back, page by page: a fifth of a float32 frame's time. Costs: the process keeps its peak, and threads share
    one arena. Returns whether the C library took the settings (others than glibc are left alone).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1), mallopt(_ARENA_MAX, 1)])


def release_unused_memory() -> bool:
    """Gives pages of the heap that hold nothing back to the operating system; returns whether there is such a call.

    Kept memory is reused, but not without loss: images that wait between the maps of the network leave gaps that fit
    nothing, and on a busy machine, where more of them wait, the process grows by two megabytes a minute. What is in
    use stays; the next frame has its pages fetched anew, a tenth of a second on a slow core.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def limit_threads(count: int) -> None:
    """Lets torch use `count` threads for one operation on the CPU; 0 leaves its own choice."""
    if count > 0:
        torch.set_num_threads(count)


def spare_processors(count: int) -> int:
    """Processors of this process that an operation on `count` threads (0: torch's own choice) leaves to others."""
    return len(os.sched_getaffinity(0)) - (count or torch.get_num_threads())
