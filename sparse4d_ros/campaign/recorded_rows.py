"""Rows of the robustness sheet three ways: over the data set, by the replay of a bag, by the node over DDS.

    python -m sparse4d_ros.campaign.recorded_rows --model demo --dataroot out/world_10 --out out/recorded_rows

Each row is recorded as a bag with its fault, and that bag replayed and played to the node, with missing cameras masked.
All three are scored with the official devkit where the vehicle truly was. The node drops sets that it is too slow for:
the table counts them, and a smaller --play-rate gives it time. Of the rows `rate` take 2 and 10 Hz, whose frames
include all key frames: those between frames are empty in a recording. What is done is kept for --resume.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from sparse4d_core.atomic_write import write_json, write_text
from sparse4d_core.benchmark import machine
from sparse4d_core.command_line import OK, interrupted, refuse
from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation.robustness.recorded_faults import recordable_row
from sparse4d_core.evaluation.robustness.rows import CLEAN
from sparse4d_core.evaluation.run_folder import begin_folder
from sparse4d_core.evaluation.scored_model import add_model_and_data, scored_settings, trained_weights

from ..bags.box_record import read_box_record
from ..bags.submission import write_results
from ..demo.node_run import play_to_node
from ..demo.programs import DemoError, Processes
from ..middleware import NoDomainError, claimed_domain
from ..ros_arguments import parameter_words

PROGRAM = "python -m sparse4d_ros.campaign.recorded_rows"
ROWS = ("camera_gone_cam_back", "images_lost_20_percent", "camera_stamps_10_ms", "ego_stamps_100_ms", "rate_10_hz")
WAYS = ("data set", "replay", "node")


@dataclass(frozen=True)
class Score:
    """What one way gave."""

    nds: float
    map: float
    amota: float | None = None  # of a model with track ids

    def cell(self) -> str:
        """NDS, mAP and AMOTA."""
        return " · ".join("–" if value is None else f"{value:.3f}" for value in (self.nds, self.map, self.amota))


@dataclass(frozen=True)
class RecordedRow:
    """A row of the table."""

    scores: dict[str, Score]  # way -> score
    replayed: int  # sets with results
    published: int

    @staticmethod
    def read(path: Path) -> RecordedRow:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {way: Score(**score) for way, score in content.pop("scores").items()}
        return RecordedRow(scores, **content)


class RecordedRows:
    """Makes bags of a data set's rows, and runs them.

    Args:
        options: of the command line.
        checkpoint: the weights.
        processes: environment and logs of the programs.
    """

    def __init__(self, options: argparse.Namespace, checkpoint: Path, processes: Processes):
        self._options, self._processes, self._out = options, processes, options.out
        self._checkpoint = checkpoint
        self._tracks = preset(options.model).tracking
        self._data = ["--dataroot", options.dataroot, "--version", options.version]
        # Of the node and of the replay alike.
        self._parameters = {
            "missing_camera": "mask",
            "sync_slop": options.sync_slop,
            "temporal_stride": options.temporal_stride,
            "scene_reset": "clean",  # over the data set each scene begins with an empty memory
        }

    def sheet(self, rows: Sequence[str]) -> dict[str, Score]:
        """The rows over the data set.

        Raises:
            DemoError: the sheet failed.
        """
        folder = self._out / "sheet"
        words = ["--model", self._options.model, "--checkpoint", self._checkpoint, *self._data, "--rows", *rows]
        words += ["--temporal-stride", self._options.temporal_stride, "--out", folder, "--resume"]
        self._processes.run("sheet", "sparse4d_core.evaluation.robustness", *words)
        found = json.loads((folder / "sheet.json").read_text(encoding="utf-8"))["rows"]
        return {name: Score(one["nds"], one["map"], one["amota"]) for name, one in found.items()}

    def measure(self, row: str, from_data: Score) -> RecordedRow:
        """The row's bag, replayed and played; what was measured before is read.

        Raises:
            DemoError: a program failed.
        """
        folder = self._out / "rows" / row
        done = folder / "row.json"
        if done.is_file():
            return RecordedRow.read(done)
        folder.mkdir(parents=True, exist_ok=True)
        bag = self._bag(row)
        replayed, published = folder / "replay.jsonl", folder / "node.jsonl"
        self._replay(bag, replayed)
        self._play(bag, published)
        counts = [sum(1 for _ in read_box_record(record)) for record in (replayed, published)]
        # Where the poses of the bag are late, the vehicle's true ones are those of the clean bag.
        truth = self._bag(CLEAN) if row.startswith("ego_stamps") else bag
        scores = [self._score(record, truth) for record in (replayed, published)]
        found = RecordedRow(dict(zip(WAYS, (from_data, *scores), strict=True)), *counts)
        write_json(done, asdict(found), indent=1)
        return found

    def _bag(self, row: str) -> Path:
        bag = self._out / "bags" / row
        if not bag.exists():
            bag.parent.mkdir(parents=True, exist_ok=True)
            key_frames = [] if row.startswith("rate") else ["--keyframes-only"]
            words = [*self._data, "--fault", row, *key_frames, "--out", bag]
            self._processes.run("convert", "sparse4d_ros.nuscenes_to_rosbag", *words)
        return bag

    def _replay(self, bag: Path, record: Path) -> None:
        words = ["--model", self._options.model, "--checkpoint", self._checkpoint, "--record", record]
        for name, value in self._parameters.items():
            words += [f"--{name.replace('_', '-')}", value]
        self._processes.run("replay", "sparse4d_ros.replay", bag, *words)

    def _play(self, bag: Path, record: Path) -> None:
        own = {"model": self._options.model, "checkpoint": self._checkpoint, "autostart": True, "first_id": 0}
        own |= {"image_reliability": "reliable", "camera_info_reliability": "reliable", "image_queue_depth": 20}
        player = ["--wait", 120, "--rate", self._options.play_rate]
        play_to_node(
            self._processes, ["--ros-args", *parameter_words({**own, **self._parameters})], bag, record, player
        )

    def _score(self, record: Path, truth: Path) -> Score:
        results = record.with_suffix(".results.json")
        tracking = record.with_suffix(".tracking.json") if self._tracks else None
        write_results(read_box_record(record), truth, results, tracking)
        from sparse4d_core.evaluation.devkit_scores import evaluate  # the devkit, which --help does not need

        found = evaluate(self._options.dataroot, self._options.version, results, tracking)
        return Score(found.detection.nds, found.detection.map, found.tracking.amota if found.tracking else None)


def table(rows: dict[str, RecordedRow]) -> str:
    """The rows as Markdown."""
    lines = [
        "| row | data set: NDS · mAP · AMOTA | replay | node over DDS | sets of the replay, of the node |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cells = " | ".join(row.scores[way].cell() for way in WAYS)
        lines.append(f"| `{name}` | {cells} | {row.replayed}, {row.published} |")
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_and_data(parser, "data set in nuScenes format, with the frames between key frames for rows of a rate")
    add = parser.add_argument
    add("--rows", nargs="+", default=[CLEAN, *ROWS], metavar="ROW", help="names (default: %(default)s)")
    add("--out", type=Path, required=True, help="folder of sheet, bags, records and the table")
    add("--resume", action="store_true", help="go on with what --out contains")
    add("--temporal-stride", type=float, default=0.5, help="seconds; see the node's parameter (default %(default)s)")
    add("--sync-slop", type=float, default=0.09, help="seconds; see the node's parameter (default %(default)s)")
    add("--play-rate", type=float, default=1.0, help="of the bags to the node (default %(default)s, as recorded)")
    parser.set_defaults(no_tracking=False)  # for the settings that all tables of scores have
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, RecordedRow]:
    """All rows, by name; the table lies in the folder.

    Raises:
        DemoError: a program failed.
        NoDomainError: no ROS domain is free.
        ValueError, OSError: an option or input that cannot be used.
    """
    data = NuScenesDataset(options.dataroot, options.version)
    for row in options.rows:
        recordable_row(row, data.camera_names)
    checkpoint = trained_weights(options).resolve()
    settings = scored_settings(options, checkpoint, data)
    settings |= {"temporal_stride": options.temporal_stride, "sync_slop": options.sync_slop}
    begin_folder(options.out / "settings.json", "table", settings, options.resume)
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with claimed_domain() as domain:
        rows = RecordedRows(options, checkpoint, Processes(logs, domain))
        from_data = rows.sheet(options.rows)
        bar = tqdm(options.rows, desc="rows", unit="row", file=sys.stderr, disable=None)
        found = {row: rows.measure(row, from_data[row]) for row in bar}
    result = {"hardware": machine.describe(), "settings": settings}
    result["rows"] = {name: asdict(row) for name, row in found.items()}
    write_json(options.out / "rows.json", result, indent=1)
    write_text(options.out / "rows.md", table(found) + "\n")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status: 2 for input that cannot be used, 1 if a program failed."""
    options = parse_arguments(arguments)
    try:
        print(table(run(options)))
    except (ValueError, OSError, NoDomainError) as error:
        return refuse(PROGRAM, error)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted("rows that are done are kept; go on with --resume")
    return OK


if __name__ == "__main__":
    sys.exit(main())
