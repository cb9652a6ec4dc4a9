"""Compiles the kernels for the installed torch: `python -m cuda_ops.build`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator

import torch

from .library import CSRC, LIBRARY_NAME, build_roots, find_library, sources_key

CPU_SOURCES = ("torch/bindings.cpp", "torch/cpu_ops.cpp", "cpu/generic.cpp", "cpu/avx2.cpp", "cpu/avx512.cpp")
CUDA_SOURCES = ("torch/cuda_ops.cpp", "cuda/kernels.cu")
CUDA_ARCHITECTURES = ("75", "80", "86", "89", "90")
"""Compute capabilities compiled to machine code; the newest is added as PTX for later ones."""


def cuda_available() -> bool:
    """Whether the CUDA kernels can be compiled into the library."""
    from torch.utils.cpp_extension import CUDA_HOME

    return (
        torch.version.cuda is not None
        and CUDA_HOME is not None
        and shutil.which("nvcc", path=f"{CUDA_HOME}/bin") is not None
    )


def gencode_flags(architectures: tuple[str, ...] = CUDA_ARCHITECTURES) -> list[str]:
    """nvcc's flags for machine code of every architecture and PTX of the newest."""
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    return [*flags, f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}"]


def _writable_root() -> pathlib.Path:
    for root in build_roots():
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(root, os.W_OK):
            return root
    raise PermissionError(f"no writable folder for the build among {', '.join(map(str, build_roots()))}")


def find_nvcc() -> str | None:
    """The CUDA compiler on this machine."""
    return shutil.which("nvcc")


def compile_cuda_kernels(
    folder: pathlib.Path, architectures: tuple[str, ...] = CUDA_ARCHITECTURES, quick: bool = False
) -> pathlib.Path:
    """Compile the CUDA kernels alone, which needs nvcc but neither a GPU nor torch with CUDA: the object file.

    quick: without optimisation, to see that the sources compile.

    Raises:
        FileNotFoundError: there is no nvcc.
        RuntimeError: with the compiler's output.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise FileNotFoundError("nvcc not found on PATH; install the CUDA toolkit 12.0 or newer")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "cuda_kernels.o"
    flags = ["-std=c++17", *(["-Xptxas", "-O0"] if quick else ["-O3"]), *gencode_flags(architectures)]
    command = [nvcc, *flags, "-c", str(CSRC / "cuda/kernels.cu"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return target


def build(verbose: bool = False) -> pathlib.Path:
    """Compile if needed; the path of the library, which is loaded into torch as well.

    Raises:
        RuntimeError: the compiler failed (its output is in the message).
        PermissionError: neither the package folder nor the user's cache can be written.
    """
    existing = find_library()
    if existing is None:
        folder = _writable_root() / sources_key()
        with _sole_builder(folder):
            existing = find_library() or _compile(folder, verbose)
    torch.ops.load_library(str(existing))
    return existing


@contextlib.contextmanager
def _sole_builder(folder: pathlib.Path) -> Iterator[None]:
    """One build at a time in a folder. The lock dies with its process, so a build that was killed blocks nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "building").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)  # torch's own lock file, which outlives a killed build
        yield


def _compile(folder: pathlib.Path, verbose: bool) -> pathlib.Path:
    from torch.utils import cpp_extension

    with_cuda = cuda_available()
    flags = ["-O3", "-fopenmp", "-Wno-psabi", *(["-DSPARSE4D_CUDA"] if with_cuda else [])]
    cpp_extension.load(
        name=LIBRARY_NAME,
        sources=[str(CSRC / name) for name in CPU_SOURCES + (CUDA_SOURCES if with_cuda else ())],
        extra_cflags=flags,
        extra_cuda_cflags=["-O3", "-DSPARSE4D_CUDA", "--expt-relaxed-constexpr", *gencode_flags()],
        extra_ldflags=["-fopenmp"],
        build_directory=str(folder),
        with_cuda=with_cuda,
        is_python_module=False,
        verbose=verbose,
    )
    return folder / f"{LIBRARY_NAME}.so"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ops.build",
        description="Compile the deformable aggregation kernels for the installed torch (about a minute, once). "
        "CUDA kernels are included when torch has CUDA and nvcc is found. Without the library everything still works, "
        "on the slower PyTorch path.",
        epilog="example: python -m cuda_ops.build --verbose",
    )
    parser.add_argument("--verbose", action="store_true", help="show the compiler's commands and output")
    parser.add_argument(
        "--cuda-only",
        metavar="FOLDER",
        type=pathlib.Path,
        help="only compile the CUDA kernels for every architecture into FOLDER (needs nvcc, no GPU): a check",
    )
    arguments = parser.parse_args(argv)
    if arguments.cuda_only is not None:
        print(f"{compile_cuda_kernels(arguments.cuda_only)} (sm_{', sm_'.join(CUDA_ARCHITECTURES)}, PTX)")
        return
    library = build(arguments.verbose)
    print(f"{library} ({'CPU and CUDA' if cuda_available() else 'CPU'})")


if __name__ == "__main__":
    main()
