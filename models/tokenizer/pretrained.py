"""Sound tokenizers of others, as `transformers` has them, behind one interface.

    waveform (B, C, T) ──encoder, residual quantiser──► codes (B, Q, F) ──frame after frame──► (B, F x Q)
    waveform (B, C, F x hop) ◄──decoder──────────────── codes (B, Q, F) ◄───────────────────────────┘

Mimi (Defossez et al. 2024, arXiv:2410.00037), EnCodec (Defossez et al. 2022, arXiv:2210.13438), DAC (Kumar et al. 2023,
arXiv:2306.06546) and X-Codec (Ye et al. 2024, arXiv:2408.17175). Flattened codes are what Llama-Mimi (arXiv:2509.14882)
trains an LLM on, and what `quantizer.residual` with strides of 1 gives.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import ModelError
from models.exact_float32 import exact_float32
from models.tokenizer.grid import Count


class Family(NamedTuple):
    """How one kind of model is called. Codes are (B, Q, F); every kind gives ceil(T / hop) frames for T samples."""

    encode: Callable[[Any, Tensor, int], Tensor]  # model, waveform (B, C, T), Q -> codes
    decode: Callable[[Any, Tensor], Tensor]  # model, codes -> waveform (B, C, about F x hop)
    codebooks: Callable[[Any], Sequence[Tensor]]  # model -> of each level (K, d)
    whole_frames: bool  # its feature extractor fills the last frame with zeros; else the model fills it itself


def _bandwidth(model: Any, num_codebooks: int) -> float:
    """The lowest bandwidth (kbps) that the model knows and that has so many codebooks, for levels are nested."""
    count = model.quantizer.get_num_quantizers_for_bandwidth
    return next(rate for rate in sorted(model.config.target_bandwidths) if count(rate) >= num_codebooks)


def _mimi_codebooks(model: Any) -> list[Tensor]:
    quantizer = model.quantizer
    parts = (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer)
    return [layer.codebook.embed for part in parts for layer in part.layers]


FAMILIES = {  # by model_type of the configuration
    "mimi": Family(
        lambda model, waveform, count: model.encode(waveform, num_quantizers=count).audio_codes,
        lambda model, codes: model.decode(codes).audio_values,
        _mimi_codebooks,
        whole_frames=False,
    ),
    "encodec": Family(
        lambda model, waveform, count: model.encode(waveform, bandwidth=_bandwidth(model, count)).audio_codes[0],
        lambda model, codes: model.decode(codes[None], [None]).audio_values,
        lambda model: [layer.codebook.embed for layer in model.quantizer.layers],
        whole_frames=False,
    ),
    "dac": Family(
        lambda model, waveform, count: model.encode(waveform, n_quantizers=count).audio_codes,
        lambda model, codes: model.decode(audio_codes=codes).audio_values[:, None],
        lambda model: [level.codebook.weight for level in model.quantizer.quantizers],
        whole_frames=True,
    ),
    "xcodec": Family(
        lambda model, waveform, count: model.encode(waveform, bandwidth=_bandwidth(model, count)).audio_codes,
        lambda model, codes: model.decode(codes).audio_values,
        lambda model: [level.codebook.embed for level in model.quantizer.quantizers],
        whole_frames=True,
    ),
}


class PretrainedTokenizer(nn.Module):
    """A frozen tokenizer of another project: waveform to codes and back.

    Attributes: sample_rate (Hz), channels, hop_length (samples a frame), frame_rate (Hz), codebook_size, levels (of the
    codes of a frame, coarse first), bitrate (bits a second, if all codes came equally often).
    """

    def __init__(self, model: Any, num_codebooks: int | None) -> None:
        """model: of `transformers`, of a kind in FAMILIES; num_codebooks: the first levels that are used, None for all.

        Raises ModelError for another kind, more levels than there are, or one whose codes are not all of its sound.
        """
        super().__init__()
        config, kind = model.config, model.config.model_type
        if kind not in FAMILIES:
            raise ModelError(f"a model of the kind {kind}; {', '.join(FAMILIES)} are allowed")
        if getattr(config, "normalize", False) or getattr(config, "chunk_length_s", None):
            raise ModelError(
                "this EnCodec keeps a loudness beside the codes of each chunk of its sound, which no token carries; "
                "one without `normalize` and `chunk_length_s` is allowed, as facebook/encodec_24khz"
            )
        self.model, self.family = model.eval().requires_grad_(False), FAMILIES[kind]
        available = len(self.family.codebooks(model))
        count = available if num_codebooks is None else num_codebooks
        fewest = getattr(config, "num_semantic_quantizers", 1)
        if not fewest <= count <= available:
            raise ModelError(f"{count} codebooks; {fewest} to {available} are allowed: so many the {kind} has")
        self.num_codebooks, self.levels = count, tuple(range(count))
        self.sample_rate = int(config.sample_rate if kind == "xcodec" else config.sampling_rate)
        self.channels = int(getattr(config, "audio_channels", 1))
        self.hop_length = round(self.sample_rate / config.frame_rate) if kind == "mimi" else int(config.hop_length)
        self.frame_rate = self.sample_rate / self.hop_length
        self.codebook_size = int(config.codebook_size)
        self.bitrate = count * math.log2(self.codebook_size) * self.frame_rate

    @property
    def vectors(self) -> Tensor:
        """(Q, K, d) float: the codebook of each level."""
        return torch.stack([book.detach().float() for book in self.family.codebooks(self.model)[: self.num_codebooks]])

    def num_codes(self, num_frames: Count) -> Count:
        """Codes of a sound of so many frames."""
        return num_frames * self.num_codebooks

    @torch.no_grad()
    def encode(self, waveform: Tensor) -> Tensor:
        """waveform (B, C, T) at sample_rate, nothing of it padding -> codes (B, ceil(T / hop) x Q) long.

        What the model's own feature extractor and `encode` give, one sound at a time: an encoder that sees the future,
        or that reflects the end of its sound, would read padding. float32, under autocast too.
        """
        if waveform.dim() != 3 or waveform.shape[1] != self.channels or not waveform.shape[2]:
            raise ModelError(
                f"waveform of shape {tuple(waveform.shape)}; (B, {self.channels}, T) with T >= 1 is allowed"
            )
        frames = -(-waveform.shape[2] // self.hop_length)
        if self.family.whole_frames:
            waveform = F.pad(waveform, (0, frames * self.hop_length - waveform.shape[2]))
        with exact_float32(waveform.device.type):
            codes = self.family.encode(self.model, waveform.float(), self.num_codebooks)[:, : self.num_codebooks]
        if codes.shape[1:] != (self.num_codebooks, frames):
            raise ModelError(
                f"{waveform.shape[2]} samples gave codes of shape {tuple(codes.shape)}; {self.num_codebooks} codebooks "
                f"of {frames} frames were expected: the model's hop is not {self.hop_length}"
            )
        return codes.transpose(1, 2).flatten(1)

    def encode_windows(self, windows: Sequence[Tensor]) -> list[list[int]]:
        """Windows (C, T) of any lengths -> the codes of each. Those of one length are encoded together."""
        lengths: dict[int, list[int]] = {}
        for number, window in enumerate(windows):
            lengths.setdefault(window.shape[1], []).append(number)
        codes: list[list[int]] = [[] for _ in windows]
        for numbers in lengths.values():
            encoded = self.encode(torch.stack([windows[number] for number in numbers]))
            for number, row in zip(numbers, encoded.tolist(), strict=True):
                codes[number] = row
        return codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, F x Q) -> waveform (B, C, F x hop). Raises ModelError for other codes."""
        low, high = int(codes.min()), int(codes.max())
        if codes.shape[1] % self.num_codebooks or low < 0 or high >= self.codebook_size:
            raise ModelError(
                f"{codes.shape[1]} codes from {low} to {high}; a multiple of {self.num_codebooks}, from 0 to "
                f"{self.codebook_size - 1}, is allowed. Were they made by another tokenizer?"
            )
        by_level = codes.unflatten(1, (-1, self.num_codebooks)).transpose(1, 2)
        samples = by_level.shape[2] * self.hop_length
        with exact_float32(codes.device.type):
            waveform = self.family.decode(self.model, by_level)
        # a decoder of odd strides ends a few samples early
        return F.pad(waveform, (0, max(0, samples - waveform.shape[2])))[..., :samples]
