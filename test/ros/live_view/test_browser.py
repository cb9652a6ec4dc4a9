"""The page in a real browser: reads it, moves it, clicks an object."""

from __future__ import annotations

import pytest
from patience import PATIENCE

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
    pytest.mark.slow,  # software rendering
]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Five seconds: a bus ahead, a pedestrian of low score, a rear camera that fell silent."""
    scene = Scene(("cam_front", "cam_back"))
    scene.add_health(0.0, HealthSample({"inference": Component(Verdict.OK, "10.0 sets per second <b>", {})}))
    for tenth in range(50):
        time = tenth / 10
        scene.add_image(time, "cam_front", picture(time))
        if time < 0.5:
            scene.add_image(time, "cam_back", picture(time))
        bus = (4, "bus", 0.9, (10.0, 0.0))
        scene.add_objects(time, objects(time, *[bus] * (time < 4.0), (5, "pedestrian", 0.1, (5.0, 5.0))))
    return scene


@pytest.fixture(scope="module")
def server(scene):
    with WebServer(scene, "127.0.0.1", 0) as server:
        yield server


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    with chromium.open_page(server.url, tmp_path_factory.mktemp("profile")) as page:
        page.wait_for_text("sets/s")
        yield page


def set_number(page, label: str, value: float) -> None:
    """Types into the number field beside a slider."""
    x, y = page.wait_for(
        f"(() => {{let row = [...document.querySelectorAll('label')].find(e => e.innerText.trim() === {label!r});"
        "while (row && !row.querySelector('input:not([type=hidden])')) row = row.parentElement; if (!row) return null;"
        "const r = row.querySelector('input:not([type=hidden])').getBoundingClientRect();"
        "return [r.x + r.width / 3, r.y + r.height / 2];})()"
    )
    page.click(x, y)
    page.call("Input.dispatchKeyEvent", type="keyDown", key="a", code="KeyA", modifiers=2, commands=["selectAll"])
    page.call("Input.insertText", text=str(value))
    page.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)


def test_what_comes_in_is_on_the_page(page, scene):
    page.wait_for_text("0 of 1 objects")
    assert "LIVE · 10.0 sets/s" in page.text()
    scene.add_objects(5.0, objects(5.0, (4, "bus", 0.9, (10.0, 0.0))))
    page.wait_for_text("1 of 1 objects")


def test_looking_back(page):
    page.press("Pause")
    page.wait_for_text("PAUSED, 0.0 s back")
    set_number(page, "seconds back", 2.0)
    page.wait_for_text("PAUSED, 2.0 s back")
    page.wait_for_text("1 of 2 objects")
    set_number(page, "score from", 0.05)
    page.wait_for_text("2 of 2 objects")


def test_health_tells_of_the_node_and_of_a_dead_camera(page):
    page.press("Health")
    page.wait_for_text("cam_front images come")
    page.wait_for_text("cam_back no image")
    page.wait_for_text("10.0 sets per second <b>")


def test_a_click_shows_the_history_of_an_object(page, server):
    """From behind, the bus is in the middle of the scene; beside it is nothing."""
    page.press("View")
    page.press("Go on live")
    page.wait_for_text("LIVE")
    page.press("Object")
    page.wait_for_text("Click an object")
    (shown,) = server.pages
    x, y = page.wait_for(
        "(() => {const r = document.querySelector('canvas').getBoundingClientRect(); return [r.width, r.height];})()"
    )
    place = shown.place_on_screen((10.0, 0.0, 1.0))
    page.click(place[0] * x, place[1] * y)
    page.wait_for_text("class: bus")
    assert "speed: 3.0 m/s" in page.text() and "distance: 10.0 m" in page.text()
    page.click(20, y / 2)
    page.wait_for_text("Click an object")


def test_a_second_browser_is_not_paused_and_a_closed_one_is_forgotten(page, server, tmp_path):
    page.press("View")
    page.press("Pause")
    page.wait_for_text("PAUSED")
    with chromium.open_page(server.url, tmp_path) as other:
        other.wait_for_text("LIVE")
        assert "PAUSED" in page.text() and len(server.pages) == 2
    other_gone = server.wait_for_pages(1, timeout=PATIENCE)
    assert other_gone and "PAUSED" in page.text()


def test_the_page_needs_no_network(page):
    """Everything that it loaded came from its own server."""
    names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name).join('\\n')")
    foreign = [name for name in names.splitlines() if not name.startswith(("data:", "blob:", "http://127.0.0.1"))]
    assert foreign == []
