"""Every preset with its size, cost, published figures and assumptions.

python -m sparse4d_core.models             the table
python -m sparse4d_core.models v3_r50      one preset in detail
python -m sparse4d_core.models --json      everything, for programs
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from .command_line import OK
from .config import PRESETS, Sparse4DConfig, preset
from .model_io import ModelInput
from .network.sparse4d import Sparse4D

EPILOG = """\
FLOPs count a multiplication and an addition as two, of convolutions, matrix products and attention, for one frame of
all cameras with the memory filled; sampling of image features is not counted.

Published figures are those of the authors' tables (nuScenes, full training). What of each preset was compared with
recorded outputs of the reference implementation is in docs/models.md.

examples:
  python -m sparse4d_core.models v3_r50
  python -m sparse4d_core.models --json > models.json
"""

V1_CAMERAS = 6  # that the attention weights of v1 are made for


@dataclass(frozen=True)
class Cost:
    """Of one frame in evaluation."""

    parameters: int
    encoder_flops: int  # backbone and neck, all cameras
    decoder_flops: int  # with the memory of earlier frames filled

    @property
    def flops(self) -> int:
        return self.encoder_flops + self.decoder_flops


def num_parameters(model: Sparse4D) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def cost(config: Sparse4DConfig, num_cameras: int = 6) -> Cost:
    """Counted on tensors without content, so that it takes neither the memory nor the time of the model."""
    past_frames = config.history.num_frames if config.history else 1 if config.temporal else 0
    with torch.device("meta"), torch.inference_mode():
        model = Sparse4D(config).eval()
        inputs = _empty_input(config, num_cameras)
        with FlopCounterMode(display=False) as encoder:
            features = model.image_features(inputs.images)
        state = None
        for _ in range(past_frames):
            _, state = model.decode_features(features, inputs, state)
        with FlopCounterMode(display=False) as decoder:
            model.decode_features(features, inputs, state)
    return Cost(num_parameters(model), encoder.get_total_flops(), decoder.get_total_flops())


def takes(config: Sparse4DConfig, num_cameras: int) -> bool:
    """Whether its weights fit a rig of so many cameras: with camera embedding (v2, v3) any number."""
    return config.aggregation.camera_embed or num_cameras == V1_CAMERAS


def table(configs: Sequence[Sparse4DConfig], costs: Sequence[Cost]) -> str:
    """One line a preset; '*' marks presets with assumptions."""
    header = ("preset", "backbone", "input", "parameters", "GFLOPs", "split", "NDS", "mAP", "AMOTA", "checkpoint")
    rows = [header]
    for config, spent in zip(configs, costs, strict=True):
        width, height = config.image.input_wh
        figures = (config.published.nds, config.published.map, config.published.amota)
        rows.append(
            (
                config.name + ("*" if config.assumptions else ""),
                backbone_name(config),
                f"{height}x{width}",
                f"{spent.parameters / 1e6:.1f} M",
                f"{spent.flops / 1e9:,.0f}",
                config.published.split,
                *("-" if figure is None else f"{figure:.4g}" for figure in figures),
                config.published.checkpoint or "-",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", "* rests on assumptions: python -m sparse4d_core.models PRESET lists them"]
    return "\n".join(lines)


def details(config: Sparse4DConfig, spent: Cost) -> str:
    width, height = config.image.input_wh
    published = config.published
    figures = ", ".join(
        f"{name} {value:g}"
        for name, value in (("NDS", published.nds), ("mAP", published.map), ("AMOTA", published.amota))
        if value is not None
    )
    memory = "none (single frame)"
    if config.temporal is not None:
        memory = f"the {config.temporal.num_instances} strongest of {config.num_anchors} instances, frame after frame"
    elif config.history is not None:
        memory = f"feature maps of the last {config.history.num_frames} frames"
    sampling = "grid sampling, fading at the image border"
    if config.aggregation.sampling == "operator":
        sampling = "aggregation operator (points outside the image count nothing)"
    lines = [
        f"{config.name}: Sparse4D v{config.generation}",
        f"  backbone      {backbone_name(config)}",
        f"  input         {height}x{width} pixels a camera",
        f"  parameters    {spent.parameters:,}",
        f"  cost          {spent.encoder_flops / 1e9:,.1f} GFLOPs images, {spent.decoder_flops / 1e9:,.1f} decoder",
        f"  memory        {memory}",
        f"  sampling      {sampling}",
        f"  track ids     {'yes' if config.tracking else 'no'}",
        f"  published     {figures or 'no figures'} (nuScenes {published.split}) {published.note}".rstrip(),
        f"  checkpoint    {published.checkpoint or 'none released'}",
    ]
    lines += [f"  assumption    {assumption}" for assumption in config.assumptions]
    return "\n".join(lines)


def backbone_name(config: Sparse4DConfig) -> str:
    backbone = config.backbone
    if backbone.kind == "vovnet":
        return f"VoVNet-{backbone.depth} eSE"
    narrow = f" x{backbone.base_width / 64:g}" if backbone.base_width != 64 else ""
    return f"ResNet-{backbone.depth}{narrow}" + (" DCNv2" if any(backbone.deformable_stages) else "")


def _empty_input(config: Sparse4DConfig, num_cameras: int) -> ModelInput:
    width, height = config.image.input_wh
    return ModelInput(
        images=torch.empty(1, num_cameras, 3, height, width),
        projection=torch.empty(1, num_cameras, 4, 4),
        image_wh=torch.empty(1, num_cameras, 2),
        timestamp=torch.empty(1, dtype=torch.float64),
        T_global_from_model=torch.empty(1, 4, 4, dtype=torch.float64),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sparse4d_core.models",
        description="Lists every model that can be had by name.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("preset", nargs="*", help="show only these, in detail")
    parser.add_argument("--cameras", type=int, default=6, metavar="N", help="cameras of the rig (default 6)")
    parser.add_argument("--json", action="store_true", help="configuration, cost and published figures as JSON")
    options = parser.parse_args(arguments)
    if options.cameras < 1:
        parser.error(f"--cameras: expected a number from 1 on, got {options.cameras}")
    try:
        configs = [preset(name) for name in options.preset]
    except ValueError as error:
        parser.error(str(error))
    fixed = [config.name for config in configs or PRESETS.values() if not takes(config, options.cameras)]
    if configs and fixed:
        parser.error(f"--cameras: the weights of {', '.join(fixed)} are made for {V1_CAMERAS}, got {options.cameras}")
    configs = configs or [config for config in PRESETS.values() if config.name not in fixed]
    progress = tqdm(configs, desc="counting", leave=False, disable=None)
    costs = [cost(config, options.cameras) for config in progress]
    if options.json:
        entries = [{**asdict(c), "cost": {**asdict(s), "flops": s.flops}} for c, s in zip(configs, costs, strict=True)]
        print(json.dumps(entries, indent=2))
    elif options.preset:
        print("\n\n".join(details(c, s) for c, s in zip(configs, costs, strict=True)))
    else:
        print(table(configs, costs))
        if fixed:
            print(f"made for {V1_CAMERAS} cameras and left out: {', '.join(fixed)}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
