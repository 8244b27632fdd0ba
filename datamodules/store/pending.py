"""The chunks that a run has to make, dealt to its ranks: rank r of W makes every W-th."""

from pathlib import Path
from typing import Any

import lightning as L

from datamodules.store import chunks


class PendingChunks(L.LightningDataModule):
    """The chunks that were not finished when the run began. Rank 0 looks: another rank may have made one by the time
    it does.

    rank_chunks: those of this rank; finished_cuts: cuts in the chunks that were finished. Both are set by `setup`.
    """

    rank_chunks: list[chunks.Chunk]
    finished_cuts: int

    def __init__(self, folder: Path, planned: list[chunks.Chunk]) -> None:
        super().__init__()
        self.folder, self.planned = folder, planned

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        ids = [chunk.id for chunk in chunks.pending(self.folder, self.planned)]
        pending_ids = set(trainer.strategy.broadcast(ids))
        pending = [chunk for chunk in self.planned if chunk.id in pending_ids]
        self.rank_chunks = pending[trainer.global_rank :: trainer.world_size]
        self.finished_cuts = sum(len(chunk.cuts) for chunk in self.planned if chunk.id not in pending_ids)
