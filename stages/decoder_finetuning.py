"""Stage `decoder_finetuning`: a finished tokenizer's decoder, trained further with encoder and codebook frozen.

Codes stay what they are, and so do caches and LLMs. Its artifact is the decoder alone; whoever decodes takes it where it
is available (`stages/hub/sound_tokenizer.py`). With the objective `mean` one step gives a sample, with `flow` the
decoder learns as it did before, for longer or on other sound.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import load_file
from torch import Tensor

from callbacks.step_seed import position_seed
from conf import plain
from conf.errors import UsageError
from conf.sections.tokenizer import DecoderFinetuningConf
from datamodules.latents import LatentBatch
from models.metrics.codebook_use import CodebookUse
from models.metrics.reconstruction import LatentError
from models.running_average import RunningAverage
from models.tokenizer.decoder_finetuning import draw_task, flow_loss, freeze_codes, mean_flow_loss
from stages.base import Exported, Parents, TrainingStage
from stages.engine import devices, distributed, optim, warm_start
from stages.hub import artifacts
from stages.tokenizer import Tokenizer


class DecoderFinetuning(Tokenizer):
    conf: DecoderFinetuningConf  # type: ignore[assignment]
    watch: tuple[str, ...] = ("train/loss", "val/latent_nmse")

    def __init__(self, stage: str, conf: DecoderFinetuningConf, parents: Parents, folder: Path) -> None:
        TrainingStage.__init__(self, stage, conf, parents, folder)
        self.collapsed = True  # or not: its codebook is not trained
        self.facts = parents["latents"].facts
        objective = parents["tokenizer"].facts.get("objective")  # a tokenizer of transformers has none
        if objective != "flow":
            raise UsageError(
                f"{stage}: the tokenizer {parents['tokenizer'].folder} has the objective {objective}, whose decoder has no "
                "velocity; one that stage tokenizer trained with flow.objective=flow is allowed: "
                "--parents.tokenizer=EXPERIMENT"
            )
        self.tokenizer = artifacts.load_tokenizer(parents["tokenizer"].artifact)
        mean, velocities = conf.flow.objective == "mean", copy.deepcopy(self.tokenizer)
        goes_on = self.source is not None and self.source.conf.flow.objective == "mean"
        if self.source is not None:
            _, state = artifacts.load(self.source.artifact)
            warm_start.load_weights(self.source.folder, self.tokenizer.decoder, state)
            if not goes_on:  # a decoder of velocities that was trained for longer
                velocities = copy.deepcopy(self.tokenizer)
        # in a list, which is none of the stage's modules: it is no part of its state
        self.before = [velocities] if mean else []
        freeze_codes(self.tokenizer, mean, knows_spans=goes_on)
        self.decoder_average = RunningAverage(self.tokenizer.decoder, conf.ema_decay)
        distributed.not_broadcast(self, "reservoir")
        self.latent_error = LatentError(load_file(parents["latents"].artifact / "statistics.safetensors")["std"])
        self.codebook_use = CodebookUse(self.tokenizer.quantizer.codebook_size, self.tokenizer.quantizer.levels)

    def prepare_data(self) -> None:
        """Nothing: no caption is read."""

    def on_fit_start(self) -> None:
        parts: list[Any] = [self.tokenizer.decoder, self.decoder_average.module]
        parts += [before.to(self.device).decoder for before in self.before]
        if devices.compiles(self.conf.compile, self.device):
            for part in parts:
                part.transformer.compile_blocks()

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        position = position_seed(self.conf.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.global_rank)
        generator = torch.Generator(device=self.device).manual_seed(position)
        loss = self._loss(batch, generator)
        self.log("train/loss", loss, batch_size=len(batch.ids))
        return loss * distributed.shares(loss.new_tensor([len(batch.ids)]))[0]

    def _loss(self, batch: LatentBatch, generator: torch.Generator) -> Tensor:
        flow, codes = self.conf.flow, self.tokenizer.encode(batch.latents, batch.num_frames)
        latents = self._latents(batch, generator)
        temperature = self.conf.sampling.temperature if flow.objective == "mean" else 1.0
        task = draw_task(self.tokenizer, latents, codes, batch.num_frames, batch.is_padded, generator, temperature)
        if flow.objective == "flow":
            return flow_loss(self.tokenizer, task, flow.token_dropout, flow.logit_normal_share, generator)
        average, (before,) = self.averaged(), self.before
        return mean_flow_loss(self.tokenizer, average, before, task, flow.guidance, flow.instant_share, generator)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        named = self.tokenizer.decoder.named_parameters()
        return optim.configure(named, self.conf.optimizer, self.conf.trainer.max_steps)

    def export(self, artifact: Path) -> Exported:
        artifacts.save(artifact, plain(self.conf), self.decoder_average.module.state_dict())
        facts = self.parents["tokenizer"].facts | {"sampling": plain(self.conf.sampling)}
        return Exported(facts, self.logged() | {"trained_on": self.parents["latents"].receipt["corpora"]})
