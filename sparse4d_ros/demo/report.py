"""The demo's figures in one dictionary, and the few of them that a person wants to see first."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sparse4d_core.benchmark import machine

from ..bags.box_record import SetRecord, differences, read_box_record
from ..bags.sets import BagFrames

PACKAGES = ("torch", "numpy", "opencv-python-headless", "rosbags", "nuscenes-devkit", "ros-rclpy")
SHOWN_DIFFERENCES = 10


@dataclass(frozen=True)
class Run:
    """Where a run of the demo left its files."""

    out: Path
    bag: Path
    model: str
    checkpoint: str
    diagnostics: dict[str, dict[str, str]]  # component -> values, the node's last


def make_report(run: Run) -> dict[str, Any]:
    """Everything measured in one run of the demo."""
    online = list(read_box_record(run.out / "online.jsonl"))
    found = differences(online, read_box_record(run.out / "offline.jsonl"))
    inference = run.diagnostics.get("inference", {})
    scores = json.loads((run.out / "scores" / "metrics.json").read_text())
    expected = sum(1 for _ in BagFrames(run.bag).sets())
    processed = int(inference.get("sets_processed", 0))
    return {
        "model": run.model,
        "weights": inference.get("weights", "unknown"),
        "checkpoint": run.checkpoint or "shipped with the preset, if any",
        "precision": inference.get("precision", "unknown"),
        "backend": inference.get("backend", "unknown"),
        "scene_reset": inference.get("scene_reset", "unknown"),
        "sets": {
            "expected": expected,
            "processed": processed,
            "dropped": expected - processed,
            "dropped_by_cause": _dropped(run.diagnostics),
        },
        "messages": {"recorded_sets": len(online), "tracks": sum(len(item.tracks.scores) for item in online)},
        "latency_ms": _latency(inference) | {"stamp_to_publish": _stamp_to_publish(run.out, online)},
        "rate_hz": rate(online),
        "scores": {
            "NDS": scores["detection"]["nds"],
            "mAP": scores["detection"]["map"],
            "AMOTA": scores["tracking"]["amota"] if scores.get("tracking") else None,
            "errors": scores["detection"]["errors"],
            "class_ap": scores["detection"]["class_ap"],
        },
        "online_equals_offline": bool(online) and not found,
        "differences": found[:SHOWN_DIFFERENCES],
        "versions": _versions(),
        "hardware": machine.describe(),
    }


def _dropped(diagnostics: dict[str, dict[str, str]]) -> dict[str, int]:
    """Sets by cause, and images that the synchronizer let go, by cause."""
    causes: Counter[str] = Counter()
    for component, prefix in (("inference", "sets_dropped."), ("synchronization", "images_dropped.")):
        for key, value in diagnostics.get(component, {}).items():
            if key.startswith(prefix):
                causes[f"{'images: ' if 'images' in prefix else ''}{key.removeprefix(prefix)}"] += int(value)
    return dict(causes)


def _latency(inference: dict[str, str]) -> dict[str, dict[str, float]]:
    """Stage -> p50 and p99 in milliseconds, from the diagnostics.

    What the node measures from the stamps themselves is left out: a played bag has old stamps.
    """
    stages = sorted({key.removesuffix("_p50") for key in inference if key.endswith("_p50")})
    stages = [stage for stage in stages if not stage.startswith("stamp_to_")]
    return {
        stage: {"p50": float(inference[f"{stage}_p50"]), "p99": float(inference[f"{stage}_p99"])} for stage in stages
    }


def _stamp_to_publish(out: Path, online: list[SetRecord]) -> dict[str, float]:
    waits = waits_ms(out / "played.jsonl", online)
    if not waits:
        return {}
    return {"p50": float(np.percentile(waits, 50)), "p99": float(np.percentile(waits, 99))}


def waits_ms(played: Path, online: list[SetRecord]) -> list[float]:
    """From the moment that a set's stamp stands for, when its newest image went out, to the receipt of its result.

    By the wall clock of this machine; includes the transport both ways.

    Args:
        played: log of the player.
        online: what was received.
    """
    published: dict[int, int] = {}
    for line in played.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "image" in entry["topic"]:
            published[entry["stamp_ns"]] = entry["wall_ns"]
    return [(i.received_ns - published[i.stamp_ns]) * 1e-6 for i in online if i.stamp_ns in published]


def rate(online: list[SetRecord]) -> float:
    """Sets received per second of playing; pauses between drives do not count."""
    gaps = np.diff([item.received_ns for item in online]) * 1e-9
    gaps = gaps[gaps < 1.0]
    return float(len(gaps) / gaps.sum()) if len(gaps) else 0.0


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not from pip"
    return found


def print_report(report: dict[str, Any], out: Path, video: bool) -> None:
    """The first screen of it.

    Args:
        video: whether this run has drawn one.
    """
    sets, scores = report["sets"], report["scores"]
    latency = report["latency_ms"]["stamp_to_publish"]
    print(f"\nmodel {report['model']}, weights {report['weights']}, {report['precision']} by {report['backend']}")
    print(f"machine    {machine.summary()}")
    print(f"sets       {sets['processed']} of {sets['expected']} processed, {sets['dropped']} dropped", end="")
    print(f" {sets['dropped_by_cause']}" if sets["dropped_by_cause"] else "")
    print(f"rate       {report['rate_hz']:.1f} sets per second")
    if latency:
        print(f"latency    image out to result in: median {latency['p50']:.0f} ms, p99 {latency['p99']:.0f} ms")
    amota = "not scored" if scores["AMOTA"] is None else f"{scores['AMOTA']:.3f}"
    print(f"scores     NDS {scores['NDS']:.3f}   mAP {scores['mAP']:.3f}   AMOTA {amota}")
    print(f"online equals offline: {'yes' if report['online_equals_offline'] else 'NO: ' + str(report['differences'])}")
    if report["weights"] != "trained":
        print("The weights are UNTRAINED: the boxes are noise; what this shows is that the system runs.")
    files = [*(["overlay.mp4"] if video else []), "bev.png", "report.json"]
    print("look at    " + "\n           ".join(str(out / name) for name in files))
