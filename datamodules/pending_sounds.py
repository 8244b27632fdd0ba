"""What the stage `cache` reads: sounds without codes, as stored latents where there are any, and else as sound."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.latents import PendingLatents
from datamodules.store.chunks import Chunk
from datamodules.store.index import CachedCuts
from datamodules.store.pending import PendingChunks
from datamodules.waveform_batches import WaveformReader, read_chunks
from datamodules.windows import WindowRule


class PendingSounds(PendingChunks):
    """The chunks of a rank that have no codes yet: first those whose latents are stored, then the others.

    latents: None where there are none; reader: makes what reads sound, and is called only where a chunk needs it.
    """

    def __init__(
        self,
        folder: Path,
        latents: CachedCuts | None,
        rule: WindowRule,
        batch_size: int,
        reader: Callable[[], WaveformReader],
        num_workers: int,
    ) -> None:
        super().__init__(folder)
        self.latents, self.rule, self.batch_size = latents, rule, batch_size
        self.reader, self.num_workers = reader, num_workers

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.stored = [chunk for chunk in self.rank_chunks if self._is_stored(chunk)]
        self.unknown = [chunk for chunk in self.rank_chunks if not self._is_stored(chunk)]
        self.rank_chunks = self.stored + self.unknown

    def _is_stored(self, chunk: Chunk) -> bool:
        return self.latents is not None and bool((self.latents.rows_of(chunk.sounds) >= 0).all())

    def predict_dataloader(self) -> "_InTurn":
        parts: list[Iterable[Any]] = []
        if self.latents is not None:
            parts.append(PendingLatents(self.stored, self.latents, self.rule, self.batch_size))
        if self.unknown:
            parts.append(read_chunks(self.unknown, self.reader(), self.num_workers, first=len(self.stored)))
        return _InTurn(parts)


class _InTurn:
    """The batches of each part, one part after the other."""

    def __init__(self, parts: list[Iterable[Any]]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.parts)
