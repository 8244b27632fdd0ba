"""A causal LM that also reads and writes sound: new rows for its ids, LoRA on every linear layer, the loss, generation.

    ids ──► text rows, frozen ─┬─► blocks, frozen, with LoRA ──► hidden (D) ──► text head, frozen ─┬─► logits (V)
            new rows ──────────┘                                                new rows ──────────┘

Mehta, Jojic, Gamper 2025, arXiv:2503.22275. LoRA: Hu et al. 2021, arXiv:2106.09685. z-loss: Chowdhery et al. 2022,
arXiv:2204.02311.
What trains, and what `trainable_state` holds: LoRA and the new rows, in float32. The LLM stays as it came.
"""

from typing import Literal, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from models.vocabulary import AUDIO, IGNORED, PROMPT, TEXT, Vocabulary

CHUNK = 512  # positions whose logits (CHUNK, V) exist at one time

Initialization = Literal["mean", "random", "codebook"]


class LanguageLoss(NamedTuple):
    """All (). text_loss and audio_loss: means over their tokens in nats, NaN where none; z_loss: before its weight."""

    loss: Tensor  # (sum of weight x cross-entropy) / (sum of weights) + z_loss_weight x z_loss
    text_loss: Tensor
    audio_loss: Tensor
    z_loss: Tensor  # (log Z)^2, under the same weights
    text_tokens: Tensor  # long
    audio_tokens: Tensor  # long


