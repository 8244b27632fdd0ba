"""What is left of a cache, and whose it is: rank r of W makes every W-th chunk."""

from pathlib import Path
from typing import Any

import lightning as L

from datamodules.store import chunks


class PendingChunks(L.LightningDataModule):
    """The chunks that were not there when the run began: rank 0 looks, for another may have made one by the time it does."""

    mine: list[chunks.Chunk]
    done: int  # cuts in the chunks that were there

    def __init__(self, folder: Path, planned: list[chunks.Chunk]) -> None:
        super().__init__()
        self.folder, self.planned = folder, planned

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        names = [chunk.id for chunk in chunks.pending(self.folder, self.planned)]
        names = set(trainer.strategy.broadcast(names))
        pending = [chunk for chunk in self.planned if chunk.id in names]
        self.mine = pending[trainer.global_rank :: trainer.world_size]
        self.done = sum(len(chunk.cuts) for chunk in self.planned if chunk.id not in names)
