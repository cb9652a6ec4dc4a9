"""How the node is, judged by what happened lately: two snapshots of its counters in, one verdict per component out.

A verdict is about the time between the snapshots alone, so a fault that is over no longer counts; the counters that
come with it are those of the node's whole life (of sets and messages) or of the activation (of images). No ROS in here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from ..perception.camera_statistics import CameraStatus
from ..perception.synchronizer import Synchronizer
from ..units import MILLISECOND, NANOSECONDS
from .statistics import Snapshot

SILENT_AFTER = 3.0  # s without output, while images arrive; slow models get SLOW_STEPS times their own time
SLOW_STEPS = 3.0
FIRST_STEP = 120.0  # s that the first set may take: kernels are chosen, compiled, captured
CAMERA_SILENT_AFTER = 2.0  # s without an image of a camera
CALIBRATION_AFTER = 2.0  # s after activation without a camera's CameraInfo
USUAL_DROPS = ("superseded", "stopped")  # the newest set wins; sets on their way at the end: no fault of anybody's


class Level(IntEnum):
    OK, WARN, ERROR = range(3)


@dataclass(frozen=True)
class ComponentHealth:
    """One component's verdict, the reason for it, and its figures."""

    name: str
    level: Level
    message: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetCounts:
    """The synchronizer's counters at one moment; lifetime of one activation."""

    received: int
    delivered: int
    pending: int
    drops: Mapping[str, int]  # cause -> images
    sets: Mapping[str, int]  # kind -> sets
    missing: Mapping[str, int]  # camera -> sets that lacked its image

    @classmethod
    def of(cls, synchronizer: Synchronizer) -> SetCounts:
        """A copy: the worker and the callbacks go on counting. Zeros are left out."""

        def copied(counter: Mapping[str, int]) -> dict[str, int]:
            return {name: count for name, count in dict(counter).items() if count}

        return cls(
            synchronizer.received,
            synchronizer.delivered,
            synchronizer.pending,
            copied(synchronizer.drops),
            copied(synchronizer.sets),
            copied(synchronizer.missing_images),
        )


@dataclass(frozen=True)
class Moment:
    """Everything that health is judged by, at one moment."""

    counts: Snapshot
    active_since: float | None = None  # moment; None: the node is not active
    sets: SetCounts | None = None  # None: the node is not active
    cameras: Mapping[str, CameraStatus] = field(default_factory=dict)  # empty: the node is not active
    uncalibrated: Sequence[str] = ()  # cameras without any CameraInfo so far
    gave_up: str | None = None  # why the node ended its last activation by itself, if it did


def assess(now: Moment, before: Moment, cameras: Sequence[str], facts: Mapping[str, Any]) -> list[ComponentHealth]:
    """One verdict for each component.

    Args:
        now, before: of the same activation; what happened in between is judged.
        cameras: names, in the order of the rig.
        facts: figures of the configuration, for the component `inference`.
    """
    verdicts = [_inference(now, before, cameras, facts)]
    if now.sets is not None:
        verdicts.append(_synchronization(now, before, cameras))
        verdicts += [_camera(now, name) for name in cameras]
    return [*verdicts, _transforms(now.counts, before.counts)]


