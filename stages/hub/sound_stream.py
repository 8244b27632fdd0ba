"""Encodes one sound piece by piece, as it comes, to the same codes as the whole gives."""

import torch
from torch import Tensor
from torch.nn import functional as F

from conf.errors import UsageError
from datamodules.windows import WindowFormat
from models.codec.interface import LatentCodec
from models.tokenizer.tokenizer import LatentTokenizer


def check_finite(sound: Tensor, name: str) -> None:
    """sound (C, T). Raises UsageError, which begins with `name`, where a sample is NaN or infinite."""
    finite = sound.isfinite()
    if not finite.all():
        channel, sample = (~finite).nonzero()[0].tolist()
        raise UsageError(
            f"{name}: {int((~finite).sum())} of its samples are NaN or infinite, the first is sample {sample} of channel {channel}; "
            "finite numbers are allowed, full scale 1"
        )


class SoundStream:
    """push(waveform) -> the codes that nothing that follows can change; finish() -> the rest.

    One window is in memory, and at its end what may still become a part of it or begin the next one.
    """

    def __init__(
        self, codec: LatentCodec, tokenizer: LatentTokenizer, window: WindowFormat, device: torch.device
    ) -> None:
        """window: of the training data; device: where codec and tokenizer are."""
        self.codec, self.tokenizer, self.window, self.device = codec, tokenizer, window, device
        self.hop, self.rule, self.context = codec.hop_length, window.rule, codec.encoder_context
        self.samples: Tensor  # (C, T) of this window
        self.latents: Tensor  # (F, D) of this window
        self.emitted: int  # codes of this window
        self._begin_window(torch.zeros(self.codec.channels, 0))

    def push(self, waveform: Tensor) -> list[int]:
        """waveform (C, T) at the codec's sample_rate, with its number of channels: resampling a stream needs its
        future.
        """
        if waveform.dim() != 2 or waveform.shape[0] != self.codec.channels:
            raise UsageError(
                f"waveform of shape {tuple(waveform.shape)}; ({self.codec.channels}, T) at {self.codec.sample_rate} Hz is "
                "allowed: resample and mix it before"
            )
        check_finite(waveform, "waveform")
        codes: list[int] = []
        most = self.rule.longest * self.hop  # samples of one window
        while waveform.shape[1]:
            room = most + 1 - self.samples.shape[1]
            self.samples = torch.cat([self.samples, waveform[:, :room].cpu()], 1)
            waveform = waveform[:, room:]
            count = self.samples.shape[1]
            if count > most:  # the next window has begun
                whole = self.rule.frames * self.hop
                self.samples, rest = self.samples[:, :whole], self.samples[:, whole:]
                codes += self._advance(self.rule.frames, whole=True)
                self._begin_window(rest)
            else:  # whether the window ends with its last whole frame or goes on is not known
                complete = min(count // self.hop, self.rule.frames) - self.context.after
                codes += self._advance(complete, whole=False)
        return codes

    def finish(self) -> list[int]:
        """The codes of what is left; the stream is as new afterwards."""
        count = self.samples.shape[1]
        codes: list[int] = []
        if count:
            frames = -(-count // self.hop)
            whole = self.rule.frames * self.hop
            length = self.window.padded_samples(count) if count > whole else whole
            self.samples = F.pad(self.samples, (0, length - count))
            codes = self._advance(frames, whole=True)
        self._begin_window(torch.zeros(self.codec.channels, 0))
        return codes

    def _begin_window(self, samples: Tensor) -> None:
        self.samples = samples
        self.latents = torch.zeros(0, self.codec.latent_dim)
        self.emitted = 0

    @torch.no_grad()
    def _advance(self, frames: int, whole: bool) -> list[int]:
        """Latents up to `frames`, and the codes that are certain with them. whole: all of the window's sound is there."""
        if frames <= len(self.latents):
            return []
        first = max(0, len(self.latents) - self.context.before)
        part = self.samples[None, :, first * self.hop :].to(self.device)
        new = self.codec.encode(part).stored_mean[0, len(self.latents) - first : frames - first].cpu()
        self.latents = torch.cat([self.latents, new])
        num_frames = torch.tensor([frames], device=self.device)
        codes = self.tokenizer.encode(self.latents[None].to(self.device), num_frames)
        certain = int(codes.num_codes[0]) if whole else int(self.tokenizer.num_complete_codes(frames))
        new_codes: list[int] = codes.codes[0, self.emitted : certain].tolist()
        self.emitted = max(self.emitted, certain)
        return new_codes
