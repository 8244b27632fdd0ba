"""Which positions of a batch the loss is of, decided on the CPU: the device is then never waited for.

A mask decides sizes: how many positions have a label, up to where a row is needed. On a GPU each such size is a wait for
all that is queued; here they are known before the batch is copied.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.errors import ModelError
from models.language.contrast import Objective
from models.language.needed_positions import needed_positions
from models.language.soft_times import SoftTimes
from models.language.vocabulary import IGNORED, LabelKind


class LossWeights(NamedTuple):
    """Of a token by what it is; z_loss_weight is of the z-loss of every weighted position."""

    audio_weight: float
    text_weight: float
    prompt_weight: float
    z_loss_weight: float
    time_weight: float = 1.0
    soft_times: SoftTimes | None = None  # how targets that are times are softened; None: not


class Contrast(NamedTuple):
    """Which answers of a batch are compared, and how: see `contrast.py` and `preference.py`.

    A term is the labels of a row, or of one branch of it, that have a sign: 1 what is to become more probable, -1 what
    is to become less probable; 0 no part of it.
    """

    signs: Tensor  # (B, S) long
    entropy_weights: Tensor  # (B, S) what the weights of the cross-entropy are multiplied by
    weight: float  # of a term beside the cross-entropy of its tokens, both in nats
    objective: Objective
    mass: float = 0.0  # what a term counts for in the sum of weights that the loss is a mean over
    reference: Tensor | None = None  # (T) log p_ref of the terms, NaN where it is to be computed; None: of all

    @classmethod
    def of_sounds(cls, signs: Tensor, kinds: Tensor, weight: float, objective: Objective) -> "Contrast":
        """The sounds of rows; signs (B); kinds (B, S) of LabelKind. Nothing in a row of sign -1 is a target."""
        signs = signs[:, None]
        targets = (signs >= 0).float().expand(kinds.shape)
        return cls(signs * (kinds == LabelKind.AUDIO), targets, weight, objective)

    @classmethod
    def of_pairs(
        cls,
        is_pair: Tensor,
        branches: Tensor,
        weight: float,
        objective: Objective,
        chosen_weight: float,
        reference: Tensor | None,
    ) -> "Contrast":
        """is_pair (B, 1) bool: rows whose branches 1, 2, 3, 4, ... are chosen, rejected, chosen, rejected, ... answers.

        chosen_weight: of the cross-entropy of the chosen ones; the rejected ones are no target.
        """
        signs = torch.where(is_pair & (branches > 0), torch.where(branches % 2 == 1, 1, -1), 0)
        targets = torch.tensor([0.0, 1.0, chosen_weight])[signs + 1]
        return cls(signs, targets, weight, objective, weight / 2, reference)


class ContrastPlan(NamedTuple):
    """P tokens of T terms, of R rows."""

    rows: Tensor  # (R) long: of the batch
    signs: Tensor  # (T) long
    tokens: Tensor  # (T) long: how many of the P a term has
    predicting: Tensor  # (P) long: as in LossPlan
    targets: Tensor  # (P) long
    terms: Tensor  # (P) long: which of the T a token is of
    reference: Tensor | None  # (T) as of Contrast; None where all are to be computed, or none is needed
    has_reference: bool  # whether nothing of it is to be computed
    weight: float
    mass: float  # of all terms
    objective: Objective


class LossPlan(NamedTuple):
    """M weighted positions, those with a target first and then those with a teacher. S' is as `needed_positions`."""

    input_ids: Tensor  # (B, S') long
    valid: Tensor  # (B, S') long
    positions: Tensor | None  # (B, S') long; None where no branch is
    branches: Tensor | None  # (B, S') long
    predicting: Tensor  # (M) long: places in the flattened (B, S') whose hidden states predict
    targets: Tensor  # (M) long; with shares (M, K)
    shares: Tensor | None  # (M, K) float32: how much of a target each of its K ids is; None: a target is one id
    weights: Tensor  # (M) float32
    num_targets: int  # positions before the first with a teacher
    teacher_rows: Tensor  # (R) long: rows of the batch that the base LLM reads
    text: Tensor  # (T) long: which of the M are text, times among them
    times: Tensor  # (N) long
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
    table[LabelKind.TIME] = weights.time_weight
    by_position = table[label_kinds] * attention_mask * ((labels != IGNORED) | (label_kinds == LabelKind.PROMPT))
    if contrast is not None:
        by_position = by_position * contrast.entropy_weights
    # the hidden state of position s - 1 predicts position s
    predicted = by_position[:, 1:] > 0
    if branches is not None:
        predicted &= (branches[:, 1:] == branches[:, :-1]) | (branches[:, :-1] == 0)
    contrasted = torch.zeros_like(predicted)
    if contrast is not None:
        contrasted = ((labels != IGNORED) & (contrast.signs != 0))[:, 1:]
    if not (predicted | contrasted).any():
        raise ModelError("no position of this batch has a weight: there is no answer in it, or its weight is 0")
    kinds = label_kinds[:, 1:][predicted]
    order = torch.cat([(kinds != LabelKind.DISTILLED).nonzero()[:, 0], (kinds == LabelKind.DISTILLED).nonzero()[:, 0]])
    kinds = kinds[order]
    columns, valid = needed_positions(F.pad(predicted | contrasted, (0, 1)), branches)
    predicting = (F.pad(predicted, (0, 1)).gather(1, columns) & valid).flatten().nonzero()[:, 0]
    compared = None
    if contrast is not None and contrasted.any():
        compared = _plan_contrast(contrast, labels[:, 1:], contrasted, branches, columns, valid)
    targets, shares = torch.where(labels == IGNORED, input_ids, labels)[:, 1:][predicted][order], None
    is_time = kinds == LabelKind.TIME
    if weights.soft_times is not None and is_time.any():
        targets, shares = weights.soft_times(targets, is_time)
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
        targets=targets,
        shares=shares,
        weights=by_position[:, 1:][predicted][order],
        num_targets=int((kinds != LabelKind.DISTILLED).sum()),
        teacher_rows=(label_kinds == LabelKind.DISTILLED).any(1).nonzero()[:, 0],
        text=((kinds == LabelKind.TEXT) | is_time).nonzero()[:, 0],
        times=is_time.nonzero()[:, 0],
        audio=(kinds == LabelKind.AUDIO).nonzero()[:, 0],
        distilled=(kinds == LabelKind.DISTILLED).nonzero()[:, 0],
        z_loss_weight=weights.z_loss_weight,
        contrast=compared,
    )


