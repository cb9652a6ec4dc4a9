"""Compiles the kernels for the installed torch: `python -m cuda_ops.build`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TextIO

import torch

from . import toolchain
from .library import (
    BUILD_COMMAND,
    CSRC,
    LIBRARY_NAME,
    Library,
    broken_library,
    build_roots,
    built_libraries,
    find_library,
    forget_library,
    gpu_capabilities,
    kernels_loaded,
    library_folder,
    library_key,
)
from .plugins import ONNXRUNTIME, TENSORRT, Plugin, build_plugin
from .toolchain import CUDA_ARCHITECTURES, BuildError, CudaCompiler, find_nvcc, run_compiler, writable_root

__all__ = [
    "CSRC",
    "CUDA_ARCHITECTURES",
    "BuildError",
    "build",
    "compile_cuda_kernels",
    "find_nvcc",
    "missing",
    "prepare",
]

CPU_SOURCES = ("torch/bindings.cpp", "torch/cpu_ops.cpp", "cpu/generic.cpp", "cpu/avx2.cpp", "cpu/avx512.cpp")
CUDA_SOURCES = ("torch/cuda_ops.cpp", "cuda/kernels.cu")

Progress = Callable[[str], None]
WITHOUT_CUDA = "without CUDA kernels"
CANNOT_BUILD = "the kernels cannot be built, the slower PyTorch path is taken"
"""How sentences begin that say why there are no kernels; all others tell of a step."""


def build(progress: Progress | None = None, retry: bool = True) -> Library:
    """Compiles the kernels if that is still to be done, which takes about a minute; also in the place of a library that
    does not load.

    CUDA kernels are part of it where torch has CUDA and nvcc is found; if that part fails, a sentence says why and the
    CPU kernels are built alone. The library appears at once and whole; of several builders one works, the others wait.

    Args:
        progress: called with a sentence for every step; from this thread.
        retry: try the CUDA part again that failed before.

    Raises:
        BuildError: there is no compiler, it failed, or no folder can be written.
    """
    say = progress or (lambda _: None)
    try:
        cuda = toolchain.cuda_compiler()
    except BuildError as reason:
        cuda = None
        say(f"{WITHOUT_CUDA}: {reason}")
    else:
        _tell_left_out(cuda, say)
    with contextlib.suppress(LookupError):
        library = _built(cuda, retry, say)
        if broken_library() is None:
            return library
    root = writable_root()
    try:
        with _sole_builder(root, say):
            with contextlib.suppress(LookupError):
                return _whole(cuda, retry, say)
            return _build(root, cuda, say)
    except OSError as error:
        raise BuildError(f"{root}: {error}") from error


def missing(device: str) -> bool:
    """Whether there are no kernels that load for tensors on this device, which is there. Nothing is built."""
    wanted, library = torch.device(device), find_library()
    if wanted.type == "cuda":
        if (wanted.index or 0) >= torch.cuda.device_count():
            return False
        if library is None or not library.runs_on(torch.cuda.get_device_capability(wanted)):
            return True  # not loaded: a process keeps the first library that it loads
    elif wanted.type != "cpu":
        return False
    return library is None or broken_library() is not None


def prepare(device: str = "cpu", progress: Progress | None = None) -> bool:
    """Builds the kernels if needed and loads them; whether tensors on `device` will use them. Never raises BuildError:
    where the build fails, a sentence says why and what to do, and the slower PyTorch path is taken."""
    try:
        build(progress, retry=False)
    except BuildError as error:
        if progress:
            progress(f"{CANNOT_BUILD}: {error}")
    forget_library()
    return kernels_loaded(device)


def _tell_left_out(cuda: CudaCompiler, say: Progress) -> None:
    """Says which GPUs at hand a build would not serve, because the environment names what it is for."""
    listed, kernels = os.environ.get("TORCH_CUDA_ARCH_LIST"), Library(None, cuda.architectures)
    left_out = [f"{major}.{minor}" for major, minor in gpu_capabilities() if not kernels.runs_on((major, minor))]
    if not listed:
        return
    for name in left_out:
        known = name in listed
        mend = "nvcc does not know it: install a newer CUDA toolkit" if known else "add it there, or unset that"
        say(
            f"{WITHOUT_CUDA} for compute capability {name} of this machine: TORCH_CUDA_ARCH_LIST is {listed!r}; "
            f"{mend}, and run: {BUILD_COMMAND}"
        )


def _whole(cuda: CudaCompiler | None, retry: bool, say: Progress) -> Library:
    """The library that a build would give, which loads; those that do not are removed. We are the only builder now.

    Raises:
        LookupError: there is none. Nothing was loaded then: a process keeps the first library that it loads.
    """
    while True:
        library = _built(cuda, retry, say)
        forget_library()  # another builder may have put a whole one in its place
        broken = broken_library()
        if broken is None:
            return library
        say(f"{broken.path} does not load; it is built anew")
        broken.path.unlink()


def _built(cuda: CudaCompiler | None, retry: bool, say: Progress) -> Library:
    """The library that a build would give. Raises LookupError: there is none yet."""
    if cuda is None:
        library = find_library()
        if library is None:
            raise LookupError
        return library
    libraries = built_libraries()
    gpus = [] if os.environ.get("TORCH_CUDA_ARCH_LIST") else gpu_capabilities()
    for library in libraries:
        if library.architectures == cuda.architectures or (gpus and all(map(library.runs_on, gpus))):
            return library
    notes = [library_folder(root, cuda.architectures) / "failed" for root in build_roots()]
    failed = next((note for note in notes if note.exists()), None)
    if libraries and failed and not retry:
        reason = failed.read_text(errors="replace").partition("\n")[0]  # behind it comes all that the compiler wrote
        say(f"{WITHOUT_CUDA}: {reason}; that was tried before, and is again by: {BUILD_COMMAND}")
        return libraries[0]
    raise LookupError


def _build(root: pathlib.Path, cuda: CudaCompiler | None, say: Progress) -> Library:
    cxx = toolchain.find_cxx()
    _max_jobs()  # or a wrong number would count as a failure of the CUDA part, which is not tried again
    for left in root.glob(f"{library_key()}.building-*"):  # by a build that was killed: we are the only one now
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f"{library_key()}.building-") as name:
        folder = pathlib.Path(name)
        if cuda is not None:
            try:
                return _build_with_cuda(root, folder, cxx, cuda, say)
            except BuildError as error:
                say(f"{WITHOUT_CUDA}: {error}")
                target = library_folder(root, cuda.architectures)
                target.mkdir(exist_ok=True)
                (target / "failed").write_text(f"{error}\n")
        present = next((library for library in built_libraries() if not library.architectures), None)
        if present is not None:
            return present
        objects = _compile(_cpu_jobs(cxx, folder), say)
        return _publish(root, toolchain.link_command(cxx, objects, folder / "linked.so"), (), say)


def _build_with_cuda(root: pathlib.Path, folder: pathlib.Path, cxx: str, cuda: CudaCompiler, say: Progress) -> Library:
    binding, kernels = CUDA_SOURCES
    jobs = {
        kernels: toolchain.nvcc_command(cuda.nvcc, cuda.architectures, folder / "kernels.o"),
        binding: toolchain.cxx_command(cxx, binding, folder / "cuda_ops.o", cuda.toolkit),
    }
    objects = _compile(jobs, say) + _compile(_cpu_jobs(cxx, folder), say)
    command = toolchain.link_command(cxx, objects, folder / "linked.so", cuda.toolkit)
    library = _publish(root, command, cuda.architectures, say)
    (library.path.parent / "failed").unlink(missing_ok=True)
    return library


def _cpu_jobs(cxx: str, folder: pathlib.Path) -> dict[str, list[str]]:
    return {name: toolchain.cxx_command(cxx, name, folder / f"{pathlib.Path(name).stem}.o") for name in CPU_SOURCES}


def _compile(jobs: dict[str, list[str]], say: Progress) -> list[pathlib.Path]:
    """Runs commands that end with `-o FILE`, as many at once as there are processors ($MAX_JOBS); returns the files."""
    with ThreadPoolExecutor(min(_max_jobs(), len(jobs))) as pool:
        runs = {pool.submit(run_compiler, command): name for name, command in jobs.items()}
        try:
            for done, run in enumerate(as_completed(runs), 1):
                run.result()
                say(f"compiled {runs[run]} ({done} of {len(runs)})")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [pathlib.Path(command[-1]) for command in jobs.values()]


def _max_jobs() -> int:
    given = os.environ.get("MAX_JOBS")
    if not given:
        return len(os.sched_getaffinity(0))
    if not given.isdecimal() or not int(given):
        raise BuildError(f"MAX_JOBS: expected a whole number of at least 1, got {given!r}")
    return int(given)


def _publish(root: pathlib.Path, link: list[str], architectures: tuple[str, ...], say: Progress) -> Library:
    """Links the library aside, loads it once in a process of its own, and puts it in its place in one step."""
    run_compiler(link)
    linked = pathlib.Path(link[-1])
    _try_out(linked, bool(architectures))
    target = library_folder(root, architectures) / f"{LIBRARY_NAME}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    with linked.open("rb") as file:
        os.fsync(file.fileno())  # or after a power failure the name may be there and the content not
    os.replace(linked, target)
    library = Library(target, architectures)
    say(f"built {target} ({library})")
    return library


TRY_OUT = """
import sys, torch
torch.ops.load_library(sys.argv[1])
for key in sys.argv[2:]:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("sparse4d::deformable_aggregation", key):
        sys.exit(f"error: the library holds no kernels for {key}")
