"""Latents of a sound of any length from its codes, window by window and without a seam: each goes on from the one before.

    window 1   |=====================|held|fade|
    window 2                         |held|fade|===========|held|fade|
    window 3                                               |held|fade|=====================|

Codes are of windows that were coded one by one (datamodules/windows.py), but what a decoder gives at the end of one and
at the beginning of the next are two draws. So a window behind another begins with frames of that one: the first of them
are held at what they are (`models.tokenizer.flow.continued`), which leads the rest; over the others it passes from what
that window made of them to what this one does. Both start from the same noise. No window is longer than those that the
decoder was trained on: they need not begin where windows of codes do, for every frame knows its token.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from datamodules.windows import WindowRule
from models.tokenizer.tokenizer import LatentTokenizer

OVERLAP = 4  # two windows share a quarter of one


class LatentWindows:
    """One sound's windows, as its codes come. What no further window reads is forgotten."""

    def __init__(
        self, tokenizer: LatentTokenizer, rule: WindowRule, device: torch.device, seed: int, overlap: int | None = None
    ) -> None:
        """seed: of the noise. overlap: frames that two windows share; None is a quarter of one, 0 leaves seams."""
        self.tokenizer, self.rule, self.device, self.seed = tokenizer, rule, device, seed
        self.overlap = rule.frames // OVERLAP if overlap is None else overlap
        self.held = self.overlap // 2
        self.first = 0  # frame that the following begin with
        self.condition = torch.zeros(0, tokenizer.decoder.condition_dim, device=device)
        self.noise = torch.zeros(0, tokenizer.encoder.latent_dim, device=device)
        self.latents = torch.zeros(0, tokenizer.encoder.latent_dim, device=device)  # of the decoded frames
        self.added = 0  # windows of codes
        self.ended = False

    @torch.no_grad()
    def add(self, codes: Sequence[int], num_frames: int) -> None:
        """The codes of the sound's next window of codes, which stands for num_frames."""
        length = torch.tensor([num_frames], device=self.device)
        ids = torch.tensor([list(codes)], device=self.device)
        condition = self.tokenizer.condition(ids, torch.tensor([len(codes)], device=self.device), length)
        noise = window_noise(self.noise.shape[1], self.rule, self.seed, self.added)[:num_frames]
        self.condition = torch.cat([self.condition, condition[0]])
        self.noise = torch.cat([self.noise, noise.to(self.device)])
        self.added += 1

    def end(self) -> None:
        """No more codes will come."""
        self.ended = True

    @property
    def decoded(self) -> int:
        """Frames that some window has decoded; the next one may change the last of them."""
        return self.first + len(self.latents)

    def next_window(self) -> range | None:
        """The frames of the next window; None where too few have come.

        The rule of windows of codes, from where the shared frames begin: the last one takes in a rest that is too short.
        """
        total = self.first + len(self.condition)
        start = max(0, self.decoded - self.overlap)
        if total - start > self.rule.longest:
            return range(start, start + self.rule.frames)
        return range(start, total) if self.ended and self.decoded < total else None

    def take(self, window: range, latents: Tensor) -> Tensor:
        """What the window's frames (f, D) were decoded to -> the frames (g, D) that are final with it, the first of all
        that were not before.
        """
        shared = self.decoded - window.start
        if shared > self.held:
            fade = torch.linspace(0, 1, shared - self.held + 2, device=self.device)[1:-1, None]
            before = self.latents[len(self.latents) - shared :]
            blend = torch.lerp(before[self.held :], latents[self.held : shared], fade)
            latents = torch.cat([latents[: self.held], blend, latents[shared:]])
        is_last = self.ended and window.stop == self.first + len(self.condition)
        changeable = 0 if is_last else self.overlap - self.held
        final = latents[min(shared, self.held) : len(latents) - changeable]
        past = len(latents) - self.overlap + window.start - self.first  # of those in memory
        self.latents = latents[len(latents) - self.overlap :] if self.overlap else latents[:0]
        self.first += past
        self.condition, self.noise = self.condition[past:], self.noise[past:]
        return final


class _Job(NamedTuple):
    number: int  # of the sound
    sound: LatentWindows
    window: range

    def part(self, tensor: Tensor) -> Tensor:
        """The window's frames of what the sound remembers (f, ...)."""
        return tensor[self.window.start - self.sound.first : self.window.stop - self.sound.first]


def decode_next(sounds: Sequence[LatentWindows], sampling: Mapping[str, Any]) -> list[Tensor]:
    """Decodes the next window of each sound that has one ready, as one batch -> the frames (g, D) of each that are
    final with it: those that follow the ones that were given before.
    """
    final = [sound.latents[:0] for sound in sounds]
    windows = [sound.next_window() for sound in sounds]
    jobs = [
        _Job(number, sound, window)
        for number, (sound, window) in enumerate(zip(sounds, windows, strict=True))
        if window
    ]
    if not jobs:
        return final
    device, tokenizer = jobs[0].sound.device, jobs[0].sound.tokenizer
    lengths = torch.tensor([len(job.window) for job in jobs], device=device)
    condition, noise, known = (
        pad_sequence([job.part(getattr(job.sound, name)) for job in jobs], batch_first=True)
        for name in ("condition", "noise", "latents")
    )
    num_known = [min(job.sound.held, job.sound.decoded - job.window.start) for job in jobs]
    decoded = tokenizer.sample(
        condition,
        lengths,
        noise=noise,
        known=F.pad(known, (0, 0, 0, condition.shape[1] - known.shape[1])),
        num_known=torch.tensor(num_known, device=device),
        **sampling,
    )
    for job, latents in zip(jobs, decoded, strict=True):
        final[job.number] = job.sound.take(job.window, latents[: len(job.window)])
    return final


def window_noise(latent_dim: int, rule: WindowRule, seed: int, window: int) -> Tensor:
    """Noise (F, D) of the longest window of codes; its first frames, of a whole window, are of `rule.frames` alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + window) % (1 << 62))
    counts = (rule.frames, rule.shortest - 1)
    return torch.cat([torch.randn(count, latent_dim, generator=generator) for count in counts])
