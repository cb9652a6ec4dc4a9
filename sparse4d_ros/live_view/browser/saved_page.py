"""A drive as one HTML file: opened in any browser it plays, without Python, ROS or a network.

viser records what is drawn of every set and plays it back with its own page, which is in the file. Over it lie the
cameras with the boxes in them, and the health, of the moment that is played.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import viser

from sparse4d_core.atomic_write import atomic_write

from ..drawing import Choice, draw
from ..scene import CameraImage, Moment, NothingToSaveError, Scene
from ..strip import draw_strip, looking_around
from . import texts
from .charts import rates
from .stage import LAYERS, VIEWS, Stage, Viewpoint

VIEW = "behind"  # the page is opened in it, and labels are turned to it
TRAIL_SECONDS = 4.0
STRIP_PERIOD = 0.2  # s between two strips of the cameras
TILE_WH = (224, 126)  # pixels of a camera in the strip
PICTURE_WIDTH = 208  # pixels of a camera's image in the scene
QUALITY = 80  # of JPEGs
LAST_SECONDS = 0.2  # that the last moment is shown, before the drive starts over

# Follows the time of the page's own player: the value of its slider; where there is one moment alone there is none.
OVERLAY = """
<style>
  #cameras, #words { position: fixed; z-index: 1; pointer-events: none; }
  #cameras { left: 8px; bottom: 56px; width: min(calc(100vw - 16px), 1344px); }
  #words { right: 8px; top: 8px; padding: 4px; border-radius: 4px; color: #e6e8ea; background: #141618cc; }
  #words { font-family: sans-serif; }
</style>
<div id="words"></div><img id="cameras" alt="">
<script>
(() => {
  const drive = DRIVE;
  let shown = -1;
  const follow = () => {
    const slider = document.querySelector('[role="slider"]');
    const time = slider ? Number(slider.getAttribute('aria-valuenow')) : 0;
    let at = drive.times.findLastIndex((moment) => moment <= time + 1e-6);
    at = Math.max(at, 0);
    if (at !== shown) {
      shown = at;
      document.getElementById('words').innerHTML = drive.words[at];
      document.getElementById('cameras').src = 'data:image/jpeg;base64,' + drive.strips[drive.strip_of[at]];
    }
  };
  setInterval(follow, 50);  // not with the frames: where the scene is drawn slowly the words would come late
})();
</script>
"""


@dataclass(frozen=True)
class Saved:
    """What a file holds."""

    moments: int
    seconds: float
    size: int  # bytes


def save_page(scene: Scene, path: Path, title: str = "sparse4d_ros") -> Saved:
    """Writes all that a scene holds, one moment for each set.

    Args:
        scene: does not change meanwhile.
        path: of the file; what stands there is replaced.
        title: of the page.

    Raises:
        NothingToSaveError: no set came.
        OSError: it cannot be written.
    """
    times = scene.arrivals()
    if not times:
        raise NothingToSaveError(f"{path}: not written; no set of boxes came")
    page = _Recording(scene, times).html().replace("<title>Viser</title>", f"<title>{title}</title>", 1)
    with atomic_write(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    return Saved(len(times), times[-1] - times[0], path.stat().st_size)


class _Recording:
    """The page of a scene.

    Args:
        scene: does not change any more.
        times: of its moments (s), increasing.
    """

    def __init__(self, scene: Scene, times: list[float]):
        self._scene, self._times, self._choice = scene, times, Choice()
        self._images: dict[str, CameraImage] = {}  # the last one of each camera: a silent one keeps its place
        self._words: list[str] = []
        self._strips: list[str] = []  # base64 of JPEGs
        self._strip_of: list[int] = []  # of each moment
        self._strip_at = -np.inf

    def html(self) -> str:
        """The whole file."""
        with contextlib.redirect_stdout(io.StringIO()):  # viser announces its server, which nobody is meant to visit
            server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
            try:
                page = self._record(server)
            finally:
                server.stop()
        before, body, after = page.rpartition("</body>")
        return before + self._overlay() + body + after

    def _record(self, server: viser.ViserServer) -> str:
        """viser's page with everything that is drawn."""
        server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        server.initial_camera.position, server.initial_camera.look_at = VIEWS[VIEW]
        stage = Stage(server, Viewpoint.of(VIEW), self._scene.cameras, PICTURE_WIDTH)
        recorder = server.get_scene_serializer()
        lengths = [*np.diff(self._times), LAST_SECONDS if len(self._times) > 1 else 0.0]
        for time, length in zip(self._times, lengths, strict=True):
            self._show(stage, self._scene.moment(time))
            recorder.insert_sleep(float(length))
        return recorder.as_html(dark_mode=True)

    def _show(self, stage: Stage, moment: Moment) -> None:
        drawing = draw(moment.objects.boxes, self._choice, self._scene.trails(moment.time, TRAIL_SECONDS))
        stage.draw(moment, drawing, frozenset(LAYERS), follow=True)
        self._images |= moment.images
        if moment.time - self._strip_at > STRIP_PERIOD * 0.99:
            self._strip_at = moment.time
            cameras = looking_around(self._images, self._scene.cameras)
            strip = draw_strip(moment, cameras, self._choice, TILE_WH)[:, :, ::-1]
            _, data = cv2.imencode(".jpg", strip, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
            self._strips.append(base64.b64encode(data).decode())
        self._strip_of.append(len(self._strips) - 1)
        rate = rates(self._scene.set_times(moment.time))[-1]
        since = moment.time - self._times[0]
        self._words.append(texts.recorded(moment, self._scene.cameras, since, len(drawing.boxes), float(rate)))

    def _overlay(self) -> str:
        drive = {
            "times": [round(time - self._times[0], 6) for time in self._times],
            "words": self._words,
            "strip_of": self._strip_of,
            "strips": self._strips,
        }
        return OVERLAY.replace("DRIVE", json.dumps(drive, separators=(",", ":")).replace("<", "\\u003c"))
