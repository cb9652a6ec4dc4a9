"""Many bags through the node's own pieces: what came out, how good it was where there is truth, and whether it passes.

    python -m sparse4d_ros.evaluate_bags bags/* --model v3_r50 --out out/fleet --criteria config/criteria_example.yaml

Every bag is a task of its own, for as many processes as are asked for. It is replayed, counted and timed; a bag with
annotations is scored by the official devkit as well. Results appear bag by bag, each when it is complete:

    OUT/BAG/boxes.jsonl      every box of every set, without loss of a digit
    OUT/BAG/measured.json    boxes and tracks a set, life of ids, drops by cause, time; scores where there is truth
    OUT/BAG/scores/          submissions and the devkit's summaries, where there is truth
    OUT/fleet.json           all of measured.json, and the bags that could not be used with the reason

Exit status 0: all bags were used, and all criteria hold. 1: a bag failed, a bag with annotations
could not be scored, or a criterion does not hold. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse4d_core.atomic_write import write_json
from sparse4d_core.command_line import FAILED, OK, interrupted, refuse
from sparse4d_core.evaluation.criteria import Criterion, cases, flat, judge, read_criteria, report
from sparse4d_core.evaluation.junit import TestCase, write_junit
from sparse4d_core.evaluation.tasks.cluster_option import RAY_NEEDS, RAY_OPTION, connect
from sparse4d_core.evaluation.tasks.local_workers import ThisMachine
from sparse4d_core.evaluation.tasks.task_run import Failure, Place

from .bags.bag_task import NOT_SCORED, BagTask
from .bags.nuscenes_messages import ANNOTATION_TOPIC
from .parameters import NodeParameters
from .replay import OVERRIDES, SWITCHES, parameters_of


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.evaluate_bags",
        description=__doc__,
        epilog=RAY_NEEDS.format(tasks="Bags", read="bags, weights, the rig file"),
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = parser.add_argument
    add("bags", nargs="+", type=Path, metavar="BAG", help="bag folders, each of another name")
    add("--out", type=Path, required=True, help="folder of the results")
    add("--resume", action="store_true", help="leave out the bags that --out has results of")
    add("--processes", type=int, metavar="N", help="bags at once, each with a model (default: 1)")
    add("--ray", metavar="ADDRESS", help=RAY_OPTION)
    add("--criteria", type=Path, metavar="FILE.yaml", help="bounds that each bag must keep")
    add("--junit", type=Path, metavar="FILE.xml", help="write the outcomes of --criteria as a JUnit file")
    add("--annotations", default=ANNOTATION_TOPIC, help="topic of the truth (default: %(default)s)")
    add("--params-file", help="ROS parameter file of the node, such as config/detector.yaml")
    for name in OVERRIDES + SWITCHES:
        field = NodeParameters.__dataclass_fields__[name]
        text = f"{field.metadata['description']} (default: {field.default!r})"
        if name in SWITCHES:
            add(f"--{name.replace('_', '-')}", action="store_true", default=None, help=text)
        else:
            choices = field.metadata["choices"] or None
            add(f"--{name.replace('_', '-')}", type=type(field.default), choices=choices, help=text)
    options = parser.parse_args(arguments)
    names = [bag.name for bag in options.bags]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        parser.error(f"bags: {', '.join(twice)}: two bags of one name; their results would lie in one folder")
    if options.processes is not None and options.processes < 1:
        parser.error(f"--processes: expected 1 or more, got {options.processes}")
    if options.junit and not options.criteria:
        parser.error("--junit: needs --criteria, whose outcomes it contains")
    return options


def results(task: BagTask, bags: Sequence[Path], place: Place) -> Iterator[tuple[Path, dict[str, Any] | str]]:
    """Each bag when it is done, and what was measured or why it could not be used.

    Raises:
        ChildProcessError: workers died or cannot start; bags that were done are kept.
    """
    if not bags:
        return
    if isinstance(place, ThisMachine) and place.processes > 1:
        task.start(place.devices[0])  # what is wrong comes to light here, in a sentence
    kept = f"bags that were done are kept in {task.out}: go on with --resume"
    with place.workers(task, kept) as workers:
        for bag in bags:
            workers.submit(bag)
        for bag, result in workers.finished():
            yield bag, result.reason if isinstance(result, Failure) else task.keep(bag, result)


def run(options: argparse.Namespace) -> int:
    """All bags; returns the exit status.

    Raises:
        ValueError, OSError: what concerns all of them: parameters, criteria, the model, the folder.
    """
    criteria = read_criteria(options.criteria) if options.criteria else []
    task = BagTask(_parameters(options), options.out, options.annotations)
    found: dict[Path, dict[str, Any] | str] = {}
    for bag in options.bags:
        before = task.done(bag)
        if before is not None and not options.resume:
            raise ValueError(f"out: {task.folder(bag)} has results; go on by --resume, or choose another folder")
        if before is not None:
            found[bag] = before
    waiting = [bag for bag in options.bags if bag not in found]
    place = _place(options, task.parameters, len(waiting))
    with tqdm(total=len(options.bags), initial=len(found), desc="bags", unit="bag", disable=None) as bar:
        for bag, result in results(task, waiting, place):
            found[bag] = result
            bar.update()
    ordered = {bag: found[bag] for bag in options.bags}
    write_json(options.out / "fleet.json", {str(bag): result for bag, result in ordered.items()}, indent=2)
    failed = _conclude(ordered, criteria, options)
    return FAILED if failed else OK


def _parameters(options: argparse.Namespace) -> NodeParameters:
    """Of the replay. Threads are part of the results, and a task of a cluster has a core unless more are asked for."""
    parameters = parameters_of(options)
    if options.ray and not parameters.torch_threads:
        return replace(parameters, torch_threads=1)
    return parameters


def _place(options: argparse.Namespace, parameters: NodeParameters, count: int) -> Place:
    """Where so many bags are run."""
    devices = [parameters.device]
    if options.ray:
        return connect(options.ray, devices, options.processes, parameters.torch_threads)
    return ThisMachine(devices, min(options.processes or 1, max(count, 1)))


def _conclude(found: dict[Path, Any], criteria: Sequence[Criterion], options: argparse.Namespace) -> int:
    """Prints a line a bag and the outcomes, writes the JUnit file; returns how much went wrong."""
    every: list[TestCase] = []
    failed = 0
    for bag, result in found.items():
        if isinstance(result, str):
            print(f"{bag}: cannot be used: {result}")
            every.append(TestCase(bag.name, "usable", "error", result))
            failed += 1
            continue
        print(summary(bag, result))
        if NOT_SCORED in result:
            every.append(TestCase(bag.name, "scored", "error", result[NOT_SCORED]))
            failed += 1
        outcomes = judge(criteria, flat(result))
        failed += sum(outcome.verdict == "fail" for outcome in outcomes)
        every += cases(bag.name, outcomes)
        if outcomes:
            print(report("", outcomes).strip("\n"))
    if options.junit:
        write_junit(options.junit, options.criteria.stem, every)
    return failed


def summary(bag: Path, measured: dict[str, Any]) -> str:
    """A bag in a line."""
    dropped, tracks = measured["dropped"]["total"], measured["tracks"]["count"]
    parts = [f"{measured['sets']} sets", f"{dropped} dropped", f"{tracks} tracks"]
    if measured["step_ms"]["median"] is not None:
        parts.append(f"{measured['step_ms']['median']:.0f} ms a set")
    if "detection" in measured:
        parts.append(f"NDS {measured['detection']['nds']:.4f}, mAP {measured['detection']['map']:.4f}")
    if measured.get("tracking") is not None:
        parts.append(f"AMOTA {measured['tracking']['amota']:.4f}, IDS {measured['tracking']['ids']}")
    if NOT_SCORED in measured:
        parts.append(f"not scored: {measured[NOT_SCORED]}")
    return f"{bag}: {'; '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 130 for Ctrl-C, beside those of the module's text."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    options = parse_arguments(arguments)
    try:
        return run(options)
    except (ValueError, OSError) as error:
        return refuse("python -m sparse4d_ros.evaluate_bags", error)
    except KeyboardInterrupt:
        return interrupted("bags that are done are kept; go on with --resume")


if __name__ == "__main__":
    sys.exit(main())
