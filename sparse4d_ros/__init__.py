"""Sparse4D as a ROS 2 node, and its tools for bags."""

import os

import sparse4d_core  # noqa: F401  (Ctrl-C while anything large is loaded)

# Threads of torch that wait for each other sleep instead of spinning: beside other busy processes (middleware, players)
# spinning halves what they all get. Read when torch is loaded, so it must be set before that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
