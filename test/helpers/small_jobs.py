"""Jobs for the tests of workers; in a module of their own, which other processes can import."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Squares:
    """A job of numbers: 7 cannot be squared, 8 is a fault of the program, and 13 is fatal."""

    started: str = ""  # folder in which each start leaves a file

    def start(self, device):
        if self.started:
            open(os.path.join(self.started, f"{device}-{os.getpid()}"), "x").close()
        return self

    def run(self, number):
        if number == 7:
            raise ValueError("seven is no number")
        if number == 8:
            raise TypeError("a fault of the program")
        if number == 13:
            os._exit(3)
        return number * number


@dataclass(frozen=True)
class Waiting:
    """A job of numbers that are doubled when the file `go` is there; each attempt leaves a file NUMBER-PROCESS."""

    folder: pathlib.Path

    def start(self, device):
        return self

    def run(self, number):
        (self.folder / f"{number}-{os.getpid()}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return 2 * number


def die_if_child(device):
    """Takes the place of a job's `start`: ends a process that another one started for its work."""
    if multiprocessing.parent_process() is not None:
        os._exit(3)


def dying(job_class):
    """Makes jobs of this class whose workers die."""

    def make(*arguments, **named):
        job = job_class(*arguments, **named)
        object.__setattr__(job, "start", die_if_child)
        return job

    return make
