"""Stage `vae`: an Oobleck of one's own, from scratch or fine-tuned, as Stable Audio 2 trains its VAE.

Spectral loss on the sound, a light KL on the posterior, and a discriminator that learns beside it (Evans et al. 2024,
arXiv:2407.14358). Two optimizers, both stepped on every batch; a step of the VAE is a step of the Trainer.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from callbacks.samples import VaeSamples
from callbacks.step_seed import position_seed
from conf import plain
from conf.errors import UsageError
from conf.sections.codec import VaeConf
from datamodules.crops import CropBatch, CropDataModule
from models.codec import oobleck
from models.codec.discriminator import Discriminator, adversarial_loss, discriminator_loss, feature_matching_loss
from models.codec.spectral_loss import SpectralLoss
from models.metrics.reconstruction import MelDistance, MultiResolutionStftDistance
from models.running_average import RunningAverage
from stages.base import Exported, Parents, TrainingStage
from stages.engine import optim, warm_start
from stages.runs import corpora

log = logging.getLogger(__name__)


class Vae(TrainingStage):
    conf: VaeConf
    untrained: Tensor
    watch = ("train/spectral", "val/mel_distance")
    strategy = (
        "ddp_find_unused_parameters_true"  # each of the two backward passes of a step reaches one of the two models
    )

    def __init__(self, stage: str, conf: VaeConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.automatic_optimization = False
        self.store, self.roots = folder / "cuts", corpora.roots(conf.data)
        self.check_corpora(corpora.hashes(conf.data))
        codec = conf.codec
        if self.source:
            self.vae = oobleck.load(str(self.source.artifact), None, None)
            sizes = plain(codec.oobleck)
            theirs = {f"codec.oobleck.{key}": getattr(self.vae.config, key) for key in sizes}
            warm_start.check_same(
                self.source.folder, theirs, {f"codec.oobleck.{key}": one for key, one in sizes.items()}
            )
        elif codec.source is None:
            self.vae = oobleck.build(**plain(codec.oobleck))
        else:
            self.vae = oobleck.load(codec.source, codec.subfolder, codec.revision)
        self.sample_rate, self.channels = self.vae.config.sampling_rate, self.vae.config.audio_channels
        if conf.crop_samples % self.vae.hop_length:
            near = max(1, round(conf.crop_samples / self.vae.hop_length)) * self.vae.hop_length
            raise UsageError(
                f"crop_samples {conf.crop_samples} is no multiple of the model's hop {self.vae.hop_length}: "
                f"--crop_samples={near} is allowed"
            )
        # of encoder and decoder, as stable-audio-tools: what is validated, heard and exported
        self.average = RunningAverage(self.vae, conf.ema_decay, oobleck.copy_of(self.vae))
        self.spectral = SpectralLoss(self.sample_rate, self.channels, **plain(conf.spectral))
        self.discriminator = Discriminator(self.channels, **plain(conf.discriminator))
        self.validation_distance = MelDistance(self.sample_rate)
        self.flops_per_crop = 0
        self.register_buffer("untrained", torch.full((2,), float("nan")))  # held-out distances before the first step

    def datamodule(self) -> CropDataModule:
        self.data = CropDataModule(
            self.store,
            self.roots,
            self.sample_rate,
            self.channels,
            self.conf.crop_samples,
            batch_size=self.conf.batch_size,
            seed=self.conf.seed,
            num_workers=self.conf.data.num_workers,
        )
        return self.data

    def prepare_data(self) -> None:
        """On rank 0."""
        self.write_manifest()

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.global_rank == 0 and (short := self.data.count_short()):
            text = "vae: %d recordings are shorter than a crop of %.2f s: silence follows"
            log.warning(text, short, self.data.crop_seconds)

    def callbacks(self) -> list[Callback]:
        return [VaeSamples(self.conf.sample_clips, self.sample_rate)]

    def on_train_start(self) -> None:
        if self.trainer.global_step == 0:
            self.untrained.copy_(self.held_out())

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        optimizer, discriminator_optimizer = optimizers
        position = position_seed(self.conf.seed, self.trainer.fit_loop.epoch_loop.total_batch_idx, self.global_rank)
        generator = torch.Generator(device=self.device).manual_seed(position)
        posterior = self.vae.encode(batch.waveform).latent_dist
        decoded = self.vae.decode(posterior.sample(generator)).sample
        waveform = batch.waveform[..., : decoded.shape[-1]]  # odd strides end a few samples early

        real, made = self.discriminator(waveform), self.discriminator(decoded.detach())
        judged = discriminator_loss(real, made)
        discriminator_optimizer.zero_grad()
        self.manual_backward(judged)
        # the Trainer counts optimizer steps: only the VAE's are steps
        discriminator_optimizer._on_before_step = discriminator_optimizer._on_after_step = lambda: None
        discriminator_optimizer.step()

        losses = {"spectral": self.spectral(decoded, waveform), "kl": posterior.kl()}
        if self.trainer.global_step >= self.conf.discriminator_warmup:
            self.discriminator.requires_grad_(False)
            with torch.no_grad():
                real = self.discriminator(waveform)
            made = self.discriminator(decoded)
            self.discriminator.requires_grad_(True)
            losses["adversarial"] = adversarial_loss(made)
            losses["feature_matching"] = feature_matching_loss(real, made)
        loss = torch.stack([getattr(self.conf.weights, name) * value for name, value in losses.items()]).sum()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.average.update(self.vae)
        for schedule in self.lr_schedulers():  # type: ignore[union-attr]
            schedule.step()
        for name, value in {**losses, "loss": loss, "discriminator": judged}.items():
            self.log(f"train/{name}", value.detach(), batch_size=len(batch.ids))

    def counted(self, batch: CropBatch) -> dict[str, float]:
        """For the log of the throughput. Operations: of a crop forward, counted once; backward they are twice as many."""
        if not self.flops_per_crop:
            crop = batch.waveform[:1]
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                self.reconstruct(crop)
                through_vae = counter.get_total_flops()
                self.discriminator(crop)
                judged = counter.get_total_flops() - through_vae
            self.flops_per_crop = 3 * through_vae + 10 * judged  # it sees four sounds, three of them backward too
        crops, seconds = len(batch.ids), self.conf.crop_samples / self.sample_rate
        return {"seconds_of_sound": crops * seconds, "flops": float(crops * self.flops_per_crop)}

    def validation_step(self, batch: CropBatch, batch_idx: int) -> None:
        self.log("val/items", float(len(batch.ids)), batch_size=1, reduce_fx="sum", sync_dist=True)
        self.validation_distance.update(self.reconstruct(batch.waveform), batch.waveform)

    def on_validation_epoch_end(self) -> None:
        self.log("val/mel_distance", self.validation_distance.compute().float())
        self.validation_distance.reset()

    @torch.no_grad()
    def reconstruct(self, waveform: Tensor) -> Tensor:
        """waveform (B, C, T) -> the same shape, through the averaged model and the posterior's mean."""
        averaged: Any = self.average.module
        decoded = averaged.decode(averaged.encode(waveform).latent_dist.mode()).sample
        return torch.nn.functional.pad(decoded, (0, waveform.shape[-1] - decoded.shape[-1]))

    def held_out(self) -> Tensor:
        """(mel distance, multi-resolution STFT distance) of the held-out crops, in this process alone; NaN without any."""
        distances = [
            MelDistance(self.sample_rate, sync_on_compute=False).to(self.device),
            MultiResolutionStftDistance(sync_on_compute=False).to(self.device),
        ]
        for batch in self.data.validation_batches(self.conf.trainer.limit_val_batches):
            waveform = batch.waveform.to(self.device)
            for distance in distances:
                distance.update(self.reconstruct(waveform), waveform)
        values = [
            distance.compute().float() if distance.update_called else torch.tensor(float("nan"))
            for distance in distances
        ]
        return torch.stack([value.to(self.device) for value in values])

    def configure_optimizers(self) -> Any:
        steps = self.conf.trainer.max_steps
        pairs = ((self.vae, self.conf.optimizer), (self.discriminator, self.conf.discriminator_optimizer))
        return [optim.configure(model.named_parameters(), optimizer, steps) for model, optimizer in pairs]

    def export(self, artifact: Path) -> Exported:
        self.to(self.trainer.strategy.root_device)
        before, after = self.untrained.tolist(), self.held_out().tolist()
        averaged: Any = self.average.module
        averaged.cpu().save_pretrained(artifact)
        if self.data.validation_cuts:
            log.info("vae            held-out mel distance: %.4f untrained, %.4f trained", before[0], after[0])
        else:
            log.warning(
                "vae            no recording of %s is held out for validation, so no distance was measured. Prepare the "
                "corpus with --validation_fraction=0.1",
                ", ".join(self.conf.data.corpora),
            )
        facts = {
            "sample_rate": self.sample_rate,
            "hop_length": self.vae.hop_length,
            "channels": self.channels,
            "latent_dim": self.vae.config.decoder_input_channels,
            "frame_rate": self.sample_rate / self.vae.hop_length,
        }
        metrics = self.logged()
        metrics |= {"untrained_mel_distance": before[0], "mel_distance": after[0]}
        metrics |= {"untrained_stft_distance": before[1], "stft_distance": after[1]}
        return Exported(facts, metrics)
