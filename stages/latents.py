"""Stage `latents`: the frozen VAE is loaded or fitted, and every recording goes through it once.

The codec that needs no download is fitted here, in closed form, on the training split; Oobleck comes from a folder, the hub, or stage `vae`.
Reading, encoding and writing overlap. Recordings of the same bytes under several names are encoded once, and counted in the receipt.
"""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from callbacks.progress import ProgressLine
from conf import plain
from conf.errors import UsageError
from conf.sections.codec import LatentsConf
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from datamodules.store.overlap import ReadAhead
from datamodules.waveform_batches import (
    WaveformBatch,
    WaveformDataModule,
    WaveformReader,
    WindowGroup,
    recording_spans,
)
from datamodules.windows import WindowFormat, WindowRule
from models.codec.mel import MelCodec
from stages.base import ChunkStage, Exported, Parents
from stages.hub import artifacts
from stages.runs import corpora
from stages.runs.files import hash_folder, write_whole

log = logging.getLogger(__name__)


class Latents(ChunkStage):
    conf: LatentsConf

    def __init__(self, stage: str, conf: LatentsConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.cuts, self.roots, self.skipped = corpora.recordings(stage, conf.data)
        self.plan(self.cuts, conf.recordings_per_chunk)
        self.vae = parents.get("vae")
        self.codec = artifacts.build_codec(conf.codec, self.vae.artifact if self.vae else None)
        self.rule = WindowRule.from_seconds(conf.window_seconds, self.codec.sample_rate, self.codec.hop_length)

    def prepare_data(self) -> None:
        """On rank 0: fits the codec on the training split, once, and opens the cache."""
        codec = self.folder / "codec"
        if not (codec / "config.json").is_file():
            if isinstance(self.codec, MelCodec):
                self._fit(self.codec)
                artifacts.save(codec, plain(self.conf.codec), self.codec.state_dict())
            else:
                codec.mkdir(parents=True, exist_ok=True)
            if self.vae:
                shutil.copytree(self.vae.artifact, codec / "vae", dirs_exist_ok=True)
            write_whole(codec / "config.json", json.dumps(plain(self.conf.codec)))
        super().prepare_data()

    def cache_key(self) -> dict[str, Any]:
        key = {"codec": hash_folder(self.folder / "codec")} | self.rule.facts()
        if self.vae:
            key["vae"] = self.vae.receipt["artifact_hash"]  # the copy in `codec` may be of an earlier one
        return key

    def setup(self, stage: str) -> None:
        codec: Any = artifacts.load_codec(self.folder / "codec")
        self.codec = codec.to(self.device)

    def datamodule(self) -> WaveformDataModule:
        return WaveformDataModule(self.store, self.chunks, self._dataset(), self.conf.data.num_workers)

    def on_predict_start(self) -> None:
        super().on_predict_start()
        if self.duplicates and self.global_rank == 0:
            text = "latents: %d of %d recordings hold another's bytes and share its latents"
            log.info(text, self.duplicates, len(self.cuts))

    def encode(self, batch: WaveformBatch, writer: chunks.ChunkWriter) -> None:
        for group in batch.groups:
            self._encode_group(group, writer)

    def _encode_group(self, group: WindowGroup, writer: chunks.ChunkWriter) -> None:
        posterior = self.codec.encode(group.waveform)
        latents, stds = posterior.mean.float().cpu(), posterior.std.float().cpu()
        uncertain = bool(stds.any())  # the mel codec is not
        for cut_id, array, std, samples in zip(group.cut_ids, latents, stds, group.num_samples.tolist(), strict=True):
            frames = -(-samples // self.codec.hop_length)
            writer.add_array(cut_id, array[:frames].numpy(), std[:frames].numpy() if uncertain else None)

    def export(self, artifact: Path) -> Exported:
        codec = self.codec
        if isinstance(codec, MelCodec):
            artifacts.save(artifact / "codec", plain(self.conf.codec), codec.state_dict())
        else:
            shutil.copytree(self.folder / "codec", artifact / "codec")
        cuts = chunks.read(self.store)
        mean, std, frames = _statistics([cut for cut in cuts if cut.custom["split"] == "train"])
        save_file({"mean": mean, "std": std}, artifact / "statistics.safetensors")
        write_whole(artifact / "chunks.json", json.dumps([chunk.id for chunk in self.chunks]))
        facts = {
            "sample_rate": codec.sample_rate,
            "hop_length": codec.hop_length,
            "channels": codec.channels,
            "latent_dim": codec.latent_dim,
            "frame_rate": codec.sample_rate / codec.hop_length,
            **self.rule.facts(),
            "window_rule": str(self.rule),
        }
        metrics = {
            "recordings": len(cuts),
            "duplicates": self.duplicates,
            "skipped": len(self.skipped),
            "training_frames": frames,
            "windows": _windows(cuts, self.rule),
        }
        if isinstance(codec, MelCodec):
            metrics["explained_variance"] = float(codec.explained_variance)
        return Exported(facts, metrics)

    def _dataset(self) -> WaveformReader:
        codec = self.codec
        grid = WindowFormat(codec.sample_rate, codec.channels, codec.hop_length, self.rule, codec.encoder_context.after)
        return WaveformReader(self.roots, grid, self.conf.batch_size)

    def _fit(self, codec: MelCodec) -> None:
        train = [cut for cut in self.cuts if cut.custom["split"] == "train"]
        train = train[:: -(-len(train) // self.conf.fit_recordings)] if train else []  # at even distances
        line = ProgressLine("vae", len(train), "recordings")
        line.start()
        dataset = self._dataset()
        each = enumerate(recording_spans(cut, dataset.window, dataset.batch_size) for cut in train)
        loaded = ReadAhead(
            (number + (span is spans[-1]), dataset.stack(dataset.read(span)))
            for number, spans in each
            for span in spans
        )
        for done, windows in loaded:
            codec.accumulate(windows.waveform, -(-windows.num_samples // codec.hop_length))
            line.update(done)
        codec.fit()
        line.stop()
        text = "vae            %d components keep %.1f %% of the log-mel variance"
        log.info(text, codec.latent_dim, 100 * float(codec.explained_variance))


def _windows(cuts: CachedCuts, rule: WindowRule) -> dict[str, int]:
    """Length in frames -> how many windows of all recordings have it, the longest first."""
    counts: Counter[int] = Counter()
    for num_frames, recordings in Counter(cuts.rows["length"][cuts.selected].tolist()).items():
        for length in rule.lengths(num_frames):
            counts[length] += recordings
    return {str(length): counts[length] for length in sorted(counts, reverse=True)}


def _statistics(cuts: list[Any]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mean and standard deviation (D) of the training latents, by channel, and the number of frames."""
    total = squares = torch.zeros(())
    count = 0
    for cut in cuts:
        array = torch.from_numpy(chunks.load_array(cut).astype("float64"))
        total, squares, count = total + array.sum(0), squares + array.square().sum(0), count + len(array)
    if not count:
        raise UsageError("latents: no recording is in the split 'train'")
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp(min=1e-10).sqrt().float(), count
