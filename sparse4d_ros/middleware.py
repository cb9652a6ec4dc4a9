"""The middleware's settings for processes that we start: a domain of their own, and room for whole images.

Variables, not arguments: rcl and Fast DDS read them when a process joins ROS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from .share import config_file

DOMAINS = range(20, 60)  # the small numbers are what people choose for their robots
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")  # Fast DDS from 3 on, before 3


class NoDomainError(RuntimeError):
    """No ROS domain can be claimed; the message has the reason."""


@contextlib.contextmanager
def claimed_domain() -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other process has claimed in this way, of whatever user; given back at the end, whatever
    happens.

    Raises:
        NoDomainError: all are taken, or another user keeps the files for himself.
    """
    folder = Path(tempfile.gettempdir()) / "sparse4d_ros_domains"
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o1777)  # for all users, whatever the umask; never of a folder that was there
    refused: OSError | None = None
    # Not the lowest first: what an ended process left in a domain has time to expire.
    start = os.getpid() % len(DOMAINS)
    for domain in [*DOMAINS[start:], *DOMAINS[:start]]:
        try:
            lock = _try_lock(folder / str(domain))
        except OSError as error:
            refused = error
            continue
        if lock is not None:
            with lock:
                yield domain
            return
    if refused is not None:
        raise NoDomainError(f"no ROS domain can be claimed: {refused}") from refused
    raise NoDomainError(f"no ROS domain left: {DOMAINS[0]} to {DOMAINS[-1]} are all claimed (files in {folder})")


def _try_lock(path: Path) -> IO[bytes] | None:
    """The locked file; None if it is taken.

    Raises:
        OSError: it can be neither read nor made.
    """
    try:
        file = path.open("rb")  # enough for a lock, and all that is allowed with another user's file
    except FileNotFoundError:
        try:
            file = path.open("xb")
        except FileExistsError:
            return None  # another process was faster
        os.fchmod(file.fileno(), 0o644)  # others have to read it, whatever the umask
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def large_messages() -> dict[str, str]:
    """Variables that give Fast DDS shared memory large enough for raw images."""
    return dict.fromkeys(PROFILE_VARIABLES, str(config_file("fastdds_shm.xml")))


def isolated(domain: int) -> dict[str, str]:
    """Variables of processes that talk to each other in one domain of this machine, and to nobody else."""
    # Humble has the older variable alone; later distributions complain about it.
    local = {"ROS_LOCALHOST_ONLY": "1"} if os.environ.get("ROS_DISTRO") == "humble" else {}
    return {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **local}


@contextlib.contextmanager
def variables(values: Mapping[str, str | None]) -> Iterator[None]:
    """Sets (or with None, removes) environment variables for this process and those started inside."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
