"""A small sound tokenizer and clips for it."""

import math

import torch
from torch import Tensor

from models.quantizer import VectorQuantizer
from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.grid import TokenGrid
from models.tokenizer.tokenizer import Codes, LatentTokenizer, TokenizerLoss

OOBLECK = 44100 / 2048  # Hz, latent frames of Stable Audio Open
PAPER = TokenGrid.rate(OOBLECK, None, 230.0, math.log2(8196))
GRIDS = {"native": OOBLECK, "stride 2": OOBLECK / 2, "0.23 kbps": PAPER, "5.4 Hz": 5.4, "stride 7": OOBLECK / 7}
LATENT = 4


def book(size: int, code_dim: int, dim: int, reservoir_size: int) -> VectorQuantizer:
    return VectorQuantizer(
        dim=dim, codebook_size=size, code_dim=code_dim, decay=0.9, commitment_weight=0.25, kmeans_iterations=3,
        reservoir_size=reservoir_size, revive_threshold=0.03, revive_every=3, revive_until=100, seed=0,
        variational="none", kl_weight=0.0, temperature=1.0,
    )  # fmt: skip


def tokenizer(objective: str = "flow", rate: str = "0.23 kbps", token_dropout: float = 0.5) -> LatentTokenizer:
    """Small, in eval mode, its zeros drawn: a fresh decoder gives zeros, which would hide mistakes."""
    torch.manual_seed(0)
    model = LatentTokenizer(
        encoder=CausalEncoder(LATENT, width=16, depth=2, heads=2),
        quantizer=book(64, 4, 16, 64),
        decoder=DiffusionTransformer(LATENT, condition_dim=16, width=16, depth=2, heads=2),
        grid=TokenGrid(OOBLECK, GRIDS[rate]),
        objective=objective,  # type: ignore[arg-type]
        logit_normal_share=0.0,
        token_dropout=token_dropout,
        prior_weight=0.5,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    model.set_latent_statistics(torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor([0.5, 2.0, 1.0, 3.0]))
    return model.eval()


def clips(frames: int, *num_frames: int) -> tuple[Tensor, Tensor]:
    """latents (B, frames, D) in the VAE's scale, and their lengths."""
    drawn = torch.randn(len(num_frames), frames, LATENT, generator=torch.Generator().manual_seed(1))
    return drawn * torch.tensor([0.5, 2.0, 1.0, 3.0]) + torch.tensor([1.0, -2.0, 0.0, 5.0]), torch.tensor(num_frames)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(model: LatentTokenizer, latents: Tensor, num_frames: Tensor, seed: int = 0) -> TokenizerLoss:
    return model.training_loss(latents, num_frames, seeded(seed))


def decode(model: LatentTokenizer, actual: Codes, num_frames: Tensor, seed: int = 0, guidance: float = 1.5) -> Tensor:
    return model.decode(actual.codes, actual.num_codes, num_frames, 3, "midpoint", guidance, noise(num_frames, seed))


def noise(num_frames: Tensor, seed: int = 0) -> Tensor:
    """(B, F, D), the same for a clip whatever its length."""
    return torch.randn(len(num_frames), 24, LATENT, generator=seeded(seed))[:, : int(num_frames.max())]
