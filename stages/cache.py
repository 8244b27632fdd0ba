"""Stage `cache`: every recording's latents to codes, exactly once. The language stages read nothing else."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks.progress import Line
from datamodules import chunks
from datamodules.latents import collate, windows
from models.metrics.reconstruction import CodebookUse
from stages import artifacts, chain


class Cache(L.LightningModule):
    trains = False
    watch = ()

    def __init__(self, stage: str, conf: dict[str, Any], parents: dict[str, chain.Parent], folder: Path) -> None:
        super().__init__()
        self.conf, self.parents, self.folder = conf, parents, folder
        self.facts = parents["tokenizer"].facts
        self.tokenizer = artifacts.load_tokenizer(parents["tokenizer"].artifact)
        self.chunks = chunks.plan(chunks.read(parents["latents"].folder / "chunks"), conf["recordings_per_chunk"])
        self.total = sum(len(chunk.cuts) for chunk in self.chunks)

    def prepare_data(self) -> None:
        key = {
            "tokenizer": self.parents["tokenizer"].receipt["artifact_hash"],
            "window_frames": self.facts["window_frames"],
        }
        chunks.open_cache(self.folder / "chunks", self.chunks, key)

    def datamodule(self) -> "CacheDataModule":
        self.pending = chunks.pending(self.folder / "chunks", self.chunks)
        return CacheDataModule(self.pending)

    def callbacks(self) -> list[Callback]:
        return []

    def on_predict_start(self) -> None:
        self.line = Line("cache", self.total, "recordings", self.global_rank == 0)
        self.done = self.total - sum(len(chunk.cuts) for chunk in self.pending)
        self.line.start(self.done)

    def predict_step(self, chunk: chunks.Chunk, batch_idx: int) -> None:
        """One chunk, whole: its windows in batches."""
        writer = chunks.ChunkWriter(self.folder / "chunks", chunk)
        items = [(cut.id, window) for cut in chunk.cuts for window in windows(cut, self.facts["window_frames"])]
        size = self.conf["batch_size"]
        for start in range(0, len(items), size):
            batch = collate([window for _, window in items[start : start + size]])
            found = self.tokenizer.encode(batch.latents.to(self.device), batch.num_frames.to(self.device))
            rows = zip(items[start : start + size], found.codes.tolist(), found.num_codes.tolist(), strict=True)
            for (cut_id, _), codes, count in rows:
                writer.add_codes(cut_id, codes[:count])
        writer.finish()
        self.done += len(chunk.cuts) * self.trainer.world_size
        self.line.update(min(self.done, self.total))

    def on_predict_end(self) -> None:
        self.line.stop()

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        cuts = chunks.read(self.folder / "chunks")
        use = CodebookUse(
            self.facts["codebook_size"], self.facts["levels"], sync_on_compute=False
        )  # export is of one rank
        for cut in cuts:
            codes = torch.tensor(cut.custom["codes"])
            use.update(codes, torch.ones_like(codes, dtype=torch.bool))
        chain.write_atomically(artifact / "chunks.json", json.dumps([chunk.id for chunk in self.chunks]))
        metrics = {name: float(value) for name, value in use.compute().items()}
        tokens = sum(len(cut.custom["codes"]) for cut in cuts)
        return self.facts, {"recordings": len(cuts), "tokens": tokens, **metrics}


class CacheDataModule(L.LightningDataModule):
    """The pending chunks, rank r taking every world-th."""

    def __init__(self, pending: list[chunks.Chunk]) -> None:
        super().__init__()
        self.pending = pending

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(self.pending[rank::world], batch_size=None, collate_fn=_as_it_is)


def _as_it_is(chunk: chunks.Chunk) -> chunks.Chunk:
    return chunk