def recent(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What was counted in between, the most frequent first; zeros are left out."""
    grown = {name: count - before.get(name, 0) for name, count in now.items() if count > before.get(name, 0)}
    return dict(sorted(grown.items(), key=lambda item: -item[1]))


def silent_cameras(now: Moment, cameras: Sequence[str]) -> list[str]:
    """Cameras that sent nothing lately, by the time of arrival; right after the activation none is."""
    if now.active_since is None or now.counts.moment - now.active_since < CAMERA_SILENT_AFTER:
        return []
    return [name for name in cameras if _age(now, name) > CAMERA_SILENT_AFTER]


def _age(now: Moment, camera: str) -> float:
    """Seconds without an image, in this activation."""
    silent_ns = now.cameras[camera].silent_ns
    return now.counts.moment - now.active_since if silent_ns is None else silent_ns / NANOSECONDS


def _inference(now: Moment, before: Moment, cameras: Sequence[str], facts: Mapping[str, Any]) -> ComponentHealth:
    counts = now.counts
    values = dict(facts) | {"rate_hz": f"{counts.rate_hz:.2f}", "sets_processed": counts.processed}
    for stage, (median, p99) in sorted(counts.percentiles.items()):
        values |= {f"{stage}_p50": f"{median:.2f}", f"{stage}_p99": f"{p99:.2f}"}
    values |= keyed("sets_dropped", counts.dropped) | keyed("resets", counts.resets)
    return ComponentHealth("inference", *_inference_verdict(now, before, cameras, facts), values)


def _inference_verdict(
    now: Moment, before: Moment, cameras: Sequence[str], facts: Mapping[str, Any]
) -> tuple[Level, str]:
    if now.active_since is None:
        return (Level.OK, "not active") if now.gave_up is None else (Level.ERROR, f"gave up: {now.gave_up}")
    dropped = recent(now.counts.dropped, before.counts.dropped)
    dropped = {cause: n for cause, n in dropped.items() if cause not in USUAL_DROPS}
    without_output = _without_output(now)
    if len(silent_cameras(now, cameras)) == len(cameras):
        return Level.WARN, "no images: check the topics of the rig file and the reliability"
    if without_output is not None:
        return Level.ERROR, f"{without_output}{listed('; sets dropped lately: ', dropped)}"
    if "internal_error" in dropped:
        return Level.ERROR, f"{dropped['internal_error']} internal errors lately; the log has them"
    rate = f"{now.counts.rate_hz:.1f} sets per second"
    if dropped:
        return Level.WARN, f"{rate}{listed('; sets dropped lately: ', dropped)}"
    if facts.get("weights") == "untrained":
        return Level.WARN, f"{rate}; the weights are UNTRAINED"
    return Level.OK, rate


def _without_output(now: Moment) -> str | None:
    """A sentence, if the time without output is too long for this model."""
    counts = now.counts
    since = max(now.active_since, counts.last_processed or now.active_since)
    step = counts.percentiles.get("processing", (0.0, 0.0))[1] * 1e-3
    busy = counts.busy_since is not None
    limit = FIRST_STEP if busy and not counts.processed else max(SILENT_AFTER, SLOW_STEPS * step)
    silent = counts.moment - since
    if silent <= limit:
        return None
    if busy and counts.moment - counts.busy_since > limit:
        return f"one set has been in the model for {counts.moment - counts.busy_since:.0f} s"
    return f"no output for {silent:.0f} s although images arrive"


def _synchronization(now: Moment, before: Moment, cameras: Sequence[str]) -> ComponentHealth:
    sets = now.sets
    values: dict[str, Any] = {
        "images_received": sets.received,
        "images_in_sets": sets.delivered,
        "images_pending": sets.pending,
    }
    values |= keyed("images_dropped", sets.drops) | keyed("messages_rejected", now.counts.rejected)
    values |= keyed("sets", sets.sets) | keyed("missing", sets.missing)
    dropped = recent(sets.drops, before.sets.drops if before.sets else {})
    dropped = {cause: n for cause, n in dropped.items() if cause not in USUAL_DROPS}
    silent = silent_cameras(now, cameras)
    problems = []
    if len(silent) == len(cameras):
        return ComponentHealth("synchronization", Level.ERROR, "no images from any camera", values)
    if silent:
        problems.append(f"no images from {', '.join(silent)}")
    for name in cameras:
        if now.cameras[name].state == "quarantined":
            problems.append(f"{name} is quarantined: {now.cameras[name].reason}")
    if now.uncalibrated and now.counts.moment - now.active_since > CALIBRATION_AFTER:
        problems.append(f"no CameraInfo of {', '.join(now.uncalibrated)}")
    if dropped:
        problems.append(listed("images dropped lately: ", dropped))
    level = Level.WARN if problems else Level.OK
    return ComponentHealth("synchronization", level, "; ".join(problems) or "all cameras", values)


def _camera(now: Moment, name: str) -> ComponentHealth:
    camera = now.cameras[name]
    values: dict[str, Any] = {
        "images": camera.received,
        "rate_hz": f"{camera.rate_hz:.2f}",
        "age_s": f"{_age(now, name):.2f}",
        "quarantined": f"yes: {camera.reason}" if camera.state == "quarantined" else "no",
        "sets_without_it": camera.missed,
    }
    if camera.offset_ns is not None:
        values["clock_offset_ms"] = f"{camera.offset_ns / MILLISECOND:.1f}"
    if camera.age_ns is not None:
        values["stamp_to_arrival_ms"] = f"{camera.age_ns / MILLISECOND:.1f}"
    values |= keyed("dropped", camera.drops) | keyed("dropped_lately", camera.recent_drops)
    return ComponentHealth(f"camera {name}", *_camera_verdict(now, name), values)


def _camera_verdict(now: Moment, name: str) -> tuple[Level, str]:
    camera = now.cameras[name]
    if name in silent_cameras(now, [name]):
        return Level.WARN, f"no image for {_age(now, name):.0f} s"
    if camera.state == "quarantined":
        return Level.WARN, f"quarantined: {camera.reason}"
    if name in now.uncalibrated and now.counts.moment - now.active_since > CALIBRATION_AFTER:
        return Level.WARN, "no CameraInfo"
    if not camera.received:
        return Level.OK, "waiting for its first image"
    return Level.OK, f"{camera.rate_hz:.1f} images per second"


def _transforms(now: Snapshot, before: Snapshot) -> ComponentHealth:
    failed = _transform_faults(now.dropped)
    lately = recent(failed, _transform_faults(before.dropped))
    refused = recent(_transform_faults(now.rejected), _transform_faults(before.rejected))
    problems = [f"{sum(lately.values())} sets without their poses lately"] if lately else []
    problems += [listed("transforms refused lately: ", refused)] if refused else []
    level = Level.WARN if problems else Level.OK
    values = keyed("failed", failed) | keyed("refused", _transform_faults(now.rejected))
    return ComponentHealth("transforms", level, "; ".join(problems) or "all poses found", values)


def _transform_faults(counter: Mapping[str, int]) -> dict[str, int]:
    return {cause: n for cause, n in counter.items() if cause.startswith("tf_")}


def keyed(prefix: str, counter: Mapping[str, int]) -> dict[str, int]:
    """`prefix.name` -> number."""
    return {f"{prefix}.{name}": count for name, count in sorted(counter.items())}


def listed(prefix: str, counter: Mapping[str, int]) -> str:
    """`prefix cause number, cause number`; empty without causes."""
    return prefix + ", ".join(f"{cause} {n}" for cause, n in counter.items()) if counter else ""
