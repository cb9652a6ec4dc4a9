"""From a frame to tracks: what the node and the replay call, one line per set of images."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..checkpoint.file import CheckpointFile, read_checkpoint
from ..checkpoint.published import find_weights_if_any
from ..checkpoint.weights import load_file
from ..config import Sparse4DConfig, preset
from ..model_io import ModelInput
from ..network.sparse4d import SceneReset, Sparse4D
from ..network.state import TemporalState
from ..preprocess import preprocess
from ..resize import RESIZED_PART, Resize
from ..types import Detections, Frame, Tracks
from .artefact import Artefact
from .artefact_checks import check_backend, check_cameras, check_format, check_model, check_weights
from .decode import best_of, detections_of, published
from .device.compiled import Compiled
from .device.cuda_graph import Step, StepGraph
from .device.device_preprocess import preprocess_on_device
from .device.products import products_in
from .device.stage_clock import StageClock
from .image_encoder import ImageEncoder, fast_precision
from .memories import JITTER, MEMORIES, Keeping, Memories, State, known_ids, memory_age
from .shared_ids import share_ids
from .tracking import track, tracked_rows

Precision = Literal["float32", "bfloat16", "float16", "auto"]

UNTRAINED_SEED = 0
WARM_UP_INTERVAL = 0.1  # s between frames, unless the temporal stride is longer

log = logging.getLogger(__name__)


class NonFiniteOutputError(RuntimeError):
    """The network's output holds NaN or infinity; the state of the frame before is still good."""


@dataclass(frozen=True)
class PreparedFrame:
    """A frame that only waits for the network, and for the memory that the frame before leaves there."""

    frame: Frame
    inputs: ModelInput  # on the device
    clock: StageClock  # paused


@dataclass(frozen=True)
class StepResult:
    """What one frame gave."""

    detections: Detections  # model frame
    tracks: Tracks  # the confident ones of them; no rows for a model without ids (v1, v2)
    state: State  # for the next step
    timings_ms: dict[str, float]  # preprocess, backbone, decoder (captured as one: network), decode
    reset: str | None = None  # why the instances of the frame before were forgotten, if they were


