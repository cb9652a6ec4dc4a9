"""The node's health ► diagnostic_msgs/DiagnosticArray."""

from __future__ import annotations

from collections.abc import Iterable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from .health import ComponentHealth, Level

LEVELS = {Level.OK: DiagnosticStatus.OK, Level.WARN: DiagnosticStatus.WARN, Level.ERROR: DiagnosticStatus.ERROR}


def to_diagnostics(
    components: Iterable[ComponentHealth], node_name: str, hardware_id: str, header: Header
) -> DiagnosticArray:
    """One status a component, named `node_name: component`."""
    return DiagnosticArray(
        header=header,
        status=[
            DiagnosticStatus(
                level=LEVELS[component.level],
                name=f"{node_name}: {component.name}",
                message=component.message,
                hardware_id=hardware_id,
                values=[KeyValue(key=key, value=str(value)) for key, value in component.values.items()],
            )
            for component in components
        ],
    )
