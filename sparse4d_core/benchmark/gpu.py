"""Everything that only a GPU can show, in one go: builds, tests, measures, and writes one JSON (`make gpu`)."""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence

import torch

from cuda_ops.build import BuildError, build
from cuda_ops.library import forget_library, kernels_loaded
from cuda_ops.measurement import hardware

from ..atomic_write import write_json
from ..command_line import FAILED, OK, refuse
from .gpu_timing import ceiling_facts, frame_rows, operator_rows
from .machine import describe

ROOT = pathlib.Path(__file__).resolve().parents[2]
ON_ANY_DEVICE = ROOT / "test" / "gpu"  # rehearsed on CPUs; of these compute-sanitizer watches SANITIZED
TESTS = [
    ON_ANY_DEVICE,
    ROOT / "test" / "ops" / "test_on_gpu.py",
    ROOT / "test" / "ops" / "test_operator.py",
    ROOT / "test" / "golden" / "test_golden_deformable_aggregation.py",
]
DEVICE_VARIABLE = "SPARSE4D_GPU_DEVICE"  # read by test/gpu/conftest.py
SANITIZED = "operator and float32"  # tests that compute-sanitizer watches, fifty times slower

DONE, NOT_RUN, BROKEN = "done", "not run", "failed"
Part = dict[str, object]


