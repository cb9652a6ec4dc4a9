"""The demo's programs as processes: one environment for all, a log file for each."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..middleware import isolated, large_messages
from ..share import PARENT

STOP_SECONDS = 20.0


def fingerprint(sources: Iterable[Path]) -> str:
    """Changes with the files' contents."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


class DemoError(RuntimeError):
    """A step of the demo failed; the message names it and its log."""


class Processes:
    """Starts programs of this package, and ends them; also where SIGTERM ends us, which interrupts as Ctrl-C does.

    Args:
        logs: folder of the log files.
        domain: ROS domain of all of them.
        large: with the transport profile for raw images.
    """

    def __init__(self, logs: Path, domain: int, large: bool = True):
        self._logs = logs
        python_path = [str(PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]  # wherever the demo is started from
        self.middleware = isolated(domain) | (large_messages() if large else {})
        self._environment = {
            **os.environ,
            **self.middleware,
            "PYTHONPATH": os.pathsep.join(python_path),
            "PYTHONUNBUFFERED": "1",
        }
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # which leaves what was started running
            signal.signal(signal.SIGTERM, signal.default_int_handler)

    def log_of(self, name: str) -> Path:
        """Where a step's output goes."""
        return self._logs / f"{name}.log"

    def run(self, name: str, module: str, *arguments: object, show: bool = False) -> None:
        """Runs `python -m module arguments` to its end; its output goes to its log file, or is shown.

        Raises:
            DemoError: it failed.
        """
        command = self._command(module, arguments)
        if show:
            done = subprocess.run(command, env=self._environment)
            where = "above"
        else:
            with self.log_of(name).open("w") as log:
                done = subprocess.run(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
            where = f"in {self.log_of(name)}"
        if done.returncode != 0:
            raise DemoError(f"{name} failed with status {done.returncode}; its output is {where}")

    @contextlib.contextmanager
    def background(self, name: str, module: str, *arguments: object) -> Iterator[subprocess.Popen]:
        """Runs it beside us; asked to end, and made to, when the block is left."""
        command = self._command(module, arguments)
        with self.log_of(name).open("w") as log:
            process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    @staticmethod
    def _command(module: str, arguments: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", module, *map(str, arguments)]
