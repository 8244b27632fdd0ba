"""An LLM of random weights that reads and writes sound, and conversations for it."""

import torch
from torch import Tensor

from models.language.model import SoundLanguageModel
from models.language.vocabulary import IGNORED, LabelKind, Turn, Vocabulary
from stages.hub.weights import load_language_model

WEIGHTS = {"audio_weight": 10.0, "text_weight": 1.0, "prompt_weight": 0.0, "z_loss_weight": 1e-2}
CONVERSATIONS = [
    [Turn("user", [[0, 4, 2, 0], "What?"]), Turn("assistant", ["A bell."])],
    [Turn("user", ["Make it."]), Turn("assistant", [[1, 0, 3, 3]])],
    [Turn("user", [[0, 0], "?"]), Turn("assistant", ["No"]), Turn("user", ["Say"]), Turn("assistant", ["b", [2, 2]])],
]
SOURCES = ["random:tiny", "random:tiny-untied"]


def build(
    source: str,
    seed: int = 0,
    trained: bool = True,
    dtype: str = "float32",
    levels: tuple[int, ...] = (0, 1),
    attention: str | None = None,
    max_seconds: float | None = None,
    **changes: object,
) -> SoundLanguageModel:
    """trained: LoRA's second matrices are not zero, as after training."""
    base, tokenizer = load_language_model(source, None, dtype, attention)
    vocabulary = Vocabulary(tokenizer, 5, levels, prompt_format="chat", system=None, max_seconds=max_seconds)
    settings = {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "initialization": "mean",
        "codebook": None,
        "seed": seed,
    } | changes
    model = SoundLanguageModel(base, vocabulary, **settings)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if trained and "lora_B" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def batch(
    model: SoundLanguageModel, conversations: list[list[Turn]] = CONVERSATIONS, extra: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = [model.vocabulary.render(conversation) for conversation in conversations]
    width = max(len(row.input_ids) for row in rows) + extra

    def pad(values: list[int], value: int) -> list[int]:
        return values + [value] * (width - len(values))

    ids, labels = [pad(row.input_ids, 0) for row in rows], [pad(row.labels, IGNORED) for row in rows]
    masks, kinds = (
        [pad([1] * len(row.input_ids), 0) for row in rows],
        [pad(row.kinds, LabelKind.PROMPT) for row in rows],
    )
    return torch.tensor(ids), torch.tensor(masks), torch.tensor(labels), torch.tensor(kinds)


def plain_loss(
    model: SoundLanguageModel, ids: Tensor, mask: Tensor, labels: Tensor, kinds: Tensor, prompt: float
) -> Tensor:
    """The formula, position by position, over all logits."""
    logits = model.logits(ids, mask)
    loss, squares, total = 0.0, 0.0, 0.0
    for b in range(len(ids)):
        for s in range(1, ids.shape[1]):
            kind = kinds[b, s]
            weight = {LabelKind.PROMPT: prompt, LabelKind.TEXT: 1.0, LabelKind.AUDIO: 10.0}[int(kind)] * float(
                mask[b, s]
            )
            log_partition = logits[b, s - 1].exp().sum().log()
            loss = loss + weight * (log_partition - logits[b, s - 1, ids[b, s]])
            squares, total = squares + weight * log_partition**2, total + weight
    return loss / total + WEIGHTS["z_loss_weight"] * squares / total
