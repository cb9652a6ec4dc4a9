"""Six camera streams reach the synchronizer of another process, and the report of it."""

from __future__ import annotations

import json
import shutil

import pytest

pytest.importorskip("rclpy")

from rclpy.utilities import get_rmw_implementation_identifier

from sparse4d_ros.benchmark.transport import Case, Result, measure, table, write_report

NEEDED_BYTES = 512 * 2**20
CAMERAS = 6

pytestmark = pytest.mark.ros


@pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="the profile is for Fast DDS")
@pytest.mark.skipif(shutil.disk_usage("/dev/shm").free < NEEDED_BYTES, reason="/dev/shm has less than 512 MiB free")
@pytest.mark.parametrize("images", ["raw", "compressed"])
def test_images_arrive_through_shared_memory(images):
    """How many, and how soon, depends on the machine and is the benchmark's to say; here: some, and all are counted."""
    result = measure(Case(images, seconds=1.0, rate=4.0))
    assert result.sent == 4 * CAMERAS
    assert 0 < result.received <= result.sent and result.lost == result.sent - result.received
    assert result.sets <= result.received / CAMERAS
    assert 0 < result.latency_p50_ms <= result.latency_p99_ms <= result.latency_max_ms < 60_000


def test_the_report_has_the_hardware_and_the_loss(tmp_path):
    results = [Result(Case("raw"), 720, 715, 115, 1.0, 5.0, 9.0), Result(Case("raw", False), 720, 720, 120, 1, 2, 3)]
    write_report(results, tmp_path / "new" / "transport.json")
    report = json.loads((tmp_path / "new" / "transport.json").read_text())
    assert report["hardware"]["processor"]
    assert [row["lost"] for row in report["results"]] == [5, 0]
    assert [row["case"]["shared_memory"] for row in report["results"]] == [True, False]
    first, second = table(results).splitlines()[2:]
    assert first == "| raw | shared memory | 715 of 720 | 5 | 115 | 1.0 / 5.0 / 9.0 ms |"
    assert "| default | 720 of 720 | 0 | 120 |" in second


def test_a_process_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match="ended early"):
        measure(Case("drawings"))
