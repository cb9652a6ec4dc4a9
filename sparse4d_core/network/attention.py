"""Attention between instances: of one frame, and to the instances of the frame before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear


class MultiheadAttention(nn.Module):
    """Multi-head attention; the softmax map is never written out.

    Parameter names and layout are those of ``torch.nn.MultiheadAttention`` (in_proj rows: query, key, value).
    """

    def __init__(self, dims: int, num_heads: int, drop: float):
        super().__init__()
        self.num_heads = num_heads
        self.drop = drop
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dims, dims))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dims))
        self.out_proj = Linear(dims, dims)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query [B, Q, D], key and value [B, K, D], mask [Q, K] bool with True = blocked. Returns [B, Q, D]."""
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        q, k, v = (
            linear(x, w, b, self.out_proj.onednn).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        allowed = None if mask is None else ~mask
        drop = self.drop if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=drop)
        return self.out_proj(attended.transpose(1, 2).flatten(-2))


class InstanceAttention(nn.Module):
    """Attention plus its own query; the embedding that marks position goes in by addition or side by side.

    decoupled=False (v1, v2): query = feature + embedding; returns feature + attention.
    decoupled=True (v3): query = [feature, embedding], twice as wide; returns query + attention, which the decoder's
    shared `fc_after` narrows again.

    Source: Sparse4D v3, section 3.3 (decoupled attention).
    """

    def __init__(self, dims: int, num_heads: int, drop: float, decoupled: bool):
        super().__init__()
        self.decoupled = decoupled
        self.attn = MultiheadAttention(2 * dims if decoupled else dims, num_heads, drop)
        self.dropout = nn.Dropout(drop)

    def join(self, feature: Tensor, embed: Tensor) -> Tensor:
        return torch.cat([feature, embed], dim=-1) if self.decoupled else feature + embed

    def forward(self, feature: Tensor, embed: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        query = self.join(feature, embed)
        identity = query if self.decoupled else feature
        return identity + self.dropout(self.attn(query, key, value, mask))
