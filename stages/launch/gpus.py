"""What a GPU has: memory, peaks and bandwidth, as their makers publish them. No torch."""

from typing import NamedTuple


class Gpu(NamedTuple):
    memory: float  # bytes, as torch sees them
    bfloat16: float  # FLOP/s of dense products with tensor cores
    float32: float  # FLOP/s without them
    bandwidth: float  # bytes/s of its memory


GPUS = {
    "a100-40gb": Gpu(42.3e9, 312e12, 19.5e12, 1.56e12),
    "a100": Gpu(85.0e9, 312e12, 19.5e12, 2.04e12),
    "h100": Gpu(85.0e9, 989e12, 67e12, 3.35e12),
    "h200": Gpu(150.1e9, 989e12, 67e12, 4.8e12),
    "b200": Gpu(191.5e9, 2250e12, 75e12, 8.0e12),
    "l40s": Gpu(47.7e9, 362e12, 91.6e12, 0.86e12),
    "rtx4090": Gpu(25.3e9, 165e12, 82.6e12, 1.01e12),
}
PRODUCTS, TRAFFIC = 0.70, 0.85  # shares of peak and bandwidth that good kernels reach; assumed, not measured
LAUNCH = 1e-5  # seconds from one kernel to the next where Python starts each; assumed, not measured
USABLE = 0.94  # of the memory: the rest is the context's, and lost between blocks of unlike size


def seconds(gpu: Gpu, flops: float, traffic: float, float32: bool = False) -> float:
    """A roofline without overlap: products at their rate, then bytes at theirs."""
    peak = gpu.float32 if float32 else gpu.bfloat16
    return flops / (PRODUCTS * peak) + traffic / (TRAFFIC * gpu.bandwidth)
