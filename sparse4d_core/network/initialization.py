"""Weights to start a training from, as the published models started."""

from __future__ import annotations

import math

from torch import nn

from .decoder import RecurrentDecoder
from .decoder_v1 import HistoryDecoder

PRIOR_PROBABILITY = 0.01  # of an instance being of a class, before anything is learned


def initialize_decoder(decoder: RecurrentDecoder | HistoryDecoder) -> None:
    """Xavier-uniform matrices in all parts of the layers but the refinement; attention weights start uniform.

    The shared attention projections, the box encoder and the refinement keep PyTorch's defaults, except the class
    bias, which starts at the prior (Lin et al., "Focal Loss", section 4.1).
    """
    for layer in decoder.layers:
        for name, parameter in layer.named_parameters():
            if parameter.dim() > 1 and not name.startswith("refine."):
                nn.init.xavier_uniform_(parameter)
        aggregation = layer.aggregation
        nn.init.zeros_(aggregation.weights_fc.weight)
        nn.init.zeros_(aggregation.weights_fc.bias)
        fusion = getattr(aggregation, "temp_module", None)
        for linear in (
            aggregation.output_proj,
            getattr(aggregation.kps_generator, "learnable_fc", None),
            None if fusion is None else fusion.fusion_layer,
        ):
            if linear is not None:
                nn.init.zeros_(linear.bias)
        nn.init.constant_(layer.refine.cls_layers[-1].bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
