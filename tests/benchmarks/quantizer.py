"""Time and memory of one training step of vector quantisation, ours beside vector-quantize-pytorch.

    python -m tests.benchmarks.quantizer [--repeats 9] [--clips 16]

The paper's book (8196 codes of 16 dimensions, found by cosine) on 16 clips of 10 s at the VAE's rate (16 x 215 vectors),
with running means, no revival. The peer twice: set to compute the same as ours (plain straight-through gradient), and
with its own defaults (Euclidean distance, rotation trick) at the same sizes. Seconds: medians of alternating steps.
Memory: the peak of resident memory in one step over what was resident before it, in a fresh process each, after imports
and a small step.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CLIPS, TOKENS, DIM, CODE_DIM, CODES = 16, 215, 64, 16, 8196
DECAY, COMMITMENT = 0.99, 0.25

Step = Callable[[Tensor], Tensor]  # latents -> loss


def ours() -> Step:
    from models.quantizer import VectorQuantizer

    model = VectorQuantizer(
        DIM, CODES, CODE_DIM, DECAY, COMMITMENT, kmeans_iterations=1, reservoir_size=CODES, revive_threshold=0.0,
        revive_every=1, revive_until=0, seed=0, variational="none", kl_weight=0.0, temperature=1.0,
    )  # fmt: skip
    model.ready.fill_(True)
    model.counts.fill_(1.0)
    model.sums.copy_(model.codebook)

    def loss(latents: Tensor) -> Tensor:
        output = model(latents, None, update=True)
        return output.quantized.square().mean() + output.loss

    return _step(model, loss)


def peer(**options: Any) -> Step:
    from vector_quantize_pytorch import VectorQuantize

    model = VectorQuantize(dim=DIM, codebook_dim=CODE_DIM, codebook_size=CODES, threshold_ema_dead_code=0, **options)

    def loss(latents: Tensor) -> Tensor:
        quantized, _, commitment = model(latents)
        return quantized.square().mean() + commitment.sum()

    return _step(model, loss)


SAME = {"decay": DECAY, "commitment_weight": COMMITMENT, "use_cosine_sim": True, "rotation_trick": False}
PEERS = {
    "ours": ours,
    "vector-quantize-pytorch, the same computation": partial(peer, **SAME),
    "vector-quantize-pytorch, its defaults": peer,
}


def _step(model: nn.Module, loss: Step) -> Step:
    """Forward, running means, backward."""

    def step(latents: Tensor) -> Tensor:
        model.zero_grad()
        output = loss(latents.clone().requires_grad_())
        output.backward()
        return output.detach()

    model.train()
    return step


def batch(clips: int, tokens: int = TOKENS) -> Tensor:
    return torch.randn(clips, tokens, DIM, generator=torch.Generator().manual_seed(0))


def seconds(repeats: int, clips: int) -> dict[str, float]:
    steps, latents = {name: build() for name, build in PEERS.items()}, batch(clips)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step(latents)
            if repeat:  # the first warms up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_megabytes(name: str, clips: int) -> float:
    """In this process, Linux alone: /proc keeps the highest resident size, and forgets it on request."""
    step, latents = PEERS[name](), batch(clips)
    step(batch(1, 8))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step(latents)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each")
    parser.add_argument("--clips", type=int, default=CLIPS, help="of 10 s")
    parser.add_argument("--memory", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(peak_megabytes(arguments.memory, arguments.clips))
        return
    times = seconds(arguments.repeats, arguments.clips)
    alone = [sys.executable, "-m", "tests.benchmarks.quantizer", f"--clips={arguments.clips}", "--memory"]
    peaks = {name: float(subprocess.check_output([*alone, name])) for name in PEERS}
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    print(
        f"{arguments.clips} x {TOKENS} vectors, {DIM} -> {CODE_DIM} dimensions, {CODES} codes; torch {torch.__version__}, {cores}\n"
    )
    print("| | seconds a step | peak MB over the resting process | times ours | |\n|---|---|---|---|---|")
    for name in PEERS:
        ratios = f"{times[name] / times['ours']:.1f} | {peaks[name] / peaks['ours']:.1f}"
        print(f"| {name} | {times[name]:.3f} | {peaks[name]:.0f} | {ratios} |")


if __name__ == "__main__":
    main()
