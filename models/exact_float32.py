"""Float32 that is float32: without autocast and, on a GPU, without TF32, whose products have 10 bits of mantissa."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def exact_float32(device_type: str) -> Iterator[None]:
    """For what decides codes or latents, which are to be the same on a GPU and on a CPU but for the order of sums.

    PyTorch lets convolutions use TF32 by default, and products of matrices not; only the first is changed here.
    """
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
