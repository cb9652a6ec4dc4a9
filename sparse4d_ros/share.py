"""Where the package's files lie that are no code: in the source tree, or in the share folder of an installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PACKAGE = "sparse4d_ros"
PARENT = Path(__file__).resolve().parents[1]  # the source tree, or site-packages


def share_folders(package: str) -> list[Path]:
    """`share/<package>` of every ROS prefix that is sourced, and of this Python environment."""
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return [Path(prefix) / "share" / package for prefix in prefixes]


def config_file(name: str) -> Path:
    """A file of `config/`: of the source tree where the code runs from there, else of the installation.

    Raises:
        FileNotFoundError: it is in none of these folders; the message lists them.
    """
    folders = [PARENT / "config", *(folder / "config" for folder in share_folders(PACKAGE))]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{name}: not in {', '.join(map(str, folders))}; is the package installed, and its setup file sourced?"
    )
