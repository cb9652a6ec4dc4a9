"""Runs commands of this project one after the other in one process, each as `python -m MODULE ...` would.

    python test/run_commands.py JOBS OUTCOMES

One process, because importing torch takes longer than most commands do on little data. JOBS is a JSON list of
{"name", "folder", "commands": [[word, ...], ...]}; OUTCOMES gets one line of JSON a job: its name, the exit status of
the first command that fails (else 0), and everything that was printed.
"""

from __future__ import annotations

import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence


def run_module(module: str, arguments: Sequence[str]) -> int:
    """`python -m module arguments` in this process; the exit status."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:  # what would end the process is an outcome here
        traceback.print_exc()
        return 1
    return 0


def run_command(words: Sequence[str]) -> int:
    """The exit status of one command; modules in this process, anything else in one of its own."""
    if words[0] in ("python", "python3") and words[1] == "-m":
        return run_module(words[2], words[3:])
    return subprocess.run(words).returncode


def run_job(commands: Sequence[Sequence[str]]) -> int:
    """Commands until one fails; its exit status."""
    for words in commands:
        print("$", *words, flush=True)
        status = run_command(words)
        if status:
            return status
    return 0


def captured(commands: Sequence[Sequence[str]]) -> tuple[int, str]:
    """Status and output of a job, of its subprocesses as well."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            status = run_job(commands)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for saved, number in zip(kept, (1, 2), strict=True):
                os.dup2(saved, number)
                os.close(saved)
        file.seek(0)
        return status, file.read().decode(errors="replace")


def main() -> None:
    jobs, outcomes = map(pathlib.Path, sys.argv[1:])
    environment = dict(os.environ)
    with outcomes.open("w") as file:
        for job in json.loads(jobs.read_text()):
            os.chdir(job["folder"])
            status, output = captured(job["commands"])
            print(json.dumps({"name": job["name"], "status": status, "output": output}), file=file, flush=True)
            os.environ.clear()  # what a command sets would not outlive its process
            os.environ.update(environment)


if __name__ == "__main__":
    main()
