"""A small model of the demo's kind and its exported steps, each made once for a whole run of the tests."""

from __future__ import annotations

import fcntl
from dataclasses import replace
from pathlib import Path

import torch

from sparse4d_core.config import (
    PRESETS,
    AnchorEncoderConfig,
    BackboneConfig,
    ImageConfig,
    Sparse4DConfig,
    TemporalConfig,
)
from sparse4d_core.export import interface
from sparse4d_core.export.exporter import ExportOptions, export_step
from sparse4d_core.export.step import RecurrentStep
from sparse4d_core.inference.artefact import Artefact
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D

SMALL: Sparse4DConfig = replace(
    PRESETS["demo"],
    image=ImageConfig((88, 32), original_wh=(176, 99)),
    backbone=BackboneConfig(depth=18, base_width=8),
    embed_dims=32,
    num_anchors=32,
    num_decoder_layers=2,
    anchor_encoder=AnchorEncoderConfig(dims=(16, 4, 4, 8), out_loops=1),
    ffn_hidden=64,
    temporal=TemporalConfig(num_instances=16),
    num_output=16,
    min_separation=None,  # random boxes lie on one another; and it is no part of what is exported
)


def small_pipeline() -> Pipeline:
    """Random weights everywhere, so that every path carries a signal and no two scores tie."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Sparse4D(SMALL, "clean")
        for parameter in model.decoder.layers.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # residual blocks start as the identity
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        model.decoder.layers[-1].refine.cls_layers[-1].bias.data += 3  # scores that an example shows
    return Pipeline(model, trained=False)


def exported(tmp_path_factory, form: str, **options) -> Path:
    """The folder of the small model's step in that format; with its proof and example."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if root.name.startswith("popen-") else root  # what the processes of one run share
    name = "-".join([form, *(f"{key}_{value}" for key, value in options.items())])
    folder = root / "exported_steps" / name
    folder.parent.mkdir(exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            operator = options.pop("operator", "native" if form == "aoti" else "portable")
            export_step(small_pipeline(), ExportOptions(form, operator=operator, **options), folder)
    return folder


class InPyTorch(Artefact):
    """A step that was not written: the artefact's arguments and results around the module itself."""

    def __init__(self, pipeline, **options):
        self._step = RecurrentStep(pipeline.model, **options).eval()
        self.config, self.views_left_out = pipeline.config, 0
        images = options.get("images", "normalized")
        facts = {"images": images, "cameras": 6, "overlap": options.get("overlap"), "precision": "float32"}
        self.manifest = type("Manifest", (), facts)
        self._run = lambda tensors: list(self._step(*tensors))

    def _names(self):
        return [spec.name for spec in interface.outputs(self.config, self.manifest.overlap)]
