"""Whether an exported step is the model: both over the same recurrent frames, box by box.

With trained weights the artefact runs freely, on its own memory. Random weights give scores that nearly tie, and ties
may fall either way: then every frame starts from PyTorch's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ..inference.artefact import Artefact
from ..inference.decode import published
from ..inference.pipeline import Pipeline
from ..network.state import TemporalState
from ..preprocess import preprocess
from ..types import Detections, Frame

WORTH_COMPARING = 0.1  # score; of random weights the better half of the boxes is compared
REACH = 1.0  # m, rad, m/s: what is farther away is another box
REACH_OF_TIES = 0.05  # the same with random weights, whose anchors are dense
TIED = 0.01
"""Share of the boxes that random weights may lose: which of two tied rows a frame takes up is rounding."""
LONGEST = 10.0
"""m: of random weights longer sides are compared relative to it. The network gives logarithms of sizes, which random
weights drive, layer after layer and frame after frame, to sides of thousands of kilometres: no float32 holds their
millimetres. Sides of real objects are not touched, nor any of trained weights."""
SIZES = slice(3, 6)  # columns of a box
LAST_DIGITS = 2**-22
"""Relative change of the intrinsics that stands for rounding: two steps of float32."""
OWN = 4.0
ROUGHEST = 0.02
"""Random weights amplify rounding from layer to layer. Where PyTorch moves its own boxes when the last digits of the
intrinsics differ, a step may differ by OWN times as much, but by ROUGHEST (m, rad, m/s) at most."""


class ProofError(ValueError):
    """An exported step that is not the model."""


@dataclass(frozen=True)
class Tolerance:
    boxes: float  # m, rad, m/s
    scores: float
    confidences: float  # of the memory's instances
    ids: bool = True  # must be equal
    lost: float = 0.0  # share of the boxes that may have nothing near on the other side


TOLERANCES = {
    "float32": Tolerance(1e-3, 1e-4, 1e-3),
    "float16": Tolerance(0.1, 0.03, 0.03, ids=False),
    "bfloat16": Tolerance(0.3, 0.06, 0.06, ids=False),
    "int8": Tolerance(0.6, 0.25, 0.25, ids=False, lost=0.05),
}
"""Against PyTorch in float32. Lower precisions round the image encoder's maps, and boxes move with them.

Confidences are of all instances, also those too weak or too badly placed to be compared as boxes; what one does to
later frames is seen in their boxes. The portable operator has one picture of all cameras, in which float32 places a
sample to 1e-5 of a pixel: with the demo's weights that moved a score by 3e-5 and a confidence by 2e-4.
"""


@dataclass(frozen=True)
class Difference:
    """The largest over all boxes that were compared."""

    boxes: float = 0.0  # m, rad, m/s
    scores: float = 0.0
    confidences: float = 0.0  # of the memory's instances
    compared: int = 0  # boxes
    other_ids: int = 0  # of them with another id
    lost: int = 0  # boxes of which the other side has nothing near

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            max(self.boxes, other.boxes),
            max(self.scores, other.scores),
            max(self.confidences, other.confidences),
            self.compared + other.compared,
            self.other_ids + other.other_ids,
            self.lost + other.lost,
        )

    def within(self, tolerance: Tolerance) -> bool:
        return (
            self.compared > 0
            and self.lost <= tolerance.lost * self.compared
            and self.boxes <= tolerance.boxes
            and self.scores <= tolerance.scores
            and self.confidences <= tolerance.confidences
            and not (tolerance.ids and self.other_ids)
        )


def prove(pipeline: Pipeline, artefact: Artefact, frames: Sequence[Frame]) -> dict[str, object]:
    """Both over the frames; the differences as a row of the manifest.

    Args:
        pipeline: the model in float32 on PyTorch, with the artefact's way of scene resets.

    Raises:
        ProofError: they differ by more than the artefact's precision explains.
    """
    tolerance = TOLERANCES[artefact.manifest.precision]
    if not pipeline.trained:
        tolerance = replace(tolerance, lost=max(tolerance.lost, TIED))
    fed = not pipeline.trained or artefact.manifest.precision != "float32"
    total = run_both(pipeline, artefact, frames, fed)
    if not total.within(tolerance) and not pipeline.trained:
        allowed = min(OWN * own_difference(pipeline, frames).boxes, ROUGHEST)
        tolerance = replace(tolerance, boxes=max(tolerance.boxes, allowed))
    if not total.within(tolerance):
        raise ProofError(
            f"proof: over {len(frames)} frames the exported step differs from PyTorch by {total.boxes:.2g} in boxes "
            f"(allowed {tolerance.boxes:.2g}), {total.scores:.2g} in scores (allowed {tolerance.scores:g}), "
            f"{total.confidences:.2g} in the memory's confidences (allowed {tolerance.confidences:g}), "
            f"{total.other_ids} ids and {total.lost} boxes lost of {total.compared} compared; it is not written"
        )
    return asdict(total) | {
        "frames": len(frames),
        "cameras": len(frames[0].images),
        "boxes_allowed": tolerance.boxes,
        "memory": "of PyTorch, frame by frame" if fed else "its own",
        "runs_on": artefact.runs_on,
    }


@torch.inference_mode()
def run_both(pipeline: Pipeline, artefact: Artefact, frames: Sequence[Frame], fed: bool) -> Difference:
    """fed: every frame of the artefact starts from PyTorch's memory instead of its own."""
    reference_state = own_state = None
    total = Difference()
    exact = artefact.manifest.precision == "float32"
    reach = REACH_OF_TIES if exact and not pipeline.trained else REACH
    for frame in frames:
        reference = pipeline.step(frame, reference_state)
        # The graph itself has to forget at a scene break: the memory goes in as it is.
        state = (reference_state if fed else own_state) or TemporalState()
        found, own_state = artefact.step(preprocess(frame, pipeline.config), state)
        found = published(found, pipeline.config)  # as the pipeline's are
        known = int(state.next_id or 0) if fed else None
        total += compare(reference.detections, found, pipeline.trained, known, reach)
        total += Difference(confidences=_confidence_gap(reference.state, own_state))
        reference_state = reference.state
    return total


