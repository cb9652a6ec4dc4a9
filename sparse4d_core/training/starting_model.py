"""What a training starts from."""

from __future__ import annotations

import logging
import pathlib

import numpy as np
import torch

from ..checkpoint.backbone import load_backbone
from ..checkpoint.weights import load_checkpoint
from ..config import Sparse4DConfig
from ..network.initialization import initialize_decoder
from ..network.sparse4d import Sparse4D
from .schedule import TrainingConfig

log = logging.getLogger(__name__)


def build_model(
    config: Sparse4DConfig,
    training: TrainingConfig,
    seed: int,
    *,
    anchors: pathlib.Path | None = None,
    init: pathlib.Path | None = None,
    backbone: pathlib.Path | None = None,
) -> Sparse4D:
    """A model to start from: seeded, with a backbone of another task or all weights of a checkpoint, and given anchors.

    Args:
        anchors: .npy of [num_anchors, 11].
        init, backbone: files of weights; at most one of the two.

    Raises:
        ValueError: a file that does not fit, or both `init` and `backbone`.
    """
    if init is not None and backbone is not None:
        raise ValueError("backbone: --init brings the whole model, backbone included; give one of the two")
    torch.manual_seed(seed)
    model = Sparse4D(config, training.scene_reset, training.activation_checkpointing)
    # The model did this when it was made. The second draw stays: without it the weights of a seed would be others.
    initialize_decoder(model.decoder)
    if backbone is not None:
        log.info("%s", load_backbone(backbone, model.backbone, model.neck))
    if init is not None:
        load_checkpoint(init, model)
    if anchors is not None:  # after the checkpoint, which holds the anchors of its own data
        values = np.load(anchors, allow_pickle=False)
        if values.shape != tuple(model.decoder.anchor.shape):
            raise ValueError(
                f"anchors: {anchors} has shape {values.shape}, {config.name} needs {tuple(model.decoder.anchor.shape)}"
            )
        model.decoder.anchor.data.copy_(torch.from_numpy(values))
    return model
