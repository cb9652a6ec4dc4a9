"""A machine with compilers that pretend: scripts that write down their calls and make the file they were asked for."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from cuda_ops import build, library, plugins, toolchain

CXX = """#!/bin/sh
for target; do :; done
echo "$0 $*" >> {log}
case "$*" in *-shared*) {link} ;; *) {compile} ;; esac
echo "made by $0" > "$target"
"""
NVCC = """#!/bin/sh
for target; do :; done
case "$*" in
  *--version*) echo "Cuda compilation tools, release {release}, V{release}.1" ;;
  *--list-gpu-arch*) printf 'compute_75\\ncompute_80\\ncompute_86\\ncompute_90\\n' ;;
  *--dryrun*) echo "#$ TOP={toolkit}/bin/.." >&2 ;;
  *) echo "$0 $*" >> {log}; {compile}; echo kernels > "$target" ;;
esac
"""


def _program(path: pathlib.Path, text: str) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A machine with compilers that pretend, and two folders to build in, as the package's and the user's."""

    def __init__(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.log, self.bin, self.toolkit = folder / "log", folder / "bin", folder / "toolkit"
        self.roots = [folder / "package", folder / "cache"]
        self.said: list[str] = []
        for name in ("CXX", "CUDA_HOME", "CUDA_PATH", "CUDAHOSTCXX", "TORCH_CUDA_ARCH_LIST", "MAX_JOBS"):
            monkeypatch.delenv(name, raising=False)
        for program in ("sh", "cat", "sleep", "rm"):
            self.bin.mkdir(exist_ok=True)
            (self.bin / program).symlink_to(shutil.which(program))
        monkeypatch.setenv("PATH", str(self.bin))
        for module in (build, library, plugins, toolchain):
            monkeypatch.setattr(module, "build_roots", lambda: self.roots)
        monkeypatch.setattr(build, "_try_out", lambda *_: None)
        monkeypatch.setattr(build, "broken_library", self._broken_library)
        monkeypatch.setattr(toolchain.torch.version, "cuda", None)
        self.cxx()

    @staticmethod
    def _broken_library() -> library.Library | None:
        """What was made by a compiler counts as whole; nothing of it can be loaded."""
        found = library.find_library()
        return found if found is not None and not found.path.read_text() else None

    def cxx(self, compile: str = ":", link: str = ":") -> None:
        """A C++ compiler that runs these shell commands before it writes its target."""
        _program(self.bin / "c++", CXX.format(log=self.log, compile=compile, link=link))

    def nvcc(self, compile: str = ":", release: str = "13.0", at: str = "bin/nvcc", whole: bool = True) -> None:
        """A CUDA compiler, and a torch that has CUDA."""
        self.monkeypatch.setattr(toolchain.torch.version, "cuda", "13.0")
        text = NVCC.format(log=self.log, compile=compile, release=release, toolkit=self.toolkit)
        _program(self.folder / at, text)
        (self.toolkit / "include").mkdir(parents=True, exist_ok=True)
        (self.toolkit / "include/cuda_runtime.h").touch()
        if not whole:
            (self.toolkit / "include/cuda_runtime.h").unlink()

    def build(self, **options) -> library.Library:
        return build.build(self.said.append, **options)

    def calls(self, program: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if pathlib.Path(line.split()[0]).name == program]
