"""What a training step of tokenizer and LLM, and a decoding, asks of the device: waits, operations, casts. Counted on the CPU.

    python -m tests.benchmarks.synchronisations [--lines]

By a TorchDispatchMode, over forward and backward pass without the optimizer, in float32 and under autocast to bfloat16:

waits         operations that give the host a number (item(), bool(), int(), float(), tolist(): _local_scalar_dense) or a
              result whose size the device decides (nonzero, masked indexing)
constants     tensors made from Python numbers, each a copy that a GPU is waited for
operations    of aten that compute something, about a kernel each: views are left out
casts, MB     copies to another dtype, and what they write
loss          to compare with that of another version

What a stage does on the CPU before its batch is copied (`plan_loss`) is not counted. --lines: the lines of models/ that
wait. On a GPU `python -m tests.benchmarks.gpu --only tokenizer_step,language_step` lists the same waits by CUDA's debug mode.
"""

import argparse
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from models.language.loss_plan import LossWeights, plan_loss
from tests.benchmarks.gpu import Bench

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")
CASTS = ("_to_copy", "copy_")
ROOT = Path(__file__).parents[2]


class Count(TorchDispatchMode):
    """lines: file:line of this project -> how often it waited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()
        self.constants = self.operations = self.casts = self.bytes = 0

    @property
    def waits(self) -> int:
        return self.lines.total()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        masked = name.startswith("index") and _has_mask(args[1])
        if name in WAITING or masked:
            self.lines[_line()] += 1
        self.constants += name == "lift_fresh"
        self.operations += not func.is_view and name not in ("lift_fresh", "detach", *WAITING)
        source = args[1] if name == "copy_" else args[0] if args else None
        if name in CASTS and isinstance(source, Tensor) and source.dtype != result.dtype:
            self.casts += 1
            self.bytes += result.nbytes
        return result


def _has_mask(indices: Any) -> bool:
    parts = indices if isinstance(indices, list | tuple) else []
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts)


def _line() -> str:
    """The innermost running line of this project's models, as file:line."""
    ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(ROOT / "models")]
    return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}" if ours else "elsewhere"


def count(step: Callable[[], Any]) -> Count:
    with Count() as mode:
        step()
    return mode


def steps(bench: Bench) -> dict[str, Callable[[], float | None]]:
    """What is counted, by name; each gives its loss, if any, once it is counted."""
    tokenizer = bench.tokenizer("quantizer.reservoir_size=8196").train()
    latents, lengths = bench.latents(2)
    decoder = bench.tokenizer().eval()
    codes, noise = (
        decoder.encode(latents, lengths),
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(2)),
    )
    tokenizer.quantizer.ready.fill_(True)  # type: ignore[union-attr,operator]  # past the steps that fill the reservoir
    assert tokenizer.quantizer.started
    language = bench.language().train()
    ids, mask, labels, kinds = bench.conversations(language, 512)
    plan = plan_loss(ids, mask, labels, kinds, None, None, LossWeights(10.0, 1.0, 0.0, 1e-4))

    def train_tokenizer() -> Tensor:
        loss = tokenizer.training_loss(latents, lengths, torch.Generator().manual_seed(3), is_padded=False).loss
        loss.backward()
        return loss.detach()

    def train_language() -> Tensor:
        loss = language.planned_loss(plan).loss
        loss.backward()
        return loss.detach()

    return {
        "training step of the tokenizer": train_tokenizer,
        "decoding in 4 steps": lambda: decoder.decode(*codes, lengths, 4, "euler", 2.0, noise),
        "decoding in 25 steps": lambda: decoder.decode(*codes, lengths, 25, "euler", 2.0, noise),
        "training step of the LLM": train_language,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", action="store_true")
    options = parser.parse_args()
    print("| step | dtype | waits | constants | operations | casts | MB | loss |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        for name, step in steps(Bench(small=True)).items():
            results: list[Tensor] = []
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                counted = count(lambda step=step, results=results: results.append(step()))
            loss = f"{float(results[0]):.8g}" if results[0].dim() == 0 else ""
            numbers = f"{counted.waits} | {counted.constants} | {counted.operations} | {counted.casts} | {counted.bytes / 1e6:.1f}"
            print(f"| {name} | {str(dtype).removeprefix('torch.')} | {numbers} | {loss} |")
            for line, number in counted.lines.most_common() if options.lines else ():
                print(f"    {number:>4} {line}")


if __name__ == "__main__":
    main()
