"""A camera whose clock is wrong: named, left out, taken back. By a clock that is moved by hand."""

from __future__ import annotations

import pytest
from hand_clock import Time
from rig_messages import CAMERAS, MS, PERIOD, START, compressed, ego_pose, image_stamps

from sparse4d_ros.online.health import ComponentHealth, Level
from sparse4d_ros.online.statistics import Statistics

pytestmark = pytest.mark.ros
HOUR = 3600 * 10**9
BAD = "cam_back"


class Stream:
    """Sets at 10 Hz, each image arriving when it was taken."""

    def __init__(self, driver, time: Time):
        self._driver, self._time, self._start = driver, time, time.now
        self.k = 0

    def feed(self, sets: int, offset_ns: int = 0) -> None:
        """offset_ns: of one camera's clock."""
        for k in range(self.k, self.k + sets):
            for camera, stamp in image_stamps(k).items():
                self._time.now = self._start + (stamp - START) * 1e-9
                self._driver.transforms(ego_pose(stamp))
                claimed = max(0, stamp + offset_ns) if camera == BAD else stamp
                self._driver.image(camera, compressed(camera, claimed))
        self.k += sets


@pytest.fixture
def time() -> Time:
    return Time(1000.0)


@pytest.fixture
def make_stream(make_driver, time):
    def make(**parameters):
        driver = make_driver(statistics=Statistics(clock=time), **parameters).start()
        return driver, Stream(driver, time)

    return make


def component(driver, name: str) -> ComponentHealth:
    return next(c for c in driver.node.health() if c.name == name)


@pytest.mark.parametrize("policy", ["skip", "mask"])
@pytest.mark.parametrize("offset_ns", [-HOUR, -PERIOD, PERIOD, HOUR], ids=["-1 h", "-0.1 s", "+0.1 s", "+1 h"])
def test_the_camera_is_named_with_its_offset_and_taken_back(make_stream, capfd, policy, offset_ns):
    driver, stream = make_stream(missing_camera=policy)
    stream.feed(10)
    driver.node.look_after_losses()
    assert component(driver, f"camera {BAD}").level == Level.OK
    stream.feed(10, offset_ns)
    log = capfd.readouterr().err
    direction = "ahead of" if offset_ns > 0 else "behind"
    assert f"camera {BAD}: quarantined, stamps {abs(offset_ns) * 1e-9:.3f} s {direction} the other cameras" in log
    status = component(driver, f"camera {BAD}")
    assert status.level == Level.WARN and float(status.values["clock_offset_ms"]) == offset_ns / MS
    assert f"{BAD} is quarantined" in component(driver, "synchronization").message
    assert {component(driver, f"camera {c}").level for c in CAMERAS if c != BAD} == {Level.OK}
    assert driver.node.synchronizer.quarantined_cameras() == (BAD,)
    stream.feed(25)
    driver.node.look_after_losses()
    assert f"camera {BAD}: its clock agrees again, taken back" in capfd.readouterr().err
    assert component(driver, f"camera {BAD}").level == Level.OK
    masked, lost = (driver.node.synchronizer.sets[kind] for kind in ("masked", "incomplete"))
    assert masked >= 10 if policy == "mask" else lost >= 10 and not masked


def test_the_limit_is_a_parameter(make_stream):
    for limit, quarantined in ((0.05, (BAD,)), (0.3, ())):
        driver, stream = make_stream(clock_offset=limit)
        stream.feed(20, 2 * PERIOD)
        assert driver.node.synchronizer.quarantined_cameras() == quarantined


def test_stamps_of_zero_are_called_so(make_stream, capfd):
    driver, stream = make_stream(missing_camera="mask")
    stream.feed(10)
    stream.feed(10, -(2**62))
    assert f"camera {BAD}: quarantined, its stamps are zero" in capfd.readouterr().err
    assert driver.node.synchronizer.drops["no_stamp"] >= 3
    assert component(driver, f"camera {BAD}").values["quarantined"] == "yes: its stamps are zero"


def test_silence_is_noticed_where_nothing_comes(make_stream, time, capfd):
    """No callback runs then: the node asks once a second."""
    driver, stream = make_stream()
    stream.feed(3)
    for _ in range(4):
        time.now += 1.0
        driver.node.look_after_losses()
    log = capfd.readouterr().err
    assert all(f"camera {camera}: no images for 3.0 s" in log for camera in CAMERAS), log
