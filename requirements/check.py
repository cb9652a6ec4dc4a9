"""What a virtual environment for this project needs from the machine; says how to get what is missing.

python3 requirements/check.py [--native]
"""

import os
import shutil
import subprocess
import sys
import sysconfig

ROS_MODULES = ("cv_bridge", "tf2_msgs.msg", "tf_transformations", "vision_msgs.msg", "visualization_msgs.msg")


def problems(native):
    """Yield one sentence for each thing that is missing; `native`: a ROS 2 installation is used."""
    version = "{}.{}".format(*sys.version_info[:2])
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        yield f"Python 3.10 to 3.12 is needed, {sys.executable} is {version}: call `make PYTHON=python3.12 ...`."
    if not importable("ensurepip"):
        yield f"Python's venv module is incomplete: `apt install python{version}-venv`."
    if not shutil.which("g++") and not shutil.which("c++"):
        yield "A C++ compiler is needed: `apt install g++`."
    if not native and not os.path.isfile(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        yield f"The headers of Python are missing: `apt install python{version}-dev`."
    for module in ROS_MODULES if native else ():
        if not importable(module):
            name = module.split(".")[0]
            distribution = os.environ.get("ROS_DISTRO", "<distro>")
            yield f"ROS package {name} is missing: `apt install ros-{distribution}-{name.replace('_', '-')}`."


def importable(module):
    """In a process of its own: a broken module may end the one that imports it."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


if __name__ == "__main__":
    found = list(problems("--native" in sys.argv[1:]))
    if found:
        sys.exit("Cannot set up the environment.\n  " + "\n  ".join(found))
