"""Every loss has its line in the log: the first at once, its like now and then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hand_clock import Time

from sparse4d_ros.online.health import Level, Moment, SetCounts
from sparse4d_ros.online.log_throttle import REPEAT_AFTER, LogThrottle
from sparse4d_ros.online.statistics import Statistics
from sparse4d_ros.online.watch import EXPLANATIONS, FAULTS_OF_A_CAMERA, WINDOW_SECONDS, Watch
from sparse4d_ros.perception.camera_statistics import CameraStatus
from sparse4d_ros.perception.rig import Rig, parse_rig
from sparse4d_ros.perception.synchronizer import CAUSES


class Logger:
    def __init__(self):
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def logger() -> Logger:
    return Logger()


@pytest.fixture
def time() -> Time:
    return Time(0.0)


@pytest.fixture
def rig() -> Rig:
    return parse_rig({"cameras": [{"name": "front"}, {"name": "back"}]})


@pytest.fixture
def watch(rig, logger, time) -> Watch:
    return Watch(rig, LogThrottle(logger, time))


def moment(second: float, age: float = 0.1, back_drops=None, uncalibrated=(), **sets) -> Moment:
    """Active since second 0; images come all the time. back_drops: of that camera, cause -> images."""
    counts = replace(Statistics(clock=lambda: second).snapshot(), last_processed=second - 0.1)
    numbers = {"received": 0, "delivered": 0, "pending": 0, "drops": {}, "sets": {}, "missing": {}}
    front = CameraStatus(
        state="healthy", since_ns=0, reason="", offset_ns=0, rate_hz=10.0, silent_ns=round(age * 1e9), age_ns=0,
        received=9, recent_received=9, drops={}, recent_drops={}, missed=0, recent_missed=0,
    )  # fmt: skip
    cameras = {"front": front, "back": replace(front, drops=back_drops or {})}
    return Moment(counts, 0.0, SetCounts(**numbers | sets), cameras, uncalibrated)


def test_incomplete_sets_are_logged_with_the_camera_that_they_lacked(watch, logger):
    watch.look(moment(0))
    watch.look(moment(1, drops={"timeout": 5}, missing={"back": 5}))
    (line,) = logger.lines
    assert line == f"5 images dropped, timeout: {EXPLANATIONS['timeout']}; sets lacked: back 5"


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_is_logged_once_and_a_camera_s_own_with_its_name(watch, logger, cause):
    watch.look(moment(0))
    watch.look(moment(1, drops={cause: 8}, back_drops={cause: 8}))
    watch.look(moment(1.5, drops={cause: 8}, back_drops={cause: 8}))
    (line,) = logger.lines
    assert line.removeprefix("camera back: ") == f"8 images dropped, {cause}: {EXPLANATIONS[cause]}"
    assert line.startswith("camera back") == (cause in FAULTS_OF_A_CAMERA)


def test_a_camera_without_calibration_is_logged_in_time(watch, logger):
    watch.look(moment(0, uncalibrated=("back",)))
    watch.look(moment(1, uncalibrated=("back",)))
    assert logger.lines == []
    watch.look(moment(2.9, uncalibrated=("back",)))
    assert logger.lines == ["camera back: images, but no CameraInfo on /back/camera_info"]


def test_silent_cameras_are_logged(watch, logger):
    watch.look(moment(10, age=5.0))
    assert logger.lines == [f"camera {name}: no images on /{name}/image_rect/compressed" for name in ("front", "back")]


def test_health_is_about_the_window_and_recovers(watch):
    """Sets dropped in second 3 are a warning for the window's length, and none after it."""
    for second in range(3):
        watch.look(moment(second))
    levels = []
    for second in range(3, 30):
        now = moment(second, drops={"incomplete": 6})
        watch.look(now)
        levels.append(next(c.level for c in watch.health(now, {}) if c.name == "synchronization"))
    assert levels[0] == Level.WARN and levels[-1] == Level.OK
    assert levels.count(Level.WARN) == WINDOW_SECONDS
    assert levels == sorted(levels, reverse=True)


def test_every_cause_has_an_explanation():
    assert set(CAUSES) <= EXPLANATIONS.keys()


def test_a_stream_of_warnings_is_one_line_now_and_then(logger, time):
    log = LogThrottle(logger, time)
    for _ in range(100):
        log.warning("late", "too late")
        log.warning("early", "too early")
    assert logger.lines == ["too late", "too early"]
    time.now += REPEAT_AFTER
    log.warning("late", "too late")
    assert logger.lines[2:] == ["too late (and 99 times since the last such line)"]
    time.now += REPEAT_AFTER
    log.warning("late", "too late")
    assert logger.lines[3:] == ["too late"]
