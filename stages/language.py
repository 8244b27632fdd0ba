"""Stages `caption`, `openaqa` and `text_to_sound`: an LLM learns to read and to write sound tokens.

Each trains an adapter on cached codes: `openaqa` goes on from `caption`'s, `text_to_sound` from `openaqa`'s. What differs is the
mixture of conversations.
"""

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from callbacks.loggers import add_text
from conf import plain
from conf.errors import UsageError
from conf.sections.language import LanguageConf
from datamodules.language.caption_pairs import caption_pairs
from datamodules.language.conversations import CONTEXT, TEXT, Turn
from datamodules.language.id_batches import LanguageDataModule
from datamodules.language.other_captions import with_other_captions
from datamodules.language.packing import Encoded, LanguageBatch
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from models.language.contrast import CaptionContrast
from models.language.loss_plan import Contrast, LossPlan, LossWeights, plan_loss
from models.language.model import LanguageLoss
from models.language.soft_times import SoftTimes
from models.language.vocabulary import LabelKind, has_sound
from models.language.vocabulary import Turn as ChatTurn
from stages.base import Exported, Parents, TrainingStage
from stages.engine import devices, distributed, language_data, optim, warm_start
from stages.engine.accumulation import WeightedAccumulation
from stages.engine.caption_gap import CaptionGap
from stages.hub import artifacts
from stages.hub.language_model import build, check_base, configuration_of
from stages.hub.pretrained_tokenizer import codebook_of

log = logging.getLogger(__name__)


class PlannedBatch(NamedTuple):
    """A LanguageBatch, as a step takes it."""

    ids: list[str]
    plan: LossPlan
    tokens: int  # without padding
    positions: int  # with padding
    codes: int  # of tokens, those that are sound
    pairs: float | None  # share of the items from text to sound that have another caption to be contrasted with
    answers: Sequence[Sequence[str]]  # as of LanguageBatch


class Comparison(NamedTuple):
    """What of a batch is compared with the model that the training started from."""

    batch: LanguageBatch  # with what is read beside its rows
    contrast: Contrast | None
    pairs: float | None  # as of PlannedBatch


