"""Sound tokenizer of LM-MSN (Mehta, Jojic, Gamper 2025, arXiv:2503.22275): causal encoder, codebook, diffusion decoder.
On a VAE's latents.

    latents (B, F, D) ──causal encoder──► (B, F, W) ──each token's frames──► (B, N, W) ──codebook──► codes (B, S)
    latents (B, F, D) ◄──flow matching, or one regression (VQ-MSE)── (B, F, W) ◄──repeated── embeddings (B, N, W) ◄──┘
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.quantizer import Quantizer
from models.tokenizer import flow
from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.grid import Count, TokenGrid
from models.tokenizer.transformer import RMSNorm, Transformer, linear


class CausalEncoder(nn.Module):
    """Latents to one vector a token, which knows the frames up to its last one and no others."""

    def __init__(self, latent_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.latent_dim, self.width = latent_dim, width
        self.input = linear(latent_dim, width)
        self.transformer = Transformer(width, depth, heads, causal=True, modulated=False)
        self.norm = RMSNorm(width)
        self.pool = linear(2 * width, width)

    def frames(self, latents: Tensor) -> Tensor:
        """latents (B, F, D) -> (B, F, W). Law: frame f of the output depends on the frames 0 to f of the input."""
        positions = torch.arange(latents.shape[1], device=latents.device)
        return self.norm(self.transformer(self.input(latents), positions, mask=None, modulation=None))

    def forward(self, latents: Tensor, num_frames: Tensor, grid: TokenGrid) -> Tensor:
        """latents (B, F, D), num_frames (B) valid ones -> (B, N, W): from the last of each token's valid frames, and
        their mean (what lasts all through).
        """
        frames = self.frames(latents)
        tokens = torch.arange(grid.num_tokens(frames.shape[1]), device=frames.device)
        offsets = torch.arange(math.ceil(grid.step), device=frames.device)
        index = grid.first_frame(tokens)[:, None] + offsets  # (N, frames of a token)
        inside = index <= grid.last_frame(tokens)[:, None]
        valid = inside & (index < num_frames[:, None, None])  # (B, N, frames of a token)
        parts = frames[:, index.clamp(max=frames.shape[1] - 1)]
        mean = (parts * valid[..., None]).sum(2) / valid.sum(2).clamp(min=1)[..., None]
        last = torch.minimum(grid.last_frame(tokens), num_frames[:, None] - 1)[..., None].expand(-1, -1, self.width)
        return self.pool(torch.cat([frames.gather(1, last), mean], -1))


class TokenizerLoss(NamedTuple):
    loss: Tensor  # (): reconstruction + prior_weight * prior + commitment
    reconstruction: Tensor  # () per element, of the velocity (flow) or of the standardised latents (mse)
    prior: Tensor  # ()
    commitment: Tensor  # ()
    codes: Tensor  # (B, S) long
    code_mask: Tensor  # (B, S) bool


class Codes(NamedTuple):
    codes: Tensor  # (B, S) long, block after block; 0 beyond num_codes, and 0 is a sound too
    num_codes: Tensor  # (B) long: whole blocks


class SoundTokenizer(nn.Module):
    """Latents to codes and back. Latents come and go in the VAE's scale and are standardised by channel inside."""

    latent_mean: Tensor  # (D)
    latent_std: Tensor  # (D)

    def __init__(
        self,
        encoder: CausalEncoder,
        quantizer: Quantizer,
        decoder: DiffusionTransformer,
        grid: TokenGrid,
        objective: Literal["flow", "mse"],
        logit_normal_share: float,
        token_dropout: float,
        prior_weight: float,
    ) -> None:
        """objective: `mse` is the paper's baseline, the same network with zeros for noise at time 0, regressing the
        latents; it is never trained without tokens, so it has no guidance. logit_normal_share: see
        `flow.stratified_times`. token_dropout: share of the clips trained without tokens.
        """
        super().__init__()
        if objective not in ("flow", "mse"):
            raise ModelError(f"objective {objective!r}; flow and mse are allowed")
        if not encoder.width == quantizer.dim == decoder.condition_dim:
            raise ModelError(
                f"encoder.width {encoder.width}, quantizer.dim {quantizer.dim} and decoder.condition_dim "
                f"{decoder.condition_dim} must be equal"
            )
        self.encoder, self.quantizer, self.decoder, self.grid = encoder, quantizer, decoder, grid
        self.objective, self.logit_normal_share = objective, logit_normal_share
        self.token_dropout, self.prior_weight = token_dropout, prior_weight
        self.register_buffer("latent_mean", torch.zeros(encoder.latent_dim))
        self.register_buffer("latent_std", torch.ones(encoder.latent_dim))

    @property
    def bitrate(self) -> float:
        """Bits a second, if all codes came equally often."""
        return self.quantizer.bits_per_token * float(self.grid.token_rate)

    def num_codes(self, num_frames: Count) -> Count:
        """Codes of a clip of so many frames."""
        return self.quantizer.num_codes(self.grid.num_tokens(num_frames))

    def num_complete_codes(self, num_frames: int) -> int:
        """Those that no further frame can change."""
        return self.grid.num_complete_tokens(num_frames) // self.quantizer.block * len(self.quantizer.levels)

    def num_frames(self, num_codes: int) -> int:
        """Most frames that so many codes stand for."""
        return self.grid.num_frames(num_codes // len(self.quantizer.levels) * self.quantizer.block)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Of the training latents, by channel (D)."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise ModelError(
                "latent statistics must be finite, with every standard deviation above 0: "
                "is a channel of the VAE constant on this corpus?"
            )
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def training_loss(self, latents: Tensor, num_frames: Tensor, generator: torch.Generator) -> TokenizerLoss:
        """latents (B, F, D), of which num_frames (B) are valid. In training mode the codebook learns, too. Noise, times
        and dropout from the generator.
        """
        frame_mask = self._valid_frames(latents, num_frames)
        x_1 = self._standardized(latents, frame_mask)
        tokens = self.encoder(x_1, num_frames, self.grid)
        num_tokens = self.grid.num_tokens(num_frames)
        token_mask = _first(num_tokens, tokens.shape[1])
        quantized = self.quantizer(tokens, token_mask, update=True)
        condition = self._condition(quantized.quantized, x_1.shape[1])
        prior = flow.masked_mean_square(self.decoder.prior(condition), x_1, frame_mask)

        x_t, t, target = torch.zeros_like(x_1), x_1.new_zeros(len(x_1)), x_1
        dropped = torch.zeros(len(x_1), dtype=torch.bool, device=x_1.device)
        if self.objective == "flow":
            device = generator.device
            noise = torch.randn(x_1.shape, generator=generator, device=device).to(x_1.device)
            t = flow.stratified_times(len(x_1), self.logit_normal_share, generator).to(x_1.device)
            dropped = (torch.rand(len(x_1), generator=generator, device=device) < self.token_dropout).to(x_1.device)
            x_t, target = flow.interpolate(noise, x_1, t)
        told = self.decoder.without_tokens(condition, dropped)
        predicted = self.decoder(x_t, t, told, _key_mask(frame_mask))
        reconstruction = flow.masked_mean_square(predicted, target, frame_mask)
        loss = reconstruction + self.prior_weight * prior + quantized.loss
        code_mask = _first(self.quantizer.num_codes(num_tokens), quantized.codes.shape[1])
        return TokenizerLoss(loss, reconstruction, prior, quantized.loss, quantized.codes, code_mask)

    @torch.no_grad()
    def encode(self, latents: Tensor, num_frames: Tensor) -> Codes:
        """latents (B, F, D), of which num_frames (B) are valid. A clip's last token is read at its last valid frame, if
        its own last frame lies beyond.
        """
        frame_mask = self._valid_frames(latents, num_frames)
        tokens = self.encoder(self._standardized(latents, frame_mask), num_frames, self.grid)
        num_tokens = self.grid.num_tokens(num_frames)
        codes = self.quantizer(tokens, _first(num_tokens, tokens.shape[1]), update=False).codes
        num_codes = self.quantizer.num_codes(num_tokens)
        return Codes(_without_padding(codes, num_codes), num_codes)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        num_codes: Tensor,
        num_frames: Tensor,
        num_steps: int,
        solver: flow.Solver,
        guidance: float,
        noise: Tensor,
    ) -> Tensor:
        """codes (B, S), of which num_codes (B) are valid -> latents (B, F, D), F the largest of num_frames (B); zeros
        beyond a clip's own.

        guidance 1 is the trained velocity; w gives v(nothing) + w (v(tokens) - v(nothing)). With the objective mse,
        num_steps, solver, guidance and noise have no effect. noise (B, F or more, D): standard normal. Raises
        ModelError where frames have no code.
        """
        needed = self.num_codes(num_frames)
        if (needed > num_codes).any() or int(num_codes.max()) > codes.shape[1]:
            raise ModelError(
                f"num_frames {num_frames.tolist()} need {needed.tolist()} codes; "
                f"{num_codes.tolist()} came, in codes of shape {tuple(codes.shape)}. "
                "num_frames(num_codes) says how many frames codes stand for"
            )
        mask = torch.arange(int(num_frames.max()), device=codes.device) < num_frames[:, None]
        condition = self._condition(self.quantizer.decode(_without_padding(codes, num_codes)), mask.shape[1])
        shape = (*mask.shape, self.encoder.latent_dim)
        if self.objective == "mse":
            nothing, start = condition.new_zeros(shape), condition.new_zeros(len(codes))
            latents = self.decoder(nothing, start, condition, _key_mask(mask))
        else:
            if noise.shape[::2] != shape[::2] or noise.shape[1] < shape[1]:
                raise ModelError(f"noise of shape {tuple(noise.shape)}; {shape}, or more frames, is allowed")
            start = noise[:, : shape[1]].to(codes.device)
            latents = flow.sample(lambda x, t: self.velocity(x, t, condition, mask, guidance), start, num_steps, solver)
        return (latents * self.latent_std + self.latent_mean) * mask[..., None]

    def velocity(self, x_t: Tensor, t: Tensor, condition: Tensor, mask: Tensor, guidance: float) -> Tensor:
        """Guided velocity (B, F, D) of standardised latents, from the decoder's `condition` (B, F, W)."""
        if guidance == 1:
            return self.decoder(x_t, t, condition, _key_mask(mask))
        dropped = torch.tensor([False, True], device=x_t.device).repeat_interleave(len(x_t))
        both = self.decoder.without_tokens(condition.repeat(2, 1, 1), dropped)
        told, untold = self.decoder(x_t.repeat(2, 1, 1), t.repeat(2), both, _key_mask(mask.repeat(2, 1))).chunk(2)
        return untold + guidance * (told - untold)

    @torch.no_grad()
    def token_gap(self, latents: Tensor, num_frames: Tensor, time: float, noise: Tensor) -> Tensor:
        """How much the decoder's loss at a time in [0, 1] grows when each clip is told the tokens of the next one, over
        the frames that both have: near 0 where the decoder does not listen. NaN for a single clip. With the objective
        mse the time has no effect. latents, noise (B, F, D); num_frames (B).
        """
        if len(latents) < 2:
            return latents.new_tensor(float("nan"))
        frame_mask = self._valid_frames(latents, num_frames)
        x_1 = self._standardized(latents, frame_mask)
        codes = self.encode(latents, num_frames)
        condition = self._condition(self.quantizer.decode(codes.codes), x_1.shape[1])
        x_t, t, target = torch.zeros_like(x_1), x_1.new_zeros(len(x_1)), x_1
        if self.objective == "flow":
            t = torch.full_like(t, time)
            x_t, target = flow.interpolate(noise, x_1, t)
        both = frame_mask & frame_mask.roll(1, 0)
        losses = [
            flow.masked_mean_square(self.decoder(x_t, t, told, _key_mask(frame_mask)), target, both)
            for told in (condition, condition.roll(1, 0))
        ]
        return losses[1] - losses[0]

    def _condition(self, embeddings: Tensor, num_frames: int) -> Tensor:
        frames = torch.arange(num_frames, device=embeddings.device)
        return self.decoder.condition(embeddings, self.grid.token_of_frame(frames), self.grid.phase(frames))

    def _standardized(self, latents: Tensor, frame_mask: Tensor) -> Tensor:
        """Zeros, the mean, where there is padding, whatever lay there."""
        return torch.where(frame_mask[..., None], (latents.float() - self.latent_mean) / self.latent_std, 0.0)

    def _valid_frames(self, latents: Tensor, num_frames: Tensor) -> Tensor:
        """(B, F) bool."""
        if latents.dim() != 3 or latents.shape[-1] != self.encoder.latent_dim:
            raise ModelError(f"latents of shape {tuple(latents.shape)}; (B, F, {self.encoder.latent_dim}) is allowed")
        if int(num_frames.min()) < 1 or int(num_frames.max()) > latents.shape[1]:
            raise ModelError(f"num_frames {num_frames.tolist()}; 1 to F = {latents.shape[1]} are allowed")
        return torch.arange(latents.shape[1], device=latents.device) < num_frames[:, None]


def _first(counts: Tensor, length: int) -> Tensor:
    """counts (B) -> (B, length) bool: True for the first so many."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def _without_padding(codes: Tensor, num_codes: Tensor) -> Tensor:
    """codes (B, S) with 0 beyond num_codes (B)."""
    return codes.masked_fill(~_first(num_codes, codes.shape[1]), 0)


def _key_mask(mask: Tensor) -> Tensor | None:
    """None where nothing is padding: attention has faster kernels without a mask."""
    return None if bool(mask.all()) else mask
