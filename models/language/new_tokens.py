"""New ids of a causal LM: the rows of text stay frozen, the new rows train, in the embedding and in the head.

embedding   ids ──► text rows (T, D), frozen │ new rows (V - T, D)
head        hidden (D) ──► text rows (T, D), frozen │ new rows (V - T, D) ──► logits (V)
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from models.errors import ModelError, UnsupportedLanguageModel
from models.language.vocabulary import Vocabulary

Initialization = Literal["mean", "random", "codebook"]


class TextRows(NamedTuple):
    """The frozen part of a head; T is V where new rows are merged into it."""

    weight: Tensor  # (T, D)
    bias: Tensor | None  # (T)


class ExtendedEmbedding(nn.Module):
    """Text rows and new rows as one embedding of V rows."""

    def __init__(self, text: nn.Embedding, text_size: int, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.text, self.text_size, self.new_rows = text, text_size, new_rows
        self.scale = embedding_scale(text)
        self.merged: Tensor | None = None  # (V, D), what forward gives for each id

    @torch.no_grad()
    def merge(self) -> None:
        """One table of all ids is used until `merged` is None again. Equal to the bit."""
        self.merged = self(torch.arange(self.text_size + len(self.new_rows), device=self.new_rows.device))

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> (..., D)."""
        if self.merged is not None:
            return F.embedding(ids, self.merged)
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
        self.merged: TextRows | None = None  # of all ids

    @torch.no_grad()
    def merge(self) -> None:
        """One matrix of all rows, in the dtype of the text rows, is used until `merged` is None again."""
        weight, bias = self.text_rows()
        new = self.new_rows.to(weight.dtype)
        self.merged = TextRows(
            torch.cat([weight, new]), None if bias is None else torch.cat([bias, bias.new_zeros(len(new))])
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., V)."""
        if self.merged is not None:
            return F.linear(hidden, *self.merged)
        text = F.linear(hidden, *self.text_rows())
        return torch.cat([text, F.linear(hidden, self.new_rows.to(hidden.dtype))], -1)

    def text_rows(self) -> TextRows:
        """The rows of the ids that the tokenizer has; some heads are padded beyond them."""
        bias = None if self.text.bias is None else self.text.bias[: self.text_size]
        return TextRows(self.text.weight[: self.text_size], bias)


def attach_sound_tokens(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    initialization: "Initialization",
    codebook: Tensor | None,
    seed: int,
) -> None:
    """Gives the LLM rows for the new ids, at the embedding and at the head; one for both where the LLM ties them.

    For initialization and codebook see `new_rows`. Raises UnsupportedLanguageModel for a model that they do not fit.
    """
    embedding, head = check_supported(model, vocabulary)
    std = model.config.get_text_config().initializer_range
    rows = nn.Parameter(new_rows(embedding.weight, vocabulary, initialization, codebook, std, seed))
    head_rows = rows
    if head.weight is not embedding.weight:
        head_rows = nn.Parameter(new_rows(head.weight, vocabulary, initialization, codebook, std, seed + 1))
    model.set_input_embeddings(ExtendedEmbedding(embedding, vocabulary.text_size, rows))
    model.set_output_embeddings(ExtendedHead(head, vocabulary.text_size, head_rows))


def new_rows(
    text_rows: Tensor,
    vocabulary: Vocabulary,
    initialization: Initialization,
    codebook: Tensor | None,
    std: float,
    seed: int,
) -> Tensor:
    """text_rows (T or more, D) -> the rows of the new ids (V - T, D), float32.

    random    normal, with the LLM's `std`: the paper's resized embedding
    mean      mean of the text rows plus noise of their deviation, dimension by dimension
    codebook  as mean, but the noise of a code is its vector in the codebook, standardised and projected to D dimensions
              by a fixed random matrix with orthogonal rows: sounds near in the codebook start as near rows

    codebook: (K, d) or (Q, K, d). Raises ModelError where it does not have a vector for each code.
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
                f"initialization codebook needs the vectors of {codes} codes, (K, d) or (Q, K, d); came {shape}"
            )
        vectors = codebook.detach().float().cpu().reshape(codes, -1)
        vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-6)
        d, width = vectors.shape[1], text.shape[1]
        basis = torch.linalg.qr(torch.randn(max(d, width), min(d, width), generator=generator)).Q  # orthonormal columns
        projected = vectors @ (basis if d > width else basis.T)
        noise[2 : 2 + codes] = projected / projected.std().clamp(min=1e-6)  # after the two markers
    return text.mean(0).cpu() + text.std(0).cpu() * noise


def smooth_noise(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(count, dim): each entry is normal, and near rows are alike; a sum of waves 8 to 2 x count rows long."""
    periods = 8 * torch.logspace(0, 1, 8, base=max(count / 4, 2))
    angles = 2 * torch.pi * torch.arange(count)[:, None] / periods
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    return waves @ torch.randn(16, dim, generator=generator) / 8**0.5


def embedding_scale(embedding: nn.Embedding) -> float:
    """The factor of an embedding's rows: 1, or the root of the width, as Gemma's.

    Raises UnsupportedLanguageModel where the embedding does anything else.
    """
    scale = float(getattr(embedding, "scalar_embed_scale", 1.0))
    ids = torch.arange(min(8, embedding.num_embeddings), device=embedding.weight.device)
    with torch.no_grad():
        embedded, expected = embedding(ids).float(), scale * embedding.weight[ids].float()
    # the scale itself may be rounded to bfloat16
    if not torch.allclose(embedded, expected, rtol=2e-2, atol=1e-6):
        raise UnsupportedLanguageModel(f"{type(embedding).__name__} is more than a table of rows and a scale")
    return scale


class _Ends(NamedTuple):
    embedding: nn.Embedding
    head: nn.Linear


def check_supported(model: PreTrainedModel, vocabulary: Vocabulary) -> _Ends:
    """Embedding and head of an LLM. Raises UnsupportedLanguageModel where new rows do not fit them.

    Raises ModelError where model and tokenizer do not belong together.
    """
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
    return _Ends(embedding, head)
