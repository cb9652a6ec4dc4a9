"""The demo as a drive that does not end: its node, and its bag played over and over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sparse4d_core.checkpoint.published import find_weights

from ..demo.__main__ import DemoOptions, node_arguments, prepare_input, prepare_network
from ..demo.programs import Processes
from ..middleware import claimed_domain, variables

OUT = Path("out/demo")


@contextlib.contextmanager
def prepared_demo(out: Path = OUT) -> Iterator[contextlib.AbstractContextManager[None]]:
    """Renders the demo's scenes and exports its network, if they are not there; yields what runs node and player while
    its block does.

    Raises:
        DemoError: rendering failed.
        NoDomainError: no ROS domain is free.
        NoWeightsError: the demo's model has no weights.
    """
    options = DemoOptions(out=out.resolve())
    find_weights(options.model)  # before minutes of rendering
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with claimed_domain() as domain:
        processes = Processes(logs, domain)
        _, bag = prepare_input(options, processes)
        yield _drive(processes, node_arguments(options, prepare_network(options, processes)), bag)


@contextlib.contextmanager
def _drive(processes: Processes, node: list[str], bag: Path) -> Iterator[None]:
    with (
        variables(processes.middleware),
        processes.background("view_node", "sparse4d_ros.node", *node),
        processes.background("view_player", "sparse4d_ros.bag_player", bag, "--loops", 0),
    ):
        yield