class Pipeline:
    """A model ready to run. Holds no recurrent state: it goes through `step`.

    `step` is `prepare` and then `run`; one thread may prepare a frame while another one runs the frame before.

    Args:
        model: in evaluation mode and on its device from here on.
        trained: False if the weights are random.
        precision: of the image encoder (an artefact has its own); what is behind the encoder stays float32, on a GPU
            with products of matrices in TF32 where the encoder is below float32. "auto": bfloat16 on a processor that
            computes in it, else float32; the attribute says which.
        compile: run the image encoder through torch.compile; on a GPU preprocessing and decoder as well, and the whole
            network as one CUDA graph.
        temporal_stride: seconds from the frame that a memory is of to the frame that takes it up, as in training
            (published models: 0.5); 0: the frame before, at any rate.
        memories: where frames come faster than the stride, see `memories.py`. "two": a memory is left once a stride,
            and each frame takes up that one of the last two whose age is nearest to it. "interleaved": each frame
            leaves one. "one": a single memory advances once a stride, and frames in between look at it; what is new in
            them is detected at once and becomes a track when the memory advances.
        resize: what makes images smaller on the CPU; other devices do it themselves, as `pillow` does.
        artefact: an exported step of this model, which runs in its place; the model then gives its configuration only.
    """

    def __init__(
        self,
        model: Sparse4D,
        trained: bool = True,
        device: str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
        temporal_stride: float = 0.0,
        resize: Resize = "pillow",
        artefact: Artefact | None = None,
        memories: Keeping = "one",
    ):
        if precision == "auto":
            precision = fast_precision(device)
        if artefact is None and precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision: expected 'float32', 'bfloat16', 'float16' or 'auto', got {precision!r}")
        if resize not in RESIZED_PART:
            raise ValueError(f"resize: expected one of {', '.join(RESIZED_PART)}, got {resize!r}")
        if memories not in MEMORIES:
            raise ValueError(f"memories: expected one of {', '.join(MEMORIES)}, got {memories!r}")
        self.device = torch.device(device)
        self.model = model.eval() if artefact else model.to(self.device).eval()
        self.artefact = artefact
        self.trained = trained
        self.precision = precision
        self.temporal_stride = temporal_stride
        self.memories = memories
        self.resize = resize
        self.compile = compile
        self._encoder = None if artefact else ImageEncoder(self.model, getattr(torch, precision), compile)
        compiled = compile and self.device.type == "cuda"
        self._decode = Compiled(self.model.decode_usable, "the decoder") if compiled else self.model.decode_usable
        self._graph = StepGraph(self._network, self._settled) if compiled else None

    @classmethod
    def from_preset(
        cls,
        model: str,
        checkpoint: str | pathlib.Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
        scene_reset: SceneReset = "clean",
        temporal_stride: float = 0.0,
        allow_untrained: bool = False,
        resize: Resize = "pillow",
        backend: str = "torch",
        artefact: str | pathlib.Path | None = None,
        providers: str = "cpu",
        memories: Keeping = "one",
    ) -> Pipeline:
        """A preset with its weights.

        Args:
            model: name of the preset.
            checkpoint: file to load. None or "": by name, see `find_weights`.
            allow_untrained: where there are no trained weights, take deterministic random ones (`trained` is False
                then, and the log has a warning) instead of refusing.
            backend: what runs the step, see `artefact.BACKENDS`; all but torch run an exported one.
            artefact: its folder. It brings the weights; a checkpoint given beside it must hold the same.
            providers: of onnxruntime, by name, in the order in which they are asked.

        Raises:
            ValueError: unknown preset, a checkpoint of another model, or an artefact that does not fit.
            NoWeightsError: no checkpoint given and no trained weights found.
            FileNotFoundError: no such checkpoint.
        """
        check_backend(backend, artefact, device, compile)
        if backend != "torch":
            loaded = Artefact(artefact, providers)
            check_format(loaded.manifest, backend)
            check_model(loaded.manifest, preset(model), scene_reset)
            if checkpoint:
                check_weights(loaded.manifest, checkpoint)
            with torch.device("meta"):  # for its configuration alone
                network = Sparse4D(loaded.config, scene_reset)
            log.info("model %s: step of %s, run by %s", model, artefact, loaded.runs_on)
            manifest = loaded.manifest
            settings = (manifest.trained, device, manifest.precision, False, temporal_stride, resize)
            return cls(network, *settings, loaded, memories)
        path = pathlib.Path(checkpoint) if checkpoint else find_weights_if_any(model, allow_untrained)
        if path is None:
            log.warning("model %s: no trained weights found; they are random, UNTRAINED", model)
        file = None if path is None else read_checkpoint(path)
        config = as_trained(file, preset(model))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(UNTRAINED_SEED)
            network = Sparse4D(config, scene_reset)
        if file is not None:
            load_file(file, network)
            log.info("model %s: weights from %s", model, path)
        log.info("model %s: scene reset %r", model, scene_reset)
        return cls(network, path is not None, device, precision, compile, temporal_stride, resize, memories=memories)

    @property
    def config(self) -> Sparse4DConfig:
        return self.model.config

    @property
    def backend(self) -> str:
        """What runs the step, for logs and records: torch, aoti, or onnxruntime with its provider."""
        return "torch" if self.artefact is None else self.artefact.runs_on

    @property
    def on_gpu(self) -> bool:
        """Whether the step runs on a GPU; an artefact may, though its tensors come from the device cpu."""
        return self.device.type == "cuda" if self.artefact is None else self.artefact.on_gpu

    def check_cameras(self, count: int) -> None:
        """Whether the model takes a rig of so many cameras: with camera embedding (v2, v3) any number.

        Raises:
            ValueError: the weights are made for another number.
        """
        expected = self.model.decoder.layers[0].aggregation.num_cameras
        if not self.config.aggregation.camera_embed and count != expected:
            raise ValueError(
                f"rig: {count} cameras, but the weights of {self.config.name} are made for {expected}; "
                "take a v2 or v3 preset for this rig"
            )
        if self.artefact is not None:
            check_cameras(self.artefact.manifest, count)

    def warm_up(self, image_sizes: Sequence[tuple[int, int]]) -> None:
        """Does before the first frame what it would otherwise wait for: compilation, the choice of algorithms, capture.

        Runs grey frames through `step` until the memory is settled and its step has been replayed. Returns at once on
        the CPU without `compile`, where there is nothing to prepare.

        Args:
            image_sizes: width and height of each camera's images; other sizes later work, and cost their time then.
        """
        if self.device.type == "cpu" and not self.compile and self.artefact is None:
            return
        history = self.config.history
        state = None
        for index in range((history.num_frames if history else 1) + 2):
            stamp_ns = round(index * max(self.temporal_stride, WARM_UP_INTERVAL) * 1e9)
            state = self.step(grey_frame(image_sizes, stamp_ns), state).state

    def step(self, frame: Frame, state: TemporalState | None = None) -> StepResult:
        """One frame; `state` is what the last step returned, None at the start.

        Raises:
            ValueError: for a frame that cannot be used; names the field.
            NonFiniteOutputError: NaN or infinity in the boxes or scores.
        """
        return self.run(self.prepare(frame), state)

    @torch.inference_mode()
    def prepare(self, frame: Frame) -> PreparedFrame:
        """What a frame needs before the network, and before anybody knows what the network remembers.

        On a GPU nothing here waits for the device. Threads that choose no stream share one, the device's default
        stream, so that what is queued here is done when the network reads it, and after what was queued before.

        Raises:
            ValueError: for a frame that cannot be used; names the field.
        """
        clock = StageClock(self.device)
        inputs = self._preprocess(frame)
        clock.mark("preprocess")
        clock.pause()
        return PreparedFrame(frame, inputs, clock)

    @torch.inference_mode()
    def run(self, prepared: PreparedFrame, state: State | None = None) -> StepResult:
        """The network on a prepared frame, once; for `state` and errors see `step`."""
        inputs, clock = prepared.inputs, prepared.clock
        clock.resume()
        seconds = prepared.frame.stamp_ns * 1e-9
        state, reset = self._begin(state, seconds)
        memory = state.nearest(seconds - self.temporal_stride) if isinstance(state, Memories) else state
        age = memory_age(memory, seconds)
        usable, clean = self.model.usable_state(memory, inputs, age)
        # The ids of what is new would change from frame to frame until the memory takes one of them up.
        advances = self._several or self._advances(age)
        known = None if advances else state.next_id
        if self.artefact is not None:
            detections, new_state = self.artefact.step(inputs, usable, known)
            clock.mark("network")
        else:
            if self._graph is not None:
                best, new_state = self._graph(inputs, usable)
                clock.mark("network")
            else:
                features = self._encoder(inputs.images)
                clock.mark("backbone")
                with products_in(self.precision, self.device):
                    output, new_state = self.model.decode_usable(features, inputs, usable, clean=clean)
                clock.mark("decoder")
                best = best_of(output, self.config)
            if known is not None:
                best = replace(best, ids=known_ids(best.ids, known))
            detections = detections_of(best, self.config.score_threshold, self.config.class_names)[0]
        check_finite(detections)
        detections = published(detections, self.config)
        if self._several:
            detections, state = self._leave(prepared.frame, detections, state or Memories(), new_state)
        elif advances:
            state = replace(new_state, seconds=seconds)
        tracks = track(detections, self.config.tracking_threshold)
        return StepResult(detections, tracks, state, clock.finish("decode"), reset)

    @property
    def _several(self) -> bool:
        """Whether there can be more than one memory."""
        return self.memories != "one" and self.temporal_stride > 0

    def _leave(
        self, frame: Frame, found: Detections, memories: Memories, state: TemporalState
    ) -> tuple[Detections, Memories]:
        """What a frame found, an object by one id whatever the memory calls it that was taken up; and the memories."""
        seconds, shared = frame.stamp_ns * 1e-9, memories.shared
        interleaved = self.memories == "interleaved"
        if found.ids is not None:
            since = memories.nearest(seconds - self.temporal_stride).seconds
            tracked = tracked_rows(found, self.config.tracking_threshold)
            ids, shared = share_ids(found, tracked, shared, seconds, since, frame.T_global_from_model, interleaved)
            found = replace(found, ids=ids)
        return found, memories.after(replace(state, seconds=seconds), self.temporal_stride, interleaved, shared)

    def _preprocess(self, frame: Frame) -> ModelInput:
        if self.device.type == "cpu":
            return preprocess(frame, self.config, self.resize)
        return preprocess_on_device(frame, self.config, self.device, self.compile)

    def _network(self, inputs: ModelInput, state: TemporalState) -> Step:
        """What the graph captures; a batch of one is of one scene or of none, so nothing has to be separated."""
        decode = self._decode if self._settled(state) else self.model.decode_usable  # first frames: not worth compiling
        features = self._encoder(inputs.images)
        with products_in(self.precision, self.device):
            output, new_state = decode(features, inputs, state)
        return best_of(output, self.config), new_state

    def _settled(self, state: TemporalState) -> bool:
        """Whether the state has the shapes that it keeps from here on."""
        history = self.config.history
        if self.config.temporal is not None:
            return state.instances is not None
        return history is None or len(state.history) == history.num_frames

    def _begin(self, state: State | None, seconds: float) -> tuple[State | None, str | None]:
        """With clean resets: drops what another scene left, and returns the reason."""
        age = memory_age(state, seconds)
        if age is None or self.model.scene_reset != "clean":
            return state, None
        limit = (self.config.temporal or self.config.history).max_interval
        if age < 0:
            return state.forget(), f"time went back by {-age:.3f} s"
        if age > limit:
            return state.forget(), f"time gap of {age:.3f} s is above the limit of {limit:g} s"
        return state, None

    def _advances(self, age: float | None) -> bool:
        """Whether this frame changes the memory, or only looks at it because the stride is not over.

        Time that went back is no early frame: with scene resets of the reference, which drop nothing, the memory would
        stay as it is until the clock has passed its stamp again.
        """
        return age is None or age < 0 or age >= (1 - JITTER) * self.temporal_stride


