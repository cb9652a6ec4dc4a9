"""Measured scores beside those that the authors published, and what is not alike in how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import Sparse4DConfig
from .devkit_scores import Scores

PUBLISHED_VERSION = "v1.0-trainval"
PUBLISHED_SCENES = {"val": 150, "test": 150}


def comparison(config: Sparse4DConfig, scores: Scores) -> list[tuple[str, float, float | None]]:
    """(name, measured, published or None) of the figures in the papers' main tables."""
    found, tracking, published = scores.detection, scores.tracking, config.published
    rows: list[tuple[str, float, float | None]] = [
        ("NDS", found.nds, published.nds),
        ("mAP", found.map, published.map),
        *((name, value, None) for name, value in found.errors.items()),
    ]
    if tracking is not None:
        rows += [
            ("AMOTA", tracking.amota, published.amota),
            ("AMOTP", tracking.amotp, None),
            ("IDS", tracking.ids, None),
        ]
    return rows


def table(config: Sparse4DConfig, scores: Scores) -> str:
    """The comparison as lines of text."""
    lines = [f"{config.name:<12}{'measured':>10}{'published':>11}{'difference':>12}"]
    for name, measured, published in comparison(config, scores):
        digits = 0 if name == "IDS" else 4
        given = "-" if published is None else f"{published:.4f}"
        apart = "-" if published is None else f"{measured - published:+.4f}"
        lines.append(f"{name:<12}{measured:>10.{digits}f}{given:>11}{apart:>12}")
    if config.published.nds is None:
        lines.append(f"nothing is published for {config.name}")
    return "\n".join(lines)


def differences(
    config: Sparse4DConfig, settings: Mapping[str, Any], scenes: int, image_sizes: Sequence[tuple[int, int]]
) -> list[str]:
    """What of the published protocol this run does not follow, a sentence each; empty: nothing.

    Args:
        settings: of the run, as `run.json` contains them.
        scenes: how many were run.
        image_sizes: width and height of the cameras' images.
    """
    published = config.published
    named = published.split in PUBLISHED_SCENES
    found = []
    if named and (settings["version"], settings["split"]) != (PUBLISHED_VERSION, published.split):
        found.append(
            f"data: {settings['version']}, split {settings['split'] or 'none'}, {scenes} scenes; published figures "
            f"are of {PUBLISHED_VERSION}, split {published.split}"
        )
    elif named and scenes != PUBLISHED_SCENES[published.split]:
        found.append(f"data: {scenes} of the {PUBLISHED_SCENES[published.split]} scenes of split {published.split}")
    if resized := sorted({size for size in image_sizes if size != config.image.original_wh}):
        sizes = ", ".join(f"{width}x{height}" for width, height in resized)
        width, height = config.image.original_wh
        found.append(f"images: {sizes}, where the model was made for {width}x{height}; they are scaled to its input")
    if not settings["trained"]:
        found.append("weights: random (UNTRAINED); scores tell nothing about the model")
    elif published.checkpoint and settings["checkpoint"] is None:  # the artefact brings them, without a name
        found.append(f"weights: of the exported step, unknown whether those of {published.checkpoint}")
    elif published.checkpoint and settings["checkpoint"] != published.checkpoint:
        found.append(f"weights: {settings['checkpoint']}; published figures are of {published.checkpoint}")
    if settings["precision"] != "float32":
        found.append(f"precision: the image encoder computes in {settings['precision']}, not in float32")
    if settings["scene_reset"] != "reference":
        found.append(f"scene reset: {settings['scene_reset']}; published figures were made with reference")
    if settings.get("ego_masks"):
        found.append("images: the own vehicle is hidden in them (--ego-masks)")
    if settings["streams"] == scenes > 1:
        found.append(
            "memory: every scene begins without one; in the published implementation it passes from scene to scene "
            "(--streams sets in how many rows)"
        )
    found += [f"the preset rests on an assumption: {assumption}" for assumption in config.assumptions]
    return found
