"""Tokenizer of LM-MSN (Mehta, Jojic, Gamper 2025, arXiv:2503.22275): causal encoder, codebook, diffusion decoder.

It codes a VAE's latents; `stages.hub` puts the VAE before and behind it.

    latents (B, F, D) ──causal encoder──► (B, F, W) ──each token's frames──► (B, N, W) ──codebook──► codes (B, S)
    latents (B, F, D) ◄──flow matching, or one regression (VQ-MSE)── (B, F, W) ◄──repeated── embeddings (B, N, W) ◄──┘
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.exact_float32 import exact_float32
from models.quantizer import Quantizer
from models.tokenizer import flow
from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.grid import Count, TokenGrid


class TokenizerLoss(NamedTuple):
    """What one batch costs, each term a mean over its valid frames or tokens."""

    loss: Tensor  # (): reconstruction + prior_weight * prior + commitment
    reconstruction: Tensor  # () per element, of the velocity (flow) or of the standardised latents (mse)
    prior: Tensor  # ()
    commitment: Tensor  # ()
    codes: Tensor  # (B, S) long
    code_mask: Tensor  # (B, S) bool
    tokens: Tensor  # (B, N, W) of the encoder
    quantized: Tensor  # (B, N, W), with the gradient of the tokens
    token_mask: Tensor  # (B, N) bool


class Codes(NamedTuple):
    """Codes of a batch of clips, padded on the right."""

    codes: Tensor  # (B, S) long, block after block; 0 beyond num_codes, and 0 is a sound too
    num_codes: Tensor  # (B) long: whole blocks


class LatentTokenizer(nn.Module):
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
        """objective: `flow`, or `mse`, the paper's baseline: the network regresses the latents from zeros at time 0.

        `mse` is never trained without tokens, so it has no guidance. logit_normal_share: see `flow.stratified_times`.
        token_dropout: share of the clips trained without tokens. prior_weight: of the prior loss, see `dit`.
        Raises ModelError for another objective, or parts of different widths.
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
        self.mean_velocity = False  # whether the decoder knows mean velocities, with its guidance in them
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
        """Codes of a clip of so many frames that no further frame can change."""
        return self.grid.num_complete_tokens(num_frames) // self.quantizer.block * len(self.quantizer.levels)

    def num_frames(self, num_codes: int) -> int:
        """Most frames that so many codes stand for."""
        return self.grid.num_frames(num_codes // len(self.quantizer.levels) * self.quantizer.block)

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """mean, std (D): of the training latents, by channel. Raises ModelError for a constant channel, inf or NaN."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise ModelError(
                "latent statistics must be finite, with every standard deviation above 0: "
                "is a channel of the VAE constant on this corpus?"
            )
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    def training_loss(
        self, latents: Tensor, num_frames: Tensor, generator: torch.Generator, is_padded: bool | None = None
    ) -> TokenizerLoss:
        """latents (B, F, D), of which num_frames (B) are valid. In training mode the codebook learns, too.

        Noise, times and dropout come from the generator; the objective mse draws nothing. is_padded: whether a clip has
        fewer than F frames, for a caller that knows and has checked that num_frames are 1 to F; None asks the device,
        and waits for it.
        """
        frame_mask = self._valid_frames(latents, num_frames, check=is_padded is None)
        x_1 = self._standardized(latents, frame_mask)
        tokens = self.encoder(x_1, num_frames, self.grid)
        num_tokens = self.grid.num_tokens(num_frames)
        token_mask = _first(num_tokens, tokens.shape[1])
        quantized = self.quantizer(tokens, token_mask, update=True)
        condition = self._condition(quantized.quantized, x_1.shape[1])
        prior = flow.masked_mean_square(self.decoder.prior(condition), x_1, frame_mask)

        # mse drops none, and yet goes through `without_tokens`: every parameter has a gradient, as DDP wants
        dropped = torch.zeros(len(x_1), dtype=torch.bool, device=x_1.device)
        if self.objective == "mse":
            task = _regression(x_1)
        else:
            device = generator.device
            noise = torch.randn(x_1.shape, generator=generator, device=device).to(x_1.device)
            t = flow.stratified_times(len(x_1), self.logit_normal_share, generator).to(x_1.device)
            dropped = (torch.rand(len(x_1), generator=generator, device=device) < self.token_dropout).to(x_1.device)
            task = _velocity_matching(noise, x_1, t)
        condition = self.decoder.without_tokens(condition, dropped)
        predicted = self.decoder(task.x_t, task.t, condition, _key_mask(frame_mask, is_padded))
        reconstruction = flow.masked_mean_square(predicted, task.target, frame_mask)
        loss = reconstruction + self.prior_weight * prior + quantized.loss
        code_mask = _first(self.quantizer.num_codes(num_tokens), quantized.codes.shape[1])
        return TokenizerLoss(
            loss,
            reconstruction,
            prior,
            quantized.loss,
            quantized.codes,
            code_mask,
            tokens,
            quantized.quantized,
            token_mask,
        )

    def standardized(self, latents: Tensor, num_frames: Tensor) -> Tensor:
        """latents (B, F, D), of which num_frames (B) are valid -> what the encoder takes; padding is 0."""
        return self._standardized(latents, _first(num_frames, latents.shape[1]))

    @torch.no_grad()
    def encode(self, latents: Tensor, num_frames: Tensor) -> Codes:
        """latents (B, F, D), of which num_frames (B) are valid -> codes (B, S).

        A clip's last token may stand for frames beyond its end: it is read at the clip's last valid frame. float32,
        under autocast too: rounding decides codes, and they are to be the same for all that encode.
        """
        frame_mask = self._valid_frames(latents, num_frames)
        num_tokens = self.grid.num_tokens(num_frames)
        with exact_float32(latents.device.type):
            tokens = self.encoder(self._standardized(latents, frame_mask), num_frames, self.grid)
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
        temperature: float = 1.0,
    ) -> Tensor:
        """codes (B, S), of which num_codes (B) are valid -> latents (B, F, D), F the largest of num_frames (B).

        Frames beyond a clip's num_frames are 0. guidance 1 is the trained velocity; w gives v(no tokens) +
        w (v(tokens) - v(no tokens)). noise (B, F or more, D): standard normal; temperature: by which it is
        multiplied (Kingma and Dhariwal 2018, arXiv:1807.03039, of flows; Matcha-TTS, arXiv:2309.03199, of flow matching). With the
        objective mse, num_steps, solver, guidance, noise and temperature have no effect. Raises ModelError where frames have no code.
        """
        condition = self.condition(codes, num_codes, num_frames)
        return self.sample(condition, num_frames, num_steps, solver, guidance, noise, temperature=temperature)

    def condition(self, codes: Tensor, num_codes: Tensor, num_frames: Tensor) -> Tensor:
        """codes (B, S), of which num_codes (B) are valid -> the decoder's condition (B, F, W), F the largest of
        num_frames (B). Raises ModelError where frames have no code.
        """
        needed = self.num_codes(num_frames)
        if (needed > num_codes).any() or int(num_codes.max()) > codes.shape[1]:
            raise ModelError(
                f"num_frames {num_frames.tolist()} need {needed.tolist()} codes; "
                f"{num_codes.tolist()} came, in codes of shape {tuple(codes.shape)}. "
                "num_frames(num_codes) says how many frames codes stand for"
            )
        return self._condition(self.quantizer.decode(_without_padding(codes, num_codes)), int(num_frames.max()))

    @torch.no_grad()
    def sample(
        self,
        condition: Tensor,
        num_frames: Tensor,
        num_steps: int,
        solver: flow.Solver,
        guidance: float,
        noise: Tensor,
        known: Tensor | None = None,
        num_known: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """condition (B, F, W), of which num_frames (B) are valid -> latents (B, F, D), as `decode` has them.

        known (B, F, D): latents whose first num_known (B) frames are given back as they are, and which the rest goes on
        from (`flow.continued`). A condition may be that of the last frames of one clip and of the first of the next.
        """
        mask = _first(num_frames, condition.shape[1])
        shape = (*mask.shape, self.encoder.latent_dim)
        is_known = _first(torch.zeros_like(num_frames) if num_known is None else num_known, shape[1])
        if self.objective == "mse":
            zeros, t = condition.new_zeros(shape), condition.new_zeros(len(condition))
            latents = self.decoder(zeros, t, condition, _key_mask(mask))
        else:
            if noise.shape[::2] != shape[::2] or noise.shape[1] < shape[1]:
                raise ModelError(f"noise of shape {tuple(noise.shape)}; {shape}, or more frames, is allowed")
            start = temperature * noise[:, : shape[1]].to(condition.device)
            # the mask here, for it asks the device, and a step is not to wait for it
            velocity = self.guided_velocity(condition, _key_mask(mask), guidance)
            if known is not None:
                velocity = flow.continued(velocity, start, self._standardized(known, is_known), is_known)
            latents = flow.sample(velocity, start, num_steps, solver)
        latents = (latents * self.latent_std + self.latent_mean) * mask[..., None]
        return latents if known is None else torch.where(is_known[..., None], known, latents)

    def guided_velocity(
        self, condition: Tensor, mask: Tensor | None, guidance: float
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """velocity(x_t, t, r) of standardised latents (B, F, D), for a condition (B, F, W) of the decoder.

        mask (B, F) bool: valid frames, None where no frame is padding. The velocity is that at t, or its mean from t to
        r where the decoder was trained to give it: then it has its guidance already. Raises ModelError for another.
        """
        if self.mean_velocity and guidance != 1:
            raise ModelError(
                f"guidance {guidance}; 1 is allowed: this decoder gives mean velocities, with theirs in them"
            )
        if guidance == 1:
            return lambda x, t, r: self.decoder(x, t, condition, mask, r if self.mean_velocity else None)
        dropped = torch.arange(2 * len(condition), device=condition.device) >= len(condition)
        both = self.decoder.without_tokens(condition.repeat(2, 1, 1), dropped)
        masks = None if mask is None else mask.repeat(2, 1)

        def velocity(x: Tensor, t: Tensor, r: Tensor) -> Tensor:
            conditional, unconditional = self.decoder(x.repeat(2, 1, 1), t.repeat(2), both, masks).chunk(2)
            return unconditional + guidance * (conditional - unconditional)

        return velocity

    @torch.no_grad()
    def token_gap(self, latents: Tensor, num_frames: Tensor, codes: Codes, time: float, noise: Tensor) -> Tensor:
        """How much the decoder's loss grows when each clip has the tokens of the clip before it in the batch.

        latents, noise (B, F, D); num_frames (B); codes: theirs, of `encode`; time in [0, 1], without effect for the
        objective mse -> (), over the frames that both clips have. Near 0 where the decoder ignores its tokens; NaN for a
        single clip.
        """
        if len(latents) < 2:
            return latents.new_tensor(float("nan"))
        frame_mask = self._valid_frames(latents, num_frames)
        x_1 = self._standardized(latents, frame_mask)
        condition = self._condition(self.quantizer.decode(codes.codes), x_1.shape[1])
        mse = self.objective == "mse"
        task = _regression(x_1) if mse else _velocity_matching(noise, x_1, x_1.new_full((len(x_1),), time))
        both = frame_mask & frame_mask.roll(1, 0)
        matched, swapped = (
            flow.masked_mean_square(self.decoder(task.x_t, task.t, tokens, _key_mask(frame_mask)), task.target, both)
            for tokens in (condition, condition.roll(1, 0))
        )
        return swapped - matched

    def _condition(self, embeddings: Tensor, num_frames: int) -> Tensor:
        """embeddings (B, N, W) of tokens -> the decoder's condition (B, num_frames, W)."""
        frames = torch.arange(num_frames, device=embeddings.device)
        return self.decoder.condition(embeddings, self.grid.token_of_frame(frames), self.grid.phase(frames))

    def _standardized(self, latents: Tensor, frame_mask: Tensor) -> Tensor:
        """latents (B, F, D) with mean 0 and deviation 1 by channel; padding is 0, whatever it was."""
        return torch.where(frame_mask[..., None], (latents.float() - self.latent_mean) / self.latent_std, 0.0)

    def _valid_frames(self, latents: Tensor, num_frames: Tensor, check: bool = True) -> Tensor:
        """(B, F) bool. Raises ModelError for latents of another shape, or, if checked, num_frames outside 1 to F."""
        if latents.dim() != 3 or latents.shape[-1] != self.encoder.latent_dim:
            raise ModelError(f"latents of shape {tuple(latents.shape)}; (B, F, {self.encoder.latent_dim}) is allowed")
        if check and (int(num_frames.min()) < 1 or int(num_frames.max()) > latents.shape[1]):
            raise ModelError(f"num_frames {num_frames.tolist()}; 1 to F = {latents.shape[1]} are allowed")
        return _first(num_frames, latents.shape[1])


class _DecoderTask(NamedTuple):
    """What the decoder sees, and what it is to answer."""

    x_t: Tensor  # (B, F, D)
    t: Tensor  # (B)
    target: Tensor  # (B, F, D)


def _regression(x_1: Tensor) -> _DecoderTask:
    """The latents x_1 (B, F, D) from zeros."""
    return _DecoderTask(torch.zeros_like(x_1), x_1.new_zeros(len(x_1)), x_1)


def _velocity_matching(noise: Tensor, x_1: Tensor, t: Tensor) -> _DecoderTask:
    """The velocity at times t (B) on the path from noise to the latents x_1, both (B, F, D)."""
    x_t, velocity = flow.interpolate(noise, x_1, t)
    return _DecoderTask(x_t, t, velocity)


def _first(counts: Tensor, length: int) -> Tensor:
    """counts (B) -> (B, length) bool: True for the first counts[b] positions."""
    return torch.arange(length, device=counts.device) < counts[:, None]


def _without_padding(codes: Tensor, num_codes: Tensor) -> Tensor:
    """codes (B, S) with 0 beyond num_codes (B)."""
    return codes.masked_fill(~_first(num_codes, codes.shape[1]), 0)


def _key_mask(mask: Tensor, is_padded: bool | None = None) -> Tensor | None:
    """mask (B, F), or None where nothing is padding: attention has faster kernels without a mask."""
    return mask if (not mask.all() if is_padded is None else is_padded) else None
