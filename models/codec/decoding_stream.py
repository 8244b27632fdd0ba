"""Latents to sound piece by piece, as they come: what a codec makes of all at once, in the memory of one piece.

    latents in memory    |==before==|######|==after==|
    decoded now                     |######|

A sample depends on latents `decoder_context` before and after it, and, where phases run up from the beginning, on those of a
frame in memory (`phases_at`).
"""

import torch
from torch import Tensor

from models.codec.interface import LatentCodec


class DecodingStream:
    """One sound (C, T), from latents (F, D) in pieces of any length. T = F * hop_length when `finish` is called."""

    def __init__(self, codec: LatentCodec) -> None:
        self.codec = codec
        self.latents: Tensor | None = None  # (1, f, D)
        self.phases: Tensor | None = None  # of the latents in memory
        self.given = 0  # frames of them whose sound was given

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        """latents (f, D), that follow those before -> the sound (C, t) that no later ones change; t may be 0."""
        given = latents[None]
        self.latents = given if self.latents is None else torch.cat([self.latents, given], 1)
        return self._decoded(self.latents.shape[1] - self.codec.decoder_context.after)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The rest (C, t). Nothing may follow."""
        return self._decoded(0 if self.latents is None else self.latents.shape[1])

    def _decoded(self, stop: int) -> Tensor:
        """Of the frames in memory up to this one; those that no later sound depends on are forgotten."""
        if self.latents is None:
            return torch.zeros(self.codec.channels, 0)
        if stop <= self.given:
            return self.latents.new_zeros(self.codec.channels, 0)
        hop = self.codec.hop_length
        sound = self.codec.decode(self.latents, self.phases)[0, :, self.given * hop : stop * hop]
        past = max(0, stop - self.codec.decoder_context.before)
        if past:
            self.phases = self.codec.phases_at(self.latents, past, self.phases)
        self.latents, self.given = self.latents[:, past:], stop - past
        return sound
