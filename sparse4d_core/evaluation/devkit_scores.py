"""Scores of nuScenes submissions by the official devkit: detection (NDS, mAP) and tracking (AMOTA, AMOTP, IDS).

Any scenes of any data set in nuScenes format can be scored, whole splits and single scenes alike. Neither lidar files
nor maps need be there. Samples of these scenes for which the submission holds nothing count as samples without
detections; how many there were is part of the scores.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

from ..atomic_write import write_json
from ..data.nuscenes.tables import DETECTION_NAMES, DatasetError, load_scenes
from ..types import CLASS_NAMES
from .results import TRACKED_CLASSES

SPLIT = "scored"
_WORST_AMOTP = 2.0  # m, what the devkit gives a class of which nothing was found
_TP_ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


@dataclass(frozen=True)
class DetectionScores:
    nds: float  # nuScenes detection score, 0 to 1
    map: float  # mean average precision over classes and distances of 0.5, 1, 2, 4 m
    errors: dict[str, float]  # of true positives: mATE (m), mASE (1 - IoU), mAOE (rad), mAVE (m/s), mAAE (1 - accuracy)
    class_ap: dict[str, float]


@dataclass(frozen=True)
class TrackingScores:
    amota: float  # average multi-object tracking accuracy, 0 to 1
    amotp: float  # m, average precision (lower is better)
    ids: int  # identity switches
    mota: float
    recall: float
    class_amota: dict[str, float | None]  # None: the class does not occur


@dataclass(frozen=True)
class Scores:
    detection: DetectionScores
    tracking: TrackingScores | None  # None: not submitted, or no annotation of a tracked class to score against
    scenes: tuple[str, ...]
    samples: int
    missing_samples: int  # of `samples`, those the submission does not hold
    meta: dict[str, Any] = field(default_factory=dict)  # of the submission

    def table(self) -> str:
        """The scores as lines of text."""
        found = self.detection
        lines = [
            f"NDS {found.nds:.4f}   mAP {found.map:.4f}   "
            + "   ".join(f"{k} {v:.3f}" for k, v in found.errors.items())
        ]
        if self.tracking:
            t = self.tracking
            lines.append(
                f"AMOTA {t.amota:.4f}   AMOTP {t.amotp:.3f}   IDS {t.ids}   MOTA {t.mota:.4f}   recall {t.recall:.4f}"
            )
        lines += ["", f"{'class':<22}{'AP':>8}{'AMOTA':>8}"]
        for name in CLASS_NAMES:
            amota = self.tracking.class_amota.get(name) if self.tracking else None
            lines.append(f"{name:<22}{found.class_ap[name]:>8.3f}{'-' if amota is None else f'{amota:.3f}':>8}")
        lines += [
            "",
            f"{len(self.scenes)} scenes, {self.samples} samples, {self.missing_samples} of them not in the results",
        ]
        return "\n".join(lines)


def evaluate(
    dataroot: str | Path,
    version: str,
    results: str | Path,
    tracking: str | Path | None = None,
    out: str | Path | None = None,
    scenes: Sequence[str] | None = None,
    processes: int | None = None,
    progress: bool = False,
) -> Scores:
    """Score submissions.

    Args:
        results, tracking: JSON files as ResultsWriter makes them.
        out: folder for metrics.json and the devkit's own summaries; None = keep nothing.
        scenes: names or tokens; None = every scene of which the results hold a sample.
        processes: of the tracking evaluation, see `tracking_classes.py`; the scores do not depend on them.
        progress: show how far the tracking evaluation is.

    Raises:
        DatasetError: tables are missing, a scene is unknown, there is nothing to score, or no annotation of a scored
            class to score against.
        ValueError: a submission is no nuScenes submission, has a sample twice or one that the data set does not have,
            or boxes of classes that the devkit does not score.
        ChildProcessError: a process of the tracking evaluation died.
    """
    dataroot = Path(dataroot)
    submissions = {
        name: read_submission(Path(p)) for name, p in (("detection", results), ("tracking", tracking)) if p is not None
    }
    names, samples, annotated = _choose_scenes(dataroot, version, submissions["detection"]["results"], scenes)
    with tempfile.TemporaryDirectory() as scratch:
        view = evaluation_view(dataroot.resolve(), version, names, Path(scratch))
        folder = view / "metrics" if out is None else Path(out)
        files = {}
        for name, submission in submissions.items():
            boxes = {token: submission["results"].get(token, []) for token in samples}
            _check_classes(name, boxes)
            files[name] = view / f"{name}.json"
            write_json(files[name], {"meta": submission["meta"], "results": boxes})
            if not any(boxes.values()):
                files[name] = None
        scores = Scores(
            detection=_score_detection(view, version, files["detection"], folder / "detection"),
            tracking=_score_tracking(view, version, files["tracking"], folder / "tracking", processes, progress)
            if tracking and not annotated.isdisjoint(TRACKED_CLASSES)
            else None,
            scenes=names,
            samples=len(samples),
            missing_samples=sum(token not in submissions["detection"]["results"] for token in samples),
            meta=submissions["detection"]["meta"],
        )
    if out is not None:
        content = asdict(scores)
        if tracking is None:  # null would tell that there was nothing to score against
            del content["tracking"]
        write_json(Path(out) / "metrics.json", content)
    return scores


def read_submission(path: Path) -> dict[str, Any]:
    """A submission with its `meta` and `results`.

    Raises:
        ValueError: no such file, no submission, or a sample twice.
    """
    try:
        submission = json.loads(path.read_text(), object_pairs_hook=_once)
    except FileNotFoundError:
        raise ValueError(f"results: no file {path}") from None
    except _Twice as error:
        raise ValueError(f"results: {path} has {error} twice; every sample is scored once") from None
    except ValueError as error:
        raise ValueError(f"results: {path} is not valid JSON ({error}): is the file complete?") from error
    if not isinstance(submission, dict) or not {"meta", "results"} <= submission.keys():
        raise ValueError(f"results: {path} has no 'meta' and 'results'; expected a nuScenes submission")
    return submission


def _check_classes(name: str, boxes: dict[str, list[dict[str, Any]]]) -> None:
    """The devkit would end in an assertion that names no class."""
    scored = {"detection": CLASS_NAMES, "tracking": TRACKED_CLASSES}[name]
    named = {str(box.get(f"{name}_name")) for group in boxes.values() for box in group}
    if own := sorted(named.difference(scored)):
        raise ValueError(f"results: {name} has classes that nuScenes does not score: {', '.join(own)}")


class _Twice(Exception):
    """A name that stands twice in one object of JSON; json itself would keep the last one and be silent."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return content


