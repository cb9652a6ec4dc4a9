"""How the benchmarks measure: medians of interleaved runs, peak memory, and what the machine could do at best."""

from __future__ import annotations

import ctypes
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Run = Callable[[int], object]
"""One run on the input set of that number."""


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def interleaved_medians(runs: Sequence[Run], sets: int, repeats: Sequence[int], device: str = "cpu") -> list[float]:
    """Median seconds of each run. Runs take turns, so that whatever else the machine does meets all of them.

    sets: number of input sets, used one after the other, so that no run finds its input in the cache.
    repeats: measured repetitions of each run; one more warms up.
    """
    times: list[list[float]] = [[] for _ in runs]
    for repetition in range(max(repeats) + 1):
        for number, (run, wanted) in enumerate(zip(runs, repeats, strict=True)):
            if repetition > wanted:
                continue
            synchronize(device)
            start = time.perf_counter()
            run(repetition % sets)
            synchronize(device)
            times[number].append(time.perf_counter() - start)
    return [statistics.median(values[1:]) for values in times]


def peak_memory(run: Callable[[], object], device: str = "cpu") -> int | None:
    """Largest memory in bytes that `run` needs above what was there before, its result included; None if unknown."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset = pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    run()  # what is allocated once (threads, code) does not count
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # VmHWM := VmRSS
    before = _status_bytes("VmRSS")
    result = run()
    peak = _status_bytes("VmHWM")
    del result
    return max(peak - before, 0)


def _status_bytes(field: str) -> int:
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def read_ceiling(device: str = "cpu", megabytes: int = 256) -> float:
    """Bytes per second at which all threads together read memory: a sum over more than the caches hold."""
    data = torch.ones(megabytes * 2**18, device=device)
    seconds = min(interleaved_medians([lambda _: data.sum()], 1, [5], device) for _ in range(2))[0]
    return data.numel() * 4 / seconds


def cache_ceiling(device: str = "cpu") -> float:
    """The same from the cache: repeated sums over half a megabyte per thread."""
    data = torch.ones(torch.get_num_threads() * 2**17, device=device)

    def run(_: int) -> None:
        for _ in range(200):
            data.sum()

    return 200 * data.numel() * 4 / interleaved_medians([run], 1, [5], device)[0]


def flop_ceiling(device: str = "cpu", size: int = 1536) -> float:
    """Multiply-adds (two operations each) per second of a float32 matrix product."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    return 2 * size**3 / interleaved_medians([lambda _: a @ b], 1, [5], device)[0]


def hardware(device: str = "cpu") -> str:
    """The processor's or GPU's name, and the threads in use."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's marketing name, else its architecture."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def make_room(file: pathlib.Path) -> None:
    """Makes the folder of a result's file, before the time that it takes to measure.

    Raises:
        OSError: no file can be written there.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        raise IsADirectoryError(f"expected a file, got the folder {file}")
    with tempfile.TemporaryFile(dir=file.parent):
        pass


def markdown_table(rows: Sequence[Mapping[str, object]], number: str) -> str:
    """Rows with the columns of all of them, in the order of their first appearance; a missing value is an empty cell.

    number: format of floating-point values, such as ".4g".
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = ("" if row.get(column) is None else row[column] for column in columns)
        lines.append("| " + " | ".join(f"{c:{number}}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)
