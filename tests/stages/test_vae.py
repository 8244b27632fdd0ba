"""A VAE of one's own: it learns, goes on exactly, and feeds the stages after it; and no other chain knows of it."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderOobleck
from safetensors.torch import load_file

from conf import from_plain
from conf.sections.codec import VaeLossConf
from datamodules.store import chunks
from stages.runs import receipts
from stages.runs.state import state_of

WEIGHTS = "artifact/diffusion_pytorch_model.safetensors"
# Cheap steps: hop 64 at 8 kHz, 0.26 s crops, and a discriminator of one small scale.
LEARN = (
    "--trainer.max_steps=200", "--trainer.val_check_interval=200", "--trainer.limit_val_batches=4",
    "--checkpoints.every_n_steps=200", "--optimizer.warmup_steps=10", "--discriminator_warmup=100",
    "--codec.oobleck.downsampling_ratios=[4,4,4]",
)  # fmt: skip


def receipt(folder: Path) -> dict:
    receipt = receipts.read(folder)
    assert receipt is not None
    return receipt


@pytest.mark.slow
def test_it_learns(stage, tones: Path, capsys: pytest.CaptureFixture[str]):
    assert stage("run", "vae", "--experiment=learns", *LEARN) == 0
    printed = capsys.readouterr().err
    run = tones / "runs/learns"
    metrics = receipt(run / "vae")["metrics"]
    assert metrics["mel_distance"] < metrics["untrained_mel_distance"] / 2, metrics
    assert metrics["stft_distance"] < metrics["untrained_stft_distance"]
    message = re.search(r"held-out mel distance: ([\d.]+) untrained, ([\d.]+) trained", printed)
    assert message and float(message[2]) == pytest.approx(metrics["mel_distance"], abs=1e-3)
    assert re.search(r"\d+ of 24 recordings are shorter", printed) is None, "the shortest has 0.7 s"
    assert AutoencoderOobleck.from_pretrained(run / "vae/artifact").hop_length == 64


@pytest.fixture(scope="session")
def smoke(tones: Path):
    """A smoke VAE, trained without a break."""
    import os

    from stages.cli.main import main
    from tests.conftest import SMOKE

    before = Path.cwd()
    os.chdir(tones)
    try:
        assert main(["run", "vae", "--experiment=vae-whole", *SMOKE]) == 0
    finally:
        os.chdir(before)
    return tones / "runs/vae-whole/vae"


def test_the_stages_after_it_run_on_it(stage, tones: Path, smoke: Path):
    run = tones / "runs/own"
    shutil.copytree(smoke, run / "vae")
    for name, words in {"latents": ["--codec.kind=trained"], "tokenizer": []}.items():
        assert stage("run", name, "--experiment=own", *words) == 0
    made, used = receipt(run / "vae"), receipt(run / "latents")
    assert made["steps"] == 12, "the discriminator's steps are not counted"
    assert used["parents"] == {"vae": made["artifact_hash"]}
    assert used["facts"]["hop_length"] == 256 and used["facts"]["latent_dim"] == 8
    assert receipt(run / "tokenizer")["ancestors"]["vae"] == made["artifact_hash"]
    assert "std" in chunks.read(run / "latents/chunks")[0].custom
    kept = load_file(run / "latents/artifact/codec/vae/diffusion_pytorch_model.safetensors")
    trained = load_file(run / "vae" / WEIGHTS)
    assert all(kept[name].equal(value) for name, value in trained.items()), "latents carries the VAE with it"

    assert stage("run", "vae", "--experiment=own", "--restart", "--seed=1", "--trainer.max_steps=2") == 0
    assert state_of("latents", from_plain("latents", used["conf"])).detail == "its parent vae changed"


def test_one_that_is_there_is_fine_tuned(stage, tones: Path, smoke: Path):
    """It begins where the other ended, whatever the sizes in the configuration."""
    words = [f"--codec.source={smoke / 'artifact'}", "--codec.oobleck.decoder_channels=4", "--trainer.max_steps=2"]
    assert stage("run", "vae", "--experiment=vae-tuned", *words) == 0
    before, after = receipt(smoke)["metrics"], receipt(tones / "runs/vae-tuned/vae")["metrics"]
    assert after["untrained_mel_distance"] == pytest.approx(before["mel_distance"], rel=1e-5)


def test_the_running_average_is_what_is_exported(smoke: Path):
    state = torch.load(max((smoke / "checkpoints").glob("*.ckpt")), weights_only=True)["state_dict"]
    exported = load_file(smoke / WEIGHTS)
    assert all(torch.equal(state[f"average.module.{name}"], value) for name, value in exported.items())
    assert not all(torch.equal(state[f"vae.{name}"], value) for name, value in exported.items())


def test_another_experiments_vae_is_a_parent(stage, tones: Path, smoke: Path):
    words = ["--experiment=borrowed", "--codec.kind=trained", "--parents.vae=vae-whole"]
    assert stage("run", "latents", *words) == 0
    assert receipt(tones / "runs/borrowed/latents")["parents"] == {"vae": receipt(smoke)["artifact_hash"]}


def test_without_one_latents_names_the_command(stage, capsys: pytest.CaptureFixture[str]):
    assert stage("run", "latents", "--experiment=none", "--codec.kind=trained") == 1
    assert re.search(
        r"latents needs vae.*\n.*stage run vae --preset smoke --experiment=none --data.*\n.*--parents\.vae=",
        capsys.readouterr().err,
    )


def test_a_vae_that_lies_there_is_nothing_to_another_codec(stage, tones: Path, smoke: Path, capsys):
    assert stage("run", "latents", "--experiment=vae-whole") == 0
    assert receipt(tones / "runs/vae-whole/latents")["parents"] == {}
    capsys.readouterr()
    assert stage("status") == 0
    assert "not needed: codec.kind is mel" in capsys.readouterr().out


def test_run_all_trains_one_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, stage):
    from stages.cli import run as verb

    ran: list[str] = []
    monkeypatch.setattr(verb, "_run_stage", lambda name, *rest: ran.append(name))
    assert stage("run", "all", "--experiment=asked") == 0 and "vae" not in ran and ran[0] == "latents"
    ran.clear()
    assert stage("run", "all", "--experiment=asked", "--codec.kind=trained") == 0 and ran[:2] == ["vae", "latents"]
    ran.clear()
    words = ["--codec.kind=trained", "--parents.vae=vae-whole"]
    assert stage("run", "all", "--experiment=asked", *words) == 0 and "vae" not in ran


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--crop_samples=1000", r"crop_samples 1000 is no multiple of the model's hop 256: --crop_samples=1024"),
        ("--codec.oobleck.encoder_hidden_size=12", r"12 is not 2 x decoder_input_channels = 16"),
        ("--codec.oobleck.channel_multiples=[1]", r"one is given for each of downsampling_ratios"),
        ("--codec.source=nowhere/at/all", r"no Oobleck VAE at 'nowhere/at/all'"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(stage, tones: Path, capsys, override: str, message: str):
    assert stage("run", "vae", "--experiment=mistake", override) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tones / "runs/mistake").exists()


def test_the_published_values():
    import conf

    values = conf.compose("vae").conf
    assert values.codec.oobleck.downsampling_ratios == [2, 4, 4, 8, 8]
    assert values.crop_samples % 2048 == 0
    assert values.weights == VaeLossConf(spectral=1.0, adversarial=0.1, feature_matching=5.0, kl=1e-4)
