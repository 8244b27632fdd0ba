"""A step's gradient does not depend on how many batches its items come in, nor on how many ranks."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from datamodules.batches import NumberedBatches
from stages.engine.accumulation import WeightedAccumulation
from tests.interrupt import TWO_RANKS, add_callback, run_smoke


def gradient(parts: list[list[int]]) -> torch.Tensor:
    """Of a weighted mean of squares over eight rows of unlike weight, cut into these parts."""
    torch.manual_seed(0)
    rows, weights = torch.randn(8, 3, dtype=torch.float64), torch.arange(1.0, 9.0, dtype=torch.float64) ** 2
    layer = nn.Linear(3, 1, dtype=torch.float64)
    accumulation = WeightedAccumulation(len(parts), scale=7.0)
    for part in parts:
        weight = weights[part]
        mean = (weight * layer(rows[part])[:, 0].square()).sum() / weight.sum()
        (accumulation.add(mean, weight.sum()) / len(parts)).backward()
    accumulation.apply(layer.parameters())
    return layer.weight.grad


@pytest.mark.parametrize(
    "parts", [[[0, 1, 2, 3], [4, 5, 6, 7]], [[0], [1, 2, 3, 4, 5], [6, 7]], [[n] for n in range(8)]]
)
def test_gradient_of_the_parts_is_that_of_the_whole(parts: list[list[int]]):
    torch.testing.assert_close(gradient(parts), gradient([list(range(8))]), rtol=1e-13, atol=1e-14)


class RecordGradient(L.Callback):
    """Norms of the first step's gradients, which the optimizer sees, to norms-WORLD.json."""

    def on_before_zero_grad(self, trainer: L.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        path = Path(f"norms-{trainer.accumulate_grad_batches}-{trainer.world_size}.json")
        norms = {n: float(p.grad.double().norm()) for n, p in module.named_parameters() if p.grad is not None}
        if norms and trainer.is_global_zero and not path.exists():
            path.write_text(json.dumps(norms))


class Consecutive(NumberedBatches):
    """Items in their order, as many for each rank and batch as the first bucket's batches hold."""

    def from_batch(self, batch: int) -> Iterator[np.ndarray]:
        size, world = int(self.edges[0, 0, 1] - self.edges[0, 0, 0]), self.edges.shape[1]
        for step in range(batch, len(self)):
            begin = (step * world + self.rank) * size
            yield np.arange(begin, begin + size) % len(self.bucket)


def four_items(items: int) -> None:
    """Steps of four items of the stage caption, `items` of them in a batch of all ranks."""
    from datamodules.language.id_batches import LanguageDataModule

    LanguageDataModule.train_sampler = lambda self, rank, world: Consecutive(
        np.ones(len(self.train_items[0])), [1], [items // world],
        shuffle=False, seed=self.seed, rank=rank, world=world,
    )  # fmt: skip
    add_callback("caption", RecordGradient)


def test_a_step_of_the_stage_is_that_of_one_batch_on_one_rank_and_on_two(tones: Path, whole: Path):
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache")]
    for batches, _, more in ((1, 1, []), (4, 1, []), (2, 2, list(TWO_RANKS))):
        words = ["run", "caption", f"--experiment=accumulated-{batches}", *parents, "--lora.dropout=0", *more]
        steps = [f"--trainer.accumulate_grad_batches={batches}", "--trainer.gradient_clip_val=null"]
        run_smoke(tones, *words, *steps, "--trainer.max_steps=2", before=partial(four_items, 4 // batches))
    one, *others = [json.loads(path.read_text()) for path in sorted(tones.glob("norms-*.json"))]
    assert one and len(others) == 2
    for norms in others:
        assert norms == pytest.approx(one, rel=1e-3)