class SoundLanguageModel(nn.Module):
    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        rank: int,
        alpha: float,
        dropout: float,
        initialization: Initialization,
        codebook: Tensor | None,
        seed: int,
    ) -> None:
        """model is taken over and changed. codebook: vectors of the codes, (K, d) or (Q, K, d), for the `new_rows`.

        seed: of LoRA and of the new rows. Raises ValueError for a model of another build (embedding, head, logits).
        """
        super().__init__()
        _check(model, vocabulary)
        self.vocabulary = vocabulary
        model.requires_grad_(False)
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lora = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", bias="none")
            model = inject_adapter_in_model(lora, model)
        std = model.config.get_text_config().initializer_range
        rows = nn.Parameter(new_rows(embedding.weight, vocabulary, initialization, codebook, std, seed))
        tied = head.weight is embedding.weight
        head_rows = (
            rows if tied else nn.Parameter(new_rows(head.weight, vocabulary, initialization, codebook, std, seed + 1))
        )
        model.set_input_embeddings(ExtendedEmbedding(embedding, vocabulary.text_size, rows))
        model.set_output_embeddings(ExtendedHead(head, vocabulary.text_size, head_rows))
        model.generation_config = GenerationConfig(
            pad_token_id=vocabulary.pad_id
        )  # a hub's sampling settings are not ours
        self.lm = model
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S), right-padded -> (B, S, V). All of them: for a look, not for training."""
        return self.lm.get_output_embeddings()(self._hidden(input_ids, attention_mask))

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        label_kinds: Tensor,
        positions: Tensor | None = None,
        branches: Tensor | None = None,
        *,
        audio_weight: float,
        text_weight: float,
        prompt_weight: float,
        z_loss_weight: float,
    ) -> LanguageLoss:
        """All (B, S), right-padded, as `Vocabulary.render` gives them: not shifted.

        positions and branches, for several talks that share their beginning: branch 0 is shared, the others are blind to each other; each label's loss is
        what it would be in a sequence of its own. The first token of a branch after the first is no label, for its telling position is the shared one.
        Where the kind is PROMPT the label is -100 and the input id counts, with the prompt's weight. The head sees only
        positions that have a weight, CHUNK at a time, in float32. Raises ValueError where none has one.
        """
        table = torch.zeros(3, device=input_ids.device)
        table[PROMPT], table[TEXT], table[AUDIO] = prompt_weight, text_weight, audio_weight
        weights = table[label_kinds] * attention_mask * ((labels != IGNORED) | (label_kinds == PROMPT))
        keep = weights[:, 1:] > 0  # position s is told by the hidden state of s - 1
        if branches is not None:
            keep &= (branches[:, 1:] == branches[:, :-1]) | (branches[:, :-1] == 0)
        if not keep.any():
            raise ValueError("no position of this batch has a weight: there is no answer in it, or its weight is 0")
        hidden = self._hidden(input_ids, attention_mask, positions, branches)[:, :-1][keep]
        targets = torch.where(labels == IGNORED, input_ids, labels)[:, 1:][keep]
        kept, kinds = weights[:, 1:][keep], label_kinds[:, 1:][keep]

        entropies, log_partitions = [], []
        for h, target in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            several = len(hidden) > CHUNK and torch.is_grad_enabled()
            pair = checkpoint(self._entropy, h, target, use_reentrant=False) if several else self._entropy(h, target)
            entropies.append(pair[0])
            log_partitions.append(pair[1])
        entropy, log_partition = torch.cat(entropies), torch.cat(log_partitions)
        total = kept.sum()
        z_loss = (kept * log_partition.square()).sum() / total
        loss = (kept * entropy).sum() / total + z_loss_weight * z_loss
        text, audio = entropy[kinds == TEXT].detach(), entropy[kinds == AUDIO].detach()
        counts = [torch.tensor(len(part), device=loss.device) for part in (text, audio)]
        return LanguageLoss(loss, text.mean(), audio.mean(), z_loss.detach(), *counts)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int, allow: Literal["text", "audio"]
    ) -> list[list[int]]:
        """Greedy answers to left-padded prompts (B, S): text without its end of turn, or one sound with both markers.

        A text answer holds no sound id. A sound holds nothing else, its levels in turn, one block at least; it is ended
        before max_new_tokens. Batch and padding change nothing. Raises ValueError where max_new_tokens holds no sound.
        """
        words = self.vocabulary
        if allow == "audio" and max_new_tokens < len(words.levels) + 2:
            raise ValueError(
                f"max_new_tokens {max_new_tokens}: the shortest sound with its markers has {len(words.levels) + 2}"
            )
        stops = words.stop_ids if allow == "text" else [words.end_id]
        width = input_ids.shape[1]
        grammar = TextOnly(words) if allow == "text" else SoundOnly(words, width, max_new_tokens)
        mode = self.training
        self.eval()
        found = self.lm.generate(
            input_ids=input_ids, attention_mask=attention_mask, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=stops, pad_token_id=words.pad_id, logits_processor=LogitsProcessorList([grammar]),
        )  # fmt: skip
        self.train(mode)
        answers = []
        for row in found[:, width:].tolist():
            end = next((n for n, token in enumerate(row) if token in stops), len(row))
            answers.append(row[: end + (allow == "audio")])
        return answers

    def trainable_state(self) -> dict[str, Tensor]:
        """LoRA (`...lora_A.default.weight`) and new rows (`...new_rows`), by their names in the LLM; tied rows once."""
        return {name: parameter.detach() for name, parameter in self.lm.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trainable_state`. Raises ValueError with what is missing, unexpected or of another shape."""
        own = self.trainable_state()
        problems = [f"missing {name}" for name in own if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in own]
        problems += [
            f"{name} is {tuple(state[name].shape)}, here {tuple(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ]
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ValueError(f"this state is of another model, LoRA rank or codebook: {'; '.join(problems[:5])}{more}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _hidden(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """(B, S, D) after the last norm. Causal: padding on the right needs no mask, and attention takes its fast path."""
        assert attention_mask[:, 0].all(), "right-padded"
        if branches is None or not branches.any():
            return self.lm.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
        mask = branch_mask(branches, attention_mask)
        found = self.lm.base_model(input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return found.last_hidden_state

    def _entropy(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """(M, D), (M) -> cross-entropy (M) in nats, log Z (M)."""
        logits = self.lm.get_output_embeddings()(hidden).float()
        log_partition = logits.logsumexp(-1)
        return log_partition - logits.gather(-1, targets[:, None]).squeeze(-1), log_partition


def branch_mask(branches: Tensor, attention_mask: Tensor) -> Tensor:
    """(B, S), (B, S) -> (B, 1, S, S) bool, query by key: not later, not padding, and of the shared branch 0 or of its own."""
    size = branches.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branches.device).tril()
    visible = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    return (causal & visible & attention_mask[:, None, :].bool())[:, None]


class ExtendedEmbedding(nn.Module):
    """Text rows and new rows as one embedding of V rows."""

    def __init__(self, text: nn.Embedding, text_size: int, new_rows: nn.Parameter) -> None:
        super().__init__()
        self.text, self.text_size, self.new_rows = text, text_size, new_rows

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)"""
        is_new = ids >= self.text_size
        text = self.text(ids.masked_fill(is_new, 0))
        new = F.embedding((ids - self.text_size).clamp(min=0), self.new_rows).to(text.dtype)
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
        bias = None if self.text.bias is None else self.text.bias[: self.text_size]
        text = F.linear(hidden, self.text.weight[: self.text_size], bias)
        return torch.cat([text, F.linear(hidden, self.new_rows.to(hidden.dtype))], -1)


class TextOnly(LogitsProcessor):
    """Text and, where they are on, times."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.text_size, self.first_time_id = vocabulary.text_size, vocabulary.first_time_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.text_size : self.first_time_id] = -torch.inf
        return scores


class SoundOnly(LogitsProcessor):
    """start, then blocks of codes of the vocabulary's levels, then end."""

    def __init__(self, vocabulary: Vocabulary, prompt_length: int, max_new_tokens: int) -> None:
        self.vocabulary, self.prompt_length, self.max_new_tokens = vocabulary, prompt_length, max_new_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        words = self.vocabulary
        allowed = torch.full_like(scores, -torch.inf)
        position = input_ids.shape[1] - self.prompt_length  # of the token to come
        if position == 0:
            allowed[:, words.start_id] = 0
            return allowed
        block, place = divmod(position - 1, len(words.levels))
        room = self.max_new_tokens - position - 1  # tokens after this one
        if place or room >= len(words.levels):
            first = words.first_code_id + words.levels[place] * words.codebook_size
            allowed[:, first : first + words.codebook_size] = scores[:, first : first + words.codebook_size]
        if block and not place:
            allowed[:, words.end_id] = scores[:, words.end_id]
        return allowed


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
            raise ValueError(
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


def _check(model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    embedding, head, config = (
        model.get_input_embeddings(),
        model.get_output_embeddings(),
        model.config.get_text_config(),
    )
    name = type(model).__name__
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear:
        raise ValueError(
            f"{name} embeds with {type(embedding).__name__} and ends with {type(head).__name__}; allowed: nn.Embedding "
            "and nn.Linear. Choose another model.source (Llama, Vicuna, Qwen, SmolLM)"
        )
    changed = [
        key
        for key in ("final_logit_softcapping", "logits_scaling", "logit_scale")
        if getattr(config, key, None) not in (None, 1)
    ]
    if changed:
        raise ValueError(
            f"{name} changes its logits after the head ({', '.join(changed)}), which the loss does not. "
            "Choose another model.source"
        )
    if embedding.num_embeddings < vocabulary.text_size:
        raise ValueError(
            f"{name} has {embedding.num_embeddings} rows and the tokenizer ids up to {vocabulary.text_size - 1}: "
            "they do not belong together"
        )
