"""Building the operator: whatever the machine lacks, there is a sentence, and never half a library.

Compilers are small scripts here that write what they were asked for, so that every way to fail can be had at once; the
real ones build the library that all other tests use, and another one at the end of this file.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

from cuda_ops import build, library, toolchain
from cuda_ops.build import BuildError
from ops.pretended_machine import Machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRY_OUT = build._try_out


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


# ---- what is built -----------------------------------------------------------------------------------------------


def test_every_step_is_reported_and_the_second_build_has_nothing_to_do(machine):
    made = machine.build()
    assert made.path.read_text().startswith("made by") and str(made) == "CPU only"
    steps = [text for text in machine.said if text.startswith("compiled ")]
    assert {text.split()[1] for text in steps} == set(build.CPU_SOURCES) and steps[-1].endswith("(5 of 5)")
    assert "without CUDA kernels: torch" in machine.said[0] and "(CPU only)" in machine.said[-1]
    calls = len(machine.calls("c++"))
    assert machine.build() == made == library.find_library() and len(machine.calls("c++")) == calls == 6


def test_no_source_needs_openmp_and_no_path_needs_ninja(machine):
    machine.build()
    assert not any("-fopenmp" in call for call in machine.calls("c++"))
    assert not (machine.bin / "ninja").exists()


def test_cuda_kernels_are_part_of_it_where_torch_and_nvcc_have_cuda(machine):
    machine.nvcc()
    made = machine.build()
    assert made.architectures == ("75", "80", "86", "90", "90ptx") and library.find_library() == made
    assert str(made) == "CPU and CUDA (sm_75, sm_80, sm_86, sm_90, PTX for 90 and later)"
    (link,) = (call for call in machine.calls("c++") if "-shared" in call)
    assert "kernels.o" in link and "cuda_ops.o" in link and "-ltorch_cuda" in link
    (call,) = machine.calls("nvcc")
    assert "-gencode=arch=compute_86,code=sm_86" in call and "-gencode=arch=compute_90,code=compute_90" in call


def test_a_toolkit_installed_later_is_used(machine):
    assert machine.build().architectures == ()
    machine.nvcc()
    assert machine.build().architectures and library.find_library().architectures


def test_a_library_with_cuda_is_kept_where_the_toolkit_is_gone(machine):
    machine.nvcc()
    made = machine.build()
    (machine.bin / "nvcc").unlink()
    machine.monkeypatch.setattr(toolchain.shutil, "which", lambda name: None)
    assert machine.build() == made


# ---- which library fits ----------------------------------------------------------------------------------------------


def test_the_key_names_torch_machine_and_sources(machine, tmp_path):
    key = library.library_key()
    assert key.startswith(f"torch{torch.__version__}-{os.uname().machine}-")
    with machine.monkeypatch.context() as patch:
        patch.setattr(library.platform, "machine", lambda: "aarch64")
        assert library.library_key() != key and "-aarch64-" in library.library_key()
    with machine.monkeypatch.context() as patch:
        patch.setattr(library.torch.version, "git_version", "another build of the same version")
        assert library.library_key() != key
    shutil.copytree(library.CSRC, tmp_path / "csrc")
    (tmp_path / "csrc/shared/storage.h").open("a").write("\n")
    machine.monkeypatch.setattr(library, "CSRC", tmp_path / "csrc")
    assert library.library_key() != key


def test_a_library_of_another_torch_or_machine_is_not_taken(machine):
    made = machine.build()
    for name in ("torch1.0-x86_64-0123456789ab-cpu", made.path.parent.name.replace(os.uname().machine, "riscv64")):
        made.path.parent.rename(machine.roots[0] / name)
        made = library.Library(machine.roots[0] / name / made.path.name)
        assert library.find_library() is None
    assert f"there are some for torch{torch.__version__}-riscv64" in library._built_for_others()


GPUS = {
    ("86", (8, 6)): True,
    ("86", (8, 9)): True,  # newer of the same family
    ("89", (8, 6)): False,
    ("80", (9, 0)): False,
    ("86", (8, 7)): False,  # Tegra
    ("87", (8, 9)): False,
    ("87", (8, 7)): True,
    ("86ptx", (12, 0)): True,
    ("120ptx", (9, 0)): False,
    ("90a", (9, 0)): True,
    ("100f", (10, 3)): False,
    ("100", (10, 3)): True,
}


@pytest.mark.parametrize(("architecture", "gpu"), GPUS)
def test_which_gpus_a_library_runs_on(architecture, gpu):
    assert library.Library(pathlib.Path("x"), (architecture,)).runs_on(gpu) is GPUS[architecture, gpu]


def test_of_several_libraries_the_one_for_the_gpus_at_hand_is_taken(machine):
    machine.nvcc()
    for listed in ("7.5", "9.0"):
        machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
        machine.build()
    for gpu in ((7, 5), (9, 0)):
        machine.monkeypatch.setattr(library, "gpu_capabilities", lambda gpu=gpu: [gpu])
        assert library.find_library().runs_on(gpu)


ALL = (*toolchain.CUDA_ARCHITECTURES, "110")


@pytest.mark.parametrize(
    ("given", "gpus", "supported", "expected"),
    [
        ("", [], ALL, (*toolchain.CUDA_ARCHITECTURES, "120ptx")),
        ("", [(8, 6), (9, 0)], ALL, ("86", "90", "90ptx")),
        ("", [(12, 1)], ("80", "90"), ("80", "90", "90ptx")),  # a GPU newer than the compiler: PTX
        ("", [], ("80", "86"), ("80", "86", "86ptx")),
        ("8.6", [(9, 0)], ALL, ("86",)),
        ("7.5;8.0 12.0+PTX", [], ALL, ("75", "80", "120", "120ptx")),
        ("5.2 9.0a", [], ALL, ("90a",)),
    ],
)
def test_architectures(monkeypatch, given, gpus, supported, expected):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    monkeypatch.setattr(toolchain, "gpu_capabilities", lambda: gpus)
    assert toolchain.architectures(supported) == expected


def test_default_architectures_are_those_in_use():
    assert toolchain.CUDA_ARCHITECTURES == ("75", "80", "86", "87", "89", "90", "100", "120")


# ---- what can be wrong with CUDA: the CPU kernels are built, and a sentence says why ---------------------------------

WRONG = {
    "no compiler": (None, "no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda; install the toolkit of CUDA 13.0"),
    "another CUDA": ({"release": "12.4"}, "nvcc is of CUDA 12.4, torch of CUDA 13.0; set CUDA_HOME"),
    "a wrapper of half a toolkit": ({"whole": False}, "has no cuda_runtime.h; set CUDA_HOME to a whole toolkit"),
    "a host compiler it refuses": (
        {"compile": "echo '#error -- unsupported GNU version!' >&2; exit 1"},
        "nvcc failed: #error -- unsupported GNU version!",
    ),
    "a compiler that dies": ({"compile": "kill -9 $$"}, "nvcc failed: without a message"),
}


@pytest.mark.parametrize("case", WRONG)
def test_without_a_working_cuda_compiler(machine, case):
    options, sentence = WRONG[case]
    machine.nvcc(**options or {})
    if options is None:
        (machine.bin / "nvcc").unlink()
        machine.monkeypatch.setattr(toolchain, "find_nvcc", lambda: None)
    made = machine.build()
    assert made.architectures == () and made.path.is_file() and library.find_library() == made
    (said,) = (text for text in machine.said if text.startswith("without CUDA kernels: "))
    assert sentence in said.splitlines()[0]


def test_an_unreadable_list_of_architectures(machine):
    machine.nvcc()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Ampere")
    assert machine.build().architectures == ()
    assert "TORCH_CUDA_ARCH_LIST: expected entries such as 8.6 or 9.0+PTX, got Ampere" in machine.said[0]


def test_a_list_of_architectures_that_leaves_out_a_gpu_at_hand(machine):
    """Built or found: what is asked for next serves that GPU no better."""
    machine.nvcc()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 8.6")
    machine.monkeypatch.setattr(build, "gpu_capabilities", lambda: [(8, 6), (9, 0)])
    for _ in range(2):
        machine.said.clear()
        assert machine.build().architectures == ("80", "86")
        assert machine.said[0].startswith("without CUDA kernels for compute capability 9.0 of this machine: ")
        assert "TORCH_CUDA_ARCH_LIST is '8.0 8.6'; add it there, or unset that" in machine.said[0]
    machine.said.clear()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0")
    machine.build()
    assert not any(text.startswith(build.WITHOUT_CUDA) for text in machine.said)


def test_a_list_of_architectures_with_one_that_nvcc_does_not_know(machine):
    machine.nvcc()
    machine.monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 12.0")
    machine.monkeypatch.setattr(build, "gpu_capabilities", lambda: [(12, 0)])
    assert machine.build().architectures == ("90",)
    assert "for compute capability 12.0 of this machine" in machine.said[0]
    assert "nvcc does not know it: install a newer CUDA toolkit" in machine.said[0]


def test_a_wrapper_outside_the_toolkit_finds_its_headers(machine):
    machine.nvcc(at="bin/nvcc")
    machine.build()
    (call,) = (call for call in machine.calls("c++") if "cuda_ops.cpp" in call)
    assert f"-isystem {machine.toolkit}/include" in call


def test_cuda_home_comes_before_path(machine):
    machine.nvcc(at="bin/nvcc", release="12.4")
    machine.nvcc(at="other/bin/nvcc")
    machine.monkeypatch.setenv("CUDA_HOME", str(machine.folder / "other"))
    assert machine.build().architectures


def test_a_failed_cuda_part_is_tried_again_by_a_person_and_not_by_a_node(machine):
    machine.nvcc(compile="echo '#error -- unsupported GNU version!' >&2; exit 1")
    machine.build()
    assert len(machine.calls("nvcc")) == 1
    machine.said.clear()
    assert machine.build(retry=False).architectures == () and len(machine.calls("nvcc")) == 1
    (said,) = machine.said
    assert said.startswith(build.WITHOUT_CUDA) and "nvcc failed: #error -- unsupported GNU version!; that was" in said
    assert said.endswith("tried before, and is again by: python -m cuda_ops.build")
    compiled = len(machine.calls("c++"))
    assert machine.build().architectures == () and len(machine.calls("nvcc")) == 2
    assert len([call for call in machine.calls("c++")[compiled:] if "cuda_ops.cpp" not in call]) == 0
    machine.nvcc()
    assert machine.build().architectures and machine.build(retry=False).architectures


# ---- the CUDA kernels alone ------------------------------------------------------------------------------------------


def test_the_cuda_kernels_alone_are_for_what_nvcc_knows(machine, capsys):
    """Whatever GPUs are at hand; a toolkit before 12.8 refuses the newest."""
    machine.nvcc()
    machine.monkeypatch.setattr(toolchain, "gpu_capabilities", lambda: [(9, 0)])
    folder = machine.folder / "made/here"
    assert build.main(["--cuda-only", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'cuda_kernels.o'} (sm_75, sm_80, sm_86, sm_90, PTX)\n"
    (call,) = machine.calls("nvcc")
    assert call.count("-gencode") == 5 and "code=compute_90" in call and "compute_100" not in call


def test_the_cuda_kernels_alone_beside_a_plugin_are_both_built(machine, capsys):
    machine.nvcc()
    assert build.main(["--onnxruntime", "--cuda-only", str(machine.folder / "made")]) == 0
    assert (machine.folder / "made/cuda_kernels.o").is_file() and len(capsys.readouterr().out.splitlines()) == 2
    assert library.find_library() is None


def test_a_folder_for_the_cuda_kernels_that_cannot_be_made(machine, capsys):
    machine.nvcc()
    assert build.main(["--cuda-only", str(machine.bin / "nvcc")]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"folder: expected one that can be made, got {machine.bin / 'nvcc'}: File exists")
    assert printed.out == ""


# ---- what can be wrong at all ----------------------------------------------------------------------------------------


def test_no_compiler(machine, capsys):
    (machine.bin / "c++").unlink()
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(c\+\+, g\+\+, clang\+\+\) on PATH; install g\+\+ 10"):
        machine.build()
    assert build.main([]) == 1
    assert "the slower PyTorch path is taken: no C++ compiler" in capsys.readouterr().err


def test_a_failing_compiler_is_quoted(machine, capsys):
    machine.cxx(compile="echo 'generic.cpp:1:2: error: expected a semicolon' >&2; exit 1")
    assert build.main([]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("c++ failed: generic.cpp:1:2: error: expected a semicolon")
    assert library.find_library() is None and not list(machine.roots[0].glob("*building*"))


def test_a_library_that_does_not_load_is_not_published(machine):
    machine.monkeypatch.setattr(build, "_try_out", TRY_OUT)
    with pytest.raises(BuildError, match="failed: .*linked.so: .*(invalid ELF header|file too short)"):
        machine.build()
    assert library.find_library() is None


def test_a_library_that_was_cut_short_is_built_anew(machine):
    made = machine.build()
    made.path.write_text("")
    assert build.missing("cpu")
    assert machine.build() == made and made.path.read_text().startswith("made by") and not build.missing("cpu")
    assert f"{made.path} does not load; it is built anew" in machine.said


def test_a_lock_file_of_somebody_else_costs_the_kernels_and_not_the_node(machine):
    (machine.roots[0] / f"{library.library_key()}.lock").mkdir(parents=True)  # root could open a file
    with pytest.raises(BuildError, match=r"package: .*\.lock"):
        machine.build()
    build.prepare("cpu", machine.said.append)
    assert "the slower PyTorch path is taken" in machine.said[-1]


@pytest.mark.parametrize("given", ["0", "-2", "many"])
def test_a_number_of_jobs_that_is_none(machine, given):
    machine.monkeypatch.setenv("MAX_JOBS", given)
    with pytest.raises(BuildError, match=f"MAX_JOBS: expected a whole number of at least 1, got '{given}'"):
        machine.build()


def test_a_number_of_jobs_that_is_none_is_no_failure_of_the_cuda_part(machine):
    machine.build()
    machine.nvcc()
    machine.monkeypatch.setenv("MAX_JOBS", "0")
    with pytest.raises(BuildError, match="MAX_JOBS"):
        machine.build()
    machine.monkeypatch.delenv("MAX_JOBS")
    assert machine.build(retry=False).architectures


def test_without_a_home_folder_the_package_has_the_library(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(library.pathlib.Path, "home", nobody)
    assert library.build_roots() == [library.CSRC.parent / "_build"]


def test_prepare_never_raises(machine):
    (machine.bin / "c++").unlink()
    machine.monkeypatch.setattr(build, "kernels_loaded", lambda device: device == "cuda:1")
    assert not build.prepare("cpu", machine.said.append) and build.prepare("cuda:1", machine.said.append)
    assert "the kernels cannot be built, the slower PyTorch path is taken: no C++ compiler" in machine.said[-1]


def test_what_is_missing_for_a_device(machine):
    """Nothing is for a GPU that is not there."""
    assert build.missing("cpu") and not build.missing("cuda:0")
    machine.monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    machine.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert build.missing("cuda") and not build.missing("cuda:1")
    machine.build()
    assert not build.missing("cpu") and build.missing("cuda:0")
    machine.nvcc()
    machine.build()
    assert not build.missing("cuda:0")
    machine.monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert build.missing("cuda:0")


def test_a_package_that_cannot_be_written_is_built_in_the_users_cache(machine):
    machine.roots[0].write_text("a file, in which nothing can be made even by root")
    made = machine.build()
    assert made.path.is_relative_to(machine.roots[1]) and library.find_library() == made
    machine.roots[1] = machine.roots[0]
    with pytest.raises(BuildError, match="no folder for the build .*make one writable, or set XDG_CACHE_HOME"):
        machine.build()


def test_a_full_disk(machine):
    usage = shutil.disk_usage(machine.folder)._replace(free=5e6)
    full = lambda path: usage if path == machine.roots[0] else usage._replace(free=1e9)  # noqa: E731
    machine.monkeypatch.setattr(build.shutil, "disk_usage", full)
    made = machine.build()
    assert made.path.is_relative_to(machine.roots[1])
    shutil.rmtree(machine.roots[1])
    machine.monkeypatch.setattr(build.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BuildError, match="5 MB free of the 100 MB that a build needs"):
        machine.build()


def test_a_disk_that_fills_up_meanwhile(machine):
    machine.cxx(link='echo "final link failed: No space left on device" >&2; exit 1')
    with pytest.raises(BuildError, match="c\\+\\+ failed: final link failed: No space left on device"):
        machine.build()
    machine.cxx()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    machine.monkeypatch.setattr(build.os, "replace", full)
    with pytest.raises(BuildError, match="No space left on device"):
        machine.build()
    assert library.find_library() is None


# ---- others at the same time -----------------------------------------------------------------------------------------


def _build_beside(results, machine):
    said = []
    made = build.build(lambda text: (said.append(text), results.put(text)))
    results.put(made.path)


@pytest.fixture
def held(machine):
    """A build in another process that has written half of the library and goes on once `go` is written to."""
    os.mkfifo(machine.folder / "half")
    os.mkfifo(machine.folder / "go")
    machine.cxx(link=f'echo half > "$target"; echo half > {machine.folder}/half; cat {machine.folder}/go > /dev/null')
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_build_beside, args=(context.SimpleQueue(), machine), daemon=True)
    process.start()
    (machine.folder / "half").read_text()  # waits for it
    yield process
    process.kill()
    process.join()
    os.close(os.open(machine.folder / "go", os.O_RDWR))  # its compiler, if that still waits


def test_half_a_library_is_never_seen(machine, held):
    assert library.find_library() is None
    (machine.folder / "go").write_text("")
    held.join()
    assert library.find_library().path.read_text().startswith("made by")


def test_of_two_builders_one_works_and_the_other_waits(machine, held):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    other = context.Process(target=_build_beside, args=(results, machine), daemon=True)
    other.start()
    assert "without CUDA" in results.get() and results.get() == "waiting for another process that builds the kernels"
    (machine.folder / "go").write_text("")
    assert results.get() == library.find_library().path
    other.join()
    assert len(machine.calls("c++")) == 6


def test_a_killed_build_leaves_nothing_in_the_way(machine, held):
    held.kill()
    held.join()
    assert list(machine.roots[0].glob("*building*"))
    machine.cxx()
    assert machine.build() == library.find_library() and not list(machine.roots[0].glob("*building*"))


# ---- the real thing --------------------------------------------------------------------------------------------------


def test_the_installed_package_holds_every_source(tmp_path):
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path]
    subprocess.run([*command, "build_py", "--build-lib", tmp_path / "lib"], cwd=ROOT, check=True, capture_output=True)
    installed = tmp_path / "lib/cuda_ops/csrc"
    names = {path.relative_to(library.CSRC) for path in library.CSRC.rglob("*") if path.is_file()}
    assert {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()} == names


def test_a_read_only_installation_finds_the_library_in_the_users_cache(tmp_path):
    package, cache = tmp_path / "site/cuda_ops", tmp_path / "cache"
    shutil.copytree(ROOT / "cuda_ops", package, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    (package / "_build").write_text("nothing can be made here")
    made = library.find_library()
    target = cache / "sparse4d_ros/cuda_ops" / made.path.parent.name / made.path.name
    target.parent.mkdir(parents=True)
    target.symlink_to(made.path)
    code = "import cuda_ops; from cuda_ops.library import _load; assert cuda_ops.kernels_loaded(); print(_load().path)"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(target), done.stderr


def test_the_command_mends_a_library_that_does_not_load(tmp_path):
    """In a copy of the package, with a compiler that copies what was built from the same sources."""
    package, whole = tmp_path / "cuda_ops", library.find_library().path
    shutil.copytree(ROOT / "cuda_ops", package, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    broken = package / "_build" / f"{library.library_key()}-cpu" / whole.name
    broken.parent.mkdir(parents=True)
    broken.touch()
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nfor target; do :; done\ncp "{whole}" "$target"\n')
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    code = "import cuda_ops; print(cuda_ops.kernels_loaded())"
    for words, expected in (
        (["-m", "cuda_ops.build"], f"{broken} does not load; it is built anew"),
        (["-c", code], "True"),
    ):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and expected in done.stdout.splitlines(), done.stdout + done.stderr


# A process with one GPU of compute capability 9.0 that is none; a build gives another copy of the library.
ONE_GPU = """
import pathlib, shutil, sys, torch
from cuda_ops import build, library, toolchain
root, present = map(pathlib.Path, sys.argv[1:3])
build.build_roots = library.build_roots = toolchain.build_roots = lambda: [root]
torch.version.cuda, torch.cuda.is_available, torch.cuda.device_count = "13.0", lambda: True, lambda: 1
torch.cuda.get_device_capability = lambda *_: (9, 0)
library.has_cuda_kernels = lambda: "cuda" in loaded[0]
loaded, load = [], torch.ops.load_library
torch.ops.load_library = lambda path: (loaded.append(pathlib.Path(path).parent.name), load(path))

