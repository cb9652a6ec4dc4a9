"""From scores and submissions to the report's file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...atomic_write import write_text
from ...config import PRESETS
from ...data.nuscenes.dataset import NuScenesDataset
from ...types import CLASS_NAMES
from ..devkit_scores import Scores
from ..published_figures import comparison
from . import breakdown, curves
from .confidence import Interval, by_class, intervals
from .detection_matches import ERRORS, Matches, collect
from .error_pictures import ErrorPicture, pictures_of_false_positives, pictures_of_misses
from .page import Page, escape, figures, listing, note, number, table

DRAWS = 200


def write_report(
    path: Path,
    dataroot: Path,
    version: str,
    results: Path,
    scores: Scores,
    tracking_details: Path | None = None,
    against: Path | None = None,
    differences: Sequence[str] = (),
    measured: Mapping[str, Any] | None = None,
    draws: int = DRAWS,
) -> None:
    """Writes one HTML file.

    Args:
        results: detection submission that `scores` are of.
        tracking_details: metrics_details.json of the devkit's tracking evaluation.
        against: detection submission of another run over the same scenes, to compare with.
        differences: from the published protocol, a sentence each.
        measured: statistics of a bag: drops and latencies.
        draws: of the bootstrap.

    Raises:
        ValueError: a submission that cannot be used, or another run over other scenes.
    """
    data = NuScenesDataset(dataroot, version, scenes=list(scores.scenes), cache=None)
    matches = collect(dataroot, version, results, scores.scenes)
    other = None if against is None else collect(dataroot, version, against, scores.scenes)
    model = str(scores.meta.get("model", "results"))
    page = Page(
        f"{model}: NDS {scores.detection.nds:.3f}, mAP {scores.detection.map:.3f}",
        f"{len(scores.scenes)} scenes, {scores.samples} samples of {version}, {scores.missing_samples} of them not in "
        f"the results; weights: {scores.meta.get('weights', 'not named')}",
    )
    sure = intervals(matches, draws)
    _add_scores(page, model, scores, sure, differences, draws)
    if other is not None:
        _add_difference(page, intervals(matches, draws, other))
    _add_classes(page, scores, matches, sure)
    _add_tracking(page, scores, tracking_details)
    _add_breakdown(page, data, matches)
    if measured is not None:
        _add_run(page, measured)
    _add_pictures(page, data, matches, path)
    write_text(path, page.text())


def _add_scores(
    page: Page, model: str, scores: Scores, sure: Mapping[str, Interval], apart: Sequence[str], draws: int
) -> None:
    published = {}
    tracked = [] if scores.tracking is None else [("AMOTP (m)", scores.tracking.amotp), ("IDS", scores.tracking.ids)]
    if model in PRESETS:
        published = {name: value for name, _, value in comparison(PRESETS[model], scores) if value is not None}
    rows = [_score_row(name, sure[name], published.get(name)) for name in ("NDS", "mAP", *ERRORS)]
    if scores.tracking is not None:
        rows.append(["AMOTA", number(scores.tracking.amota, 4), "-", number(published.get("AMOTA"), 4)])
        rows += [[name, number(value, 0 if name == "IDS" else 3), "-", "-"] for name, value in tracked]
    parts = [
        table(["", "measured", "95 % interval", "published"], rows, strong=2),
        note(f"Intervals: {draws} bootstrap draws over scenes. Few scenes make them wide, and too narrow below ten."),
    ]
    if apart:
        parts += [note("What is not as in the published protocol:"), listing(apart)]
    page.add("Scores", *parts)


def _score_row(name: str, found: Interval, published: float | None) -> list[str]:
    return [name, number(found.value, 4), f"{found.low:.3f} to {found.high:.3f}", number(published, 4)]


def _add_difference(page: Page, found: Mapping[str, Interval]) -> None:
    rows = [(name, one.value, one.low, one.high) for name, one in found.items()]
    cells = [
        [name, f"{value:+.4f}", f"{low:+.4f} to {high:+.4f}", "yes" if low > 0 or high < 0 else "no"]
        for name, value, low, high in rows
    ]
    page.add(
        "Beside the other run",
        note("This run minus the other one on the same scenes, drawn alike. Certain: the interval is clear of 0."),
        figures(
            table(["", "difference", "95 % interval", "certain"], cells, strong=2),
            curves.interval_bars(rows, 0.0, "difference to the other run"),
        ),
    )


def _add_classes(page: Page, scores: Scores, matches: Matches, sure: Mapping[str, Interval]) -> None:
    classes = by_class(matches)
    rows = []
    for label, name in enumerate(CLASS_NAMES):
        one = sure[f"AP {name}"]
        group = breakdown.group(name, matches, matches.objects.label == label)
        amota = scores.tracking.class_amota.get(name) if scores.tracking else None
        rows.append(
            [name, group.objects, number(one.value), f"{one.low:.3f} to {one.high:.3f}", number(group.recall),
             number(group.distance_error, 2), number(group.velocity_error, 2), number(amota)]
        )  # fmt: skip
    header = ["class", "objects", "AP", "95 % interval", "found", "off by (m)", "velocity off (m/s)", "AMOTA"]
    bars = [(n, sure[f"AP {n}"].value, sure[f"AP {n}"].low, sure[f"AP {n}"].high) for n in CLASS_NAMES]
    honest = breakdown.calibration(matches)
    page.add(
        "Classes",
        table(header, rows),
        note("Found and errors: objects within 2 m of a box, whatever its score."),
        figures(
            curves.precision_recall(classes, len(matches.scenes)),
            curves.interval_bars(bars, scores.detection.map, "AP"),
        ),
        note("Precision over recall: lines within 2 m, dotted within 0.5 m. AP: the broken line is mAP."),
    )
    page.add(
        "Calibration of the scores",
        figures(curves.reliability(honest)),
        note(f"Of boxes with a score of 0.7, seven of ten should be right. Mean distance from it: {honest.error:.3f}."),
    )


def _add_tracking(page: Page, scores: Scores, details: Path | None) -> None:
    if scores.tracking is None or details is None or not details.is_file():
        return
    found = scores.tracking
    page.add(
        "Tracking",
        table(
            ["AMOTA", "AMOTP (m)", "IDS", "MOTA", "recall"],
            [[number(found.amota), number(found.amotp), found.ids, number(found.mota), number(found.recall)]],
        ),
        figures(curves.tracking_over_recall(json.loads(details.read_text()))),
        note("MOTAR is MOTA corrected for recall; its mean over all recalls, 0 where one is not reached, is AMOTA."),
    )


def _add_breakdown(page: Page, data: NuScenesDataset, matches: Matches) -> None:
    views = breakdown.camera_views(data, matches.objects)
    parts = []
    for title, groups in (
        ("by distance", breakdown.by_distance(matches)),
        ("by visibility", breakdown.by_visibility(matches)),
        ("by speed", breakdown.by_speed(matches)),
        ("by camera", breakdown.by_camera(matches, views)),
    ):
        groups = [one for one in groups if one.objects]
        if not groups:
            continue
        rows = [
            [one.name, one.objects, number(one.recall), number(one.confident / one.objects if one.objects else None),
             number(one.distance_error, 2), number(one.velocity_error, 2)]
            for one in groups
        ]  # fmt: skip
        header = [title, "objects", "found", "score 0.3 and more", "off by (m)", "velocity off (m/s)"]
        parts.append(figures(table(header, rows), curves.recall_bars(groups, title)))
    page.add("Where objects are found", *parts)


def _add_run(page: Page, measured: Mapping[str, Any]) -> None:
    """What a bag's run dropped and how long it took."""
    drops = [[cause, count] for cause, count in measured["dropped"].items() if count and cause != "total"]
    times = [[name, number(value, 1)] for name, value in measured["step_ms"].items()]
    page.add(
        "The run",
        note(f"{measured['sets']} sets gave boxes; {measured['dropped']['total']} images and sets did not."),
        figures(table(["dropped because of", "number"], drops or [["nothing", 0]]), table(["a set took", "ms"], times)),
    )


def _add_pictures(page: Page, data: NuScenesDataset, matches: Matches, path: Path) -> None:
    for heading, text, made in (
        ("Worst misses", "Objects without a box within 2 m: the most visible first, among them the nearest.",
         pictures_of_misses(data, matches)),
        ("Worst false positives", "Boxes without an object within 2 m, by falling score.",
         pictures_of_false_positives(data, matches)),
    ):  # fmt: skip
        cells = "".join(_figure(one, data.dataroot, path) for one in made)
        legend = "Red: the box in question. Grey: annotated objects. Colours: boxes with a score of 0.3 and more."
        page.add(heading, note(f"{text} {legend}" if made else "None."), f'<div class="pictures">{cells}</div>')


def _figure(one: ErrorPicture, dataroot: Path, path: Path) -> str:
    caption = f"<b>{escape(one.title)}</b><br>{escape(one.detail)}"
    if one.jpeg is None:
        return f'<figure><div class="empty">no camera sees it</div><figcaption>{caption}</figcaption></figure>'
    link = os.path.relpath(dataroot.resolve() / one.link, path.resolve().parent)
    return (
        f'<figure><a href="{escape(link)}"><img alt="{escape(one.title)}" src="{one.source()}"></a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
