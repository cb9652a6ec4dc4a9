"""Our kernels for runtimes other than torch: a custom operator of onnxruntime, a plugin of TensorRT.

Both implement the node `sparse4d::FusedDeformableAggregation` (csrc/node/node.h); neither needs torch. That of
onnxruntime needs a compiler and nothing else: what it takes of the C interface is declared in csrc/onnxruntime. That
of TensorRT is C++ and compiled against TensorRT's headers, which no wheel carries.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import platform
import tempfile
from dataclasses import dataclass

from . import toolchain
from .library import CSRC, build_roots
from .toolchain import BuildError, run_compiler, writable_root

DOMAIN, NODE, NODE_VERSION = "sparse4d", "FusedDeformableAggregation", "1"  # as in csrc/node/node.h
FLAGS = ("-fvisibility=hidden", "-Wall")


@dataclass(frozen=True)
class Plugin:
    """A library for one runtime."""

    name: str
    headers_option: str  # of `python -m cuda_ops.build`, takes the folder of the runtime's headers
    header: str  # that must lie there
    folders: tuple[str, ...]  # of csrc, that it is made of
    sources: tuple[str, ...]
    option: str = ""  # of `python -m cuda_ops.build`, without headers; "": none builds it without
    check: str = ""  # of csrc: compares the declarations that take the place of the headers with them
    cuda: bool = False


ONNXRUNTIME = Plugin(
    "sparse4d_onnxruntime",
    "--onnxruntime-headers",
    "onnxruntime_c_api.h",
    ("cpu", "node", "onnxruntime", "shared"),
    ("onnxruntime/custom_op.cpp", "cpu/generic.cpp", "cpu/avx2.cpp", "cpu/avx512.cpp"),
    option="--onnxruntime",
    check="onnxruntime/against_headers.cpp",
)
TENSORRT = Plugin(
    "sparse4d_tensorrt",
    "--tensorrt-headers",
    "NvInferRuntime.h",
    ("cuda", "node", "shared", "tensorrt"),
    ("tensorrt/plugin.cpp",),
    cuda=True,
)


def plugin_library(plugin: Plugin) -> pathlib.Path | None:
    """The library of these sources for this processor, or None: it is not built."""
    paths = (root / _folder(plugin) / f"{plugin.name}.so" for root in build_roots())
    return next((path for path in paths if path.is_file()), None)


def build_command(plugin: Plugin) -> str:
    return f"python -m cuda_ops.build {plugin.option or f'{plugin.headers_option} FOLDER'}"


def build_plugin(plugin: Plugin, headers: pathlib.Path | None = None) -> pathlib.Path:
    """Compiles it if that is still to be done: the library. What is compiled against headers always is: they may be of
    another release, or the GPUs others than before.

    Args:
        headers: folder of the runtime's headers; for onnxruntime, they are only compared with what is declared here.

    Raises:
        BuildError: the folder does not hold them, they differ, there is no compiler, or it failed.
    """
    if headers is not None and not (headers / plugin.header).is_file():
        folder = f"{plugin.headers_option}: {headers}"
        raise BuildError(f"{folder} holds no {plugin.header}; name the folder in which it lies")
    if headers is not None and plugin.check:
        _compare(plugin, headers)
    present = None if plugin.cuda else plugin_library(plugin)
    if present is not None:
        return present
    target = writable_root() / _folder(plugin) / f"{plugin.name}.so"
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = pathlib.Path(name)
        made = _compile_cuda(plugin, headers, folder) if plugin.cuda else _compile(plugin, folder)
        os.replace(made, target)  # at once and whole, whoever else builds it
    return target


def _folder(plugin: Plugin) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for folder in plugin.folders for path in (CSRC / folder).rglob("*") if path.is_file()):
        digest.update(path.relative_to(CSRC).as_posix().encode() + path.read_bytes())
    return f"{plugin.name}-{platform.machine()}-{digest.hexdigest()[:12]}"


def _compare(plugin: Plugin, headers: pathlib.Path) -> None:
    flags = [*toolchain.CPU_FLAGS, "-fsyntax-only", "-isystem", str(headers)]
    run_compiler([toolchain.find_cxx(), *flags, str(CSRC / plugin.check), "-o", os.devnull])


def _compile(plugin: Plugin, folder: pathlib.Path) -> pathlib.Path:
    made, sources = folder / "linked.so", [str(CSRC / source) for source in plugin.sources]
    flags = [*toolchain.CPU_FLAGS, *FLAGS, "-shared"]
    run_compiler([toolchain.find_cxx(), *flags, *sources, "-o", str(made)])
    return made


def _compile_cuda(plugin: Plugin, headers: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """CUDA's run time goes into the library: it has to be found nowhere."""
    nvcc = toolchain.needed_nvcc()
    objects = [folder / "kernels.o"]
    run_compiler(toolchain.nvcc_command(nvcc, toolchain.nvcc_architectures(nvcc), objects[0]))
    includes = [word for path in (headers, *toolchain.cuda_headers(nvcc)) for word in ("-isystem", str(path))]
    for source in plugin.sources:
        objects.append(folder / f"{pathlib.Path(source).stem}.o")
        flags = [*toolchain.CPU_FLAGS, *FLAGS, *includes]
        run_compiler([toolchain.find_cxx(), *flags, "-c", str(CSRC / source), "-o", str(objects[-1])])
    made = folder / "linked.so"
    run_compiler([nvcc, "-shared", "-cudart", "static", *map(str, objects), "-o", str(made)])
    return made