def own_difference(pipeline: Pipeline, frames: Sequence[Frame]) -> Difference:
    """PyTorch against itself where the last digits of the intrinsics differ: what rounding does to these weights."""
    state, total = None, Difference()
    for frame in frames:
        expected = pipeline.step(frame, state)
        moved = pipeline.step(replace(frame, intrinsics=frame.intrinsics * (1 + LAST_DIGITS)), state)
        known = int((state or TemporalState()).next_id or 0)
        total += compare(expected.detections, moved.detections, pipeline.trained, known, REACH_OF_TIES)
        state = expected.state
    return total


def _confidence_gap(expected: TemporalState, found: TemporalState) -> float:
    """Between the memories: falling confidences, of which ties in any order are the same."""
    return float((expected.instances.confidence - found.instances.confidence).abs().max())


def compare(
    expected: Detections, found: Detections, trained: bool, known: int | None, reach: float = REACH
) -> Difference:
    """Every box that counts has its like on the other side: in `found` those of `expected`, and the other way round.

    Args:
        trained: only scores above WORTH_COMPARING count; else the better half of the rows.
        reach: what is farther away is another box.
        known: ids from here on are new and count rows, which may have swapped; None: all ids must agree.
    """
    return _missing(expected, found, trained, known, reach) + _missing(found, expected, trained, known, reach)


def _missing(wanted: Detections, present: Detections, trained: bool, known: int | None, reach: float) -> Difference:
    rows = np.flatnonzero(wanted.scores > WORTH_COMPARING) if trained else np.arange(len(wanted.scores) // 2)
    if not len(rows):
        return Difference()
    gap = np.abs(wanted.boxes[rows, None].astype(np.float64) - present.boxes[None])
    gap[..., 6] = np.abs((gap[..., 6] + np.pi) % (2 * np.pi) - np.pi)
    if not trained:
        gap[..., SIZES] /= np.maximum(wanted.boxes[rows, None, SIZES] / LONGEST, 1)
    apart = gap.max(-1) + 1e3 * (wanted.labels[rows, None] != present.labels[None])
    if wanted.ids is not None and known is None:
        apart += 1e-6 * (wanted.ids[rows, None] != present.ids[None])  # of boxes in one place the one of the same id
    nearest = apart.argmin(1)
    boxes = apart.min(1)
    near = boxes < reach
    scores = np.abs(wanted.scores[rows] - present.scores[nearest])[near]
    other_ids = 0
    if wanted.ids is not None:
        ids, theirs = wanted.ids[rows][near], present.ids[nearest][near]
        other_ids = int(((ids != theirs) & (True if known is None else ids < known)).sum())
    return Difference(
        float(gap.max(-1)[np.arange(len(rows)), nearest][near].max(initial=0)),
        float(scores.max(initial=0)),
        compared=int(near.sum()),
        other_ids=other_ids,
        lost=int((~near).sum()),
    )
