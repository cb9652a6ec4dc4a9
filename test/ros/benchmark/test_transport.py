"""Six camera streams reach the synchronizer of another process without loss."""

from __future__ import annotations

import json
import shutil

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.utilities import get_rmw_implementation_identifier  # noqa: E402

from sparse4d_ros.benchmark import transport as transport_benchmark  # noqa: E402
from sparse4d_ros.benchmark.transport import CAMERAS, Case, Result, measure  # noqa: E402

NEEDED_BYTES = 512 * 2**20

pytestmark = pytest.mark.ros


@pytest.mark.skipif("fastrtps" not in get_rmw_implementation_identifier(), reason="the profile is for Fast DDS")
@pytest.mark.skipif(shutil.disk_usage("/dev/shm").free < NEEDED_BYTES, reason="/dev/shm has less than 512 MiB free")
@pytest.mark.parametrize("images, domain_id", [("raw", 61), ("compressed", 62)])
def test_nothing_is_lost_after_discovery(images, domain_id):
    result = measure(Case(images, seconds=2.0, domain_id=domain_id))
    assert result.sent == 24 * len(CAMERAS)
    assert result.lost == 0
    assert result.sets == 24
    assert 0 < result.latency_p50_ms <= result.latency_p99_ms <= result.latency_max_ms


def test_the_report_names_the_hardware_and_counts_the_loss(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(transport_benchmark, "measure", lambda case: Result(case, 720, 715, 115, 1.0, 5.0, 9.0))
    transport_benchmark.main(["--out", str(tmp_path / "new" / "transport.json")])
    report = json.loads((tmp_path / "new" / "transport.json").read_text())
    assert report["hardware"]["processor"] in capsys.readouterr().out
    assert [row["lost"] for row in report["results"]] == [5, 5, 5, 5]


def test_a_process_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match="ended early"):
        measure(Case("drawings", domain_id=63))
