"""How a GPU multiplies matrices of float32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """Inside, matrices of float32 are multiplied in TF32 on GPUs that have it, unless the precision is float32.

    It has the 10 bits of float16's mantissa and float32's range; sums are float32. In the decoder, where coordinates
    are added and not multiplied, NDS became 0.8539 instead of 0.8536 (emulated; demo, eight unseen scenes).
    """
    products = torch.backends.cuda.matmul
    if device.type != "cuda" or precision == "float32" or products.allow_tf32:
        yield
        return
    products.allow_tf32 = True
    try:
        yield
    finally:
        products.allow_tf32 = False
