"""The chunks that a run has to make, dealt to its ranks: rank r of W makes every W-th."""

from pathlib import Path
from typing import Any

import lightning as L

from datamodules.store import chunks


class PendingChunks(L.LightningDataModule):
    """The chunks that were not finished when the run began. Rank 0 looks: another rank may have made one by the time
    it does.

    planned: as rank 0 has written it; rank_chunks: the pending ones of this rank; finished_cuts: cuts in the chunks that
    were finished; pending_seconds: of sound in those that were not. All are set by `setup`.
    """

    planned: chunks.Plan
    rank_chunks: list[chunks.Chunk]
    finished_cuts: int
    pending_seconds: float

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def setup(self, stage: str) -> None:
        trainer: Any = self.trainer
        self.planned = chunks.Plan(self.folder)
        ids = [chunk.id for chunk in chunks.pending(self.folder, self.planned)]
        pending_ids = set(trainer.strategy.broadcast(ids))
        pending = [chunk for chunk in self.planned if chunk.id in pending_ids]
        self.rank_chunks = pending[trainer.global_rank :: trainer.world_size]
        self.finished_cuts = self.planned.num_cuts - sum(chunk.num_cuts for chunk in pending)
        self.pending_seconds = sum((chunk.seconds for chunk in pending), 0.0)
