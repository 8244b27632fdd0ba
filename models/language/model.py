"""A causal LM that also reads and writes sound: new rows for its ids, LoRA on every linear layer, the loss.

    ids ──► text rows, frozen ─┬─► blocks, frozen, with LoRA ──► hidden (D) ──► text head, frozen ─┬─► logits (V)
            new rows ──────────┘                                                new rows ──────────┘

Mehta, Jojic, Gamper 2025, arXiv:2503.22275. LoRA: Hu et al. 2021, arXiv:2106.09685. z-loss: Chowdhery et al. 2022,
arXiv:2204.02311.
What trains, and what `trainable_state` holds: LoRA and the new rows, in float32. The LLM stays as it came.
"""

from typing import Literal, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from models.errors import ModelError, SharedPrefixUnsupported, UnsupportedLanguageModel
from models.language.chunked_cross_entropy import Shape, weighted_entropy
from models.language.generation import Guidance, Sampling, generate
from models.language.new_tokens import ExtendedEmbedding, ExtendedHead, Initialization, check, new_rows
from models.language.prefix_mask import attention_masks
from models.language.vocabulary import AUDIO, IGNORED, KEPT, PROMPT, TEXT, Vocabulary


class LanguageLoss(NamedTuple):
    """All (). text_loss, audio_loss, kept_loss: means over their tokens in nats, NaN where none; z_loss: before its weight."""

    loss: Tensor  # (sum of weight x entropy) / (sum of weights) + z_loss_weight x z_loss
    text_loss: Tensor
    audio_loss: Tensor
    kept_loss: Tensor  # divergence from what the base LLM says, of the positions of kind KEPT
    z_loss: Tensor  # (log Z)^2, under the same weights
    text_tokens: Tensor  # long
    audio_tokens: Tensor  # long
    weight: Tensor  # the sum of weights, that `loss` is a mean over


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
        activation_checkpointing: bool = False,
        compile: bool = False,
    ) -> None:
        """model is taken over and changed; the whole is in evaluation mode after it. codebook: vectors of the codes, (K, d) or (Q, K, d), for the `new_rows`.

        seed: of LoRA and of the new rows. activation_checkpointing: training keeps only what enters each layer, and computes it again. compile: the
        layers of training and of `logits`, not of `generate`, by torch.compile.
        Raises ModelError for a model of another build (embedding, head, logits), found by asking it for a few logits both ways.
        """
        super().__init__()
        check(model, vocabulary)
        self.vocabulary = vocabulary
        self.shape = Shape.of(model.config.get_text_config())
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
        self._body = self._run
        self._probe()
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if compile:
            self._body = torch.compile(self._run, dynamic=True)

    def narrow(self) -> None:
        """The layers' frozen matrices to bfloat16: what autocast to it would make of them anew at every step, to the bit. For use under autocast alone."""
        head = self.lm.get_output_embeddings().text  # its rows may be the embedding's
        for module in self.lm.modules():
            if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad:
                module.weight.data = module.weight.data.bfloat16()

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S), right-padded -> (B, S, V). All of them: for a look, not for training."""
        return self.shape(self.lm.get_output_embeddings()(self._hidden(input_ids, attention_mask)))

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
        Where the kind is PROMPT the label is -100 and the input id counts, with the prompt's weight. Where it is KEPT, the loss is the divergence from what
        the LLM says without LoRA, with the text's weight. The head sees only positions that have a weight, a few hundred at a time, in float32.
        Raises ModelError where none has one.
        """
        table = torch.zeros(4, device=input_ids.device)
        table[PROMPT], table[TEXT], table[AUDIO], table[KEPT] = prompt_weight, text_weight, audio_weight, text_weight
        weights = table[label_kinds] * attention_mask * ((labels != IGNORED) | (label_kinds == PROMPT))
        keep = weights[:, 1:] > 0  # position s is told by the hidden state of s - 1
        if branches is not None:
            keep &= (branches[:, 1:] == branches[:, :-1]) | (branches[:, :-1] == 0)
        if not keep.any():
            raise ModelError("no position of this batch has a weight: there is no answer in it, or its weight is 0")
        hidden = self._hidden(input_ids, attention_mask, positions, branches)[:, :-1][keep]
        targets = torch.where(labels == IGNORED, input_ids, labels)[:, 1:][keep]
        kept, kinds = weights[:, 1:][keep], label_kinds[:, 1:][keep]
        head, parts = self.lm.get_output_embeddings(), []
        for rows, told in ((kinds != KEPT, False), (kinds == KEPT, True)):
            if not rows.any():
                continue
            teacher = self._untrained(input_ids, attention_mask, label_kinds)[keep][rows] if told else None
            parts.append(weighted_entropy(
                hidden[rows], *head.text_rows(), head.new_rows, targets[rows], kept[rows], z_loss_weight, self.shape, teacher
            ))  # fmt: skip
        order = torch.cat([(kinds != KEPT).nonzero(), (kinds == KEPT).nonzero()])[:, 0]
        kept, kinds = kept[order], kinds[order]
        entropy, log_partition = (torch.cat(column) for column in list(zip(*parts, strict=True))[1:])
        summed = torch.stack([part.loss for part in parts]).sum()
        total = kept.sum()
        loss, z_loss = summed / total, (kept * log_partition.square()).sum() / total
        means = [entropy[kinds == kind].mean() for kind in (TEXT, AUDIO, KEPT)]
        counts = [(kinds == kind).sum() for kind in (TEXT, AUDIO)]
        return LanguageLoss(loss, *means, z_loss, *counts, total)

    @torch.no_grad()
    def _untrained(self, input_ids: Tensor, attention_mask: Tensor, kinds: Tensor) -> Tensor:
        """What the LLM as it came says of the sequences with KEPT positions: hidden states (B, S - 1, D), zero for the others."""
        rows, mode = (kinds == KEPT).any(1), self.training
        self.eval()
        layers = [module for module in self.lm.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            hidden = self._hidden(input_ids[rows], attention_mask[rows])[:, :-1]
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            self.train(mode)
        whole = hidden.new_zeros(len(rows), *hidden.shape[1:])
        whole[rows] = hidden
        return whole

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        allow: Literal["text", "audio"],
        sampling: Sampling | None = None,
        guidance: Guidance | None = None,
    ) -> list[list[int]]:
        """`models.language.generation.generate` of this model, in evaluation mode."""
        mode = self.training
        self.eval()
        try:
            return generate(
                self.lm, self.vocabulary, input_ids, attention_mask, max_new_tokens, allow, sampling, guidance
            )
        finally:
            self.train(mode)

    def trainable_state(self) -> dict[str, Tensor]:
        """LoRA (`...lora_A.default.weight`) and new rows (`...new_rows`), by their names in the LLM; tied rows once."""
        return {name: parameter.detach() for name, parameter in self.lm.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trainable_state`. Raises ModelError with what is missing, unexpected or of another shape."""
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
            raise ModelError(f"this state is of another model, LoRA rank or codebook: {'; '.join(problems[:5])}{more}")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _hidden(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """(B, S, D) after the last norm. Causal: padding on the right needs no mask, and attention takes its fast path."""
        assert attention_mask[:, 0].all(), "right-padded"
        if branches is None or not branches.any():
            return self._body(input_ids)
        if not self.shares:
            raise SharedPrefixUnsupported(
                f"{type(self.lm).__name__} with attention {self.lm.config._attn_implementation} does not keep "
                "conversations of one sequence apart"
            )
        return self._body(input_ids, attention_masks(self.lm, branches, positions, attention_mask), positions)

    def _run(
        self, input_ids: Tensor, masks: Tensor | dict[str, Tensor] | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return self.lm.base_model(
            input_ids=input_ids, attention_mask=masks, position_ids=positions, use_cache=False
        ).last_hidden_state

    @torch.no_grad()
    def _probe(self) -> None:
        """Are the logits those of the model's own forward? And do two talks that share a beginning have the logits that each has alone?"""
        words = self.vocabulary
        self.eval()
        ids = torch.tensor([[1, words.start_id, words.first_code_id, 2, 3]], device=self.lm.device) % words.size
        one, other = ids[:, :4], torch.cat([ids[:, :3], ids[:, 4:]], 1)
        wanted, second = self.lm(input_ids=one).logits, self.logits(other, torch.ones_like(other))[:, 3]
        if not _near(self.logits(one, torch.ones_like(one)), wanted):
            raise UnsupportedLanguageModel(
                f"{type(self.lm).__name__} changes its logits after the head in a way that the loss does not know"
            )
        self.shares = True
        branches, positions = torch.tensor([[0, 0, 0, 1, 2]]), torch.tensor([[0, 1, 2, 3, 3]])
        try:
            hidden = self._hidden(ids, torch.ones_like(ids), positions.to(ids.device), branches.to(ids.device))
            shared = self.shape(self.lm.get_output_embeddings()(hidden))
            self.shares = _near(shared[:, 3], wanted[:, 3]) and _near(shared[:, 4], second)
        except (RuntimeError, TypeError, ValueError, KeyError):  # a model that takes no mask of its own
            self.shares = False


def _near(found: Tensor, wanted: Tensor) -> bool:
    """As near as the dtype lets two ways of computing the same be."""
    tolerance = 1e-3 if wanted.dtype in (torch.float32, torch.float64) else 0.1
    return bool((found.float() - wanted.float()).abs().max() <= tolerance * wanted.float().std())
