"""One browser's page: the widgets, the stage, and a thread that shows the newest moment, or the one that is asked for.

Each browser has a thread and a queue of its own, in which a new value replaces the one before that was not sent yet: a
slow browser sees fewer moments, and nobody else notices.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import numpy as np
import viser

from ..drawing import Drawing, best_first, draw, hit
from ..scene import CameraImage, Moment, Scene
from ..strip import draw_strip, looking_around
from . import texts
from .charts import Chart, drop_lines, latency_lines, rates
from .controls import Controls
from .stage import Stage

PERIOD = 0.1  # s between two moments that are drawn
CHART_PERIOD = 1.0  # s
TRAIL_SECONDS = 4.0
TILE_WH = (224, 126)  # pixels of a camera in the strip
STRIP_HEIGHT = 150  # pixels, with the panel's title
RECENT_SECONDS = 2.0  # without a set for so long there is no rate

log = logging.getLogger(__name__)


class Page:
    """See the module.

    Args:
        client: the browser.
        scene: what is shown.
    """

    def __init__(self, client: viser.ClientHandle, scene: Scene):
        self._client, self._live, self._held = client, scene, None
        self._closed = threading.Event()
        self._drawing: Drawing | None = None
        self._drawn: Any = None
        self._images: dict[str, CameraImage] = {}  # the last one of each camera: a silent one keeps its place
        self._charted = -np.inf
        self._told: int | None = None  # the track that the page tells of
        self._stage = Stage(client, client.camera, scene.cameras)
        self._lay_out(client.gui)
        client.scene.on_click()(self._on_click)
        self._thread = threading.Thread(target=self._run, name=f"page {client.client_id}", daemon=True)
        self._thread.start()

    def place_on_screen(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point of the base frame (m) is seen: 0 to 1 from the left and from the top of the scene."""
        return self._stage.on_screen(np.array(point))

    def close(self) -> None:
        """The browser is gone."""
        self._closed.set()

    def _lay_out(self, gui: viser.GuiApi) -> None:
        self._status = gui.add_html("")
        tabs = gui.add_tab_group()
        with tabs.add_tab("View"):
            self._controls = Controls(gui, self._stage.look, self._on_pause)
        with tabs.add_tab("Health"):
            self._health = gui.add_html("")
            self._rate = Chart(gui, "sets per second")
            self._latency = Chart(gui, "latency by stage, median in ms")
            self._drops = Chart(gui, "dropped since the start")
        with tabs.add_tab("Object"):
            self._track = gui.add_html("")
            self._history = Chart(gui, "speed m/s, score × 10")
            self._distance = Chart(gui, "distance m")
        self._strip_panel = gui.add_panel()
        with self._strip_panel.add_tab("Cameras"):
            blank = np.zeros((TILE_WH[1], TILE_WH[0] * len(self._live.cameras), 3), np.uint8)
            self._strip = gui.add_image(blank, format="jpeg", jpeg_quality=80)
        self._strip_panel.float(x=8, y=-8, width=920, height=STRIP_HEIGHT)

    # --------------------------------------------------------------------------------------------- what a person does

    def _on_pause(self, paused: bool) -> None:
        self._held = self._live.held() if paused else None

    def _on_click(self, event: Any) -> None:
        """In a thread of the server."""
        drawing = self._drawing
        if drawing is None:
            return
        row = hit(drawing.boxes, *self._stage.to_base(np.array(event.ray_origin), np.array(event.ray_direction)))
        self._controls.selected = None if row is None else drawing.ids[row]

    # -------------------------------------------------------------------------------------------------------- drawing

    def _run(self) -> None:
        revision = -1
        while not self._closed.is_set():
            try:
                revision = self._live.revision
                self.show()
            except Exception:  # the page of one browser; the others, and the next moment, go on
                if self._closed.is_set():
                    return
                log.exception("page %d: a moment could not be shown", self._client.client_id)
            self._closed.wait(PERIOD)
            self._live.wait_for_change(revision, PERIOD)

    def show(self) -> None:
        """Draws the moment that is asked for, if it is not the one that was drawn last."""
        scene, controls = self._held or self._live, self._controls
        time = scene.now - controls.seconds_back
        view = self._stage.camera_pose()
        asked = scene.revision, time, controls.paused, controls.choice, controls.layers, controls.follow, view
        if asked == self._drawn:
            return
        self._drawn = asked
        moment, choice = scene.moment(time), controls.choice
        self._drawing = None
        if moment.objects is not None:
            controls.offer_classes(best_first(moment.objects.boxes))
            self._drawing = draw(moment.objects.boxes, choice, scene.trails(time, TRAIL_SECONDS))
        self._stage.draw(moment, self._drawing, controls.layers, controls.follow)
        self._images |= moment.images
        cameras = looking_around(self._images, scene.cameras)
        self._strip.image = draw_strip(moment, cameras, choice, TILE_WH)
        self._tell(scene, moment)

    def _tell(self, scene: Scene, moment: Moment) -> None:
        controls, time = self._controls, moment.time
        arrivals = scene.set_times(time)
        rate = rates(arrivals)
        shown = 0 if self._drawing is None else len(self._drawing.boxes)
        newest = rate[-1] if len(rate) and arrivals[-1] > -RECENT_SECONDS else None
        self._status.content = texts.status(moment, controls.paused, controls.seconds_back, shown, newest)
        chosen = controls.selected != self._told
        if abs(time - self._charted) < CHART_PERIOD and not controls.paused and not chosen:
            return
        self._charted, self._told = time, controls.selected
        self._health.content = texts.health(moment, scene.cameras)
        self._rate.draw(arrivals, {"sets": rate})
        history = scene.health_history(time)
        self._latency.draw(*latency_lines(history))
        self._drops.draw(*drop_lines(history))
        self._tell_track(scene, moment)

    def _tell_track(self, scene: Scene, moment: Moment) -> None:
        selected, name = self._controls.selected, ""
        history = np.zeros((0, 5)) if selected is None else scene.history(selected, moment.time)
        boxes = None if moment.objects is None else moment.objects.boxes
        if boxes is not None and boxes.ids is not None:
            name = next((name for name, i in zip(boxes.names(), boxes.ids, strict=True) if i == selected), "")
        self._track.content = texts.track(selected, name, history)
        self._history.draw(history[:, 0], {"speed": history[:, 2], "score × 10": 10 * history[:, 1]})
        self._distance.draw(history[:, 0], {"distance": history[:, 3]})
