"""The compiled kernels: where they lie, which library fits torch and this machine, and whether it is in use."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import pathlib
import platform
from dataclasses import dataclass

import torch

_log = logging.getLogger(__name__)

CSRC = pathlib.Path(__file__).resolve().parent / "csrc"
LIBRARY_NAME = "sparse4d_ops"
BUILD_COMMAND = "python -m cuda_ops.build"
SOURCE_FOLDERS = ("cpu", "cuda", "shared", "torch")  # of csrc; the others are for other runtimes (plugins.py)

_TEGRA = ("72", "87", "101", "110")  # machine code of these does not run on other GPUs, nor that of others on these
_PTX = "ptx"


@dataclass(frozen=True)
class Library:
    """A built library.

    architectures: compute capabilities of the CUDA kernels, as in ("80", "86", "86ptx"): machine code for 8.0 and 8.6,
    and PTX that drivers translate for 8.6 and later. Empty: there are no CUDA kernels in it.
    """

    path: pathlib.Path | None  # None: loaded by another program
    architectures: tuple[str, ...] = ()

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether the CUDA kernels run on GPUs of this compute capability."""
        return any(_runs_on(architecture, capability) for architecture in self.architectures)

    def __str__(self) -> str:
        machine_code = [f"sm_{a}" for a in self.architectures if not a.endswith(_PTX)]
        ptx = [f"PTX for {a.removesuffix(_PTX)} and later" for a in self.architectures if a.endswith(_PTX)]
        return f"CPU and CUDA ({', '.join(machine_code + ptx)})" if self.architectures else "CPU only"


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    major, minor = capability
    device = f"{major}{minor}"
    if architecture.endswith(_PTX):
        return int(architecture.removesuffix(_PTX)) <= int(device)
    if architecture.rstrip("af") == device:
        return True
    if not architecture.isdigit() or device in _TEGRA or architecture in _TEGRA:
        return False
    return int(architecture[:-1]) == major and int(architecture[-1]) <= minor


def source_files() -> list[pathlib.Path]:
    """The C++ and CUDA sources of the library for torch, in a fixed order."""
    return sorted(path for folder in SOURCE_FOLDERS for path in (CSRC / folder).rglob("*") if path.is_file())


def library_key() -> str:
    """Names what a library must fit: torch, the processor's architecture, and the sources' content."""
    digest = hashlib.sha256(f"{torch.version.git_version} {torch.compiled_with_cxx11_abi()}".encode())
    for path in source_files():
        digest.update(path.relative_to(CSRC).as_posix().encode() + path.read_bytes())
    return f"torch{torch.__version__}-{platform.machine()}-{digest.hexdigest()[:12]}"


def library_folder(root: pathlib.Path, architectures: tuple[str, ...]) -> pathlib.Path:
    """Where a library with CUDA kernels for these architectures lies (none: CPU only); the name says it all."""
    return root / f"{library_key()}-{'cuda' + '.'.join(architectures) if architectures else 'cpu'}"


def build_roots() -> list[pathlib.Path]:
    """Where libraries are looked for and built: the package folder, then the user's cache (read-only installations)."""
    package = CSRC.parent / "_build"
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    except RuntimeError:  # a user without an account, and without HOME
        return [package]
    return [package, cache / "sparse4d_ros" / "cuda_ops"]


def built_libraries() -> list[Library]:
    """All libraries of these sources for this torch and processor."""
    found, key = [], library_key()
    for root in build_roots():
        for path in sorted(root.glob(f"{key}-*/{LIBRARY_NAME}.so")):
            variant = path.parent.name.removeprefix(f"{key}-")
            found.append(Library(path, tuple(variant.removeprefix("cuda").split(".")) if variant != "cpu" else ()))
    return found


def find_library() -> Library | None:
    """The library to use: one with CUDA kernels for the GPUs at hand, else one with CUDA kernels, else any; or None."""
    libraries = built_libraries()
    with_cuda = [library for library in libraries if library.architectures]
    if len(with_cuda) > 1:
        gpus = gpu_capabilities()
        with_cuda.sort(key=lambda library: sum(not library.runs_on(gpu) for gpu in gpus))
    return next(iter(with_cuda + libraries), None)