def measure(device: str, quick: bool, save: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """The whole result; `save` gets what there is after each part. A part that fails or cannot run has its reason, and
    the others go on."""
    parts: dict[str, Part] = {}
    result: dict[str, object] = {
        "hardware": hardware(device),
        "device": device,
        "quick": quick,
        "date": datetime.date.today().isoformat(),
        "facts": describe() | {"cuda": torch.version.cuda or "none"},
        "parts": parts,
    }
    jobs: dict[str, Callable[[], Part]] = {
        "build": lambda: build_part(device),
        "tests": lambda: run_tests(device, TESTS),
        "ceilings": lambda: ceilings_part(device),
        "operator": lambda: {"rows": operator_rows(device, quick)},
        "frames": lambda: {"rows": frame_rows(device, quick)},
        "compute_sanitizer": lambda: sanitizer_part(device),  # the longest by far
    }
    for name, job in jobs.items():
        print(f"{name} ...", flush=True)
        parts[name] = _run(job)
        print(f"{name}: {parts[name]['status']} {parts[name].get('reason', '')}", flush=True)
        save(result)
    return result


def _run(job: Callable[[], Part]) -> Part:
    start = time.perf_counter()
    try:
        part = {"status": DONE} | job()
    except Exception as error:  # whatever happens on hardware nobody has tried: say so and measure the rest
        part = {"status": BROKEN, "reason": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return part | {"seconds": round(time.perf_counter() - start, 1)}


def build_part(device: str) -> Part:
    """Compiles the operator for the GPUs at hand."""
    try:
        library = build(lambda text: print(f"  {text.splitlines()[0]}", flush=True))
    except BuildError as error:
        return {"status": BROKEN, "reason": str(error)}
    forget_library()
    if not kernels_loaded(device):
        return {"status": BROKEN, "reason": f"{library.path} holds no kernels for {device}"}
    return {"library": str(library), "architectures": list(library.architectures)}


def run_tests(device: str, tests: Sequence[pathlib.Path], selected: str = "", wrapper: Sequence[str] = ()) -> Part:
    """Those of files and folders that are marked for GPUs, on the device: counts, and the reasons of failures and of
    tests that did not run."""
    if not ON_ANY_DEVICE.is_dir():
        reason = f"no folder {ON_ANY_DEVICE}: the tests are in a checkout, not in an installation"
        return {"status": NOT_RUN, "reason": reason}
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [*wrapper, sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
        command += ["-k", selected, f"--junitxml={report}", *map(str, tests)]
        environment = os.environ | {DEVICE_VARIABLE: device, "PYTEST_ADDOPTS": ""}  # the options of a run around it
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
        if not report.is_file():
            return {"status": BROKEN, "reason": (done.stdout + done.stderr).strip()[-2000:]}
        part = read_report(report)
    if done.returncode != 0 and part["status"] == DONE:
        part |= {"status": BROKEN, "reason": (done.stdout + done.stderr).strip()[-2000:]}
    return part


def read_report(path: pathlib.Path) -> Part:
    """Counts and reasons of pytest's JUnit file."""
    passed, failed, skipped = 0, {}, {}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name")
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            failed[name] = (bad.get("message") or "")[:500]
        elif case.find("skipped") is not None:
            skipped[name] = reason_of_skip(case.find("skipped"))
        else:
            passed += 1
    part: Part = {"passed": passed, "failed": failed, "not_run": skipped, "status": BROKEN if failed else DONE}
    if failed:
        part["reason"] = f"{len(failed)} tests failed: {', '.join(failed)}"
    elif not passed:
        part |= {"status": BROKEN, "reason": "no test passed"}
    return part


def reason_of_skip(skipped: ElementTree.Element) -> str:
    """Of one test; of a file that could not start, the text holds it: ('FILE', LINE, 'Skipped: REASON')."""
    if skipped.get("message") != "collection skipped":
        return skipped.get("message")
    return ast.literal_eval(skipped.text)[-1].removeprefix("Skipped: ")


def sanitizer_part(device: str) -> Part:
    """The operator's tests in float32 again, every access to memory watched."""
    if not device.startswith("cuda"):
        return {"status": NOT_RUN, "reason": "needs a GPU"}
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"status": NOT_RUN, "reason": "compute-sanitizer is not on PATH; it comes with the CUDA toolkit"}
    watched = [program, "--error-exitcode", "9", "--target-processes", "all"]
    return run_tests(device, [ON_ANY_DEVICE], SANITIZED, watched)


def ceilings_part(device: str) -> Part:
    """What the memory gives at most; the operator's `read_gb_per_s` is held against it."""
    if not device.startswith("cuda"):
        return {"status": NOT_RUN, "reason": "needs a GPU"}
    return ceiling_facts(device)


def summary(result: dict[str, object]) -> str:
    """One line a part."""
    lines = [f"{result['hardware']}, torch {result['facts']['torch']}"]
    for name, part in result["parts"].items():
        lines.append(f"{name}: {part['status']}" + (f" ({part['reason']})" if "reason" in part else ""))
        lines += [f"  {name} {value:.0f}" for name, value in part.items() if name.endswith("_per_s")]
        if "passed" in part:
            lines.append(
                f"  {part['passed']} tests passed, {len(part['failed'])} failed, {len(part['not_run'])} not run"
            )
        for row in part.get("rows", ()):
            cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
            lines.append("  " + " | ".join(cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 if a part failed, 2 for a device that is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.benchmark.gpu",
        description="On a GPU: build the kernels, run the tests that need one, and time the operator and whole frames, "
        "in under ten minutes. Needs torch with CUDA, nvcc, NumPy, OpenCV, Pillow, SciPy and pytest, and a checkout.",
        epilog="example: python -m sparse4d_core.benchmark.gpu --out benchmarks/results/my_gpu-gpu.json",
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to rehearse (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--out", type=pathlib.Path, metavar="FILE", help="JSON; <hardware> in it is replaced by its name"
    )
    options = parser.parse_args(arguments)
    try:
        _check(options.device)
        path = _named(options.out, options.device) if options.out else None
        with torch.cuda.device(options.device) if options.device != "cpu" else contextlib.nullcontext():
            result = measure(options.device, options.quick, lambda part: path and write_json(path, part, indent=1))
        print(summary(result))
        if path:
            print(path)
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    return FAILED if any(part["status"] == BROKEN for part in result["parts"].values()) else OK


def _named(out: pathlib.Path, device: str) -> pathlib.Path:
    """The file with the hardware's name in it; its folder is there."""
    name = re.sub(r"[^a-z0-9]+", "-", hardware(device).lower()).strip("-")
    path = pathlib.Path(str(out).replace("<hardware>", name))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check(device: str) -> None:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device: expected cpu, cuda or cuda:N, got {device!r}")
    if device == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (torch.device(device).index or 0) >= count:
        raise ValueError(
            f"--device: torch {torch.__version__} sees {count} GPUs; check nvidia-smi and that torch is a build with "
            "CUDA, or rehearse with --device cpu --quick"
        )


if __name__ == "__main__":
    sys.exit(main())
