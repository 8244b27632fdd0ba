"""Stage `cache`: every recording's latents to codes, exactly once. The language stages read nothing else."""

import json
from pathlib import Path
from typing import Any

import torch

from conf.sections.tokenizer import CacheConf
from datamodules.latents import ChunkBatch, PendingLatents, latent_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.metrics.codebook_use import CodebookUse
from stages.base import ChunkStage, Exported, Parents
from stages.hub import artifacts
from stages.runs.files import write_whole


class Cache(ChunkStage):
    conf: CacheConf

    def __init__(self, stage: str, conf: CacheConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.facts = parents["tokenizer"].facts
        self.rule = WindowRule.from_facts(self.facts)
        self.tokenizer = artifacts.load_tokenizer(parents["tokenizer"].artifact)
        self.plan(chunks.read(parents["latents"].folder / "chunks"), conf.recordings_per_chunk)
        self.codes: dict[str, list[int]] = {}  # of the chunk that is encoded, by window

    def cache_key(self) -> dict[str, Any]:
        tokenizer = self.parents["tokenizer"].receipt["artifact_hash"]
        return {"tokenizer": tokenizer} | {name: self.facts[name] for name in self.rule.facts() if name in self.facts}

    def datamodule(self) -> PendingLatents:
        return PendingLatents(self.store, self.chunks, self.rule, self.conf.batch_size)

    def encode(self, batch: ChunkBatch, writer: chunks.ChunkWriter) -> None:
        """The windows of a chunk come by their length: their codes are kept until all are known."""
        latents = batch.windows
        encoded = self.tokenizer.encode(latents.latents, latents.num_frames)
        for name, codes, count in zip(latents.ids, encoded.codes.tolist(), encoded.num_codes.tolist(), strict=True):
            self.codes[name] = codes[:count]
        if batch.closes_chunk:
            for cut in writer.chunk.recordings:
                for window in latent_windows(cut, self.rule):
                    writer.add_codes(cut.id, self.codes.pop(window.id))

    def export(self, artifact: Path) -> Exported:
        cuts = chunks.read(self.store)
        use = CodebookUse(
            self.facts["codebook_size"], self.facts["levels"], sync_on_compute=False
        )  # export is of one rank
        for cut in cuts:
            codes = torch.tensor(cut.custom["codes"])
            use.update(codes, torch.ones_like(codes, dtype=torch.bool))
        write_whole(artifact / "chunks.json", json.dumps([chunk.id for chunk in self.chunks]))
        metrics = {name: float(value) for name, value in use.compute().items()}
        tokens = sum(len(cut.custom["codes"]) for cut in cuts)
        counts = {"recordings": len(cuts), "duplicates": self.duplicates, "tokens": tokens}
        return Exported(self.facts, counts | metrics)
