"""Sound and spectrograms of fixed validation clips to TensorBoard: the original, through a VAE, and through the tokens."""

from typing import Any

import lightning as L
import torch
from torch import Tensor


class SoundSamples(L.Callback):
    """At each validation: the first `clips` windows of the first batch. The module offers `decode(batch, seed) -> latents (B, F, D)`."""

    def __init__(self, codec: Any, clips: int, sample_rate: int) -> None:
        self.codec, self.clips, self.sample_rate = codec, clips, sample_rate
        self.shown_originals = False

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or not trainer.is_global_zero or trainer.logger is None or not self.clips:
            return
        codec = self.codec.to(pl_module.device)
        few = batch._replace(
            ids=batch.ids[: self.clips], latents=batch.latents[: self.clips], num_frames=batch.num_frames[: self.clips]
        )
        if not self.shown_originals:
            self._show(trainer, "vae", few, codec.decode(few.latents), few.latents)
            self.shown_originals = True
        latents = pl_module.decode(few, seed=0)
        self._show(trainer, "tokens", few, codec.decode(latents), latents)

    def _show(self, trainer: L.Trainer, name: str, batch: Any, waveform: Tensor, latents: Tensor) -> None:
        """waveform (B, C, T), latents (B, F, D)."""
        for index, clip in enumerate(batch.ids):
            samples = int(batch.num_frames[index]) * self.codec.hop_length
            show(trainer, f"{clip}/{name}", waveform[index, :, :samples], self.sample_rate)


class CropSamples(L.Callback):
    """The same for a VAE in training. The module offers `reconstruct(waveform) -> waveform` (B, C, T)."""

    def __init__(self, clips: int, sample_rate: int) -> None:
        self.clips, self.sample_rate = clips, sample_rate
        self.shown_originals = False

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx or not trainer.is_global_zero or trainer.logger is None or not self.clips:
            return
        few = batch.waveform[: self.clips]
        sounds = {"vae": pl_module.reconstruct(few)} | ({} if self.shown_originals else {"original": few})
        for name, waveform in sounds.items():
            for index, clip in enumerate(batch.ids[: self.clips]):
                samples = int(batch.num_samples[index])
                show(trainer, f"{clip}/{name}", waveform[index, :, :samples], self.sample_rate)
        self.shown_originals = True


def show(trainer: L.Trainer, name: str, waveform: Tensor, sample_rate: int) -> None:
    """waveform (C, T) at sample_rate Hz: its channels' mean as sound, as loud as can be, and as a picture."""
    board: Any = trainer.logger.experiment  # type: ignore[union-attr]
    sound = waveform.mean(0)
    board.add_audio(name, sound / sound.abs().max().clamp(min=1e-5), trainer.global_step, sample_rate)
    board.add_image(name, spectrogram(sound), trainer.global_step, dataformats="HW")


def spectrogram(sound: Tensor) -> Tensor:
    """sound (T) -> picture (513, frames) in [0, 1]: 80 dB below the loudest bin is black, low frequencies at the bottom."""
    window = torch.hann_window(1024, device=sound.device)
    power = torch.stft(sound, 1024, window=window, return_complex=True).abs().clamp(min=1e-8)
    level = 20 * (power / power.max()).log10()
    return ((level + 80) / 80).clamp(0, 1).flip(0)