"""


def _try_out(library: pathlib.Path, cuda: bool) -> None:
    """A library that does not load, or holds less than its name promises, is never put in its place."""
    path = os.pathsep.join(filter(None, sys.path))  # torch as this process finds it
    keys = ["CPU", "CUDA"] if cuda else ["CPU"]
    run_compiler([sys.executable, "-c", TRY_OUT, str(library), *keys], {**os.environ, "PYTHONPATH": path})


@contextlib.contextmanager
def _sole_builder(root: pathlib.Path, say: Progress) -> Iterator[None]:
    """One build at a time in a folder. The lock dies with its process, so a build that was killed blocks nobody."""
    with (root / f"{library_key()}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that builds the kernels")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            say("this file system has no locks: another process may build the same")  # harmless, libraries appear whole
        yield


def compile_cuda_kernels(
    folder: pathlib.Path, architectures: tuple[str, ...] = CUDA_ARCHITECTURES, quick: bool = False
) -> pathlib.Path:
    """Compile the CUDA kernels alone, which needs nvcc but neither a GPU nor torch with CUDA: the object file.

    quick: without optimisation, to see that the sources compile.

    Raises:
        BuildError: there is no nvcc, it failed (its output is in the message), or the folder cannot be made.
    """
    nvcc = toolchain.needed_nvcc()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(f"folder: expected one that can be made, got {folder}: {error.strerror}") from error
    target = folder / "cuda_kernels.o"
    run_compiler(toolchain.nvcc_command(nvcc, architectures, target, quick))
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if something could not be built; why is on stderr, so that `PLUGIN=$(...)` never holds it.
    The steps of the whole build are on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m cuda_ops.build",
        description="Compile the deformable aggregation kernels for the installed torch (about a minute, once). "
        "CUDA kernels are included when torch has CUDA and nvcc is found: for the GPUs of this machine, for those of "
        f"TORCH_CUDA_ARCH_LIST, or else for {', '.join(CUDA_ARCHITECTURES)} and later. Without the library everything "
        "still works, on the slower PyTorch path. The best CPU kernels that the processor runs are used, or those that "
        "the environment variable SPARSE4D_CPU_KERNELS names: generic, avx2 or avx512.",
        epilog="example: python -m cuda_ops.build --verbose",
    )
    parser.add_argument("--verbose", action="store_true", help="show all of a failing compiler's output")
    parser.add_argument(
        "--cuda-only",
        metavar="FOLDER",
        type=pathlib.Path,
        help="only compile the CUDA kernels into FOLDER, for every architecture above that nvcc knows (needs no GPU): "
        "a check",
    )
    parser.add_argument(
        ONNXRUNTIME.option,
        action="store_true",
        help="only compile a custom operator of onnxruntime, for exported steps",
    )
    parser.add_argument(
        ONNXRUNTIME.headers_option,
        metavar="FOLDER",
        type=pathlib.Path,
        help="the same, once what it takes of onnxruntime's C interface was compared with "
        f"{ONNXRUNTIME.header} in FOLDER, and what that includes",
    )
    parser.add_argument(
        TENSORRT.headers_option,
        metavar="FOLDER",
        type=pathlib.Path,
        help=f"only compile a plugin of TensorRT; FOLDER holds its header {TENSORRT.header}",
    )
    options = parser.parse_args(arguments)

    def say(text: str, file: TextIO | None = None) -> None:
        print(text if options.verbose else text.splitlines()[0], file=file, flush=True)

    wanted: list[tuple[Plugin, pathlib.Path | None]] = []
    if options.onnxruntime or options.onnxruntime_headers is not None:
        wanted.append((ONNXRUNTIME, options.onnxruntime_headers))
    if options.tensorrt_headers is not None:
        wanted.append((TENSORRT, options.tensorrt_headers))
    only_parts = bool(wanted) or options.cuda_only is not None  # in the place of the whole
    try:
        for plugin, headers in wanted:
            print(build_plugin(plugin, headers))
        if options.cuda_only is not None:
            names = toolchain.known_of(CUDA_ARCHITECTURES, toolchain.supported_by(toolchain.needed_nvcc()))
            print(f"{compile_cuda_kernels(options.cuda_only, names)} (sm_{', sm_'.join(names[:-1])}, PTX)")
        if not only_parts:
            library = build(say)
            print(f"{library.path} ({library})")
    except BuildError as error:
        say(str(error) if only_parts else f"{CANNOT_BUILD}: {error}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
