"""Puts faults on the running node, one after another, and writes down how it bears them.

    python -m sparse4d_ros.campaign.node_faults --out out/faults
    python -m sparse4d_ros.campaign.node_faults --list
    python -m sparse4d_ros.campaign.node_faults --only "image truncated"

Node, player and recorder are processes; the cameras are published by this one. A fault is survived if the node lives on
(or ends as asked), counts the cause, logs no traceback, and gives good output again. OUT/faults.json has everything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

from tqdm import tqdm

from sparse4d_core.benchmark import machine
from sparse4d_core.command_line import interrupted

from ..middleware import claimed_domain
from ..perception.rig import load_rig
from .catalogue.clock_faults import CLOCK_FAULTS
from .catalogue.fault import Fault, Outcome, try_fault
from .catalogue.input_faults import CALIBRATION_FAULTS, IMAGE_FAULTS, TRANSFORM_FAULTS
from .catalogue.machine_faults import MACHINE_FAULTS
from .catalogue.process_faults import PROCESS_FAULTS
from .fault_table import document
from .running_system import CampaignError, RunningSystem

FAULTS = (*IMAGE_FAULTS, *CALIBRATION_FAULTS, *TRANSFORM_FAULTS, *CLOCK_FAULTS, *MACHINE_FAULTS, *PROCESS_FAULTS)
RATE = 5.0  # sets a second: a model of 100 ms keeps up
SIZE_WH = (352, 198)  # pixels
PARAMETERS = {"model": "demo", "torch_threads": 1, "diagnostics_period": 0.2}
OWN_SHARED_MEMORY = "SPARSE4D_ROS_CAMPAIGN_HAS_OWN_SHARED_MEMORY"
PRIVATE = 'mount -t tmpfs -o size=200m tmpfs /dev/shm && exec "$@"'


def run_campaign(faults: Sequence[Fault], folder: Path) -> list[Outcome]:
    """Tries all faults on one system; a node that is lost is started again for those that follow.

    Raises:
        CampaignError: the node gives no output even without a fault.
    """
    outcomes = []
    with (
        claimed_domain() as domain,
        system_of(folder, domain) as system,
        tqdm(faults, unit="fault", disable=None) as bar,
    ):
        for fault in bar:
            bar.set_description(fault.name)
            outcomes.append(try_fault(fault, system))
            if outcomes[-1].problem:
                tqdm.write(f"{fault.name}: {outcomes[-1].problem}")
                system.restart()
    return outcomes


def system_of(folder: Path, domain: int) -> RunningSystem:
    """What the faults are put on: the small model on small JPEGs."""
    return RunningSystem(folder, domain, load_rig(), RATE, SIZE_WH, PARAMETERS)


def chosen(names: Sequence[str]) -> tuple[Fault, ...]:
    """The faults of these names; all without names.

    Raises:
        ValueError: a name that none has.
    """
    known = {fault.name: fault for fault in FAULTS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"only: unknown {', '.join(unknown)}; --list has the names")
    return tuple(known[name] for name in names) or FAULTS


def with_own_shared_memory(arguments: Sequence[str]) -> None:
    """Turns into the same command with a small /dev/shm of its own, which a fault may fill; returns if it cannot.

    The process stays the same, so that signals come to who started the node.
    """
    if OWN_SHARED_MEMORY in os.environ or os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("mount")):
        return
    private = ["unshare", "--mount", "sh", "-c", PRIVATE, "sh"]
    if subprocess.run([*private, "true"], capture_output=True).returncode != 0:
        return
    command = [*private, sys.executable, "-m", "sparse4d_ros.campaign.node_faults", *arguments]
    os.execvpe(command[0], command, os.environ | {OWN_SHARED_MEMORY: "1"})


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.campaign.node_faults",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("out/faults"), help="folder of everything made (%(default)s)")
    parser.add_argument("--table", type=Path, help="write the outcomes as a Markdown document, such as docs/faults.md")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this fault; may be repeated")
    parser.add_argument("--list", action="store_true", help="list the faults, and end")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 1 if a fault was not survived, 2 for a name that none has."""
    options = parse_arguments(arguments)
    try:
        faults = chosen(options.only)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{fault.name:30} {fault.description}" for fault in faults))
        return 0
    with_own_shared_memory(sys.argv[1:] if arguments is None else arguments)
    try:
        outcomes = run_campaign(faults, options.out / "logs")
    except CampaignError as error:
        print(f"error: {error}; logs are in {options.out / 'logs'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted()
    report = {"date": date.today().isoformat(), "hardware": machine.describe(), "outcomes": list(map(asdict, outcomes))}
    (options.out / "faults.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.table:
        options.table.write_text(document(outcomes, date.today(), machine.summary()), encoding="utf-8")
    lost = [outcome for outcome in outcomes if not outcome.survived]
    skipped = [outcome for outcome in outcomes if outcome.skipped]
    print(f"{len(outcomes) - len(lost) - len(skipped)} faults survived, {len(lost)} not, {len(skipped)} not tried")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
