"""One decoder layer: instances look at each other, at the images, and correct their boxes."""

from __future__ import annotations

from torch import Tensor, nn

from ..config import Sparse4DConfig
from .aggregation import DeformableAggregation
from .attention import InstanceAttention
from .layers import FeedForward
from .refinement import Refinement


class DecoderLayer(nn.Module):
    """The modules of a layer; the decoders (decoder.py, decoder_v1.py) call them in order.

    Args:
        aggregation: gathers image features.
        attention: instances of the frame attend to each other.
        temporal_attention: before that, to the cached instances of the last frame.
    """

    def __init__(
        self,
        config: Sparse4DConfig,
        aggregation: DeformableAggregation,
        attention: bool = True,
        temporal_attention: bool = False,
    ):
        super().__init__()
        dims = config.embed_dims

        def make_attention() -> InstanceAttention:
            return InstanceAttention(dims, config.attention_heads, config.attention_drop, config.decoupled_attention)

        self.temporal_attention = make_attention() if temporal_attention else None
        self.attention = make_attention() if attention else None
        self.attention_norm = nn.LayerNorm(dims) if attention else None
        self.aggregation = aggregation
        joined = config.aggregation.residual == "cat"
        self.ffn = FeedForward(
            2 * dims if joined else dims,
            dims,
            config.ffn_hidden,
            drop=config.ffn_drop,
            skip="linear" if joined else "identity",
        )
        self.norm = nn.LayerNorm(dims)
        self.refine = Refinement(
            dims,
            len(config.class_names),
            refine_yaw=config.refine_yaw,
            normalize_yaw=config.normalize_yaw,
            quality=config.quality_estimation,
        )

    def feed_forward(self, aggregated: Tensor) -> Tensor:
        return self.norm(self.ffn(aggregated))
