"""Build the interface packages of this folder into the virtual environment whose Python runs this file.

    .venv/bin/python underlay/build.py

The wheels of ROS 2 make the environment a ROS prefix (share/, lib/, the ament index); these packages join it there.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

import numpy

UNDERLAY = pathlib.Path(__file__).resolve().parent
PREFIX = pathlib.Path(sys.prefix)
PACKAGES = ("vision_msgs", "tf2_msgs", "autoware_perception_msgs")

# The wheels' exported CMake targets name header folders of the machine they were built on, or of an earlier numpy.
HEADER_FOLDERS = (
    (re.compile(r'[^;"]+/site-packages/numpy/(?:_core|core)/include'), numpy.get_include()),
    (re.compile(r'/opt/python/[^;"/]+/include/python3\.\d+'), sysconfig.get_paths()["include"]),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Example: .venv/bin/python underlay/build.py --work out/underlay",
    )
    parser.add_argument("--work", type=pathlib.Path, help="build folder to keep (default: a temporary one)")
    work = parser.parse_args().work
    check_headers()
    correct_header_folders(PREFIX / "share")
    with tempfile.TemporaryDirectory() as temporary:
        build((work or pathlib.Path(temporary)).resolve())


def check_headers() -> None:
    """The generated Python modules are C extensions."""
    header = pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(f"{header} is missing: install the headers of Python, e.g. `apt install python{version}-dev`.")


def correct_header_folders(share: pathlib.Path) -> None:
    for path in share.glob("**/cmake/*.cmake"):
        old = path.read_text()
        new = old
        for pattern, folder in HEADER_FOLDERS:
            new = pattern.sub(lambda _, folder=folder: folder, new)
        if new != old:
            path.write_text(new)


def build(work: pathlib.Path) -> None:
    # "setup" starts Python through PATH: the environment must come first there.
    environment = os.environ | {
        "VIRTUAL_ENV": str(PREFIX),
        "PATH": f"{PREFIX / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(PREFIX),
        "CMAKE_PREFIX_PATH": str(PREFIX),
        "PYTHONPATH": "",
    }
    command = [
        sys.executable, "-m", "colcon", "--log-base", str(work / "log"), "build",
        "--base-paths", *(str(UNDERLAY / name) for name in PACKAGES),
        "--build-base", str(work / "build"), "--merge-install", "--install-base", str(PREFIX),
        "--event-handlers", "console_direct-",
        "--cmake-args", "-DCMAKE_BUILD_TYPE=Release", "-DPython3_FIND_VIRTUALENV=ONLY", "-DBUILD_TESTING=OFF",
        f"-DPython3_EXECUTABLE={sys.executable}",
    ]  # fmt: skip
    subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
