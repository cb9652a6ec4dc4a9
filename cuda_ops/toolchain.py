"""The compilers of this machine, and the commands that compile the kernels with them."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .library import CSRC, build_roots, gpu_capabilities

CUDA_ARCHITECTURES = ("75", "80", "86", "87", "89", "90", "100", "120")
"""Compute capabilities compiled where no GPU is at hand; PTX of the newest runs on later ones."""
SPACE = 100e6  # bytes that a build needs at most, objects of all architectures included
CPU_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-Wno-psabi")


class BuildError(RuntimeError):
    """The kernels, or the CUDA part of them, cannot be built; the message says why and what to do."""


def find_cxx() -> str:
    """The C++ compiler: $CXX, else the first of c++, g++, clang++ on PATH.

    Raises:
        BuildError: there is none.
    """
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in wanted:
        path = shutil.which(name)
        if path is not None:
            return path
    raise BuildError(f"no C++ compiler ({', '.join(wanted)}) on PATH; install g++ 10 or newer, or clang++ 11 or newer")


def find_nvcc() -> str | None:
    """The CUDA compiler: of $CUDA_HOME or $CUDA_PATH, else on PATH, else in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    names = [*(f"{home}/bin/nvcc" for home in homes if home), "nvcc", "/usr/local/cuda/bin/nvcc"]
    return next(filter(None, map(shutil.which, names)), None)


def needed_nvcc() -> str:
    """The same. Raises BuildError: there is none."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("nvcc not found on PATH; install the CUDA toolkit 12.0 or newer")
    return nvcc


@dataclass(frozen=True)
class CudaCompiler:
    nvcc: str
    toolkit: pathlib.Path  # the folder with include/cuda_runtime.h; nvcc on PATH may be a wrapper elsewhere
    architectures: tuple[str, ...]  # to compile for; see library.Library


def cuda_compiler() -> CudaCompiler:
    """The CUDA compiler that fits torch, and what it is to compile for.

    Raises:
        BuildError: torch has no CUDA, or there is no nvcc, or none that fits.
    """
    if torch.version.cuda is None:
        raise BuildError(f"torch {torch.__version__} has no CUDA")
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(
            f"no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda; install the toolkit of CUDA {torch.version.cuda}"
        )
    release = re.search(r"release (\d+)\.(\d+)", _output(nvcc, "--version"))
    if release is None or release[1] != torch.version.cuda.split(".")[0]:
        version = f"CUDA {release[1]}.{release[2]}" if release else "an unknown version"
        raise BuildError(
            f"{nvcc} is of {version}, torch of CUDA {torch.version.cuda}; set CUDA_HOME to a toolkit of that version"
        )
    return CudaCompiler(nvcc, _toolkit(nvcc), nvcc_architectures(nvcc))


def nvcc_architectures(nvcc: str) -> tuple[str, ...]:
    """What it is to compile for, see `architectures`."""
    return architectures(supported_by(nvcc))


def supported_by(nvcc: str) -> list[str]:
    """The compute capabilities that it knows, as in "86"."""
    return re.findall(r"compute_(\d+)", _output(nvcc, "--list-gpu-arch"))


def cuda_headers(nvcc: str) -> list[pathlib.Path]:
    """Folders of the headers of its toolkit."""
    toolkit = _toolkit(nvcc)
    return [toolkit / "include", *sorted(toolkit.glob("targets/*/include"))]


def _output(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{program} does not run: {error}") from error
    return done.stdout + done.stderr


def _toolkit(nvcc: str) -> pathlib.Path:
    """nvcc's own idea of where it is installed."""
    top = re.search(r"TOP=(\S+)", _output(nvcc, "--dryrun", "-c", "none.cu"))
    toolkit = pathlib.Path(top[1] if top else pathlib.Path(nvcc).resolve().parents[1]).resolve()
    if not any(toolkit.glob("include/cuda_runtime.h")) and not any(toolkit.glob("targets/*/include/cuda_runtime.h")):
        raise BuildError(f"{toolkit}, the toolkit of {nvcc}, has no cuda_runtime.h; set CUDA_HOME to a whole toolkit")
    return toolkit


def architectures(supported: Sequence[str]) -> tuple[str, ...]:
    """What to compile for: $TORCH_CUDA_ARCH_LIST (as torch writes it, "8.6 9.0+PTX"), else the GPUs at hand, else all.

    supported: the compute capabilities that the compiler knows, as in "86"; others are left out.

    Raises:
        BuildError: nothing is left, or the variable cannot be read.
    """
    given = os.environ.get("TORCH_CUDA_ARCH_LIST", "").replace(";", " ").split()
    if given:
        wanted = tuple(name for entry in given for name in _named(entry))
        known = tuple(name for name in wanted if re.match(r"\d+", name)[0] in supported)
        if not known:
            raise BuildError(f"TORCH_CUDA_ARCH_LIST={' '.join(given)}: nvcc compiles for {', '.join(supported)} only")
        return known
    at_hand = [f"{major}{minor}" for major, minor in gpu_capabilities()]
    choices = at_hand if at_hand and set(at_hand) <= set(supported) else CUDA_ARCHITECTURES
    return known_of(choices, supported)


