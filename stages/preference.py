"""Stage `preference`: pairs of answers about sounds, after the questions: what is heard is to be said, not what is usual.

    openaqa's LoRA and new rows ─┬─► the start                    ┐
                                 └─► the reference, which stays ──┴─► dpo, ipo or simpo of the pairs, and the cross-entropy
                                                                     of the chosen answers (models/language/preference.py)

The frozen LLM without LoRA has never met a sound, and is no reference.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from conf.errors import UsageError
from conf.sections.language import PromptsConf
from conf.sections.preference import PreferenceConf
from datamodules.language.packing import LanguageBatch
from models.language.loss_plan import Contrast
from models.language.model import LanguageLoss
from models.language.preference import PreferenceLoss, margins
from stages.base import Parents
from stages.engine.reference_scores import ReferenceScores
from stages.language import Comparison, Language, PlannedBatch

log = logging.getLogger(__name__)
SUMS = ("margin", "right", "pairs", "yes", "asked")


class Preference(Language):
    conf: PreferenceConf
    watch = ("train/loss", "val/margin", "val/pair_accuracy", "val/share_of_yes")

    def __init__(self, stage: str, conf: PreferenceConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        if not self.language.supports_shared_prefix:
            raise UsageError(
                f"{stage}: {conf.model.source} with attention {conf.model.attention} does not keep two answers of one "
                "sequence apart. Another LLM, or --model.attention=sdpa, does"
            )
        if self.source and conf.pairs.files:
            _check_wording(self.source.folder, self.source.conf.prompts, conf.prompts)
        settings = conf.pair_loss
        self.objective = PreferenceLoss(settings.kind, settings.beta, settings.margin)
        self.reference: ReferenceScores | None = None
        if self.objective.needs_reference:
            start = self.source or parents["openaqa"]
            self.language.keep_reference()
            self.reference = ReferenceScores(folder, start.receipt["artifact_hash"])

    def comparison(self, batch: LanguageBatch) -> Comparison:
        ids, counts = _items(batch)
        if not ids:
            return Comparison(batch, None, None)
        reference = None if self.reference is None else self.reference.of(ids, counts)
        is_pair = torch.tensor([bool(texts) for texts in batch.answers])[:, None]
        settings = self.conf.pair_loss
        chosen = settings.chosen_weight if self.trainer.training else 1.0  # val/text_loss is of the chosen answers
        contrast = Contrast.of_pairs(is_pair, batch.branches, settings.weight, self.objective, chosen, reference)
        return Comparison(batch, contrast, None)

    def losses(self, batch: PlannedBatch) -> LanguageLoss:
        losses = super().losses(batch)
        if losses.contrast is None:
            if self.trainer.training:  # NaN for a batch without pairs: each logs the same names
                self._log_pairs(losses.loss.new_tensor(math.nan), torch.zeros(len(SUMS), device=self.device), 1)
            return losses
        log_p, reference = losses.contrast.log_p, losses.contrast.reference
        if self.reference is not None:
            self.reference.keep(self.global_rank, *_items(batch), reference)
        sums = self._sums(log_p, reference, [text for texts in batch.answers for text in texts])
        if self.trainer.training:
            self._log_pairs(losses.contrast.mean, sums, len(log_p) // 2)
        else:
            self.pair_sums += sums
        return losses

    def _log_pairs(self, loss: Tensor, sums: Tensor, count: int) -> None:
        self.log("train/preference_loss", loss, batch_size=count)
        for name, value in _means(sums).items():
            self.log(f"train/{name}", value, batch_size=count)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.pair_sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        for name, value in _means(self.trainer.strategy.reduce(self.pair_sums, reduce_op="sum")).items():
            self.log(f"val/{name}", value)

    def _sums(self, log_p: Tensor, reference: Tensor, texts: Sequence[str]) -> Tensor:
        """log_p, reference (T) -> (SUMS) float64. asked: pairs of yes and no; yes: those of which yes is more probable."""
        ahead = log_p[::2] > log_p[1::2]
        chosen = [text.lower() for text in texts]
        says = [
            {("yes", "no"): 1, ("no", "yes"): -1}.get(pair, 0) for pair in zip(chosen[::2], chosen[1::2], strict=True)
        ]
        sign = torch.tensor(says, device=log_p.device)
        yes = torch.where(ahead, sign > 0, sign < 0)
        values = (
            margins(log_p, reference).sum(),
            ahead.sum(),
            torch.ones_like(sign).sum(),
            yes.sum(),
            sign.abs().sum(),
        )
        return torch.stack([value.double() for value in values])


def _check_wording(folder: Path, trained: PromptsConf, asked: PromptsConf) -> None:
    """Of an LLM that writes sound: it is asked, after this stage, as the configuration says."""
    for key in ("text_to_sound", "guidance", "labels_before_sound"):
        before, now = getattr(trained, key), getattr(asked, key)
        if before != now:
            text = "%s was trained with prompts.%s=%s, and this run with %s: sounds will be asked for as here"
            log.warning(text, folder, key, before, now)


def _items(batch: LanguageBatch | PlannedBatch) -> tuple[list[str], list[int]]:
    """The ids of the rows that are pairs, and how many answers each has."""
    named = [(name, len(texts)) for name, texts in zip(batch.ids, batch.answers, strict=True) if texts]
    return [name for name, _ in named], [count for _, count in named]


def _means(sums: Tensor) -> dict[str, Tensor]:
    """NaN for what there is none of."""
    margin, right, pairs, yes, asked = sums
    means = {"margin": margin / pairs, "pair_accuracy": right / pairs, "share_of_yes": yes / asked}
    return {name: value.float() for name, value in means.items()}
