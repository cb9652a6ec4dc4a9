"""The demo's network in 8-bit integers with our operator, run by onnxruntime: on two cores half of PyTorch's time.

Exported once, in half a minute, with ranges from a scene that the model was trained on; used again while nothing that
makes it has changed. Where that cannot be, a sentence says why, and PyTorch computes.
"""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

from sparse4d_core.checkpoint.published import find_weights
from sparse4d_core.file_digest import file_sha256

from ..share import PARENT
from .programs import DemoError, Processes, fingerprint

MODEL = "demo"
MAKERS = ("sparse4d_core/**/*.py", "cuda_ops/csrc/**/*.*")  # the graph, and the operator in it
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CALIBRATION = ("--scenes", 1, "--seed", 300, "--duration", 8, "--rate", 2, "--image-size", 704, 396)


def integer_step(out: Path, processes: Processes) -> Path | None:
    """The folder of the exported step, below `out`; None, where PyTorch computes: the reason is printed."""
    reason = what_is_missing()
    if reason is None:
        step = out / f"step-{_digest()}"
        try:
            processes.run("operator", "cuda_ops.build", "--onnxruntime")
            if not step.is_dir():
                print("exporting the network in 8-bit integers")
                _export(out, step, processes)
            return step
        except DemoError as error:
            reason = str(error)
    print(f"PyTorch computes, not 8-bit integers: {reason}")
    return None


def what_is_missing() -> str | None:
    """The reason why 8-bit integers cannot be, before anything is tried."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (pip install --requirement requirements/export.txt)"
    from sparse4d_core.inference.image_encoder import multiplies_integers  # torch, which the demo itself does not need

    return None if multiplies_integers() else "this processor has no instructions for them (VNNI) that torch tells of"


def _digest() -> str:
    """Changes with what the step is made by and of."""
    from sparse4d_core.export.exporter import versions  # torch, as above

    sources = fingerprint(path for pattern in MAKERS for path in PARENT.glob(pattern))
    parts = [file_sha256(find_weights(MODEL)), sources, str(versions())]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _export(out: Path, step: Path, processes: Processes) -> None:
    """Raises DemoError: the graph differed from the model by too much."""
    calibration = out / "calibration"
    for old in (calibration, *out.glob("step-*")):
        shutil.rmtree(old, ignore_errors=True)
    processes.run("calibration", "sparse4d_core.data.synthetic", "--out", calibration, *CALIBRATION)
    form = ["--format", "onnx", "--precision", "int8", "--operator", "native", "--calibration", calibration]
    processes.run("export", "sparse4d_core.export", "--model", MODEL, *form, "--out", step)
    shutil.rmtree(calibration)