class Language(TrainingStage):
    conf: LanguageConf
    watch = ("train/loss", "val/text_loss", "val/audio_loss", "val/caption_gap")
    strict_loading = False  # checkpoints hold what trains; on_load_checkpoint is strict about that

    def __init__(self, stage: str, conf: LanguageConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.facts = {
            key: parents["tokenizer"].facts[key]
            for key in ("codebook_size", "num_codebooks", "levels", "token_rate", "bitrate")
        }
        codebook = codebook_of(parents["tokenizer"].artifact)
        self.language, self.vocabulary, self.base = build(conf, self.facts, codebook)
        started_from = (
            [self.source] if self.source else [parents[one] for one in ("caption", "openaqa") if one in parents]
        )
        for start in started_from:
            config, state = artifacts.load(start.artifact)
            warm_start.check_same(start.folder, config["facts"], self.facts)
            _same_model(configuration_of(config), conf, start.folder)
            check_base(start.folder, config, self.base, conf)
            self.language.load_trainable_state(_with_new_times(state, self.language.trainable_state()))
        if self.source and self.source.receipt["parents"]["tokenizer"] != parents["tokenizer"].receipt["artifact_hash"]:
            text = "%s: %s learned the codes of another tokenizer: the rows of the sounds are to be learned anew"
            log.warning(text, stage, self.source.folder)
        if conf.loss.contrast.weight:
            if not started_from:
                raise UsageError(
                    f"{stage}: loss.contrast compares with the weights that this stage starts from, and here it starts from an LLM "
                    "that knows no sound. Name a finished run to start from, as --init_from=EXPERIMENT, or type --loss.contrast.weight=0"
                )
            self.language.keep_reference()  # of the parent's artifact, however often this run is begun again
        self.token_losses = ("text_loss", "audio_loss", *(("time_loss",) if self.vocabulary.num_times else ()))
        self.entry: str | None = None  # of the curriculum, that is trained now
        self.flops_per_position = 0
        batches = conf.trainer.accumulate_grad_batches
        self.accumulation = WeightedAccumulation(batches, conf.batching.tokens_per_batch) if batches > 1 else None
        self.language.train()  # transformers hands models over in evaluation mode
        cuts = chunks.read(parents["cache"].folder / "chunks")
        self.data = language_data.data(
            stage,
            conf,
            cuts,
            self.encode,
            self.vocabulary.pad_id,
            self.vocabulary.fingerprint(),
            parents["tokenizer"].receipt["artifact_hash"],
            _folder_of_lengths(cuts, folder),
            parents["rehearsal"].artifact / "texts.jsonl" if "rehearsal" in parents else None,
            len(self.vocabulary.levels),
        )  # here, so that data without a conversation is refused before anything is written
        self.gap = CaptionGap(
            caption_pairs(
                cuts.of_split("validation"), conf.caption_gap_clips if _takes_captions(conf) else 0,
                conf.prompts.labels_before_sound,
            ),
            self.encode, conf.prompts.text_to_sound[0], self.vocabulary.pad_id, conf.batching.tokens_per_batch,
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        if self.trainer.precision == "bf16-mixed":
            self.language.cast_frozen_linears_to_bf16()

    def on_fit_start(self) -> None:
        if devices.compiles(self.conf.model.compile, self.device):
            self.language.compile_layers()

    def datamodule(self) -> LanguageDataModule:
        return self.data

    def encode(self, conversations: list[list[Turn]]) -> list[Encoded]:
        """Ids of each conversation; running text, whose roles are TEXT and CONTEXT, has no template."""
        runs = [conversation[0][0] in (TEXT, CONTEXT) for conversation in conversations]
        rest = [
            [ChatTurn("user" if role == "user" else "assistant", segments) for role, segments in conversation]
            for conversation, running in zip(conversations, runs, strict=True)
            if not running
        ]
        rendered = iter(self.vocabulary.render_all(rest) if rest else [])
        encoded = [
            Encoded(
                *(
                    self.vocabulary.render_running([(role == TEXT, segments) for role, segments in conversation])
                    if running
                    else next(rendered)
                )
            )
            for conversation, running in zip(conversations, runs, strict=True)
        ]
        if self.conf.text.loss == "distillation":
            encoded = [
                one if has_sound(conversation) else keep(one)
                for conversation, one in zip(conversations, encoded, strict=True)
            ]
        return encoded

    def on_before_batch_transfer(self, batch: LanguageBatch, dataloader_idx: int) -> PlannedBatch:
        """On the CPU: what decides sizes is looked at before the batch is copied, so that no step waits for the device."""
        loss, soft_times = self.conf.loss, None
        if loss.time_width and self.trainer.training:  # validation compares runs of every width
            width = loss.time_width / self.vocabulary.step
            soft_times = SoftTimes(self.vocabulary.first_time_id, self.vocabulary.num_times, width)
        weights = LossWeights(
            loss.audio_weight, loss.text_weight, loss.prompt_weight, loss.z_loss_weight, loss.time_weight, soft_times
        )
        planned, contrast, pairs = self.comparison(batch)
        plan = plan_loss(
            planned.input_ids, planned.attention_mask, planned.labels, planned.kinds, planned.positions,
            planned.branches, weights, contrast,
        )  # fmt: skip
        ids = batch.input_ids
        codes = int(((ids >= self.vocabulary.first_code_id) & (ids < self.vocabulary.first_time_id)).sum())
        return PlannedBatch(batch.ids, plan, int(batch.attention_mask.sum()), ids.numel(), codes, pairs, batch.answers)

    def comparison(self, batch: LanguageBatch) -> Comparison:
        settings = self.conf.loss.contrast
        if not settings.weight or not self.trainer.training:
            return Comparison(batch, None, None)
        contrasted = with_other_captions(batch, self.vocabulary.pad_id, LabelKind.AUDIO)
        objective = CaptionContrast(settings.beta, settings.negative_weight)
        contrast = Contrast.of_sounds(contrasted.signs, contrasted.batch.kinds, settings.weight, objective)
        return Comparison(contrasted.batch, contrast, contrasted.pairs / contrasted.items if contrasted.items else None)

    def losses(self, batch: PlannedBatch) -> LanguageLoss:
        return self.language.planned_loss(batch.plan)

    def training_step(self, batch: PlannedBatch, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        for name in ("loss", *self.token_losses, "distillation_loss", "z_loss"):
            self.log(f"train/{name}", getattr(losses, name), batch_size=len(batch.ids))
        if self.conf.loss.contrast.weight:
            # NaN for a batch without an item from text to sound: each batch logs the same names
            mean, pairs = losses.loss.new_tensor(math.nan), math.nan
            if losses.contrast is not None and batch.pairs is not None:
                mean, pairs = losses.contrast.mean, batch.pairs
            self.log("train/contrast_loss", mean, batch_size=len(batch.ids))
            self.log("train/contrast_pairs", torch.tensor(pairs), batch_size=len(batch.ids))
        if self.conf.curriculum:
            number = language_data.position(self.conf.curriculum, self.trainer.global_step).number + 1
            self.log("train/curriculum_entry", torch.tensor(float(number)), batch_size=len(batch.ids))
        padding = torch.tensor(
            1 - batch.tokens / batch.positions
        )  # a number would be copied to the device, and waited for
        self.log("train/padding_fraction", padding, batch_size=len(batch.ids))
        if self.accumulation:
            return self.accumulation.add(losses.loss, losses.weight)
        if self.trainer.world_size == 1:
            return losses.loss
        return losses.loss * distributed.shares(losses.weight[None])[0]

    def on_train_batch_start(self, batch: LanguageBatch, batch_idx: int) -> None:
        """Says which entry of the curriculum begins, or is taken up again."""
        if not self.conf.curriculum:
            return
        entries, step = self.conf.curriculum, self.trainer.global_step
        now = language_data.position(entries, step)
        if now.name != self.entry:
            self.entry = now.name
            text = (
                f"{now.name} (entry {now.number + 1} of {len(entries)}), step {now.step} of {entries[now.number].steps}"
            )
            if self.trainer.is_global_zero:
                log.info("%s: curriculum: %s, %d items", self.stage, text, len(self.data.train_items[now.number]))
                add_text(self.loggers, "train/curriculum", text, step)

    def counted(self, batch: PlannedBatch) -> dict[str, Tensor | float]:
        """For the log of the throughput. Operations without attention, a twentieth at these lengths."""
        if not self.flops_per_position:
            for parameter in self.language.parameters():
                self.flops_per_position += (6 if parameter.requires_grad else 4) * parameter.numel()
        codes_per_second = self.facts["bitrate"] / math.log2(self.facts["codebook_size"])
        return {
            "tokens": float(batch.tokens),
            "seconds_of_sound": batch.codes / codes_per_second,
            "flops": float(self.flops_per_position * batch.positions),
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """What an entry does not train has no gradient: AdamW leaves it, and its own moments, as they are."""
        if self.accumulation:
            self.gradient_factor = self.accumulation.apply(self.language.parameters())
        if not self.conf.curriculum:
            return
        now = language_data.position(self.conf.curriculum, self.trainer.global_step)
        if self.conf.curriculum[now.number].train == "new_rows":
            for name, parameter in self.language.named_parameters():
                if "new_rows" not in name:
                    parameter.grad = None

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(2, len(self.token_losses), dtype=torch.float64, device=self.device)

    def validation_step(self, batch: PlannedBatch, batch_idx: int) -> None:
        self.log("val/items", float(len(batch.ids)), batch_size=1, reduce_fx="sum", sync_dist=True)
        losses = self.losses(batch)
        for column, name in enumerate(self.token_losses):
            if count := getattr(losses, name.replace("_loss", "_tokens")):
                self.sums[0, column] += getattr(losses, name).double() * count
                self.sums[1, column] += count

    def on_validation_epoch_end(self) -> None:
        """Means over tokens, summed over ranks: NaN for a kind that is in no batch."""
        sums = self.trainer.strategy.reduce(self.sums, reduce_op="sum")
        for name, mean in zip(self.token_losses, (sums[0] / sums[1]).float(), strict=True):
            self.log(f"val/{name}", mean)
        if self.gap.pairs:
            self._log_caption_gap()

    def _log_caption_gap(self) -> None:
        trainer = self.trainer
        with trainer.precision_plugin.forward_context():
            sums = self.gap.sums(self._sound_likelihood, trainer.global_rank, trainer.world_size, self.device)
        total, clips = trainer.strategy.reduce(sums, reduce_op="sum")
        self.log("val/caption_gap", (total / clips).float())
        if self.gap.ceiling is not None:
            self.log("val/caption_gap_ceiling", self.gap.ceiling)

    def _sound_likelihood(self, batch: LanguageBatch) -> Tensor:
        weights = LossWeights(audio_weight=1.0, text_weight=0.0, prompt_weight=0.0, z_loss_weight=0.0, time_weight=0.0)
        plan = plan_loss(batch.input_ids, batch.attention_mask, batch.labels, batch.kinds, None, None, weights)
        losses = self.language.planned_loss(plan.to(self.device))
        return losses.audio_loss * losses.audio_tokens

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        rates = {"new_rows": self.conf.embedding_learning_rate}
        return optim.configure(
            self.language.named_parameters(), self.conf.optimizer, self.conf.trainer.max_steps, rates,
            language_data.phases(self.conf),
        )  # fmt: skip

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"], checkpoint["base"] = self.language.trainable_state(), self.base
        if self.conf.curriculum:
            checkpoint["curriculum"] = language_data.position(self.conf.curriculum, self.trainer.global_step)._asdict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_base("the checkpoint", checkpoint, self.base, self.conf)
        self.language.load_trainable_state(checkpoint["state_dict"])
        checkpoint["state_dict"] = {}

    def export(self, artifact: Path) -> Exported:
        config = {"conf": plain(self.conf), "facts": self.facts, "base": self.base}
        artifacts.save(artifact, config, self.language.trainable_state())
        facts = self.facts | {"model": self.conf.model.source, "vocabulary_size": self.vocabulary.size}
        facts["too_long"] = language_data.write_too_long(self.data.too_long, artifact / "too_long.jsonl")
        facts["items"] = [len(items) for items in self.data.train_items]
        facts["curriculum"] = [
            {"name": entry.name, "steps": entry.steps, "items": count}
            for entry, count in zip(self.conf.curriculum, facts["items"], strict=False)
        ]
        return Exported(facts, self.logged())


def keep(text: Encoded) -> Encoded:
    """The same ids, of which the base LLM is asked at every position what comes next."""
    return Encoded(
        text.input_ids, text.input_ids, [LabelKind.PROMPT] + [LabelKind.DISTILLED] * (len(text.input_ids) - 1)
    )


def _takes_captions(conf: LanguageConf) -> bool:
    mixtures = [conf.mixture, *(entry.mixture for entry in conf.curriculum)]
    return any(mixture.sound_to_text or mixture.text_to_sound for mixture in mixtures)


def _folder_of_lengths(cuts: CachedCuts, folder: Path) -> Path:
    """Where lengths are kept: beside the cache, for all that is trained on it; where that is not ours to write, with the run."""
    return (cuts.folder.parent if os.access(cuts.folder.parent, os.W_OK) else folder) / "measured"


def _with_new_times(state: dict[str, Tensor], start: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a parent with fewer times: theirs are the last rows, and those that it lacks are as they are at the start."""
    rows = {name: len(tensor) for name, tensor in state.items() if name.endswith("new_rows") and name in start}
    return state | {name: torch.cat([state[name], start[name][count:]]) for name, count in rows.items()}


def _same_model(parent: LanguageConf, conf: LanguageConf, folder: Path) -> None:
    """What the numbers depend on must be equal; dropout and how the layers are computed may differ. Times may be added."""
    before, now = parent.timestamps, conf.timestamps
    fewer = before.max_seconds is not None and (before.step != now.step or before.max_seconds > (now.max_seconds or 0))
    if fewer or before.every not in (None, now.every):
        raise UsageError(
            f"{folder} was trained with timestamps {plain(before)}, this stage asks for {plain(now)}. Make them equal, or "
            "max_seconds larger."
        )
    free = {"dropout": 0, "attention": None, "activation_checkpointing": False, "compile": False}
    for section in ("model", "lora"):
        trained, asked = (plain(getattr(owner, section)) for owner in (parent, conf))
        if {**trained, **free} != {**asked, **free}:
            raise UsageError(
                f"{folder} was trained with {section} {trained}, this stage asks for {asked}. Make them equal."
            )
