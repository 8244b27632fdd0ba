"""A causal LLM that reads and writes sound tokens: LoRA on all its linear layers, and new rows for the new ids.

The new rows are a small table of their own beside the frozen embedding and head: only they are trained and stored, tied or untied as the LLM is. Loss and
head run only where a label counts, a few positions at a time.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

POSITIONS = 1024  # through the head at a time
AUDIO, TEXT = 2, 1  # models.vocabulary


class LanguageLoss(NamedTuple):
    loss: Tensor  # weighted mean cross-entropy + z-loss
    text_loss: Tensor  # mean over text labels; NaN where there are none
    audio_loss: Tensor  # mean over audio labels; NaN where there are none
    z_loss: Tensor
    text_tokens: int
    audio_tokens: int


class SoundLanguageModel(nn.Module):
    """The frozen LLM, its adapter and the new rows."""

    def __init__(
        self, model: Any, new_ids: int, rank: int, alpha: float, dropout: float, initialization: str, codebook: Tensor | None, seed: int
    ) -> None:
        """new_ids: two markers, then the codes (models.vocabulary). initialization of the new rows:

        random (the paper's: the LLM's own initial spread), mean (mean of the text rows, with noise), codebook (mean of the text rows, plus the code's
        standardised vector under a fixed random rotation, as long as a text row's spread: near sounds start near; codebook (K, D) is needed).
        """
        super().__init__()
        model.requires_grad_(False)
        self.text_size, self.width = model.get_input_embeddings().weight.shape
        rows = _start(model.get_input_embeddings().weight, new_ids, initialization, codebook, seed)
        self.new_rows = nn.Parameter(rows)
        head = model.get_output_embeddings()
        self.is_tied = head.weight is model.get_input_embeddings().weight
        self.new_rows_head = None if self.is_tied else nn.Parameter(_start(head.weight, new_ids, initialization, codebook, seed))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapter = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
            self.adapted = get_peft_model(model, adapter)
        self.train()

    def train(self, mode: bool = True) -> "SoundLanguageModel":
        super().train(mode)
        return self

    def embed(self, input_ids: Tensor) -> Tensor:
        """Ids (B, S) of text and sound -> (B, S, D)."""
        is_new = input_ids >= self.text_size
        text = self._base().get_input_embeddings()(input_ids.masked_fill(is_new, 0))
        sound = F.embedding((input_ids - self.text_size).clamp(min=0), self.new_rows).to(text.dtype)
        return torch.where(is_new[..., None], sound, text)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> (..., V) float32 over text and new ids."""
        text = self._base().get_output_embeddings()(hidden)
        rows = self.new_rows if self.new_rows_head is None else self.new_rows_head
        return torch.cat([text.float(), F.linear(hidden, rows.to(hidden.dtype)).float()], dim=-1)

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        kinds: Tensor,
        audio_weight: float,
        text_weight: float,
        prompt_weight: float,
        z_loss_weight: float,
    ) -> LanguageLoss:
        """All (B, S), right-padded; labels -100 are ignored, kinds say which weight a label has.

        Cross-entropy, each label by its weight, over the sum of weights; z-loss: mean of (log sum exp)^2 over the same labels (PaLM, arXiv:2204.02311).
        """
        hidden = self._decoder()(inputs_embeds=self.embed(input_ids), attention_mask=attention_mask, use_cache=False).last_hidden_state
        table = torch.tensor([prompt_weight, text_weight, audio_weight], device=labels.device)
        weights = table[kinds[:, 1:]] * (labels[:, 1:] != -100)
        counts = weights > 0
        chosen, targets, kinds, weights = hidden[:, :-1][counts], labels[:, 1:][counts], kinds[:, 1:][counts], weights[counts]
        entropies, squares = [], []
        for part, target in zip(chosen.split(POSITIONS), targets.split(POSITIONS), strict=True):
            many = len(chosen) > POSITIONS and torch.is_grad_enabled()
            entropy, square = checkpoint(self._scores, part, target, use_reentrant=False) if many else self._scores(part, target)
            entropies.append(entropy)
            squares.append(square)
        entropy, square = torch.cat(entropies), torch.cat(squares)
        z_loss = (square * weights).sum() / weights.sum()
        loss = (entropy * weights).sum() / weights.sum() + z_loss_weight * z_loss
        parts = [entropy.detach()[kinds == kind].mean() for kind in (TEXT, AUDIO)]
        return LanguageLoss(loss, *parts, z_loss.detach(), int((kinds == TEXT).sum()), int((kinds == AUDIO).sum()))

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int, allowed: Tensor, stop_ids: Sequence[int]
    ) -> list[list[int]]:
        """Greedy answers to left-padded prompts (B, S), without their stop token; at most max_new_tokens each.

        allowed (V) bool: ids that may come (text for an answer, codes and the end marker for a sound); a stop id ends its row.
        """
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        answers: list[list[int]] = [[] for _ in input_ids]
        alive = torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        stops = torch.tensor(list(stop_ids), device=input_ids.device)
        embeds, cache = self.embed(input_ids), None
        for _ in range(max_new_tokens):
            found = self._decoder()(
                inputs_embeds=embeds, attention_mask=attention_mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            cache = found.past_key_values
            chosen = self.logits(found.last_hidden_state[:, -1]).masked_fill(~allowed, float("-inf")).argmax(-1)
            alive &= ~torch.isin(chosen, stops)
            for row in alive.nonzero().flatten().tolist():
                answers[row].append(int(chosen[row]))
            if not alive.any():
                break
            embeds = self.embed(chosen[:, None])
            attention_mask = torch.cat([attention_mask, torch.ones_like(attention_mask[:, :1])], dim=1)
            positions = positions[:, -1:] + 1
        return answers

    def trainable_state(self) -> dict[str, Tensor]:
        """Adapter and new rows by name: what a checkpoint and an artifact hold."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Strict: raises ValueError that names what is missing, unexpected or of another shape."""
        mine = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        wrong = [f"missing {name}" for name in mine if name not in state]
        wrong += [f"unexpected {name}" for name in state if name not in mine]
        wrong += [
            f"{name} is {tuple(state[name].shape)}, here {tuple(parameter.shape)}"
            for name, parameter in mine.items()
            if name in state and state[name].shape != parameter.shape
        ]
        if wrong:
            raise ValueError(f"{len(wrong)} weights do not fit: {'; '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}")
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state[name])

    def _scores(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (M, D), targets (M) -> cross-entropy (M), squared log partition (M)."""
        logits = self.logits(hidden)
        partition = logits.logsumexp(-1)
        return partition - logits.gather(-1, targets[:, None])[:, 0], partition.square()

    def _base(self) -> Any:
        return self.adapted.get_base_model()

    def _decoder(self) -> Any:
        return self._base().get_decoder()


def _start(weight: Tensor, new_ids: int, initialization: str, codebook: Tensor | None, seed: int) -> Tensor:
    """Start values (new_ids, D) float32 of the new rows beside `weight` (text rows, D)."""
    generator = torch.Generator().manual_seed(seed)
    text = weight.detach().float().cpu()
    noise = torch.randn(new_ids, text.shape[1], generator=generator)
    if initialization == "random":
        return noise * INITIAL_SPREAD
    rows = text.mean(0) + text.std(0) * noise
    if initialization == "mean":
        return rows
    if codebook is None or len(codebook) > new_ids - 2:
        raise ValueError(f"initialization 'codebook' needs the codes' vectors, at most {new_ids - 2}; here {None if codebook is None else len(codebook)}")
    vectors = codebook.detach().float().cpu()
    vectors = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-5)
    rotation = torch.linalg.qr(torch.randn(text.shape[1], vectors.shape[1], generator=generator)).Q
    turned = vectors @ rotation.T
    for level in range((new_ids - 2) // len(codebook)):
        rows[2 + level * len(codebook) :][: len(codebook)] = text.mean(0) + turned / turned.std() * text.std()
    return rows


INITIAL_SPREAD = 0.02  # of Llama's and most others' embeddings
