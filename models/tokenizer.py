"""The sound tokenizer: latents to very few codes, and back by flow matching (LM-MSN, arXiv 2503.22275).

    latents (B, F, D) ─► causal encoder ─► segments (B, N, W) ─► quantiser ─► codes (B, N)
                                                                    │
    latents (B, F, D) ◄─ ODE ◄─ diffusion transformer ◄─ frames ◄───┘

A token stands for a segment of frames at a fixed rational rate: what follows never changes the tokens of a prefix.
"""

import math
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.dit import DiffusionTransformer
from models.flow import interpolate, masked_mse, sample_times, solve
from models.quantizer import VectorQuantizer
from models.transformer import Transformer


class TokenizerLoss(NamedTuple):
    loss: Tensor
    reconstruction: Tensor  # flow matching, or squared error, of normalised latents
    prior: Tensor  # squared error of a linear read-out of the tokens
    commitment: Tensor
    codes: Tensor  # (B, N) long
    token_mask: Tensor  # (B, N) bool


class Codes(NamedTuple):
    codes: Tensor  # (B, N) long
    num_tokens: Tensor  # (B) long; codes from num_tokens on are padding


class TokenGrid:
    """Which frames a token stands for: token_of_frame(f) = floor(f x token_rate / frame_rate).

    The rate is made a fraction once, so that it holds at any length. A clip's last segment may be shorter; it has its token all the same.
    """

    def __init__(self, frame_rate: float, token_rate: float) -> None:
        """Rates in Hz. Raises ValueError where tokens are to come faster than frames."""
        self.step = Fraction(token_rate / frame_rate).limit_denominator(1000)
        if not 0 < self.step <= 1:
            raise ValueError(f"token_rate {token_rate:.3f} Hz: above 0 and at most the latents' {frame_rate:.3f} Hz is allowed")
        self.frame_rate = frame_rate

    @property
    def token_rate(self) -> float:
        return self.frame_rate * float(self.step)

    @property
    def longest(self) -> int:
        """Most frames in a segment."""
        return -(-self.step.denominator // self.step.numerator)

    def token_of_frame(self, frames: Tensor) -> Tensor:
        return frames * self.step.numerator // self.step.denominator

    def first_frame(self, tokens: Tensor) -> Tensor:
        return -(-tokens * self.step.denominator // self.step.numerator)

    def num_tokens(self, num_frames: Tensor) -> Tensor:
        """Tokens that cover num_frames frames: 0 for 0."""
        return torch.where(num_frames > 0, self.token_of_frame(num_frames - 1) + 1, 0)

    @staticmethod
    def rate(frame_rate: float, stride: int | None, bitrate: float | None, codebook_size: int) -> float:
        """Tokens a second of a stride (frames a token) or of a bit rate (bits a second)."""
        if stride is not None:
            return frame_rate / stride
        assert bitrate is not None
        return bitrate / math.log2(codebook_size)


class CausalEncoder(nn.Module):
    """Latents (B, F, D) to hidden frames (B, F, W); frame f has seen frames 0 to f."""

    def __init__(self, latent_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_dim, width)
        self.stack = Transformer(width, depth, heads, causal=True, modulated=False)

    def forward(self, latents: Tensor) -> Tensor:
        return self.stack(self.embed(latents), mask=None)


class SoundTokenizer(nn.Module):
    """encode: latents to codes; decode: codes to latents. At the border latents have the VAE's scale, inside they are normalised by channel."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(
        self,
        encoder: CausalEncoder,
        quantizer: VectorQuantizer,
        decoder: DiffusionTransformer,
        grid: TokenGrid,
        objective: str,
        logit_normal_share: float,
        token_dropout: float,
        prior_weight: float,
    ) -> None:
        """objective: flow (the paper's), or mse (its baseline: the same network fed zero noise at t = 0, trained on squared error)."""
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.grid = encoder, quantizer, decoder, grid
        self.objective, self.logit_normal_share = objective, logit_normal_share
        self.token_dropout, self.prior_weight = token_dropout, prior_weight
        width, latent_dim = encoder.embed.out_features, encoder.embed.in_features
        self.segment = nn.Linear(2 * width, width)
        self.place = nn.Embedding(grid.longest, width)
        self.prior = nn.Linear(width, latent_dim)
        nn.init.normal_(self.place.weight, std=0.02)
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))

    @property
    def bitrate(self) -> float:
        """Nominal bits a second: log2(codebook_size) x token_rate."""
        return math.log2(self.quantizer.codebook_size) * self.grid.token_rate

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Per channel (D), of the training latents."""
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std.clamp(min=1e-5))

    def training_loss(self, latents: Tensor, num_frames: Tensor, generator: torch.Generator) -> TokenizerLoss:
        """latents (B, F, D), zeros beyond num_frames (B). All randomness comes from the generator."""
        mask = _mask(num_frames, latents.shape[1])
        x_1 = self._normalise(latents) * mask[..., None]
        quantized = self.quantizer(self._segments(x_1, num_frames), _mask(self.grid.num_tokens(num_frames), self._tokens(x_1)))
        condition = self._frames(quantized.quantized, x_1.shape[1])
        prior = masked_mse(self.prior(condition), x_1, mask)
        if self.objective == "mse":
            target, prediction = x_1, self._velocity(torch.zeros_like(x_1), x_1.new_zeros(len(x_1)), condition, mask)
        else:
            hidden = torch.rand(len(x_1), generator=generator, device=x_1.device) < self.token_dropout
            noise = torch.randn(x_1.shape, generator=generator, device=x_1.device, dtype=x_1.dtype)
            times = sample_times(len(x_1), self.logit_normal_share, generator, x_1.device)
            x_t, target = interpolate(noise, x_1, times)
            prediction = self._velocity(x_t, times, self.decoder.hide(condition, hidden), mask)
        reconstruction = masked_mse(prediction, target, mask)
        loss = reconstruction + self.prior_weight * prior + quantized.commitment
        token_mask = _mask(self.grid.num_tokens(num_frames), quantized.codes.shape[1])
        return TokenizerLoss(loss, reconstruction, prior, quantized.commitment, quantized.codes, token_mask)

    def encode(self, latents: Tensor, num_frames: Tensor) -> Codes:
        """latents (B, F, D) with num_frames (B) valid frames -> codes. What lies beyond num_frames changes nothing."""
        x = self._normalise(latents) * _mask(num_frames, latents.shape[1])[..., None]
        num_tokens = self.grid.num_tokens(num_frames)
        found = self.quantizer(self._segments(x, num_frames), _mask(num_tokens, self._tokens(x)))
        return Codes(found.codes, num_tokens)

    def decode(
        self, codes: Tensor, num_tokens: Tensor, num_frames: Tensor, num_steps: int, solver: str, guidance: float, generator: torch.Generator
    ) -> Tensor:
        """codes (B, N) -> latents (B, F, D), F = max(num_frames), zeros beyond num_frames.

        num_steps, solver: of the ODE (models.flow.solve); guidance 1 follows the tokens, above 1 exaggerates them. The MSE twin takes one
        evaluation and ignores all three. Raises ValueError where num_frames asks for more than the tokens cover.
        """
        if (self.grid.num_tokens(num_frames) > num_tokens).any():
            raise ValueError(f"{num_frames.tolist()} frames need {self.grid.num_tokens(num_frames).tolist()} tokens, here {num_tokens.tolist()}")
        frames = int(num_frames.max())
        mask = _mask(num_frames, frames)
        condition = self._frames(self.quantizer.decode(codes), frames)
        shape = (len(codes), frames, len(self.latent_mean))
        if self.objective == "mse":
            x = self._velocity(condition.new_zeros(shape), condition.new_zeros(len(codes)), condition, mask)
        else:
            noise = torch.randn(shape, generator=generator, device=condition.device)
            nothing = self.decoder.hide(condition, torch.ones(len(codes), dtype=torch.bool, device=codes.device))

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                found = self._velocity(x, t, condition, mask)
                return found if guidance == 1 else torch.lerp(self._velocity(x, t, nothing, mask), found, guidance)

            x = solve(velocity, noise, num_steps, solver)
        return (x.float() * self.latent_std + self.latent_mean) * mask[..., None]

    def _velocity(self, x: Tensor, t: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, t, condition, None if bool(mask.all()) else mask)

    def _normalise(self, latents: Tensor) -> Tensor:
        return (latents.float() - self.latent_mean) / self.latent_std

    def _tokens(self, x: Tensor) -> int:
        return int(self.grid.num_tokens(torch.tensor(x.shape[1])))

    def _segments(self, x: Tensor, num_frames: Tensor) -> Tensor:
        """Encoder frames to one vector a token (B, N, W): the segment's mean beside its last valid frame. Nothing after a segment enters it."""
        hidden = self.encoder(x)
        tokens, frames = self._tokens(x), torch.arange(x.shape[1], device=x.device)
        owner = self.grid.token_of_frame(frames)
        valid = _mask(num_frames, x.shape[1])[..., None]
        sums = hidden.new_zeros(len(x), tokens, hidden.shape[-1]).index_add_(1, owner, hidden * valid)
        sizes = hidden.new_zeros(len(x), tokens, 1).index_add_(1, owner, valid.to(hidden.dtype))
        ends = self.grid.first_frame(torch.arange(1, tokens + 1, device=x.device)) - 1
        last = torch.minimum(ends, num_frames[:, None] - 1).clamp(min=0)
        ending = hidden.gather(1, last[..., None].expand(-1, -1, hidden.shape[-1]))
        return self.segment(torch.cat([sums / sizes.clamp(min=1), ending], dim=-1))

    def _frames(self, quantized: Tensor, frames: int) -> Tensor:
        """Token vectors (B, N, W) to frames (B, F, W): each frame its token, and where in the segment it stands."""
        position = torch.arange(frames, device=quantized.device)
        owner = self.grid.token_of_frame(position)
        return quantized[:, owner] + self.place(position - self.grid.first_frame(owner))


def _mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lengths.device) < lengths[:, None]
