"""Sound and spectrograms of fixed validation clips to the loggers: original, through a VAE, through the tokens."""

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks import pictures
from callbacks.loggers import add_picture, add_sound


class Samples(L.Callback):
    """At each validation: the first `clips` clips of the first batch, and once their originals."""

    def __init__(self, clips: int, sample_rate: int) -> None:
        self.clips, self.sample_rate = clips, sample_rate
        self.originals_shown = False

    def sounds(self, pl_module: Any, batch: Any) -> Iterator[tuple[str, list[Tensor]]]:
        """(what it is, the waveform (C, T) of each clip)."""
        raise NotImplementedError

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: object, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or not trainer.is_global_zero or not trainer.loggers or not self.clips:
            return
        for name, waveforms in self.sounds(pl_module, batch):
            for clip, waveform in zip(batch.ids[: self.clips], waveforms, strict=True):
                show(trainer, f"{clip}/{name}", waveform, self.sample_rate)
        self.originals_shown = True


class TokenizerSamples(Samples):
    """Latents through the VAE, and through the tokens, the codes of each, and how often each code is used.

    The module offers `decode(batch, seed) -> latents (B, F, D)`, `tokenizer` and `codebook_use`.
    """

    def __init__(self, codec: Any, clips: int, sample_rate: int) -> None:
        super().__init__(clips, sample_rate)
        self.codec = codec

    def sounds(self, pl_module: Any, batch: Any) -> Iterator[tuple[str, list[Tensor]]]:
        codec = self.codec.to(pl_module.device)
        few = batch._replace(
            ids=batch.ids[: self.clips], latents=batch.latents[: self.clips], num_frames=batch.num_frames[: self.clips]
        )
        lengths = (few.num_frames * codec.hop_length).tolist()
        if not self.originals_shown:
            yield "vae", _cut(codec.decode(few.latents), lengths)
        yield "tokens", _cut(codec.decode(pl_module.decode(few, seed=0)), lengths)

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: object, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if batch_idx or not trainer.is_global_zero or not trainer.loggers or not self.clips:
            return
        use = pl_module.codebook_use
        codes = pl_module.tokenizer.encode(batch.latents[: self.clips], batch.num_frames[: self.clips])
        seconds = batch.num_frames * self.codec.hop_length / self.sample_rate
        rows = zip(batch.ids[: self.clips], codes.codes, codes.num_codes, seconds[: self.clips].tolist(), strict=True)
        for clip, row, count, length in rows:
            drawn = pictures.raster(row[:count].tolist(), use.codebook_size, use.levels, length)
            add_picture(trainer.loggers, f"{clip}/codes", pictures.with_axes(drawn), trainer.global_step)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Before the module's, which counts anew. Of what this rank has validated."""
        counts = pl_module.codebook_use.counts
        if trainer.is_global_zero and trainer.loggers and self.clips and counts.any():
            drawn = pictures.with_axes(pictures.codebook_use(counts))
            add_picture(trainer.loggers, "codebook_use", drawn, trainer.global_step)


class VaeSamples(Samples):
    """Crops through a VAE in training. The module offers `reconstruct(waveform) -> waveform` (B, C, T)."""

    def sounds(self, pl_module: Any, batch: Any) -> Iterator[tuple[str, list[Tensor]]]:
        few, lengths = batch.waveform[: self.clips], batch.num_samples[: self.clips].tolist()
        yield "vae", _cut(pl_module.reconstruct(few), lengths)
        if not self.originals_shown:
            yield "original", _cut(few, lengths)


def _cut(waveform: Tensor, lengths: list[int]) -> list[Tensor]:
    """(B, C, T) -> the valid samples (C, T_i) of each."""
    return [one[:, :length] for one, length in zip(waveform, lengths, strict=True)]


def show(trainer: L.Trainer, name: str, waveform: Tensor, sample_rate: int) -> None:
    """waveform (C, T) at sample_rate Hz: the mean of its channels as sound, as loud as can be, and as a picture."""
    sound = waveform.mean(0).float().cpu()
    sound = sound / sound.abs().max().clamp(min=1e-5)
    add_sound(trainer.loggers, name, sound, sample_rate, trainer.global_step)
    add_picture(
        trainer.loggers, name, pictures.with_axes(pictures.spectrogram(sound, sample_rate)), trainer.global_step
    )
