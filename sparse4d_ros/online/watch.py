"""Looks at the counters once a second: remembers them for the verdict on the node's health, and logs new losses.

Sets are given up inside the synchronizer, where nobody logs; here every cause gets its line in the log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from ..perception.rig import Rig
from .health import CALIBRATION_AFTER, ComponentHealth, Moment, assess, listed, recent, silent_cameras
from .log_throttle import LogThrottle

PERIOD = 1.0  # s
WINDOW_SECONDS = 10.0  # of the past that health is about

EXPLANATIONS = {
    "incomplete": "another camera had no image within sync_slop of theirs",
    "timeout": "another camera had no image for them within sync_timeout",
    "superseded": "newer sets were complete before the model was free; it is slower than the cameras",
    "no_camera_info": "their set was complete, but a camera's CameraInfo had not come yet",
    "duplicate_stamp": "the camera had sent this stamp already",
    "out_of_order": "older than the camera's newest image",
    "late": "their set was gone already",
    "no_stamp": "their stamp was zero",
    "clock": "their stamp lies in another time than those of the other cameras",
    "quarantined": "the camera's clock disagrees with those of the other cameras",
    "time_jump": "time went back; everything older was forgotten",
    "reset": "forgotten on request",
}
"""Why the synchronizer drops images, for the log. A cause that is not listed here is logged by its name alone."""

FAULTS_OF_A_CAMERA = ("duplicate_stamp", "out_of_order", "late", "no_stamp", "clock", "quarantined")
"""Causes that are about one camera's images: logged for each camera by itself. The others are about sets."""


class Watch:
    """Of one activation.

    Args:
        rig: its cameras, and their topics for the log.
        log: for losses.
    """

    def __init__(self, rig: Rig, log: LogThrottle):
        self._rig, self._log = rig, log
        self._moments: deque[Moment] = deque()

    def look(self, now: Moment) -> None:
        """Takes the counters in, and logs what was lost since the last look."""
        if self._moments:
            self._log_losses(now, self._moments[-1])
        self._log_absent(now)
        self._moments.append(now)
        # One moment of at least the window's age stays: what happened since then is judged.
        while len(self._moments) > 1 and now.counts.moment - self._moments[1].counts.moment >= WINDOW_SECONDS:
            self._moments.popleft()

    def health(self, now: Moment, facts: Mapping[str, Any]) -> list[ComponentHealth]:
        """The verdict on what happened in the window."""
        return assess(now, self._moments[0] if self._moments else now, self._rig.names, facts)

    def _log_losses(self, now: Moment, before: Moment) -> None:
        if now.sets is None or before.sets is None:
            return
        missing = listed("; sets lacked: ", recent(now.sets.missing, before.sets.missing))
        for cause, images in recent(now.sets.drops, before.sets.drops).items():
            if cause not in FAULTS_OF_A_CAMERA:
                named = missing if cause in ("incomplete", "timeout") else ""
                self._log.warning(f"images {cause}", f"{_lost(images, cause)}{named}")
        for camera, status in now.cameras.items():
            for cause, images in recent(status.drops, before.cameras[camera].drops).items():
                if cause in FAULTS_OF_A_CAMERA:
                    self._log.warning(f"{camera} {cause}", f"camera {camera}: {_lost(images, cause)}")

    def _log_absent(self, now: Moment) -> None:
        """Cameras that send nothing, or images alone."""
        if now.active_since is None:
            return
        silent = silent_cameras(now, self._rig.names)
        calibration_due = now.counts.moment - now.active_since > CALIBRATION_AFTER
        for camera in self._rig.cameras:
            name = camera.name
            if name in silent:
                self._log.warning(f"silent {name}", f"camera {name}: no images on {camera.image_topic}")
            elif name in now.uncalibrated and calibration_due:
                self._log.warning(
                    f"uncalibrated {name}", f"camera {name}: images, but no CameraInfo on {camera.info_topic}"
                )


def _lost(images: int, cause: str) -> str:
    return f"{images} images dropped, {cause}{f': {EXPLANATIONS[cause]}' if cause in EXPLANATIONS else ''}"
