"""How often one training step, and one decoding, of tokenizer and LLM would wait for a GPU: counted on the CPU, by operations.

    python -m tests.benchmarks.synchronisations

Counted by a TorchDispatchMode: operations that give the host a number (item(), bool(), int(), float(), tolist() of one:
_local_scalar_dense) or a result whose size the device decides (nonzero, masked indexing), with the lines that ask.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.benchmarks.gpu import Bench

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero")
ROOT = Path(__file__).parents[2]


class CountWaiting(TorchDispatchMode):
    """lines: file:line of this project -> how often it waited."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in WAITING or masked:
            ours = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT / "models")]
            last = ours[-1] if ours else None
            self.lines[f"{Path(last.filename).relative_to(ROOT)}:{last.lineno}" if last else "elsewhere"] += 1
        return func(*args, **(kwargs or {}))


def count(step: Callable[[], Any]) -> Counter[str]:
    with CountWaiting() as mode:
        step()
    return mode.lines


def steps(bench: Bench) -> dict[str, Callable[[], Any]]:
    """What is counted, by name."""
    tokenizer = bench.tokenizer().train()
    latents, lengths = bench.latents(2)
    decoder = bench.tokenizer().eval()
    codes, noise = decoder.encode(latents, lengths), torch.randn(latents.shape)
    language = bench.language().train()
    batch = bench.conversations(language, 512)
    weights = {"audio_weight": 10.0, "text_weight": 1.0, "prompt_weight": 0.0, "z_loss_weight": 1e-4}
    return {
        "training step of the tokenizer": lambda: tokenizer.training_loss(
            latents, lengths, torch.Generator()
        ).loss.backward(),
        "decoding in 4 steps": lambda: decoder.decode(*codes, lengths, 4, "euler", 2.0, noise),
        "decoding in 25 steps": lambda: decoder.decode(*codes, lengths, 25, "euler", 2.0, noise),
        "training step of the LLM": lambda: language.loss(*batch, **weights).loss.backward(),
    }


def main() -> None:
    for name, step in steps(Bench(small=True)).items():
        lines = count(step)
        print(f"{name}: {lines.total()}")
        for line, number in lines.most_common():
            print(f"  {number:>4} {line}")


if __name__ == "__main__":
    main()