def _choose_scenes(
    dataroot: Path, version: str, results: dict, scenes: Sequence[str] | None
) -> tuple[tuple[str, ...], list[str], set[str]]:
    """Scene names, the tokens of all their samples, and the scored classes that are annotated there."""
    tables = load_scenes(dataroot, version, scenes)
    tokens = {record["name"]: [s["token"] for s in tables.samples[record["token"]]] for record in tables.scenes}
    if scenes is None:
        unknown = set(results) - {token for group in tokens.values() for token in group}
        if unknown:
            raise ValueError(
                f"results: {len(unknown)} samples are not in {dataroot / version}, the first is {min(unknown)}"
            )
        tokens = {name: group for name, group in tokens.items() if any(token in results for token in group)}
    chosen = [token for group in tokens.values() for token in group]
    if not chosen:
        raise DatasetError(f"results: no sample to score; expected results for scenes of {dataroot / version}")
    if results and not any(token in results for token in chosen):
        raise DatasetError(
            f"results: none of their {len(results)} samples is of the {len(tokens)} scenes to score "
            f"({', '.join(list(tokens)[:3])}{' ...' if len(tokens) > 3 else ''}); are they of another split?"
        )
    categories = {tables.category_name(record) for token in chosen for record in tables.annotations[token]}
    annotated = {DETECTION_NAMES[name] for name in categories if name in DETECTION_NAMES}
    if not annotated:
        raise DatasetError(
            f"dataroot: the scenes {', '.join(tokens)} have no annotations of classes that nuScenes scores"
        )
    return tuple(tokens), chosen, annotated


def evaluation_view(dataroot: Path, version: str, scenes: Sequence[str], scratch: Path) -> Path:
    """A data set folder for the devkit with the same tables, a split of just these scenes, and a map that exists.

    The data set itself may be read-only; the devkit wants every map picture although scoring looks at none.
    """
    (scratch / version).mkdir()
    for table in (dataroot / version).glob("*.json"):
        if table.name not in ("splits.json", "map.json", "lidarseg.json", "panoptic.json"):
            (scratch / version / table.name).symlink_to(table)
    cv2.imwrite(str(scratch / "map.png"), np.zeros((8, 8), dtype=np.uint8))
    logs = [record["token"] for record in json.loads((dataroot / version / "log.json").read_text())]
    record = {"token": "map", "log_tokens": logs, "category": "semantic_prior", "filename": "map.png"}
    (scratch / version / "map.json").write_text(json.dumps([record]))
    (scratch / version / "splits.json").write_text(json.dumps({SPLIT: list(scenes)}))
    return scratch


@contextlib.contextmanager
def quiet(keep_errors: bool = False):
    """The devkit prints and warns (empty classes, pandas' future) what the scores contain anyway."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.nullcontext() if keep_errors else contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _score_detection(view: Path, version: str, file: Path | None, out: Path) -> DetectionScores:
    if file is None:  # the devkit cannot score a submission without a single box
        return DetectionScores(0.0, 0.0, dict.fromkeys(_TP_ERRORS.values(), 1.0), dict.fromkeys(CLASS_NAMES, 0.0))
    with quiet():
        dataset = NuScenes(version, str(view), verbose=False)
        evaluation = DetectionEval(
            dataset, config_factory("detection_cvpr_2019"), str(file), SPLIT, str(out), verbose=False
        )
        summary = evaluation.main(plot_examples=0, render_curves=False)
    return DetectionScores(
        nds=float(summary["nd_score"]),
        map=float(summary["mean_ap"]),
        errors={short: float(summary["tp_errors"][name]) for name, short in _TP_ERRORS.items()},
        class_ap={name: float(summary["mean_dist_aps"][name]) for name in CLASS_NAMES},
    )


def _score_tracking(
    view: Path, version: str, file: Path | None, out: Path, processes: int | None, progress: bool
) -> TrackingScores:
    if file is None:
        return TrackingScores(0.0, _WORST_AMOTP, 0, 0.0, 0.0, dict.fromkeys(TRACKED_CLASSES, 0.0))
    with quiet():
        from . import tracking_classes  # slow to import, and needs motmetrics

        evaluation = tracking_classes.make_evaluation(str(file), SPLIT, str(out), version, str(view))
    with quiet(keep_errors=progress):
        summary = tracking_classes.summary(evaluation, processes, progress)
    class_amota = summary["label_metrics"]["amota"]
    return TrackingScores(
        amota=float(summary["amota"]),
        amotp=float(summary["amotp"]),
        ids=int(summary["ids"]),
        mota=float(summary["mota"]),
        recall=float(summary["recall"]),
        class_amota={name: None if math.isnan(value) else float(value) for name, value in class_amota.items()},
    )
