"""Stages `tokenizer` and `tokenizer_mse`: encoder, codebook and decoder on cached latents.

One class for both: the paper's flow-matching tokenizer and its VQ-MSE baseline differ in `flow.objective` alone.
"""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from safetensors.torch import load_file
from torch import Tensor

from callbacks.samples import TokenizerSamples
from callbacks.step_seed import position_seed
from conf import from_plain, plain
from conf.sections.tokenizer import TokenizerConf
from datamodules.hashing import hash_folder
from datamodules.latents import LatentBatch, LatentDataModule
from datamodules.store.manifest import Manifest
from datamodules.windows import WindowRule
from models.metrics.codebook_use import CodebookUse
from models.metrics.reconstruction import LatentError
from models.running_average import RunningAverage
from models.tokenizer.tokenizer import Codes
from stages.base import Exported, Parents, TrainingStage
from stages.engine import devices, distributed, optim, warm_start
from stages.engine.language_losses import LanguageLosses, WeightedLoss, is_on, logged
from stages.hub import artifacts, caption_features
from stages.hub.sound_tokenizer import parent_of
from stages.runs.receipts import FinishedRun

log = logging.getLogger(__name__)
GAP_TIMES = (0.1, 0.5, 0.9)
# must be as they were where another run's weights are started from
SAME_FACTS = (
    "sample_rate", "hop_length", "channels", "latent_dim", "frame_rate", "token_rate", "codebook_size", "num_codebooks",
    "levels", "objective",
)  # fmt: skip
SAME_QUANTIZER = ("kind", "code_dim", "variational", "strides", "levels", "words", "words_from")
COLLAPSED = 0.005  # share of the codebook below which a perplexity is a collapse