def no_nvcc():
    raise toolchain.BuildError("no nvcc")

def built(root, cuda, say):
    target = library.library_folder(root, cuda.architectures) / present.name
    target.parent.mkdir()
    shutil.copy(present, target)
    return library.Library(target, cuda.architectures)

if sys.argv[3] == "nvcc":
    toolchain.cuda_compiler = lambda: toolchain.CudaCompiler("nvcc", root, ("90",))
    build._build = built
else:
    toolchain.cuda_compiler = no_nvcc
print(build.prepare("cuda:0"), *(name.removeprefix(library.library_key()) for name in loaded))
"""


@pytest.mark.parametrize(
    "present, compiler, expected",
    [("cpu", "nvcc", "True -cuda90"), ("cuda80", "nvcc", "True -cuda90"), ("cuda86", "none", "False -cuda86")],
)
def test_a_library_that_does_not_serve_the_gpu_is_not_in_the_way(tmp_path, present, compiler, expected):
    """What a process has loaded it keeps: so not the one that is to be replaced, and none is taken for another."""
    whole = library.find_library().path
    there = tmp_path / f"{library.library_key()}-{present}" / whole.name
    there.parent.mkdir()
    shutil.copy(whole, there)
    command = [sys.executable, "-c", ONE_GPU, str(tmp_path), str(there), compiler]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="needs clang++ (apt-get install clang)")
def test_clang_builds_a_library_that_computes_the_same(tmp_path):
    code = """
import sys, torch
from cuda_ops import build, cpu_kernels, kernels_loaded, library, toolchain
root = sys.argv[1]
build.build_roots = library.build_roots = toolchain.build_roots = lambda: [__import__("pathlib").Path(root)]
print(build.build().path)
assert kernels_loaded() and cpu_kernels.available()[-1] == "generic"
sys.path.insert(0, "test")
from ops.inputs import plain_arguments
from cuda_ops import deformable_aggregation, reference
for name in cpu_kernels.available():
    with cpu_kernels.using(name):
        arguments = plain_arguments(anchors=50, channels=64, dtype=torch.float64)
        result = deformable_aggregation(*arguments)
        torch.testing.assert_close(result, reference.deformable_aggregation(*arguments), rtol=1e-9, atol=1e-9)
"""
    environment = {**os.environ, "CXX": "clang++"}
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.strip()).is_relative_to(tmp_path)
