"""New ids of a causal LM: the LLM's own rows stay frozen, the new ids have rows of their own that train, at the embedding and at the head."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from models.errors import ModelError, UnsupportedLanguageModel
from models.language.vocabulary import Vocabulary

Initialization = Literal["mean", "random", "codebook"]


class ExtendedEmbedding(nn.Module):
    """Text rows and new rows as one embedding of V rows."""

    def __init__(self, text: nn.Embedding, text_size: int, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.text, self.text_size, self.new_rows = text, text_size, new_rows
        self.scale = embedding_scale(text)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)"""
        is_new = ids >= self.text_size
        text = self.text(ids.masked_fill(is_new, 0))
        new = self.scale * F.embedding((ids - self.text_size).clamp(min=0), self.new_rows).to(text.dtype)
        return torch.where(is_new[..., None], new, text)


class ExtendedHead(nn.Module):
    """The logits of the text ids, then those of the new ids.

    peft's `trainable_token_indices` gives the same numbers, and copies the whole matrix in each step.
    """

    def __init__(self, text: nn.Linear, text_size: int, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.text, self.text_size, self.new_rows = text, text_size, new_rows

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)"""
        text = F.linear(hidden, *self.text_rows())
        return torch.cat([text, F.linear(hidden, self.new_rows.to(hidden.dtype))], -1)

    def text_rows(self) -> tuple[Tensor, Tensor | None]:
        """(T, D) and, where there is a bias, (T): frozen."""
        return self.text.weight[: self.text_size], None if self.text.bias is None else self.text.bias[: self.text_size]


def new_rows(
    text_rows: Tensor,
    vocabulary: Vocabulary,
    initialization: Initialization,
    codebook: Tensor | None,
    std: float,
    seed: int,
) -> Tensor:
    """text_rows (>= text_size, D) -> the rows of the new ids (V - text_size, D), float32.

    random    normal, of the LLM's own `std`: the paper's resized embedding
    mean      mean of the text rows and noise of their deviation, dimension by dimension
    codebook  as mean, but the noise of a code is its vector in the codebook, standardised and turned into D dimensions
              by a fixed random projection with orthogonal rows: sounds near in the codebook start as near rows
    """
    text = text_rows[: vocabulary.text_size].float()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(vocabulary.new_ids), text.shape[1], generator=generator)
    if vocabulary.num_times:
        noise[-vocabulary.num_times :] = smooth_noise(vocabulary.num_times, text.shape[1], generator)
    if initialization == "random":
        return std * noise
    if initialization == "codebook":
        codes = vocabulary.num_codebooks * vocabulary.codebook_size
        if codebook is None or codebook.shape[:-1].numel() != codes:
            shape = None if codebook is None else tuple(codebook.shape)
            raise ModelError(
                f"initialization codebook needs the vectors of {codes} codes, (K, D) or (Q, K, D); came {shape}"
            )
        vectors = codebook.detach().float().cpu().reshape(codes, -1)
        vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-6)
        square = torch.randn(
            max(vectors.shape[1], text.shape[1]), min(vectors.shape[1], text.shape[1]), generator=generator
        )
        basis = torch.linalg.qr(square).Q  # orthonormal columns
        projected = vectors @ (basis if vectors.shape[1] > text.shape[1] else basis.T)
        noise[2 : 2 + codes] = projected / projected.std().clamp(min=1e-6)  # after the two markers
    return text.mean(0).cpu() + text.std(0).cpu() * noise


def smooth_noise(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(count, dim), normal in each place, and the nearer two rows the more alike: waves of random phase, 8 to 2 x count rows long."""
    periods = 8 * torch.logspace(0, 1, 8, base=max(count / 4, 2))
    angles = 2 * torch.pi * torch.arange(count)[:, None] / periods
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return waves @ torch.randn(16, dim, generator=generator) / 8**0.5


def embedding_scale(embedding: nn.Embedding) -> float:
    """What it multiplies its rows with: 1, or the root of the width, as Gemma. Raises ModelError where it does anything else."""
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
    ids = torch.arange(min(8, embedding.num_embeddings), device=embedding.weight.device)
    with torch.no_grad():
        found, wanted = embedding(ids).float(), scale * embedding.weight[ids].float()
    if not torch.allclose(found, wanted, rtol=2e-2, atol=1e-6):  # the scale itself may be rounded to bfloat16
        raise UnsupportedLanguageModel(f"{type(embedding).__name__} is more than a table of rows and a scale")
    return scale


def check(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Raises ModelError for a model that new rows and LoRA do not fit."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    name = type(model).__name__
    if not isinstance(embedding, nn.Embedding) or type(head) is not nn.Linear:
        raise UnsupportedLanguageModel(
            f"{name} embeds with {type(embedding).__name__} and ends with {type(head).__name__}; "
            "nn.Embedding and nn.Linear are allowed"
        )
    if embedding.weight.shape[1] != head.weight.shape[1]:
        raise UnsupportedLanguageModel(
            f"{name} embeds in {embedding.weight.shape[1]} dimensions and its head reads {head.weight.shape[1]}: "
            "a projection between them is not supported"
        )
    for part, rows in (("embedding", len(embedding.weight)), ("head", len(head.weight))):
        if rows < vocabulary.text_size:
            raise ModelError(
                f"{name} has {rows} rows in its {part} and the tokenizer ids up to {vocabulary.text_size - 1}: "
                "they do not belong together"
            )
