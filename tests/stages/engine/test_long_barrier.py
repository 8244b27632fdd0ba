"""The ranks that wait for the export of rank 0 do so beyond the limit of a collective."""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist

from stages import tokenizer
from tests.interrupt import TWO_RANKS, add_callback, run_smoke

LIMIT, EXPORT = 5, 15  # s


class LimitCollectives(L.Callback):
    """From the end of the training on; before it, ranks start seconds apart on a busy machine."""

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=LIMIT))


def slow_export() -> None:
    add_callback("tokenizer_mse", LimitCollectives)
    export = tokenizer.Tokenizer.export

    def slowly(self: Any, artifact: Path) -> Any:
        time.sleep(EXPORT)
        return export(self, artifact)

    tokenizer.Tokenizer.export = slowly  # type: ignore[method-assign]


def test_export_may_take_longer_than_a_collective(tones: Path, whole: Path):
    words = ["run", "tokenizer_mse", "--experiment=slow-export", "--parents.latents=whole", *TWO_RANKS]
    run_smoke(tones, *words, "--trainer.max_steps=2", before=partial(slow_export))
    assert (tones / "runs/slow-export/tokenizer_mse/receipt.json").is_file()