def known_of(choices: Sequence[str], supported: Sequence[str]) -> tuple[str, ...]:
    """Those that the compiler knows, and PTX of the last. Raises BuildError: it knows none."""
    known = [name for name in choices if name in supported]
    if not known:
        raise BuildError(f"nvcc compiles for none of {', '.join(choices)}; install CUDA 12.0 or newer")
    return (*known, f"{known[-1]}ptx")


def _named(entry: str) -> list[str]:
    match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
    if match is None:
        raise BuildError(f"TORCH_CUDA_ARCH_LIST: expected entries such as 8.6 or 9.0+PTX, got {entry}")
    major, minor, suffix, ptx = match.groups()
    return [major + minor + suffix, *([f"{major}{minor}ptx"] if ptx else [])]


def gencode_flags(names: Sequence[str]) -> list[str]:
    """nvcc's flags for machine code ("86") and PTX ("86ptx")."""
    numbers = [(name.removesuffix("ptx"), "compute" if name.endswith("ptx") else "sm") for name in names]
    return [f"-gencode=arch=compute_{number},code={kind}_{number}" for number, kind in numbers]


def cxx_command(cxx: str, source: str, target: pathlib.Path, toolkit: pathlib.Path | None = None) -> list[str]:
    """Compiles one C++ source against torch (and CUDA's headers)."""
    headers = pathlib.Path(torch.__file__).parent / "include"
    folders = [headers, headers / "torch/csrc/api/include"]
    if toolkit is not None:
        folders += [toolkit / "include", *sorted(toolkit.glob("targets/*/include"))]
    includes = [word for folder in folders for word in ("-isystem", str(folder))]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return [cxx, *CPU_FLAGS, abi, *includes, "-c", str(CSRC / source), "-o", str(target)]


def nvcc_command(nvcc: str, names: Sequence[str], target: pathlib.Path, quick: bool = False) -> list[str]:
    """Compiles the CUDA kernels, which need nothing of torch. quick: without optimisation."""
    host = ["-ccbin", os.environ["CUDAHOSTCXX"]] if os.environ.get("CUDAHOSTCXX") else []
    optimise = ["-Xptxas", "-O0"] if quick else ["-O3"]
    flags = ["-std=c++17", *optimise, "-Xcompiler", "-fPIC", "--threads", "0", *host, *gencode_flags(names)]
    return [nvcc, *flags, "-c", str(CSRC / "cuda/kernels.cu"), "-o", str(target)]


def link_command(
    cxx: str, objects: Sequence[pathlib.Path], target: pathlib.Path, toolkit: pathlib.Path | None = None
) -> list[str]:
    """Links the library against torch (and CUDA's run time)."""
    folders, libraries = [pathlib.Path(torch.__file__).parent / "lib"], ["c10", "torch_cpu", "torch"]
    if toolkit is not None:
        folders += [toolkit / "lib64", toolkit / "lib", *sorted(toolkit.glob("targets/*/lib"))]
        libraries += ["c10_cuda", "torch_cuda", "cudart"]
    paths = [f"-L{folder}" for folder in folders if folder.is_dir()]
    return [cxx, "-shared", *map(str, objects), *paths, *(f"-l{name}" for name in libraries), "-o", str(target)]


def run_compiler(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs a compiler, or anything else that is over within half an hour.

    Raises:
        BuildError: it failed; its output is in the message.
    """
    options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": 1800, "env": environment}
    try:
        done = subprocess.run(command, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        output = done.stderr + done.stdout
        raise BuildError(f"{command[0]} failed: {_cause(output)}\n{' '.join(command)}\n{output}")


def _cause(output: str) -> str:
    """The line of a compiler's output that names the error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "without a message")


def writable_root() -> pathlib.Path:
    """The first folder that can be written and has space."""
    obstacles = []
    for root in build_roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                free = shutil.disk_usage(root).free
        except OSError as error:
            obstacles.append(f"{root}: {error.strerror or error}")
            continue
        if free >= SPACE:
            return root
        obstacles.append(f"{root}: {free / 1e6:.0f} MB free of the {SPACE / 1e6:.0f} MB that a build needs")
    raise BuildError(
        f"no folder for the build ({'; '.join(obstacles)}); make one writable, or set XDG_CACHE_HOME to another"
    )
