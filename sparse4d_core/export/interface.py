"""What goes into an exported step and what comes out: names, types, shapes, units, in the order of the graph.

A memory of nothing and an interval of FIRST_FRAME seconds make a first frame; the graph itself then forgets. Every
output `new_memory_X` is the next frame's input `memory_X`. All numbers are float32, int64 and, for raw images, uint8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..config import Sparse4DConfig

FIRST_FRAME = 1e6
"""Seconds since a frame that never was. An interval of at least half of it is a first frame."""

Images = Literal["normalized", "uint8"]
ANY_NUMBER = 0
"""Cameras of a graph that takes any number of them."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output."""

    name: str
    dtype: str  # as NumPy names it
    shape: tuple[int | str, ...]  # a name: any number
    meaning: str


def memory(config: Sparse4DConfig) -> list[TensorSpec]:
    """What the next frame gets: T instances, best first."""
    kept, dims = config.temporal.num_instances, config.embed_dims
    specs = [
        TensorSpec("memory_feature", "float32", (1, kept, dims), "instance features"),
        TensorSpec("memory_anchor", "float32", (1, kept, 11), "anchor states (x y z, log length width height, sin cos "
                   "yaw, vx vy vz) in metres and m/s, model frame of that time"),
        TensorSpec("memory_confidence", "float32", (1, kept), "confidences, 0 to 1"),
    ]  # fmt: skip
    if config.tracking:
        specs += [
            TensorSpec("memory_ids", "int64", (1, kept), "ids of the instances"),
            TensorSpec("memory_ids_given", "int64", (1,), "how many ids were given so far: the next new one"),
        ]
    return specs


def inputs(config: Sparse4DConfig, cameras: int, images: Images) -> list[TensorSpec]:
    """Inputs of a step for so many cameras (ANY_NUMBER: whatever comes)."""
    width, height = config.image.input_wh
    count: int | str = "cameras" if cameras == ANY_NUMBER else cameras
    normalised = TensorSpec("images", "float32", (1, count, 3, height, width), "planes, (grey level - mean) / std")
    raw = TensorSpec("images", "uint8", (1, count, height, width, 3), "grey levels, blue green red")
    return [
        normalised if images == "normalized" else raw,
        TensorSpec("projection", "float32", (1, count, 4, 4), "points of the model frame at the frame's time "
                   "(homogeneous, metres) to pixels of `images`: column, row times depth, depth in metres in row 2"),
        TensorSpec("T_now_from_memory", "float32", (1, 4, 4), "points of the model frame of the remembered frame to "
                   "points of the present one, metres; identity at a first frame"),
        TensorSpec("interval", "float32", (1,), f"seconds since the remembered frame; {FIRST_FRAME:g} at a first one"),
        *memory(config),
    ]  # fmt: skip


def outputs(config: Sparse4DConfig, overlap: int | None = None) -> list[TensorSpec]:
    """M boxes, best first, and the memory for the next frame. overlap: cameras that may see one point; None: all."""
    num = config.num_output
    specs = [
        TensorSpec("boxes", "float32", (1, num, 10), "x y z (centre, m), length width height (m), yaw (rad), "
                   "vx vy vz (m/s); model frame"),
        TensorSpec("scores", "float32", (1, num), "0 to 1, falling"),
        TensorSpec("labels", "int64", (1, num), "index into class_names"),
    ]  # fmt: skip
    if config.quality_estimation:
        specs += [
            TensorSpec("class_scores", "float32", (1, num), "class probabilities, falling: their own order, not the "
                       "boxes'; as many boxes are tracks, from the best on, as there are class scores above the "
                       "tracking threshold"),
            TensorSpec("quality", "float32", (1, num, 2), "centerness, yawness, 0 to 1"),
        ]  # fmt: skip
    if config.tracking:
        specs.append(TensorSpec("ids", "int64", (1, num), "the same for the same object in every frame"))
    if overlap is not None:
        specs.append(
            TensorSpec("views_left_out", "int64", (1,), f"key points seen by more than {overlap} cameras, of which the "
                       "others were left out; anything but 0 means that the graph does not fit the rig")
        )  # fmt: skip
    return specs + [
        TensorSpec(f"new_{spec.name}", spec.dtype, spec.shape, f"{spec.meaning}; the next frame's {spec.name}")
        for spec in memory(config)
    ]
