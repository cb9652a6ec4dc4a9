"""A drive as one file: what is in it, and that a browser plays it."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("viser", reason="viser is not installed: requirements/view.txt")
import browser as chromium
import viser
import zstandard
from live_scenes import objects, picture

from sparse4d_core.interrupts import StopRequest
from sparse4d_ros.live_view import __main__ as live_view
from sparse4d_ros.live_view.browser.saved_page import TILE_WH, save_page
from sparse4d_ros.live_view.browser.stage import LAYERS, VIEWS, Stage, Viewpoint
from sparse4d_ros.live_view.health_sample import Component, HealthSample, Verdict
from sparse4d_ros.live_view.scene import Moment, NothingToSaveError, Scene
from sparse4d_ros.perception.rig import load_rig
from sparse4d_ros.perception.transforms import quaternion_matrix

CAMERAS = ("cam_front", "cam_back")
SETS = 30


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Three seconds: a bus that leaves after the first two, a rear camera that never sends."""
    scene = Scene(CAMERAS)
    scene.add_health(10.0, HealthSample({"inference": Component(Verdict.WARN, "slow <script>", {})}))
    for tenth in range(SETS):
        time = tenth / 10
        scene.add_image(10.0 + time, "cam_front", picture(time, shade=8 * tenth))
        scene.add_objects(10.0 + time, objects(time, *[(4, "bus", 0.9, (10.0, 0.0))] * (time < 2.0)))
    return scene


@pytest.fixture(scope="module")
def saved(scene, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "drive.html"
    report = save_page(scene, path, "a drive")
    assert (report.moments, report.seconds, report.size) == (SETS, pytest.approx(2.9), path.stat().st_size)
    return path


def drive_of(page: str) -> dict:
    """What the page shows beside the scene, by time."""
    return json.loads(re.search(r"const drive = (\{.*\});", page)[1])


def recording_of(page: str) -> dict:
    """viser's recording: size, then compressed: length of the messages, the messages, their arrays."""
    data = base64.b64decode(re.search(r'__VISER_EMBED_DATA__="([^"]*)"', page)[1])
    data = zstandard.ZstdDecompressor().decompress(data[8:], max_output_size=int.from_bytes(data[:8], "little"))
    return msgspec.msgpack.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_the_file_holds_every_set_and_the_cameras_beside_it(saved):
    page = saved.read_text()
    drive, recording = drive_of(page), recording_of(page)
    assert drive["times"] == pytest.approx(np.arange(SETS) / 10)
    assert recording["durationSeconds"] == pytest.approx(drive["times"][-1] + 0.2)
    sizes = [cv2.imdecode(np.frombuffer(base64.b64decode(strip), np.uint8), 1).shape for strip in drive["strips"]]
    assert sizes == [(TILE_WH[1], TILE_WH[0] * len(CAMERAS), 3)] * (SETS // 2)
    assert drive["strip_of"] == [moment // 2 for moment in range(SETS)]
    nodes = {message.get("name", "") for _, message in recording["messages"]}
    assert {"/vehicle/boxes", "/vehicle/labels", "/vehicle/cameras/cam_front", "/vehicle/velocities"} <= nodes
    boxes = [time for time, message in recording["messages"] if message.get("name") == "/vehicle/boxes"]
    assert min(boxes) == 0.0 and max(boxes) == pytest.approx(2.0), "hidden when the bus has left"


def test_the_words_are_of_their_moment_and_nobody_elses_html(saved):
    page = saved.read_text()
    words = drive_of(page)["words"]
    assert "1 of 1 objects" in words[0] and "0 of 0 objects" in words[-1] and "2.9 s" in words[-1]
    assert all("slow &lt;script&gt;" in text and "no image" in text for text in words)
    assert page.count("<title>a drive</title>") == 1


def test_the_file_asks_nobody(saved):
    """Neither scripts nor styles nor images of elsewhere; the compressed ones of viser are in the browser's test."""
    assert re.findall(r"""(?:src|href)=["']?(?!data:)[\w:/.]+""", saved.read_text()) == []


def test_what_cannot_be_saved_is_said_and_leaves_no_file(tmp_path):
    with pytest.raises(NothingToSaveError, match="no set of boxes came"):
        save_page(Scene(CAMERAS), tmp_path / "drive.html")
    assert list(tmp_path.iterdir()) == []


def test_a_view_from_a_place_looks_where_it_is_meant_to():
    view = Viewpoint.of("behind")
    position, look_at = map(np.array, VIEWS["behind"])
    R = quaternion_matrix(np.roll(view.wxyz, -1))[:3, :3]
    np.testing.assert_allclose(R @ [0, 0, 1], (look_at - position) / np.linalg.norm(look_at - position), atol=1e-9)
    np.testing.assert_allclose(R @ [1, 0, 0], [0, -1, 0], atol=1e-9)  # right, where the vehicle looks along +x


def test_the_ground_stands_still_where_the_vehicle_is_not_followed():
    server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        stage = Stage(server, Viewpoint.of("above"), CAMERAS)
        for ego_x in (3.0, 11.0):
            stage.draw(Moment(0.0, objects(0.0, ego_x=ego_x)), None, frozenset(LAYERS), follow=False)
        assert tuple(stage._vehicle.position) == (8.0, 0.0, 0.0)
        assert not stage._grid.name.startswith("/vehicle/"), "which would take it along"
        assert tuple(stage._grid.position) == (0.0, 0.0, 0.0)
    finally:
        server.stop()


def test_a_folder_is_no_file_to_save_to(tmp_path, capsys):
    with pytest.raises(SystemExit):
        live_view.parse_arguments(["--save", str(tmp_path)])
    assert "is a folder" in capsys.readouterr().err


def test_a_run_that_was_saved_is_not_served(scene, tmp_path, monkeypatch, capsys):
    class Recorded:
        def __init__(self, *_):
            pass

        def load(self, whole: Scene, stop: StopRequest) -> None:
            assert whole.seconds == float("inf") and not stop.requested
            whole.add_objects(5.0, objects(0.0, (4, "bus", 0.9, (10.0, 0.0))))

    monkeypatch.setattr(live_view, "RecordedSource", Recorded)
    path = tmp_path / "drive.html"
    options = live_view.parse_arguments(["--bag", "bag", "--record", "boxes.jsonl", "--save", str(path)])
    live_view.run(options, load_rig(options.rig), [], StopRequest())
    assert path.is_file() and f"{path}: 1 sets, 0.0 s" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(chromium.CHROMIUM is None, reason="chromium is not installed: apt install chromium")
def test_a_browser_plays_the_file(saved, tmp_path):
    """From the disk, without a server: it plays by itself, and shows the moment that the slider is put to."""
    with chromium.open_page(saved.as_uri(), tmp_path) as page:
        page.wait_for_text("of 1 objects")
        page.wait_for("document.getElementById('cameras').naturalWidth > 0")
        x, y = page.wait_for(
            "(() => {const r = document.querySelector('[role=slider]').parentElement.getBoundingClientRect();"
            "return [r.x + 0.9 * r.width, r.y + r.height / 2];})()"
        )
        page.click_until(x, y, "0 of 0 objects")
        assert "2.8 s" in page.text() or "2.7 s" in page.text()
        names = page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name).join('\\n')")
        assert [name for name in names.splitlines() if not name.startswith(("data:", "blob:", "file:"))] == []
