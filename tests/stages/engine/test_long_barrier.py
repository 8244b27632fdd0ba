"""Ranks that wait for one another outside a collective do so beyond its limit; what they do not need is not sent."""

import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stages import tokenizer
from stages.engine.distributed import long_barrier, not_broadcast
from tests import zygote
from tests.interrupt import TWO_RANKS, add_callback, run_smoke

LIMIT, EXPORT = 5, 15  # s
SHORT, LATE = 1, 3  # s


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


def arrive(rank: int, folder: Path) -> None:
    """Rank 1 comes to the barrier long after the limit of a collective, as one with more to predict does."""
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    dist.barrier()  # both have started
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=SHORT))
    time.sleep(LATE * rank)
    with long_barrier():
        (folder / f"entered-{rank}").touch()
    assert all((folder / f"entered-{other}").exists() for other in range(2))
    dist.destroy_process_group()


def test_a_rank_may_come_later_than_a_collective_waits(tmp_path: Path):
    ranks = [zygote.start(None, tmp_path, partial(arrive, rank, tmp_path)) for rank in range(2)]
    for ended in [rank.wait() for rank in ranks]:
        assert ended.status == 0, ended.output


def test_ddp_sends_no_buffer_that_ranks_have_alike(tmp_path: Path):
    module = nn.Module()
    module.inner = nn.Linear(2, 2)
    for name in ("reservoir", "counts"):
        module.inner.register_buffer(name, torch.zeros(3))
    not_broadcast(module, "reservoir")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        sent = DistributedDataParallel(module).modules_buffers
    finally:
        dist.destroy_process_group()
    assert [buffer is module.inner.counts for buffer in sent] == [True]