def gpu_capabilities() -> list[tuple[int, int]]:
    """Compute capabilities of the GPUs at hand, without repetition."""
    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    return sorted({torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())})


def kernels_loaded(device: torch.device | str = "cpu") -> bool:
    """Whether the compiled operators are used for tensors on this device.

    The first call loads the library. Where there are no kernels for a device, a warning says so once and names the fix;
    its tensors take the PyTorch path.
    """
    return _usable(torch.device(device))


# What torch.compiler.assume_constant_result sets: a trace takes the answer as a constant. The decorator itself imports
# the whole compiler, seconds and dozens of modules that a program which compiles nothing can do without.
kernels_loaded._dynamo_marked_constant = True


def broken_library() -> Library | None:
    """The library that is to be used, where it does not load: cut short, or built beside a newer C++ library."""
    return find_library() if _load() is None else None


def forget_library() -> None:
    """Look again at the next call: a library has been built."""
    _load.cache_clear()
    _usable.cache_clear()


@functools.cache
def _usable(device: torch.device) -> bool:
    library = _load()
    if library is None:
        return False
    obstacle = _obstacle(library, device)
    if obstacle:
        _log.warning("deformable aggregation: %s; tensors on %s take the slow PyTorch path", obstacle, device)
    return not obstacle


def _obstacle(library: Library, device: torch.device) -> str:
    if device.type in ("cpu", "meta"):
        return ""
    if device.type != "cuda":
        return f"there are kernels for the CPU and CUDA only, not for {device.type}"
    if not has_cuda_kernels():
        cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CUDA that torch was built with"
        return f"{library.path or 'the library'} is for the CPU only; install nvcc of {cuda} and run: {BUILD_COMMAND}"
    if not torch.cuda.is_available() or not library.architectures:
        return ""  # fake tensors; or a library of unknown origin
    major, minor = torch.cuda.get_device_capability(device)
    if library.runs_on((major, minor)):
        return ""
    listed, name = os.environ.get("TORCH_CUDA_ARCH_LIST"), f"{major}.{minor}"
    left_out = listed and name not in listed
    first = f"add it to TORCH_CUDA_ARCH_LIST, which is {listed!r}, or unset that, and " if left_out else ""
    return f"{library.path} has no kernels for compute capability {name}; {first}run: {BUILD_COMMAND}"


def has_cuda_kernels() -> bool:
    """Whether the library that is loaded registered kernels for CUDA tensors."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("sparse4d::deformable_aggregation", "CUDA")


_loaded: list[Library] = []  # by this process, which keeps the first: operators cannot be registered twice


@functools.cache
def _load() -> Library | None:
    if hasattr(torch.ops.sparse4d, "deformable_aggregation"):  # before, or by another program
        return _loaded[0] if _loaded else Library(None)
    library = find_library()
    if library is None:
        _log.warning("deformable aggregation: no kernels are built for torch %s%s, using the slow PyTorch path; "
                     "build them with: %s", torch.__version__, _built_for_others(), BUILD_COMMAND)  # fmt: skip
        return None
    try:
        torch.ops.load_library(str(library.path))
    except (OSError, RuntimeError) as error:
        _log.warning("deformable aggregation: %s does not load (%s), using the slow PyTorch path; run: %s",
                      library.path, error.__cause__ or error, BUILD_COMMAND)  # fmt: skip
        return None
    _loaded.append(library)
    return library


def _built_for_others() -> str:
    """Of libraries that fit something else, what they were built for: the usual cause is a new torch."""
    names = {path.parent.name for root in build_roots() for path in root.glob(f"torch*/{LIBRARY_NAME}.so")}
    others = sorted({"-".join(name.split("-")[:2]) for name in names})
    return f" and these sources ({platform.machine()}; there are some for {', '.join(others)})" if others else ""
