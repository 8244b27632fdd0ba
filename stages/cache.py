"""Stage `cache`: every recording's latents to codes, exactly once. The language stages read nothing else."""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.progress import ProgressLine
from conf.sections.tokenizer import CacheConf
from datamodules.latents import ChunkBatch, PendingLatents, latent_windows
from datamodules.store import chunks
from datamodules.store.overlap import WriteBehind
from datamodules.windows import WindowRule
from models.metrics.codebook import CodebookUse
from stages.hub import artifacts
from stages.runs.files import write_whole
from stages.runs.receipts import FinishedRun


class Cache(L.LightningModule):
    trains = False
    watch = ()
    prepare_data_per_node = False  # the run folder is one for all

    def __init__(self, stage: str, conf: CacheConf, parents: dict[str, FinishedRun], folder: Path) -> None:
        super().__init__()
        self.conf, self.parents, self.folder = conf, parents, folder
        self.facts = parents["tokenizer"].facts
        self.rule = WindowRule.from_facts(self.facts)
        self.tokenizer = artifacts.load_tokenizer(parents["tokenizer"].artifact)
        self.chunks = chunks.plan(chunks.read(parents["latents"].folder / "chunks"), conf.recordings_per_chunk)
        self.total = sum(len(chunk.cuts) for chunk in self.chunks)

    def prepare_data(self) -> None:
        key = {
            "tokenizer": self.parents["tokenizer"].receipt["artifact_hash"],
            **{name: self.facts[name] for name in self.rule.facts() if name in self.facts},
        }
        chunks.open_cache(self.folder / "chunks", self.chunks, key)

    def datamodule(self) -> PendingLatents:
        return PendingLatents(self.folder / "chunks", self.chunks, self.rule, self.conf.batch_size)

    def callbacks(self) -> list[Callback]:
        return []

    def on_predict_start(self) -> None:
        data: Any = self.trainer.datamodule
        self.rank_chunks, self.done = data.rank_chunks, data.finished_cuts
        self.codes: dict[str, list[int]] = {}  # by window, of the chunk at hand
        self.behind = WriteBehind()
        self.line = ProgressLine("cache", self.total, "recordings", self.global_rank == 0)
        self.line.start(self.done)

    def predict_step(self, batch: ChunkBatch, batch_idx: int) -> None:
        self.behind.check()
        latents = batch.windows
        found = self.tokenizer.encode(latents.latents, latents.num_frames)
        for name, codes, count in zip(latents.ids, found.codes.tolist(), found.num_codes.tolist(), strict=True):
            self.codes[name] = codes[:count]
        if batch.closes_chunk:
            chunk, found_codes = self.rank_chunks[batch.chunk], self.codes
            self.codes = {}
            self.behind.call(lambda: self._write(chunk, found_codes))
            self.done += len(chunk.cuts) * self.trainer.world_size
            self.line.update(min(self.done, self.total))

    def _write(self, chunk: chunks.Chunk, codes: dict[str, list[int]]) -> None:
        writer = chunks.ChunkWriter(self.folder / "chunks", chunk)
        for cut in chunk.recordings:
            for window in latent_windows(cut, self.rule):
                writer.add_codes(cut.id, codes[window.id])
        writer.finish()

    def on_predict_end(self) -> None:
        self.behind.close()
        self.trainer.strategy.barrier()  # rank 0 reads what all have written
        self.line.stop()

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        cuts = chunks.read(self.folder / "chunks")
        use = CodebookUse(
            self.facts["codebook_size"], self.facts["levels"], sync_on_compute=False
        )  # export is of one rank
        for cut in cuts:
            codes = torch.tensor(cut.custom["codes"])
            use.update(codes, torch.ones_like(codes, dtype=torch.bool))
        write_whole(artifact / "chunks.json", json.dumps([chunk.id for chunk in self.chunks]))
        metrics = {name: float(value) for name, value in use.compute().items()}
        tokens = sum(len(cut.custom["codes"]) for cut in cuts)
        duplicates = sum(len(chunk.cuts) - len(chunk.recordings) for chunk in self.chunks)
        return self.facts, {"recordings": len(cuts), "duplicates": duplicates, "tokens": tokens, **metrics}
