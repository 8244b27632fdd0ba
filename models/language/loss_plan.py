"""Which positions of a batch the loss is of, decided on the CPU: the device is then never waited for.

A mask decides sizes: how many positions have a label, up to where a row is needed. On a GPU each such size is a wait for
all that is queued; here they are known before the batch is copied.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import ModelError
from models.language.needed_positions import needed_positions
from models.language.vocabulary import IGNORED, LabelKind


class LossWeights(NamedTuple):
    """Of a token by what it is; z_loss_weight is of the z-loss of every weighted position."""

    audio_weight: float
    text_weight: float
    prompt_weight: float
    z_loss_weight: float


class Contrast(NamedTuple):
    """Which rows of a batch are contrasted, and how: see `contrast.py`."""

    signs: Tensor  # (B) long: 1 a sound under its caption, -1 under another, which is no target; 0 no part of it
    weight: float  # of a term beside the cross-entropy of its tokens, both in nats
    beta: float
    negative_weight: float  # of a term with another caption


class ContrastPlan(NamedTuple):
    """P sound tokens, of T rows: each row a term."""

    rows: Tensor  # (T) long: of the batch
    signs: Tensor  # (T) long
    predicting: Tensor  # (P) long: as in LossPlan
    targets: Tensor  # (P) long
    terms: Tensor  # (P) long: which of the T rows a token is of
    weight: float
    beta: float
    negative_weight: float


class LossPlan(NamedTuple):
    """M weighted positions, those with a target first and then those with a teacher. S' is as `needed_positions`."""

    input_ids: Tensor  # (B, S') long
    valid: Tensor  # (B, S') long
    positions: Tensor | None  # (B, S') long; None where no branch is
    branches: Tensor | None  # (B, S') long
    predicting: Tensor  # (M) long: places in the flattened (B, S') whose hidden states predict
    targets: Tensor  # (M) long
    weights: Tensor  # (M) float32
    num_targets: int  # positions before the first with a teacher
    teacher_rows: Tensor  # (R) long: rows of the batch that the base LLM reads
    text: Tensor  # (T) long: which of the M are text
    audio: Tensor  # (A) long
    distilled: Tensor  # (M - num_targets) long
    z_loss_weight: float
    contrast: ContrastPlan | None = None

    def to(self, device: torch.device) -> "LossPlan":
        contrast = self.contrast and self.contrast._replace(**_moved(self.contrast, device))
        return self._replace(**_moved(self, device), contrast=contrast)


def plan_loss(
    input_ids: Tensor,
    attention_mask: Tensor,
    labels: Tensor,
    label_kinds: Tensor,
    positions: Tensor | None,
    branches: Tensor | None,
    weights: LossWeights,
    contrast: Contrast | None = None,
) -> LossPlan:
    """All (B, S), on the CPU: see `SoundLanguageModel.loss`. Raises ModelError where no position has a weight."""
    table = torch.zeros(len(LabelKind))
    table[LabelKind.PROMPT], table[LabelKind.TEXT] = weights.prompt_weight, weights.text_weight
    table[LabelKind.AUDIO], table[LabelKind.DISTILLED] = weights.audio_weight, weights.text_weight
    by_position = table[label_kinds] * attention_mask * ((labels != IGNORED) | (label_kinds == LabelKind.PROMPT))
    if contrast is not None:
        by_position = by_position * (contrast.signs >= 0)[:, None]
    # the hidden state of position s - 1 predicts position s
    predicted = by_position[:, 1:] > 0
    if branches is not None:
        predicted &= (branches[:, 1:] == branches[:, :-1]) | (branches[:, :-1] == 0)
    if not predicted.any():
        raise ModelError("no position of this batch has a weight: there is no answer in it, or its weight is 0")
    kinds = label_kinds[:, 1:][predicted]
    order = torch.cat([(kinds != LabelKind.DISTILLED).nonzero()[:, 0], (kinds == LabelKind.DISTILLED).nonzero()[:, 0]])
    kinds = kinds[order]
    needed = predicted
    if contrast is not None:
        contrasted = (label_kinds == LabelKind.AUDIO) & (labels != IGNORED) & (contrast.signs != 0)[:, None]
        needed = predicted | contrasted[:, 1:]
    columns, valid = needed_positions(F.pad(needed, (0, 1)), branches)
    predicting = (F.pad(predicted, (0, 1)).gather(1, columns) & valid).flatten().nonzero()[:, 0]
    compared = None
    if contrast is not None:
        compared = _plan_contrast(contrast, labels, contrasted, columns, valid)
    if branches is not None and positions is not None:
        branches, positions = branches.gather(1, columns), positions.gather(1, columns)
    if branches is None or not branches.any():
        branches = positions = None
    return LossPlan(
        input_ids=input_ids.gather(1, columns),
        valid=valid.long(),
        positions=positions,
        branches=branches,
        predicting=predicting[order],
        targets=torch.where(labels == IGNORED, input_ids, labels)[:, 1:][predicted][order],
        weights=by_position[:, 1:][predicted][order],
        num_targets=int((kinds != LabelKind.DISTILLED).sum()),
        teacher_rows=(label_kinds == LabelKind.DISTILLED).any(1).nonzero()[:, 0],
        text=(kinds == LabelKind.TEXT).nonzero()[:, 0],
        audio=(kinds == LabelKind.AUDIO).nonzero()[:, 0],
        distilled=(kinds == LabelKind.DISTILLED).nonzero()[:, 0],
        z_loss_weight=weights.z_loss_weight,
        contrast=compared,
    )


def _plan_contrast(
    contrast: Contrast, labels: Tensor, contrasted: Tensor, columns: Tensor, valid: Tensor
) -> ContrastPlan | None:
    """contrasted (B, S) bool: tokens of the terms. None where there is no term."""
    is_term = contrasted.any(1)
    if not is_term.any():
        return None
    predicting = (F.pad(contrasted[:, 1:], (0, 1)).gather(1, columns) & valid).flatten().nonzero()[:, 0]
    return ContrastPlan(
        rows=is_term.nonzero()[:, 0],
        signs=contrast.signs[is_term],
        predicting=predicting,
        targets=labels[:, 1:][contrasted[:, 1:]],
        terms=(is_term.cumsum(0) - 1)[predicting // columns.shape[1]],
        weight=contrast.weight,
        beta=contrast.beta,
        negative_weight=contrast.negative_weight,
    )


def _moved(plan: LossPlan | ContrastPlan, device: torch.device) -> dict[str, Any]:
    tensors = {name: part for name, part in plan._asdict().items() if isinstance(part, Tensor)}
    return {name: part.to(device, non_blocking=True) for name, part in tensors.items()}