def as_trained(file: CheckpointFile | None, config: Sparse4DConfig) -> Sparse4DConfig:
    """The preset as the checkpoint's model was trained: its classes (docs/training.md, own classes), whether it gives
    vertical velocities, and what its memory does at other frame rates."""
    if file is None or file.config is None or file.config.name != config.name:
        return config
    trained, temporal = file.config, config.temporal
    if temporal is not None and trained.temporal is not None:
        temporal = replace(temporal, rate_invariant=trained.temporal.rate_invariant)
    return replace(
        config,
        class_names=trained.class_names,
        vertical_velocity=trained.vertical_velocity,
        temporal=temporal,
    )


@contextlib.contextmanager
def refusing_device(device: str, argument: str = "device") -> Iterator[None]:
    """What torch raises inside for a device that is not there, as a ValueError that names the argument."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        if device == "cpu":
            raise
        reason = str(error).splitlines()[0]
        raise ValueError(f"{argument}: {device} cannot be used: {reason}; cpu always can") from error


def grey_frame(image_sizes: Sequence[tuple[int, int]], stamp_ns: int) -> Frame:
    """A frame of cameras that look along the model frame's y axis and see nothing."""
    cameras = len(image_sizes)
    focal = [[[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]] for width, height in image_sizes]
    T_cam_from_model = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return Frame(
        images=tuple(np.full((height, width, 3), 128, np.uint8) for width, height in image_sizes),
        intrinsics=np.array(focal, np.float64),
        T_cam_from_model=np.tile(T_cam_from_model, (cameras, 1, 1)),
        T_global_from_model=np.eye(4),
        stamp_ns=stamp_ns,
    )


def check_finite(detections: Detections) -> None:
    """Raises NonFiniteOutputError; NaN sorts before every score, so it cannot hide behind the best rows."""
    for name in ("boxes", "scores"):
        values = getattr(detections, name)
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise NonFiniteOutputError(
                f"{name}: {bad} of {values.size} values of the network's output are NaN or infinite; "
                "check the checkpoint, the precision and the calibration"
            )
