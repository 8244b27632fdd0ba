"""Stage `cache`: every sound to codes, exactly once. The language stages read nothing else.

Latents are looked up by their sound in the stage `latents`, where that has them; what it does not have, of a corpus that
was added or with another experiment's tokenizer, is encoded from its sound by the tokenizer's VAE.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conf.sections.tokenizer import CacheConf
from datamodules.atomic_files import write_whole
from datamodules.latents import ChunkBatch
from datamodules.pending_sounds import PendingSounds
from datamodules.store import chunks, manifest
from datamodules.waveform_batches import WaveformBatch, WaveformReader, WindowGroup
from datamodules.windows import WindowFormat, WindowRule
from models.codec.interface import LatentCodec
from models.metrics.codebook_use import CodebookUse
from stages.base import ChunkStage, Exported, Parents
from stages.hub import artifacts, pretrained_tokenizer
from stages.hub.sound_tokenizer import parent_of
from stages.runs import corpora

COUNTED = 4096  # recordings whose codes are counted at a time


class Cache(ChunkStage):
    conf: CacheConf

    def __init__(self, stage: str, conf: CacheConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.facts = parents["tokenizer"].facts
        self.rule = WindowRule.from_facts(self.facts)
        artifact = parents["tokenizer"].artifact
        self.is_pretrained = pretrained_tokenizer.is_pretrained(artifact)
        self.tokenizer: Any = (pretrained_tokenizer if self.is_pretrained else artifacts).load_tokenizer(artifact)
        has_latents = "latents" in parents and not self.is_pretrained
        self.latents = parents["latents"].folder / "chunks" if has_latents else None
        prepared = corpora.hashes(conf.data)
        stored = manifest.Manifest(self.latents).inputs if self.latents else None
        # the cuts of `latents`, whose files were compared there; or other ones
        self.same_cuts = stored is not None and prepared in ({}, stored)
        if self.same_cuts:
            self.inputs, self.roots = stored or {}, {}
        else:
            self.roots = corpora.roots(conf.data)
            self.check_corpora(prepared)
        self.codec: LatentCodec | None = None
        self.codes: dict[str, list[int]] = {}  # of the chunk that is encoded, by window

    def cache_key(self) -> dict[str, object]:
        tokenizer = self.parents["tokenizer"].receipt["artifact_hash"]
        return {"tokenizer": tokenizer} | {name: self.facts[name] for name in self.rule.facts() if name in self.facts}

    def write_manifest(self) -> None:
        if not self.same_cuts or self.latents is None:
            super().write_manifest()
        elif manifest.inputs(self.store) != self.inputs:
            manifest.link(self.latents, self.store)

    def plan(self) -> chunks.Plan:
        sounds = manifest.Manifest(self.store).rows["sound"]
        known = chunks.read(self.latents).rows_of(sounds) >= 0 if self.latents else np.zeros(len(sounds), bool)
        return chunks.plan(self.store, self.conf.recordings_per_chunk, known)

    def datamodule(self) -> PendingSounds:
        latents = chunks.read(self.latents) if self.latents else None
        return PendingSounds(
            self.store, latents, self.rule, self.conf.batch_size, self._reader, self.conf.data.num_workers
        )

    def _reader(self) -> WaveformReader:
        """Loads the VAE that the tokenizer was trained with, if any."""
        tokenizer, batch_size = self.parents["tokenizer"], self.conf.batch_size
        if self.is_pretrained:
            own = self.tokenizer
            grid = WindowFormat(own.sample_rate, own.channels, own.hop_length, self.rule, 0)
            return WaveformReader(self.roots, grid, batch_size)
        latents = parent_of(tokenizer.folder, tokenizer.receipt, "latents")
        codec: Any = artifacts.load_codec(latents / "artifact" / "codec")
        self.codec = codec.to(self.device)
        grid = WindowFormat(codec.sample_rate, codec.channels, codec.hop_length, self.rule, codec.encoder_context.after)
        return WaveformReader(self.roots, grid, batch_size)

    def encode(self, batch: ChunkBatch | WaveformBatch, writer: chunks.ChunkWriter) -> None:
        if isinstance(batch, WaveformBatch):
            for group in batch.groups:
                self._encode_sound(group, writer)
        else:
            self._encode_latents(batch, writer)

    def _encode_latents(self, batch: ChunkBatch, writer: chunks.ChunkWriter) -> None:
        """The windows of a chunk come by their length: their codes are kept until all are known."""
        latents = batch.windows
        encoded = self.tokenizer.encode(latents.latents, latents.num_frames)
        for name, codes, count in zip(latents.ids, encoded.codes.tolist(), encoded.num_codes.tolist(), strict=True):
            self.codes[name] = codes[:count]
        if batch.closes_chunk:
            for cut in writer.chunk.recordings:
                for number in itertools.count():
                    codes = self.codes.pop(f"{cut.id}-w{number}", None)
                    if codes is None:
                        break
                    writer.add_codes(cut.id, codes)

    def _encode_sound(self, group: WindowGroup, writer: chunks.ChunkWriter) -> None:
        """Latents as the stage `latents` stores them, in float16; the windows of a recording come in their order."""
        if self.is_pretrained:
            windows = [one[:, :count] for one, count in zip(group.waveform, group.num_samples.tolist(), strict=True)]
            for cut_id, row in zip(group.cut_ids, self.tokenizer.encode_windows(windows), strict=True):
                writer.add_codes(cut_id, row)
            return
        assert self.codec is not None
        num_frames = -(-group.num_samples // self.codec.hop_length)
        latents = self.codec.encode(group.waveform).stored_mean
        latents = latents[:, : int(num_frames.max())]
        outside = torch.arange(latents.shape[1], device=latents.device) >= num_frames[:, None]
        encoded = self.tokenizer.encode(latents.masked_fill(outside[..., None], 0), num_frames)
        counts = encoded.num_codes.tolist()
        for cut_id, codes, count in zip(group.cut_ids, encoded.codes.tolist(), counts, strict=True):
            writer.add_codes(cut_id, codes[:count])

    def export(self, artifact: Path) -> Exported:
        cuts = chunks.read(self.store)
        use = CodebookUse(
            self.facts["codebook_size"], self.facts["levels"], sync_on_compute=False
        )  # export is of one rank
        for first in range(0, len(cuts), COUNTED):  # a recording has whole blocks of codes, and so have several
            rows = range(first, min(first + COUNTED, len(cuts)))
            codes = torch.from_numpy(np.concatenate([np.array(cuts.codes(row), np.int64) for row in rows]))
            use.update(codes, torch.ones_like(codes, dtype=torch.bool))
        write_whole(artifact / "cuts.json", json.dumps(self.cache_key() | {"cuts": cuts.digest()}))
        metrics = {name: float(value) for name, value in use.compute().items()}
        counts = self.exported(artifact, cuts) | {"tokens": int(cuts.lengths.sum())}
        return Exported(self.facts, counts | metrics)
