"""Memory and seconds of the loss alone, forward and backward: ours, the same in chunks that are computed twice, and plain cross-entropy.

    python -m tests.benchmarks.language_memory [--vocabulary 57000] [--tokens 4096] [--dim 576 2048] [--device cpu] [--dtype float32]

57,000 ids, of which 8,198 are new and train: the rest of the head is frozen. Plain: float32 logits of all positions, `F.cross_entropy` and z-loss, as a
user writes them. Each way runs in processes of its own, in turn; memory is what the process' peak grew by (on a GPU max_memory_allocated), the median of
the runs; seconds are the median of the steps.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.language import chunked_cross_entropy
from models.language.chunked_cross_entropy import LogitTransform

NEW = 8198
Z = 1e-4
WAYS = ("plain", "chunks, twice", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=57_000)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--dim", type=int, nargs="+", default=[576, 2048])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--chunk", type=int, default=chunked_cross_entropy.CHUNK)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="measure this one here, in this process")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_measure(options)))
        return
    print(f"{options.tokens} tokens, {options.vocabulary} ids, {options.dtype}, {options.device}, {options.runs} runs")
    print("| D | way | MB | of plain | seconds | of plain | loss |")
    print("|---|---|---|---|---|---|---|")
    for dim in options.dim:
        results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.runs):
            for way in WAYS:
                words = [
                    f"--{key}={value}" for key, value in vars(options).items() if key not in ("dim", "way", "runs")
                ]
                command = [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.language_memory",
                    "--way",
                    way,
                    f"--dim={dim}",
                    *words,
                ]
                answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[way].append(json.loads(answer))
        medians = {
            way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in results.items()
        }
        plain = medians["plain"]
        for way, median in medians.items():
            print(
                f"| {dim} | {way} | {median['mb']:.0f} | {median['mb'] / plain['mb']:.3f} | {median['seconds']:.2f} | "
                f"{median['seconds'] / plain['seconds']:.2f} | {median['loss']:.5f} |"
            )


def _measure(options: argparse.Namespace) -> dict[str, float]:
    chunked_cross_entropy.CHUNK = options.chunk
    (dim,) = options.dim
    generator, dtype = torch.Generator().manual_seed(0), getattr(torch, options.dtype)
    text = torch.randn(options.vocabulary - NEW, dim, generator=generator).mul_(0.05).to(options.device, dtype)
    new = torch.randn(NEW, dim, generator=generator).mul_(0.05).to(options.device).requires_grad_()
    hidden = torch.randn(options.tokens, dim, generator=generator).to(options.device, dtype).requires_grad_()
    targets = torch.randint(options.vocabulary, (options.tokens,), generator=generator).to(options.device)
    weights = torch.where(targets >= len(text), 10.0, 1.0)
    loss = {"plain": _plain, "chunks, twice": _twice, "ours": _ours}[options.way]

    def step(count: int) -> float:
        value = loss(hidden[:count], text, new, targets[:count], weights[:count])
        value.backward()
        hidden.grad = new.grad = None
        return value.item()

    step(2)  # buffers of the libraries
    before, begun, seconds = _peak(options.device), 0.0, []
    for _ in range(options.steps):
        begun = time.perf_counter()
        value = step(options.tokens)
        seconds.append(time.perf_counter() - begun)
    return {"mb": (_peak(options.device) - before) / 2**20, "seconds": statistics.median(seconds), "loss": value}


def _peak(device: str) -> float:
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def _ours(hidden: Tensor, text: Tensor, new: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (
        chunked_cross_entropy.chunked_cross_entropy(
            hidden, text, None, new, targets, weights, Z, LogitTransform(1.0, None)
        ).loss
        / weights.sum()
    )


def _head(hidden: Tensor, text: Tensor, new: Tensor) -> Tensor:
    return torch.cat([F.linear(hidden, text), F.linear(hidden, new.to(hidden.dtype))], -1).float()


def _plain(hidden: Tensor, text: Tensor, new: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    logits = _head(hidden, text, new)
    each = F.cross_entropy(logits, targets, reduction="none") + Z * logits.logsumexp(-1).square()
    return (weights * each).sum() / weights.sum()


def _twice(hidden: Tensor, text: Tensor, new: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    part: Callable[..., Tensor] = lambda h, t, w: _plain(h, text, new, t, w) * w.sum()  # noqa: E731
    pieces = zip(*(tensor.split(chunked_cross_entropy.CHUNK) for tensor in (hidden, targets, weights)), strict=True)
    return sum(checkpoint(part, *piece, use_reentrant=False) for piece in pieces) / weights.sum()


if __name__ == "__main__":
    main()
