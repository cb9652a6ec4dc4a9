"""What the process does with memory that nobody uses: kept from frame to frame, given back when told to."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MIB = 2**20
# Images come and go between small things that stay. In a process of its own: the settings are the whole process's.
PROGRAM = """
import psutil, torch
from sparse4d_core.inference.process_settings import keep_freed_memory, release_unused_memory

def resident():
    return psutil.Process().memory_info().rss

assert keep_freed_memory()
before = resident()
images, small = [], []
for _ in range(50):
    images.append(torch.ones(2**20))  # 4 MiB
    small.append(torch.ones(64))
held = resident()
del images
kept = resident()
assert release_unused_memory()
print(held - before, kept - before, resident() - before)
assert all(float(one.sum()) == 64 for one in small)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_freed_memory_is_kept_until_it_is_released():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held, kept, released = (int(word) / MIB for word in done.stdout.split())
    assert held > 190 and kept > 190, "a frame's memory is there for the next frame"
    assert released < 40, "also what lies between things that stay"
