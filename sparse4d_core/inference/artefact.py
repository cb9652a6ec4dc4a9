"""An exported step in the place of the network: the same inputs, the same memory, boxes instead of the last layer."""

from __future__ import annotations

import logging
import pathlib

import torch
from torch import Tensor

from cuda_ops.plugins import ONNXRUNTIME, plugin_library

from ..config import Sparse4DConfig
from ..export import interface
from ..export.manifest import ArtefactError, read_manifest
from ..geometry import elapsed, relative_transform
from ..model_io import ModelInput
from ..network.state import CachedInstances, TemporalState
from ..types import Detections
from .artefact_checks import check_cameras, check_machine
from .runtimes import GPU_PROVIDERS, run_by_aoti, run_by_export, run_by_onnxruntime
from .tensorrt_runtime import run_by_tensorrt

log = logging.getLogger(__name__)


class Artefact:
    """A folder that the export command wrote, ready to run.

    Attributes:
        manifest: what it is.
        views_left_out: views of key points beyond the overlap that it was exported for, so far; the first is logged.
        runs_on: what executes it, for logs and records: "aoti", "tensorrt", or "onnxruntime" with its provider.
        on_gpu: whether a GPU does, which takes its tensors from the CPU.
    """

    def __init__(self, folder: str | pathlib.Path, providers: str = "cpu"):
        """
        Args:
            providers: of onnxruntime, by name, in the order in which they are asked.

        Raises:
            ValueError: what cannot be run here, see `read_manifest`, `check_machine` and `runtimes`.
        """
        folder = pathlib.Path(folder)
        self.manifest = read_manifest(folder)
        check_machine(self.manifest)
        self.views_left_out = 0
        path, native = folder / self.manifest.file, self.manifest.operator == "native"
        self.runs_on, self.on_gpu = self.manifest.format, self.manifest.device == "cuda"
        if self.manifest.format == "onnx":
            self._run, provider = run_by_onnxruntime(path, providers, plugin_library(ONNXRUNTIME) if native else None)
            self.runs_on, self.on_gpu = f"onnxruntime ({provider})", provider in GPU_PROVIDERS
        elif self.manifest.format == "tensorrt":
            self._run = run_by_tensorrt(path, native)
        else:
            self._run = run_by_aoti(path) if self.manifest.format == "aoti" else run_by_export(path)
        self.config: Sparse4DConfig = self.manifest.model_config()

    @torch.inference_mode()
    def step(
        self, inputs: ModelInput, state: TemporalState, known: Tensor | None = None
    ) -> tuple[Detections, TemporalState]:
        """One frame (batch 1): its boxes, best first, and the next state. A state without instances: a first frame.

        Args:
            known: [] int64: ids from here on are given as -1; None: none are.
        """
        found = dict(zip(self._names(), self._run(self.arguments(inputs, state)), strict=True))
        self._count_views(found)
        if known is not None and "ids" in found:
            found["ids"] = torch.where(found["ids"] < known.to(found["ids"].device), found["ids"], -1)
        detections = Detections(
            **{
                name: found[name][0].numpy(force=True)
                for name in ("boxes", "scores", "labels", "class_scores", "ids")
                if name in found
            },
            class_names=self.config.class_names,
        )
        return detections, _state(found, inputs)

    def arguments(self, inputs: ModelInput, state: TemporalState) -> list[Tensor]:
        """The tensors of the graph, in its order."""
        self._check(inputs)
        cached = state.instances or no_instances(self.config, inputs)
        first = state.instances is None
        T = relative_transform(inputs.T_global_from_model, cached.T_global_from_model)
        interval = elapsed(inputs.timestamp, cached.timestamp)
        tensors = [
            graph_images(inputs.images, self.config, self.manifest.images),
            inputs.projection,
            torch.eye(4)[None].to(T) if first else T,
            torch.full_like(interval, interface.FIRST_FRAME) if first else interval,
            cached.feature,
            cached.anchor,
            cached.confidence,
        ]
        if self.config.tracking:
            given = cached.confidence.new_zeros((), dtype=torch.int64) if state.next_id is None else state.next_id
            tensors += [cached.ids, given.reshape(1)]
        return [tensor.contiguous() for tensor in tensors]

    def _count_views(self, found: dict[str, Tensor]) -> None:
        left_out = int(found["views_left_out"]) if "views_left_out" in found else 0
        if left_out and not self.views_left_out:
            log.warning(
                "artefact: %d key points were seen by more than %d cameras, and the other views were left out: the rig "
                "overlaps more than the step was exported for; export it with a larger --overlap, or without",
                left_out,
                self.manifest.overlap,
            )
        self.views_left_out += left_out

    def _names(self) -> list[str]:
        return [entry["name"] for entry in self.manifest.outputs]

    def _check(self, inputs: ModelInput) -> None:
        cameras, size = inputs.images.shape[1], tuple(inputs.images.shape[-2:])
        check_cameras(self.manifest, cameras)
        width, height = self.config.image.input_wh
        if size != (height, width):
            raise ArtefactError(
                f"artefact: made for images of {width}x{height} pixels, got {size[1]}x{size[0]}; export it for them"
            )


def graph_images(images: Tensor, config: Sparse4DConfig, form: interface.Images) -> Tensor:
    """Normalised planes [1, N, 3, H, W] as a graph takes them that was exported for `form`."""
    return images if form == "normalized" else raw_images(images, config)


def raw_images(images: Tensor, config: Sparse4DConfig) -> Tensor:
    """Normalised planes [1, N, 3, H, W] back to grey levels [1, N, H, W, 3] uint8, blue green red."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(images) for values in (config.image.mean, config.image.std))
    levels = (images * std + mean).round().clamp(0, 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
    return levels.flip(-1) if config.image.to_rgb else levels


def no_instances(config: Sparse4DConfig, inputs: ModelInput) -> CachedInstances:
    """The memory of a first frame: zeros, in the frame's own pose and time."""
    kept, like = config.temporal.num_instances, inputs.projection
    return CachedInstances(
        like.new_zeros(1, kept, config.embed_dims),
        like.new_zeros(1, kept, 11),
        like.new_zeros(1, kept),
        inputs.timestamp,
        inputs.T_global_from_model,
        like.new_zeros(1, kept, dtype=torch.int64) if config.tracking else None,
    )


def _state(found: dict[str, Tensor], inputs: ModelInput) -> TemporalState:
    device = inputs.projection.device
    new = {name.removeprefix("new_memory_"): t.to(device) for name, t in found.items() if name.startswith("new_")}
    cached = CachedInstances(
        new["feature"],
        new["anchor"],
        new["confidence"],
        inputs.timestamp,
        inputs.T_global_from_model,
        new.get("ids"),
    )
    return TemporalState(cached, new["ids_given"].reshape(()) if "ids_given" in new else None)
