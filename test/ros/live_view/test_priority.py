"""Whoever looks on waits, not the node."""

from __future__ import annotations

import os
import threading

import pytest

pytest.importorskip("rclpy")

from sparse4d_ros.live_view.__main__ import NICE_INCREMENT, live
from sparse4d_ros.live_view.scene import Scene
from sparse4d_ros.middleware import isolated, variables
from sparse4d_ros.perception.rig import load_rig


def test_what_the_view_computes_yields_to_the_node(ros_domain):
    rig, added = load_rig(), []

    def look() -> None:
        others, before = set(threading.enumerate()), os.getpriority(os.PRIO_PROCESS, 0)
        with variables(isolated(ros_domain)), live(Scene(rig.names), rig, "/sparse4d", []):
            (executor,) = (t for t in threading.enumerate() if t.name == "executor" and t not in others)
            server = threading.Thread(target=lambda: added.append(os.getpriority(os.PRIO_PROCESS, 0) - before))
            server.start()  # as the page's server is, after the topics
            server.join()
            added.append(os.getpriority(os.PRIO_PROCESS, executor.native_id) - before)

    viewer = threading.Thread(target=look)  # the niceness stays with its thread
    viewer.start()
    viewer.join()
    assert added == [NICE_INCREMENT, NICE_INCREMENT]
