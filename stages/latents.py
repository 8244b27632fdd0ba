"""Stage `latents`: the frozen VAE is loaded or fitted, and every recording goes through it once.

The codec that needs no download is fitted here, in closed form, on the training split; Oobleck comes from a folder, the hub, or stage `vae`.
Reading, encoding and writing overlap. Recordings of the same bytes under several names are encoded once, and counted in the receipt.

The artifact is what a tokenizer and a cache must have in common: the codec, the window rule and the statistics of the
latents. It says nothing of the corpora, which may grow, nor of their text.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from callbacks.progress import ProgressLine
from conf import plain
from conf.errors import UsageError
from conf.sections.codec import LatentsConf
from datamodules.atomic_files import whole_file, write_whole
from datamodules.cuts import SPLITS
from datamodules.hashing import hash_folder
from datamodules.store import chunks, manifest
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

log = logging.getLogger(__name__)
STATISTICS = "statistics.safetensors"
TRAINING_SOUNDS = "training_sounds.npy"  # hashes of those that the codec was fitted on, or that kept statistics are of


class Latents(ChunkStage):
    conf: LatentsConf

    def __init__(self, stage: str, conf: LatentsConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.roots = corpora.roots(conf.data)
        self.check_corpora(corpora.hashes(conf.data))
        self.vae = parents.get("vae")
        self.codec = artifacts.build_codec(conf.codec, self.vae.artifact if self.vae else None)
        self.rule = WindowRule.from_seconds(conf.window_seconds, self.codec.sample_rate, self.codec.hop_length)

    def prepare_data(self) -> None:
        """On rank 0: fits the codec on the training split, once, or keeps the earlier run's; then plans."""
        codec = self.folder / "codec"
        self.write_manifest()
        self._discard_codec_of_other_sounds()
        if not (codec / "config.json").is_file() and not self._keep_codec():
            if isinstance(self.codec, MelCodec):
                self._fit(self.codec)
                artifacts.save(codec, plain(self.conf.codec), self.codec.state_dict())
                self._note_training_sounds(_training_sounds(self.store))
            else:
                codec.mkdir(parents=True, exist_ok=True)
            if self.vae:
                shutil.copytree(self.vae.artifact, codec / "vae", dirs_exist_ok=True)
            write_whole(codec / "config.json", json.dumps(plain(self.conf.codec)))
        super().prepare_data()

    def plan(self) -> chunks.Plan:
        return chunks.plan(self.store, self.conf.recordings_per_chunk)

    def _discard_codec_of_other_sounds(self) -> None:
        """An unfinished run goes on with other corpora. Where training sounds are gone that its codec was fitted on, or that
        the statistics are of, both are made anew; and so are its latents, where the codec becomes another.
        """
        noted = self.folder / TRAINING_SOUNDS
        if not noted.is_file() or np.isin(np.load(noted), _training_sounds(self.store)).all():
            return
        log.info("latents: training sounds are gone that its codec and statistics are of: both are made anew")
        if isinstance(self.codec, MelCodec):
            chunks.clear(self.store)
        (self.folder / STATISTICS).unlink(missing_ok=True)
        (self.folder / "codec/config.json").unlink(missing_ok=True)  # its mark
        shutil.rmtree(self.folder / "codec", ignore_errors=True)
        noted.unlink()

    def _note_training_sounds(self, sounds: np.ndarray) -> None:
        with whole_file(self.folder / TRAINING_SOUNDS) as part:
            np.save(part, sounds)

    def _keep_codec(self) -> bool:
        """Takes the codec and the statistics of the earlier run, where it was configured alike and each of its training
        sounds still is one: then tokenizers that were trained on its latents can be used with those that are added.
        """
        earlier = self.comparable_run()
        if earlier is None or not (earlier.artifact / "windows.json").is_file():
            return False
        # a key that the earlier run did not have yet has the value of the base
        old, new = plain(earlier.conf), plain(self.conf)
        vae = self.vae.receipt["artifact_hash"] if self.vae else None
        if any(old[key] != new[key] for key in ("codec", "fit_recordings", "window_seconds")):
            return False
        if earlier.receipt["parents"].get("vae") != vae:
            return False
        before, now = (_training_sounds(folder / "chunks") for folder in (earlier.folder, self.folder))
        if len(before) == 0 or not np.isin(before, now).all():
            return False
        if len(now) > len(before):
            text = (
                "latents: %d training sounds are here and the earlier run had %d: its codec and statistics are kept, so that its tokenizers stay usable. "
                "--restart makes both anew, from all"
            )
            log.info(text, len(now), len(before))
        self._note_training_sounds(before)
        shutil.copyfile(earlier.artifact / STATISTICS, self.folder / STATISTICS)
        part, codec = self.folder / ".codec", self.folder / "codec"
        for folder in (part, codec):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(earlier.folder / "codec", part)
        part.rename(codec)  # whole, or not there
        return True

    def cache_key(self) -> dict[str, Any]:
        key = {"codec": hash_folder(self.folder / "codec")} | self.rule.facts()
        if self.vae:
            key["vae"] = self.vae.receipt["artifact_hash"]  # the copy in `codec` may be of an earlier one
        return key

    def setup(self, stage: str) -> None:
        codec: Any = artifacts.load_codec(self.folder / "codec")
        self.codec = codec.to(self.device)

    def datamodule(self) -> WaveformDataModule:
        return WaveformDataModule(self.store, self._dataset(), self.conf.data.num_workers)

    def on_predict_start(self) -> None:
        super().on_predict_start()
        if self.planned.duplicates and self.global_rank == 0:
            text = "latents: %d of %d recordings hold another's bytes and share its latents"
            log.info(text, self.planned.duplicates, self.total)

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
        train = cuts.of_split("train")
        if (self.folder / STATISTICS).is_file():
            shutil.copyfile(self.folder / STATISTICS, artifact / STATISTICS)
        else:
            mean, std = _statistics(train)
            save_file({"mean": mean, "std": std}, artifact / STATISTICS)
        write_whole(artifact / "windows.json", json.dumps(self.rule.facts()))  # the artifact says what must agree
        facts = {
            "sample_rate": codec.sample_rate,
            "hop_length": codec.hop_length,
            "channels": codec.channels,
            "latent_dim": codec.latent_dim,
            "frame_rate": codec.sample_rate / codec.hop_length,
            **self.rule.facts(),
            "window_rule": str(self.rule),
        }
        metrics = self.exported(artifact, cuts) | {
            "training_frames": int(train.lengths[train.selected].sum()),
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
        cuts = manifest.Manifest(self.store)
        rows = np.flatnonzero(cuts.rows["split"] == SPLITS.index("train"))
        rows = rows[:: -(-len(rows) // self.conf.fit_recordings)] if len(rows) else rows  # at even distances
        train = [cuts.cut(int(row)) for row in rows]
        self._accumulate(train, codec.accumulate)
        codec.fit()
        # how latents are decoded, and no latent: half of the recordings do
        self._accumulate(train[::2], codec.accumulate_detail)
        codec.fit_detail()
        text = "vae            %d components keep %.1f %% of the log-mel variance"
        log.info(text, codec.latent_dim, 100 * float(codec.explained_variance))

    def _accumulate(self, recordings: list[Any], accumulate: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
        line = ProgressLine("vae", len(recordings), "recordings")
        line.start()
        dataset = self._dataset()
        each = enumerate(recording_spans(cut, dataset.window, dataset.batch_size) for cut in recordings)
        loaded = ReadAhead(
            (number + (span is spans[-1]), dataset.stack(dataset.read(span)))
            for number, spans in each
            for span in spans
        )
        for done, windows in loaded:
            accumulate(windows.waveform, -(-windows.num_samples // self.codec.hop_length))
            line.update(done)
        line.stop()


def _windows(cuts: CachedCuts, rule: WindowRule) -> dict[str, int]:
    """Length in frames -> how many windows of all recordings have it, the longest first."""
    counts: Counter[int] = Counter()
    for num_frames, recordings in Counter(cuts.lengths[cuts.selected].tolist()).items():
        for length in rule.lengths(num_frames):
            counts[length] += recordings
    return {str(length): counts[length] for length in sorted(counts, reverse=True)}


def _training_sounds(store: Path) -> np.ndarray:
    """Hashes of the sounds of the training split, each once."""
    rows = manifest.Manifest(store).rows
    return np.unique(rows["sound"][rows["split"] == SPLITS.index("train")])


def _statistics(train: CachedCuts) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (D) of the latents of the training sounds, by channel."""
    if not len(train):
        raise UsageError("latents: no recording is in the split 'train'")
    moments = train.moments()
    deviation = np.sqrt(moments.variance.clip(min=1e-10))
    return torch.from_numpy(moments.mean).float(), torch.from_numpy(deviation).float()