def _plan_contrast(
    contrast: Contrast, labels: Tensor, contrasted: Tensor, branches: Tensor | None, columns: Tensor, valid: Tensor
) -> ContrastPlan:
    """labels, contrasted (B, S - 1), shifted: tokens of the terms, which are in the order of rows and branches."""
    predicting = (F.pad(contrasted, (0, 1)).gather(1, columns) & valid).flatten().nonzero()[:, 0]
    rows = contrasted.nonzero()[:, 0]
    branch = torch.zeros_like(rows) if branches is None else branches[:, 1:][contrasted]
    _, terms, tokens = torch.unique_consecutive(
        torch.stack([rows, branch]), dim=1, return_inverse=True, return_counts=True
    )
    signs = contrast.signs[:, 1:][contrasted][tokens.cumsum(0) - 1]
    needed, reference = contrast.objective.needs_reference, contrast.reference
    return ContrastPlan(
        rows=rows.unique_consecutive(),
        signs=signs,
        tokens=tokens,
        predicting=predicting,
        targets=labels[contrasted],
        terms=terms,
        reference=reference if needed else torch.zeros(len(tokens)),
        has_reference=not needed or (reference is not None and not bool(reference.isnan().any())),
        weight=contrast.weight,
        mass=contrast.mass * len(tokens),
        objective=contrast.objective,
    )


def _moved(plan: LossPlan | ContrastPlan, device: torch.device) -> dict[str, Any]:
    tensors = {name: part for name, part in plan._asdict().items() if isinstance(part, Tensor)}
    return {name: part.to(device, non_blocking=True) for name, part in tensors.items()}