class Tokenizer(TrainingStage):
    conf: TokenizerConf
    watch: tuple[str, ...] = ("train/loss", "val/latent_nmse", "val/codebook_perplexity")

    def __init__(self, stage: str, conf: TokenizerConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.collapsed = False
        self.facts = parents["latents"].facts
        statistics = load_file(parents["latents"].artifact / "statistics.safetensors")
        self.tokenizer = artifacts.build_tokenizer(conf, self.facts)
        self.tokenizer.set_latent_statistics(statistics["mean"], statistics["std"])
        if self.source:
            self._start_from(self.source)
        self.decoder_average = RunningAverage(self.tokenizer.decoder, conf.ema_decay)
        losses = conf.language_losses
        self.language_losses = LanguageLosses(losses, self.tokenizer) if is_on(losses) else None
        distributed.not_broadcast(self, "reservoir")  # 10 MB at the paper's sizes, and gathered alike on all ranks
        self.latent_error = LatentError(statistics["std"])
        self.codebook_use = CodebookUse(self.tokenizer.quantizer.codebook_size, self.tokenizer.quantizer.levels)

    def _start_from(self, source: FinishedRun) -> None:
        """Its weights, codebook and latent statistics, and its averaged decoder as both; what counts steps begins anew."""
        config, state = artifacts.load(source.artifact)
        theirs = from_plain("tokenizer", config["conf"])
        warm_start.check_same(source.folder, source.facts, self._described(), SAME_FACTS)
        for section in ("encoder", "decoder", "quantizer"):
            before, now = (plain(getattr(one, section)) for one in (theirs, self.conf))
            if section == "quantizer":
                before, now = ({key: one[key] for key in SAME_QUANTIZER} for one in (before, now))
            named = ({f"{section}.{key}": value for key, value in one.items()} for one in (before, now))
            warm_start.check_same(source.folder, *named)
        if source.receipt["parents"]["latents"] != self.parents["latents"].receipt["artifact_hash"]:
            codecs = [
                hash_folder(folder / "artifact" / "codec")
                for folder in (parent_of(source.folder, source.receipt, "latents"), self.parents["latents"].folder)
            ]
            warm_start.check_same(source.folder, *({"codec": digest[:12]} for digest in codecs))
        warm_start.load_weights(source.folder, self.tokenizer, state, counters=(".step",))

    def prepare_data(self) -> None:
        """On rank 0."""
        losses = self.conf.language_losses
        if losses.semantic:
            manifest = Manifest(self.parents["latents"].folder / "chunks")
            device = self.trainer.strategy.root_device
            caption_features.write(self.folder / "captions", manifest, losses.texts_from, losses.layer, device)

    def datamodule(self) -> LatentDataModule:
        return LatentDataModule(
            self.parents["latents"].folder / "chunks",
            rule=WindowRule.from_facts(self.facts),
            batch_size=self.conf.batch_size,
            seed=self.conf.seed,
            num_workers=self.conf.data.num_workers,
            weights=self.conf.corpus_weights,
        )

    def callbacks(self) -> list[Callback]:
        return [
            TokenizerSamples(
                artifacts.load_codec(self.parents["latents"].artifact / "codec"),
                self.conf.sample_clips,
                self.facts["sample_rate"],
            )
        ]

    def on_fit_start(self) -> None:
        if self.language_losses is not None and self.conf.language_losses.semantic:
            self.language_losses.open(self.folder / "captions")
        if devices.compiles(self.conf.compile, self.device):
            for part in (self.tokenizer.encoder, self.tokenizer.decoder, self.decoder_average.module):
                part.transformer.compile_blocks()  # type: ignore[union-attr,operator]

    def training_step(self, batch: LatentBatch, batch_idx: int) -> Tensor:
        position = position_seed(self.conf.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.global_rank)
        generator = torch.Generator(device=self.device).manual_seed(position)
        latents = self._latents(batch, generator)
        losses = self.tokenizer.training_loss(latents, batch.num_frames, generator, batch.is_padded)
        for name in ("loss", "reconstruction", "prior", "commitment"):
            self.log(f"train/{name}", getattr(losses, name), batch_size=len(batch.ids))
        added: list[WeightedLoss] = []
        if self.language_losses is not None:
            added = self.language_losses(batch, latents, self.tokenizer, losses, position)
            for name, value in logged(added, self.conf.language_losses).items():
                self.log(f"train/{name}", value, batch_size=len(batch.ids))
        if self.trainer.world_size == 1:
            return losses.loss + sum(one.loss for one in added)
        weights = torch.stack([batch.num_frames.sum(), losses.code_mask.sum(), *(one.items for one in added)]).float()
        frames, codes, *others = distributed.shares(weights)
        described = losses.reconstruction + self.conf.flow.prior_weight * losses.prior
        total = frames * described + codes * losses.commitment
        return total + sum(share * one.loss for share, one in zip(others, added, strict=True))

    def _latents(self, batch: LatentBatch, generator: torch.Generator) -> Tensor:
        """(B, F, D): the posterior's mean, or draws from it where it has a spread and they are asked for."""
        if not self.conf.sample_posterior or batch.std is None:
            return batch.latents
        return batch.latents + batch.std * torch.randn(batch.std.shape, generator=generator, device=self.device)

    @property
    def codes_per_second(self) -> float:
        return self.tokenizer.bitrate / math.log2(self.codebook_use.codebook_size)

    def counted(self, batch: LatentBatch) -> dict[str, Tensor | float]:
        """For the log of the throughput. Operations without attention, and as if each token were a frame."""
        flops = (
            6.0 * sum(parameter.numel() for parameter in self.tokenizer.parameters()) * batch.latents[..., 0].numel()
        )
        seconds = batch.num_frames.sum() / self.facts["frame_rate"]
        return {"seconds_of_sound": seconds, "tokens": seconds * self.codes_per_second, "flops": flops}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The step, and the decoder's running average after it: before validation, and before a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        self.decoder_average.update(self.tokenizer.decoder)

    def validation_step(self, batch: LatentBatch, batch_idx: int) -> None:
        self.log("val/items", float(len(batch.ids)), batch_size=1, reduce_fx="sum", sync_dist=True)
        codes = self.tokenizer.encode(batch.latents, batch.num_frames)
        position = batch_idx * self.trainer.world_size + self.global_rank  # among the batches of all ranks
        self.latent_error.update(self._decoded(batch, codes, position), batch.latents, batch.num_frames)
        valid = torch.arange(codes.codes.shape[1], device=self.device) < codes.num_codes[:, None]
        self.codebook_use.update(codes.codes, valid)
        noise, clips = self._noise(batch, position), len(batch.ids)
        for time, sums in zip(GAP_TIMES, self.token_gaps, strict=True):
            if clips > 1:  # of a single clip there is none
                gap = self.averaged().token_gap(batch.latents, batch.num_frames, codes, time, noise)
                sums += torch.stack([clips * gap.double(), gap.new_tensor(clips).double()])

    def on_validation_epoch_start(self) -> None:
        self.token_gaps = torch.zeros(len(GAP_TIMES), 2, dtype=torch.float64, device=self.device)

    def on_validation_epoch_end(self) -> None:
        for time, (total, clips) in zip(
            GAP_TIMES, self.trainer.strategy.reduce(self.token_gaps, reduce_op="sum"), strict=True
        ):
            if clips:
                self.log(f"val/token_gap_{time:g}", (total / clips).float())
        self.log("val/latent_nmse", self.latent_error.compute().float())
        use = self.codebook_use.compute()
        for name, value in use.items():
            self.log(f"val/{name}", value.float())
        self.log("val/entropy_kbps", use["codebook_bits"].float() * self.codes_per_second / 1000)
        self.log("val/nominal_kbps", self.tokenizer.bitrate / 1000)
        self._warn_of_collapse(float(use["codebook_perplexity"]))
        self.latent_error.reset()
        self.codebook_use.reset()

    def _warn_of_collapse(self, perplexity: float) -> None:
        """Says once, in one line, that nearly all sounds have the same code."""
        size = self.codebook_use.codebook_size
        if self.collapsed or not self.tokenizer.quantizer.started or perplexity >= max(1.5, COLLAPSED * size):
            return
        self.collapsed = True
        if self.trainer.is_global_zero:
            log.warning(
                "%s: the codebook has collapsed at step %d: perplexity %.1f of %d codes. Lower optimizer.learning_rate, "
                "raise flow.prior_weight, or revive longer (quantizer.revive_until)",
                self.stage, self.trainer.global_step, perplexity, size,
            )  # fmt: skip

    def decode(self, batch: LatentBatch, seed: int) -> Tensor:
        """Latents (B, F, D) after encoder, codes and the averaged decoder, with the configured sampler."""
        return self._decoded(batch, self.tokenizer.encode(batch.latents, batch.num_frames), seed)

    def _decoded(self, batch: LatentBatch, codes: Codes, seed: int) -> Tensor:
        noise = self._noise(batch, seed)
        return self.averaged().decode(*codes, batch.num_frames, noise=noise, **plain(self.conf.sampling))

    def _noise(self, batch: LatentBatch, seed: int) -> Tensor:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        return torch.randn(batch.latents.shape, generator=generator, device=self.device)

    def averaged(self) -> Any:
        """The tokenizer with its averaged decoder; shares encoder and quantiser with the live one."""
        tokenizer = copy.copy(self.tokenizer)
        tokenizer._modules = {**self.tokenizer._modules, "decoder": self.decoder_average.module}
        return tokenizer.eval() if not self.training else tokenizer

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trained = [*self.tokenizer.named_parameters()]
        if self.language_losses is not None:
            trained += self.language_losses.named_parameters()
        return optim.configure(trained, self.conf.optimizer, self.conf.trainer.max_steps)

    def export(self, artifact: Path) -> Exported:
        self.tokenizer.decoder.load_state_dict(self.decoder_average.module.state_dict())
        facts = self._described() | {"sampling": plain(self.conf.sampling)}
        artifacts.save_tokenizer(artifact, self.conf, self.facts, self.tokenizer)
        return Exported(facts, self.logged() | {"trained_on": self.parents["latents"].receipt["corpora"]})

    def _described(self) -> dict[str, Any]:
        """The facts that the tokenizer's form decides."""
        quantizer = self.tokenizer.quantizer
        return self.facts | {
            "codebook_size": quantizer.codebook_size,
            "num_codebooks": quantizer.num_codebooks,
            "levels": list(quantizer.levels),
            "token_rate": float(self.tokenizer.grid.token_rate),
            "bitrate": float(self.tokenizer.bitrate),
            "objective": self.conf.flow.objective,
        }
