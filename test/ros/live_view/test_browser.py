"""The page in a real browser: reads it, moves it, clicks an object."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")
import browser as chromium
from live_scenes import objects, picture

from sparse4d_ros.live_view.browser.web_server import WebServer
from sparse4d_ros.live_view.health_sample import Component, HealthSample, Verdict
from sparse4d_ros.live_view.scene import Scene

pytestmark = [
    pytest.mark.skipif(chromium.CHROMIUM is None, reason="chromium is not installed: apt install chromium"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def scene() -> Scene:
    """Five seconds: a car 10 m ahead, a pedestrian of low score, a rear camera that fell silent."""
    scene = Scene(("cam_front", "cam_back"))
    sample = HealthSample({"inference": Component(Verdict.OK, "10.0 sets per second", {"rate_hz": "10.0"})})
    for tenth in range(50):
        time = tenth / 10
        rows = [(4, "car", 0.9, (10.0, 0.1 * tenth - 4.9)), (5, "pedestrian", 0.1, (5.0, 5.0))]
        scene.add_image(time, "cam_front", picture(time))
        if time < 2.0:
            scene.add_image(time, "cam_back", picture(time))
        scene.add_objects(time, objects(time, *rows))
    scene.add_health(4.9, sample)
    return scene


@pytest.fixture
def page(scene, tmp_path):
    with WebServer(scene, "127.0.0.1", 0) as server, chromium.open_page(server.url, tmp_path) as page:
        page.wait_for_text("sets/s")
        yield page
