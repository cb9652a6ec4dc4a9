"""A bag through the same synchronizer, frame builder, pipeline and output as the node, without DDS and without haste.

    python -m sparse4d_ros.replay bags/0061 --model v3_r50 --checkpoint sparse4dv3_r50.pth --out results.json

Every complete set is processed, with `--missing-camera mask` every masked one as well. `--sets FILE` takes only those
that a record lists, so that a run of the node, which drops sets when it is late, can be repeated exactly: the same sets
give the same boxes, to the last digit.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from sparse4d_core.command_line import interrupted
from sparse4d_core.config import preset
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.inference.process_settings import keep_freed_memory

from .assembly import load_pipeline
from .bags.bag_io import BagError
from .bags.box_record import BoxRecordError, BoxRecordWriter, SetRecord
from .bags.message_records import RECORDED, record_from_messages
from .bags.sets import BagFrames
from .bags.submission import write_results
from .messages.outgoing import output_messages, renumbered
from .parameters import NodeParameters, check_together
from .perception.rig import Rig, RigError, load_rig
from .perception.set_processor import FrameDropped, SetProcessor
from .perception.synchronizer import SyncedSet
from .perception.transforms import TransformError

log = logging.getLogger(__name__)


class Replay:
    """One pass over a bag.

    Attributes:
        count: sets that gave output.
        drops: cause -> sets that gave none.
        synchronizer: its counts of images.
    """

    def __init__(self, bag: str | Path, rig: Rig, pipeline: Pipeline, parameters: NodeParameters):
        self._frames = BagFrames(bag, rig, parameters)
        self._processor = SetProcessor(pipeline, self._frames.builder)
        self._score_threshold = parameters.score_threshold
        self._first_id = max(0, parameters.first_id)  # a replay is the same whenever it runs
        self.synchronizer = self._frames.synchronizer
        self.count, self.drops = 0, Counter[str]()

    def run(self, only: set[int] | None = None) -> Iterator[SetRecord]:
        """What the node would publish for every set, or for those with the stamps `only` (nanoseconds).

        Raises:
            BagError: the bag cannot be read, or lacks the rig's topics.
        """
        try:
            for synced in self._frames.sets():
                if only is None or synced.stamp_ns in only:
                    record = self._process(synced)
                    if record is not None:
                        self.count += 1
                        yield record
        finally:
            self._processor.close()

    def _process(self, synced: SyncedSet) -> SetRecord | None:
        try:
            done = self._processor.process(synced)
            messages = output_messages(
                renumbered(done.result, self._first_id),
                done.status,
                self._frames.rig.frames,
                self._frames.buffer,
                self._score_threshold,
                wanted=RECORDED,
            )
        except (FrameDropped, TransformError) as error:
            self.drops[error.cause] += 1
            log.warning("set %d dropped: %s", synced.stamp_ns, error)
            return None
        if done.reset:
            log.info("set %d: %s; instances forgotten", synced.stamp_ns, done.reset)
        return record_from_messages(**messages)


def read_stamps(path: str | Path) -> set[int]:
    """Stamps of sets: one number a line, or a record.

    Raises:
        BoxRecordError: a line that is neither.
    """
    stamps = set()
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        try:
            stamps.add(int(json.loads(line)["stamp_ns"] if line.startswith("{") else line))
        except (ValueError, KeyError) as error:
            raise BoxRecordError(f"sets: {path}, line {number}: expected a stamp or a record ({error})") from error
    return stamps


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Values of a ROS parameter file (any node name).

    Raises:
        ValueError: not a parameter file, or a parameter that the node does not have.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"params-file: {path} is not YAML: {error}") from error
    try:
        values = {k: v for node in content.values() for k, v in node["ros__parameters"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"params-file: {path}: expected 'node: ros__parameters: ...'") from error
    known = NodeParameters.__dataclass_fields__.keys() | {"use_sim_time"}
    if unknown := values.keys() - known:
        raise ValueError(
            f"params-file: {path}: unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}"
        )
    return {name: value for name, value in values.items() if name != "use_sim_time"}


OVERRIDES = (
    "rig",
    "model",
    "checkpoint",
    "backend",
    "artefact",
    "providers",
    "device",
    "precision",
    "scene_reset",
    "temporal_stride",
    "memories",
    "missing_camera",
    "sync_slop",
    "torch_threads",
)
SWITCHES = ("allow_untrained", "compile")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_ros.replay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bag", help="bag folder")
    parser.add_argument("--out", help="detection results to write, nuScenes format (bags of nuscenes_to_rosbag)")
    parser.add_argument("--tracking-out", help="tracking results to write, nuScenes format")
    parser.add_argument("--record", help="write every box of every set, without loss of a digit (JSON lines)")
    parser.add_argument("--sets", help="process only the sets of this file: a record, or one stamp (ns) a line")
    parser.add_argument("--params-file", help="ROS parameter file of the node, such as config/detector.yaml")
    for name in OVERRIDES:
        field = NodeParameters.__dataclass_fields__[name]
        text = f"{field.metadata['description']} (default: {field.default!r})"
        kind = type(field.default)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, choices=field.metadata["choices"] or None, help=text
        )
    for name in SWITCHES:
        field = NodeParameters.__dataclass_fields__[name]
        text = field.metadata["description"]
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None, help=text)
    options = parser.parse_args(arguments)
    if not (options.out or options.tracking_out or options.record):
        parser.error("nothing to write: give --out, --tracking-out or --record")
    return options


def parameters_of(options: argparse.Namespace) -> NodeParameters:
    """Defaults of the node, then the parameter file, then the command line."""
    values = read_parameters(options.params_file) if options.params_file else {}
    values |= {name: getattr(options, name) for name in OVERRIDES + SWITCHES if getattr(options, name) is not None}
    parameters = replace(NodeParameters(), **values)
    check_together(parameters)
    return parameters


def run(options: argparse.Namespace) -> str:
    """Replay as asked; returns a sentence about the outcome."""
    parameters = parameters_of(options)
    if options.tracking_out and not preset(parameters.model).tracking:
        raise ValueError(
            f"tracking-out: model {parameters.model} gives no track ids; take a v3 preset, or leave out --tracking-out"
        )
    keep_freed_memory()
    rig = load_rig(parameters.rig)
    pipeline = load_pipeline(parameters, rig)
    replay = Replay(options.bag, rig, pipeline, parameters)
    only = read_stamps(options.sets) if options.sets else None
    records: Iterator[SetRecord] = iter(
        tqdm(replay.run(only), desc=parameters.model, unit="set", total=len(only) if only else None, disable=None)
    )
    if options.record:
        records = recorded(records, options.record)
    try:
        outcome = _consume(records, options, _notes(parameters, pipeline))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{replay.count} sets" + (f" are in {options.record}" if options.record else "")
        ) from None
    dropped = dict(replay.drops + replay.synchronizer.drops)
    dropped_text = f"; dropped {dropped}" if dropped else ""
    return f"{replay.count} sets{outcome}{dropped_text}" + ("" if pipeline.trained else "; weights are UNTRAINED")


def recorded(records: Iterator[SetRecord], path: str | Path) -> Iterator[SetRecord]:
    """Writes records to a file as they pass by, so that none has to be kept."""
    first = next(records, None)  # a bag that cannot be used does not cost the file of an earlier run
    with BoxRecordWriter(path) as file:
        for record in chain([] if first is None else [first], records):
            file.write(record)
            yield record


def _consume(records: Iterator[SetRecord], options: argparse.Namespace, notes: dict[str, str]) -> str:
    """Runs through the records, and writes the results asked for; what to say about them."""
    if options.out or options.tracking_out:
        return "; " + write_results(records, options.bag, options.out, options.tracking_out, notes)
    deque(records, maxlen=0)
    return ""


def _notes(parameters: NodeParameters, pipeline: Pipeline) -> dict[str, str]:
    """Where results come from, for their meta."""
    weights = "trained" if pipeline.trained else "untrained"
    return {
        "model": parameters.model,
        "weights": weights,
        "scene_reset": parameters.scene_reset,
        "backend": pipeline.backend,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        print(run(parse_arguments(arguments)))
    except (BagError, BoxRecordError, RigError, TransformError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        return interrupted(str(interrupt) or "nothing was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
