"""config/diagnostics.yaml sorts everything that the node publishes on /diagnostics."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from patience import PATIENCE

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from sparse4d_ros.node import DetectorNode  # noqa: E402

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {"model": "demo", "diagnostics_period": 0.1}


def analyzers() -> dict[str, dict]:
    parameters = yaml.safe_load((ROOT / "config" / "diagnostics.yaml").read_text())["analyzers"]["ros__parameters"]
    return {name: value for name, value in parameters.items() if isinstance(value, dict)}


def analyzers_of(status: str) -> list[str]:
    """Names of the analyzers that take a status, as diagnostic_aggregator's GenericAnalyzer does with `contains`."""
    return [name for name, one in analyzers().items() if any(pattern in status for pattern in one["contains"])]


class Published:
    """Names of the statuses in the newest message."""

    def __init__(self, domain: int):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        overrides = [Parameter(name, value=value) for name, value in PARAMETERS.items()]
        self.node = DetectorNode(context=self.context, parameter_overrides=overrides)
        self.listener = rclpy.create_node("listener", context=self.context)
        self.listener.create_subscription(DiagnosticArray, "/diagnostics", self._store, 10)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.executor.add_node(self.listener)
        self._messages: list[DiagnosticArray] = []

    def _store(self, message: DiagnosticArray) -> None:
        self._messages.append(message)

    def names(self) -> set[str]:
        """Of the next message but one: the next may be from before."""
        self._messages.clear()
        limit = time.monotonic() + PATIENCE
        while len(self._messages) < 2:
            assert time.monotonic() < limit, "the node publishes no diagnostics"
            self.executor.spin_once(timeout_sec=0.1)
        return {status.name for status in self._messages[-1].status}

    def close(self) -> None:
        self.node.close()
        self.listener.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture(scope="module")
def published(module_domain):
    node = Published(module_domain)
    yield node
    node.close()


def test_every_status_is_sorted_and_every_analyzer_has_its_own(published):
    published.node.trigger_configure()
    inactive = published.names()
    published.node.trigger_activate()
    active = published.names()
    assert inactive < active
    found = {name: analyzers_of(name) for name in active}
    assert {name: sorted_by for name, sorted_by in found.items() if len(sorted_by) != 1} == {}
    assert {sorted_by[0] for sorted_by in found.values()} == analyzers().keys()
    always = {name for name, (analyzer,) in found.items() if not analyzers()[analyzer].get("discard_stale")}
    assert always == inactive
    assert {name for one in analyzers().values() for name in one.get("expected", ())} <= inactive
