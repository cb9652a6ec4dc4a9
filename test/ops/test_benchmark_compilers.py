"""The comparison of two compilers' kernels: the worker that times a build, and what is refused."""

from __future__ import annotations

import pathlib

import pytest

from cuda_ops import cpu_kernels
from cuda_ops.benchmark_compilers import DTYPES, OPERATIONS, Worker, main

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not cpu_kernels.available(), reason="no kernels are built")
def test_the_worker_times_every_call_of_the_build_in_its_folder():
    worker = Worker(ROOT)
    try:
        assert worker.kernels == cpu_kernels.available()
        times = [worker.milliseconds("generic", operation, dtype) for operation in OPERATIONS for dtype in DTYPES]
    finally:
        worker.close()
    assert len(times) == 6 and all(time > 0 for time in times)


def test_a_compiler_that_is_not_there_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--compilers", "no-such-compiler", "g++"])
    assert end.value.code == 2 and "no-such-compiler not found" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_built(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--compilers", "false", "g++", "--out", str(tmp_path)])
    assert end.value.code == 2 and f"--out: expected a file, got the folder {tmp_path}" in capsys.readouterr().err


def test_a_compiler_that_fails_is_named(tmp_path, capsys):
    assert main(["--compilers", "false", "g++", "--out", str(tmp_path / "results/compilers.json")]) == 1
    assert "false cannot build the kernels" in capsys.readouterr().err
    assert (tmp_path / "results").is_dir(), "or the result would have no place after all turns"


def test_a_path_is_relative_to_where_the_command_was_called(tmp_path, monkeypatch, capsys):
    program = tmp_path / "my-compiler"
    program.write_text("#!/bin/sh\necho 'error: of my own' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert main(["--compilers", "./my-compiler", "g++"]) == 1
    assert "error: of my own" in capsys.readouterr().err
