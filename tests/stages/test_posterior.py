"""The spread of a VAE's posterior: cached beside the mean, drawn from in training, nowhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import conf
from datamodules.latents import LatentBatch, collate_latents, latent_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.codec.oobleck import build
from stages.runs.identity import fingerprint
from stages.tokenizer import Tokenizer
from tests.datamodules.store.planned import planned_in


@pytest.fixture(scope="module")
def oobleck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny stereo Oobleck of hop 512 at 8 kHz, as a folder."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("oobleck")
    build(
        encoder_hidden_size=16, downsampling_ratios=[8, 8, 8], channel_multiples=[1, 1, 1], decoder_channels=4,
        decoder_input_channels=8, audio_channels=2, sampling_rate=8000,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_oobleck_through_latents_and_tokenizer(stage, tones: Path, oobleck: Path, monkeypatch: pytest.MonkeyPatch):
    words = ["--experiment=spread", "--codec.kind=oobleck", f"--codec.source={oobleck}", "--codec.subfolder=null"]
    assert stage("run", "latents", *words) == 0
    cuts = chunks.read(tones / "runs/spread/latents/chunks")
    for cut in cuts:
        std = chunks.load_rows(cut.custom["std"], cut.custom["offset"], cut.custom["length"])
        assert std.shape == chunks.load_array(cut).shape and (std > 0).all()

    seen: list[LatentBatch] = []
    trained: list[torch.Tensor] = []
    step = Tokenizer.training_step

    def spy(module: Any, batch: LatentBatch, batch_idx: int) -> torch.Tensor:
        seen.append(batch)
        loss = module.tokenizer.training_loss
        module.tokenizer.training_loss = lambda latents, *rest: (trained.append(latents), loss(latents, *rest))[1]
        try:
            return step(module, batch, batch_idx)
        finally:
            del module.tokenizer.training_loss

    monkeypatch.setattr(Tokenizer, "training_step", spy)
    assert stage("run", "tokenizer", "--experiment=spread") == 0
    assert stage("run", "tokenizer", "--experiment=mean", "--parents.latents=spread", "--sample_posterior=false") == 0
    drawn, mean = (slice(0, len(seen) // 2), slice(len(seen) // 2, None))
    for batch, latents in zip(seen[mean], trained[mean], strict=True):
        assert torch.equal(latents, batch.latents)
    noises = []
    for batch, latents in zip(seen[drawn], trained[drawn], strict=True):
        assert batch.std is not None
        valid = batch.std > 0
        assert torch.equal(latents[~valid], batch.latents[~valid]), "padding stays padding"
        noises.append((latents - batch.latents)[valid] / batch.std[valid])
    noise = torch.cat(noises)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert not torch.equal(noises[0], noises[1]), "each step draws anew"


def test_the_mel_codec_has_no_spread_and_nothing_is_drawn(stage, tones: Path, whole: Path):
    folder = whole / "latents/chunks"
    assert not list(folder.glob("*/std.npy"))
    cuts = chunks.read(folder)
    batch = collate_latents([window for cut in cuts[:3] for window in latent_windows(cut, WindowRule(20))])
    assert batch.std is None and batch.latents.dtype == torch.float32
    hashes = []
    for value in ("true", "false"):
        words = [f"--experiment=plain-{value}", "--parents.latents=whole", f"--sample_posterior={value}"]
        assert stage("run", "tokenizer", *words) == 0
        state = tones / f"runs/plain-{value}/tokenizer/artifact/model.safetensors"
        hashes.append(state.read_bytes())
    assert hashes[0] == hashes[1]


def test_the_paper_trains_on_draws():
    assert conf.compose("tokenizer").conf.sample_posterior is True
    assert fingerprint(conf.compose("tokenizer").conf) != fingerprint(
        conf.compose("tokenizer", overrides=["sample_posterior=false"]).conf
    )


def test_windows_keep_mean_and_spread_together(tmp_path: Path):
    from lhotse import MonoCut

    cut = MonoCut("mine-0", 0, 1.0, 0, custom={"split": "train", "corpus": "mine"})
    planned = planned_in(tmp_path, [cut], 4)
    values = np.arange(14, dtype=np.float32).reshape(7, 2)
    writer = chunks.ChunkWriter(tmp_path, planned[0])
    writer.add_array("mine-0", values, values / 4)
    writer.finish()
    batch = collate_latents(latent_windows(chunks.read(tmp_path)[0], WindowRule(3)))
    assert batch.std is not None and batch.num_frames.tolist() == [3, 3, 1]
    assert torch.equal(batch.std, batch.latents / 4)
    assert torch.equal(batch.latents.flatten()[:14], torch.from_numpy(values).flatten())
