"""A causal LM that also reads and writes sound: new rows for its ids, LoRA on every linear layer, the loss.

    ids ──► text rows, frozen ─┬─► blocks, frozen, with LoRA ──► hidden (D) ──► text head, frozen ─┬─► logits (V)
            new rows ──────────┘                                                new rows ──────────┘

Mehta, Jojic, Gamper 2025, arXiv:2503.22275. LoRA: Hu et al. 2021, arXiv:2106.09685. z-loss: Chowdhery et al. 2022,
arXiv:2204.02311. LoRA and the new rows train, in float32, and are what `trainable_state` gives. The LLM stays as it is.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from models.compiling import compile_each, without_compiled_layers
from models.errors import ModelError, SharedPrefixUnsupported, UnsupportedLanguageModel
from models.language.chunked_cross_entropy import CrossEntropy, LogitTransform, chunked_cross_entropy
from models.language.contrast import with_weights
from models.language.generation import Guidance, Sampling, generate
from models.language.lora import attach_lora, without_lora
from models.language.loss_plan import ContrastPlan, LossPlan, LossWeights, plan_loss
from models.language.new_tokens import Initialization, attach_sound_tokens, check_supported
from models.language.prefix_mask import Mask, attention_masks
from models.language.soft_times import SoftTimes
from models.language.vocabulary import Vocabulary

# kernels of a GPU: what is asked of an LLM while it is on the CPU is asked with sdpa; the first takes no mask of branches
FUSED = ("flash_attention_2", "flex_attention")


class LanguageLoss(NamedTuple):
    """Tensors are (). text_loss, time_loss, audio_loss, distillation_loss: means over their tokens in nats, NaN without any."""

    loss: Tensor  # (sum of weight x cross-entropy, and of contrasts) / (sum of weights) + z_loss_weight x z_loss
    text_loss: Tensor  # times among it
    time_loss: Tensor
    audio_loss: Tensor
    distillation_loss: Tensor  # divergence from the base LLM, of the positions of kind DISTILLED
    z_loss: Tensor  # (log Z)^2, under the same weights, before z_loss_weight
    text_tokens: int
    time_tokens: int
    audio_tokens: int
    weight: Tensor  # the sum of weights, that `loss` is a mean over
    contrast: "Compared | None" = None  # None where no answers are compared


class Compared(NamedTuple):
    """The T answers of a batch that are compared."""

    loss: Tensor  # () sum of their losses, weighted, with its gradient
    mean: Tensor  # () without the weight, over those that are to become more probable
    log_p: Tensor  # (T) of each in nats
    reference: Tensor  # (T) the same of the model as `keep_reference` left it; 0 where it is not needed


class SoundLanguageModel(nn.Module):
    """An LLM with LoRA and new tokens."""

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
        verify: bool = True,
    ) -> None:
        """model is changed in place, and in evaluation mode afterwards. rank, alpha, dropout: of LoRA.

        initialization, codebook: see `new_rows`; seed: of LoRA and of the new rows. activation_checkpointing: training
        keeps only the input of each layer, and computes the rest again. verify: five forward passes ask whether this LLM is computed as it
        should be; False for weights that were asked before, which then have no `supports_shared_prefix`.
        Raises UnsupportedLanguageModel for a model of another build (embedding, head, logits), and ModelError where
        model and tokenizer do not belong together.
        """
        super().__init__()
        check_supported(model, vocabulary)
        self.vocabulary = vocabulary
        self.logit_transform = LogitTransform.from_config(model.config.get_text_config())
        model.requires_grad_(False)
        attach_lora(model, rank, alpha, dropout, seed)
        attach_sound_tokens(model, vocabulary, initialization, codebook, seed)
        # the sampling settings that a hub gives have no effect here
        model.generation_config = GenerationConfig(pad_token_id=vocabulary.pad_id)
        self.lm = model
        self.reference: dict[str, Tensor] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self.eval()
        self.supports_shared_prefix = False
        if verify:
            attention = model.config._attn_implementation
            if attention in FUSED:
                model.set_attn_implementation("sdpa")
            self.check_equivalence()
            self.supports_shared_prefix = self._keeps_branches_apart() and attention != "flash_attention_2"
            if attention in FUSED:
                model.set_attn_implementation(attention)
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def compile_layers(self) -> None:
        """torch.compile of the layers, for training and `logits`; `generate` runs them as they are written."""
        compile_each(layer for layer in self.lm.modules() if isinstance(layer, GradientCheckpointingLayer))

    @torch.no_grad()
    def check_equivalence(self) -> None:
        """Raises UnsupportedLanguageModel where `logits` are not those of the LLM's forward pass, on a few ids."""
        ids = self._few_ids()[:, :4]
        if not _near(self.logits(ids, torch.ones_like(ids)), self.lm(input_ids=ids).logits):
            raise UnsupportedLanguageModel(
                f"{type(self.lm).__name__} changes its logits after the head in a way that the loss does not know"
            )

    def cast_frozen_linears_to_bf16(self) -> None:
        """The frozen matrices in bfloat16: what autocast would cast them to at every step. Equal to the bit.

        For use under autocast to bfloat16 alone. The embedding stays as it is: what it gives is not cast, so a head
        that has the embedding's rows gets a copy.
        """
        head = self._head()
        out_features, in_features = head.text.weight.shape
        rows = nn.Linear(in_features, out_features, bias=head.text.bias is not None, device="meta")
        rows.load_state_dict(head.text.state_dict(), assign=True)
        head.text = rows.requires_grad_(False)
        for module in self.lm.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.weight.data = module.weight.data.bfloat16()

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, S), right-padded -> (B, S, V). Of every position at once: for tests and reports, not for training."""
        return self.logit_transform(self._head()(self._hidden(input_ids, attention_mask)))

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
        time_weight: float = 1.0,
        soft_times: SoftTimes | None = None,
    ) -> LanguageLoss:
        """All (B, S), right-padded, as `Vocabulary.render` gives them: not shifted.

        label_kinds: see LabelKind. Where it is PROMPT the target is the input id, with the prompt's weight. Where it is
        DISTILLED the loss is the divergence from the LLM without LoRA, with the text's weight.
        positions and branches: of several conversations that share their beginning. Branch 0 is shared, the others do
        not see each other, and a label's loss is what it would be in a sequence with its branch alone. The first token
        of a branch is no label: the position before it is not its branch's alone.
        The layers see only positions that a weight depends on (`needed_positions`), and the head those that have one, a
        few hundred at a time, in float32.
        Raises ModelError where no position has one.
        """
        weights = LossWeights(audio_weight, text_weight, prompt_weight, z_loss_weight, time_weight, soft_times)
        ids, mask, targets, kinds = (part.cpu() for part in (input_ids, attention_mask, labels, label_kinds))
        shared = [None if part is None else part.cpu() for part in (positions, branches)]
        plan = plan_loss(ids, mask, targets, kinds, shared[0], shared[1], weights)
        return self.planned_loss(plan.to(input_ids.device))

    def planned_loss(self, plan: LossPlan) -> LanguageLoss:
        """The loss of a batch that `plan_loss` planned; it never waits for the device, where the plan is."""
        reference = self._reference(plan, plan.contrast) if plan.contrast else None
        every = self._hidden(plan.input_ids, plan.valid, plan.positions, plan.branches).flatten(0, 1)
        hidden = every.index_select(0, plan.predicting)
        text, new_rows = self._head().text_rows(), self._head().new_rows
        parts = []
        for part in (slice(0, plan.num_targets), slice(plan.num_targets, len(plan.predicting))):
            if part.start == part.stop:
                continue
            teacher = None
            if part.start == plan.num_targets:
                teacher = self._base_hidden(plan).flatten(0, 1).index_select(0, plan.predicting[part])
            parts.append(
                chunked_cross_entropy(
                    hidden[part],
                    text.weight,
                    text.bias,
                    new_rows,
                    plan.targets[part],
                    plan.weights[part],
                    plan.z_loss_weight,
                    self.logit_transform,
                    teacher,
                    None if plan.shares is None else plan.shares[part],
                )
            )
        nothing = plan.weights[:0]
        per_token = torch.cat([nothing, *(part.per_token for part in parts)])
        log_partition = torch.cat([nothing, *(part.log_partition for part in parts)])
        total = plan.weights.sum() + (plan.contrast.mass if plan.contrast else 0.0)
        text_loss, time_loss, audio_loss, distillation_loss = (
            per_token[chosen].mean() for chosen in (plan.text, plan.times, plan.audio, plan.distilled)
        )
        loss, compared = torch.stack([total.new_zeros(()), *(part.loss for part in parts)]).sum(), None
        if plan.contrast and reference is not None:
            compared = self._contrast(plan.contrast, every, reference)
            loss = loss + compared.loss
        return LanguageLoss(
            loss=loss / total,
            text_loss=text_loss,
            time_loss=time_loss,
            audio_loss=audio_loss,
            distillation_loss=distillation_loss,
            z_loss=(plan.weights * log_partition.square()).sum() / total,
            text_tokens=len(plan.text),
            time_tokens=len(plan.times),
            audio_tokens=len(plan.audio),
            weight=total,
            contrast=compared,
        )

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        max_new_tokens: int,
        allow: Literal["text", "audio"],
        sampling: Sampling | None = None,
        guidance: Guidance | None = None,
    ) -> list[list[int]]:
        """`models.language.generation.generate` with this model, in evaluation mode."""
        mode = self.training
        self.eval()
        try:
            with without_compiled_layers():
                return generate(
                    self.lm, self.vocabulary, input_ids, attention_mask, max_new_tokens, allow, sampling, guidance
                )
        finally:
            self.train(mode)

    def keep_reference(self) -> None:
        """What trains, as it is now, is what plans with a contrast are compared with: a copy of it is kept, and no LLM."""
        self.reference = {name: tensor.clone() for name, tensor in self.trainable_state().items()}

    def trainable_state(self) -> dict[str, Tensor]:
        """LoRA (`...lora_A.default.weight`) and new rows (`...new_rows`), by their names in the LLM; tied rows once."""
        return {name: parameter.detach() for name, parameter in self.lm.named_parameters() if parameter.requires_grad}

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `trainable_state`. Raises ModelError with what is missing, unexpected or of another shape."""
        expected = self.trainable_state()
        problems = [f"missing {name}" for name in expected if name not in state]
        problems += [f"unexpected {name}" for name in state if name not in expected]
        problems += [
            f"{name} is {tuple(state[name].shape)}, here {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ]
        if problems:
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise ModelError(f"this state is of another model, LoRA rank or codebook: {'; '.join(problems[:5])}{more}")
        for name, tensor in expected.items():
            tensor.copy_(state[name])

    def _head(self) -> Any:
        """The LLM's ExtendedHead."""
        return self.lm.get_output_embeddings()

    def _hidden(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """(B, S), right-padded -> (B, S, D) after the last norm. branches: None where no position is of one.

        Causal: padding on the right needs no mask, and attention takes its fast path. Raises SharedPrefixUnsupported.
        """
        if branches is None:
            return self._run(input_ids)
        assert positions is not None, "branches come with positions"
        if not self.supports_shared_prefix:
            raise SharedPrefixUnsupported(
                f"{type(self.lm).__name__} with attention {self.lm.config._attn_implementation} does not keep "
                "conversations of one sequence apart"
            )
        return self._run(input_ids, attention_masks(self.lm, branches, positions, attention_mask), positions)

    def _run(
        self, input_ids: Tensor, masks: Mask | dict[str, Mask] | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return self.lm.base_model(
            input_ids=input_ids, attention_mask=masks, position_ids=positions, use_cache=False
        ).last_hidden_state

    def _base_hidden(self, plan: LossPlan) -> Tensor:
        """Hidden states (B, S', D) of the LLM without LoRA for the rows that have a teacher; 0 for the others."""
        with without_lora(self.lm):
            return self._hidden_of_rows(plan._replace(branches=None), plan.teacher_rows)

    @torch.no_grad()
    def _hidden_of_rows(self, plan: LossPlan, rows: Tensor) -> Tensor:
        """(B, S', D) in evaluation mode; 0 for the other rows."""
        mode = self.training
        positions, branches = (None if part is None else part[rows] for part in (plan.positions, plan.branches))
        self.eval()
        try:
            hidden = self._hidden(plan.input_ids[rows], plan.valid[rows], positions, branches)
        finally:
            self.train(mode)
        return hidden.new_zeros(len(plan.input_ids), *hidden.shape[1:]).index_copy(0, rows, hidden)

    @torch.no_grad()
    def _reference(self, plan: LossPlan, contrast: ContrastPlan) -> Tensor:
        """(T) log p_ref of each term; what the plan knows of it is not computed."""
        known = contrast.reference
        if known is not None and contrast.has_reference:
            return known
        assert self.reference, "a contrast needs `keep_reference`"
        self.reference = {name: tensor.to(self.lm.device) for name, tensor in self.reference.items()}
        with with_weights(self.lm, self.reference):
            hidden = self._hidden_of_rows(plan, contrast.rows).flatten(0, 1)
            computed = -_of_terms(contrast, self._answer_entropy(contrast, hidden).per_token)
        return computed if known is None else torch.where(known.isnan(), computed, known.to(computed.dtype))

    def _contrast(self, plan: ContrastPlan, hidden: Tensor, reference: Tensor) -> Compared:
        """hidden (B S', D): with the graph of the layers.

        How much each answer's log p counts is known once all of its tokens are, so the head is gone through twice: the
        second time with these factors as the tokens' weights.
        """
        with torch.no_grad():
            log_p = -_of_terms(plan, self._answer_entropy(plan, hidden).per_token)
            reference = reference.to(log_p.dtype)
            losses, slopes = plan.objective.slopes(log_p, reference, plan.signs, plan.tokens)
            weights = -plan.weight * slopes.index_select(0, plan.terms)
        linear = self._answer_entropy(plan, hidden, weights).loss  # with the gradient, and another value
        total = losses.sum()
        loss = linear + (plan.weight * total - linear).detach()
        return Compared(loss, total / (plan.signs > 0).sum(), log_p, reference)

    def _answer_entropy(self, plan: ContrastPlan, hidden: Tensor, weights: Tensor | None = None) -> CrossEntropy:
        text, new_rows = self._head().text_rows(), self._head().new_rows
        chosen = hidden.index_select(0, plan.predicting)
        weights = torch.ones(len(chosen), device=chosen.device) if weights is None else weights
        return chunked_cross_entropy(
            chosen, text.weight, text.bias, new_rows, plan.targets, weights, 0.0, self.logit_transform
        )

    @torch.no_grad()
    def _keeps_branches_apart(self) -> bool:
        """Whether two branches of one sequence have the logits that each has in a sequence of its own, on a few ids."""
        ids = self._few_ids()
        one, other = ids[:, :4], torch.cat([ids[:, :3], ids[:, 4:]], 1)
        branches = torch.tensor([[0, 0, 0, 1, 2]], device=ids.device)
        positions = torch.tensor([[0, 1, 2, 3, 3]], device=ids.device)
        self.supports_shared_prefix = True
        try:
            shared = self.logit_transform(self._head()(self._hidden(ids, torch.ones_like(ids), positions, branches)))
        except (RuntimeError, TypeError, ValueError, KeyError):  # a model that takes no mask of this form
            return False
        both = torch.cat([one, other])
        alone = self.logits(both, torch.ones_like(both))[:, 3]
        return _near(shared[:, 3], alone[:1]) and _near(shared[:, 4], alone[1:])

    def _few_ids(self) -> Tensor:
        """(1, 5): text, the start of a sound and a code, then two ids of text."""
        vocabulary = self.vocabulary
        ids = [[1, vocabulary.start_id, vocabulary.first_code_id, 2, 3]]
        return torch.tensor(ids, device=self.lm.device) % vocabulary.size


def _of_terms(plan: ContrastPlan, per_token: Tensor) -> Tensor:
    """(P) -> (T): sums."""
    return per_token.new_zeros(len(plan.signs)).index_add(0, plan.terms, per_token)


def _near(logits: Tensor, expected: Tensor) -> bool:
    """Whether two ways of computing logits agree as well as their dtype allows."""
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 0.1
    return bool((logits.float() - expected.float()).abs().max() <= tolerance * expected.float().std())
