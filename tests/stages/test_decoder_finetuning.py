"""The stage `decoder_finetuning`: it decodes in the tokenizer's place, by one command or two, and no code changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datamodules.store import chunks
from models.tokenizer.decoder_finetuning import DecoderTask, draw_task
from stages.hub import artifacts
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import receipts


@pytest.fixture(scope="module")
def temperatures() -> Iterator[list[float]]:
    """Those of the noise that decoders were trained from, one a batch."""
    drawn: list[float] = []

    def recorded(*arguments: Any) -> DecoderTask:
        drawn.append(arguments[-1])
        return draw_task(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.decoder_finetuning.draw_task", recorded)
        yield drawn


@pytest.fixture(scope="module")
def experiment(copy_of_whole, tones: Path, temperatures: list[float]) -> Path:
    """An experiment whose decoder was fine-tuned, to mean velocities."""
    from stages.cli.main import main
    from tests.conftest import SMOKE

    folder = copy_of_whole("further", "latents", "tokenizer", "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tones)
        assert main(["run", "decoder_finetuning", "--experiment=further", *SMOKE, "--sampling.temperature=0.8"]) == 0
    assert set(temperatures) == {0.8}  # what it will be sampled at
    temperatures.clear()
    return folder


def test_codes_stay_what_they_are_and_the_decoder_does_not(experiment: Path):
    """Bit for bit: of the cache, through the tokenizer alone and through the one with the new decoder."""
    before, after = (
        SoundTokenizer.from_runs(experiment / "tokenizer", one) for one in (None, experiment / "decoder_finetuning")
    )
    assert before.hash == after.hash == receipts.read(experiment / "tokenizer")["artifact_hash"]  # type: ignore[index]
    sound = [
        0.3 * torch.randn(1, 44100 * seconds, generator=torch.Generator().manual_seed(seconds)) for seconds in (1, 7)
    ]
    codes = before.encode(sound, 44100)
    assert after.encode(sound, 44100) == codes
    for name, value in before.tokenizer.state_dict().items():
        same = torch.equal(value, after.tokenizer.state_dict()[name])
        assert same or name.startswith("decoder."), name
    assert not torch.equal(before.tokenizer.decoder.output.weight, after.tokenizer.decoder.output.weight)
    assert set(load_file(experiment / "decoder_finetuning/artifact/model.safetensors")) == set(
        before.tokenizer.decoder.state_dict()
    )
    cut = chunks.read(experiment / "cache/chunks")[0]
    assert cut.custom["codes"]


def test_it_decodes_where_it_is_available_in_as_many_steps_as_it_was_trained_for(
    experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        found = SoundTokenizer.from_pretrained(experiment / "tokenizer")
    assert "further/decoder_finetuning, in 1 steps" in caplog.text
    assert found.tokenizer.mean_velocity and found.facts["sampling"]["num_steps"] == 1
    codes = found.encode([torch.randn(1, 44100)], 44100)
    expected = found.decode(codes)[0]
    assert torch.equal(SoundTokenizer.from_pretrained(experiment / "decoder_finetuning").decode(codes)[0], expected)
    found.save_pretrained(tmp_path / "saved")
    assert torch.equal(SoundTokenizer.from_pretrained(tmp_path / "saved").decode(codes)[0], expected)
    alone = SoundTokenizer.from_runs(experiment / "tokenizer", None)
    assert not alone.tokenizer.mean_velocity and not torch.equal(alone.decode(codes, num_steps=1)[0], expected)


def test_the_table_has_it_beside_the_decoder_as_it_was(experiment: Path, stage):
    assert stage("run", "reconstruct", "--experiment=further") == 0
    report = json.loads((experiment / "reconstruct/artifact/report.json").read_text())
    assert {row["decoder"] for row in report["rows"]} >= {"flow matching", "fine-tuned"}
    assert set(report["codebook"]) == {"flow matching"}  # one codebook
    receipt = receipts.read(experiment / "reconstruct")
    assert (
        receipt
        and receipt["parents"]["decoder_finetuning"]
        == receipts.read(experiment / "decoder_finetuning")["artifact_hash"]
    )  # type: ignore[index]


def test_it_goes_on_as_it_began_with_the_tokenizers_own_objective(experiment: Path, stage, temperatures: list[float]):
    """Weights that were trained begin from the tokenizer's: two small steps leave them near. The temperature is of sampling
    alone: from other noise flow matching would learn another flow.
    """
    words = [
        "--flow.objective=flow",
        "--sampling.temperature=0.8",
        "--trainer.max_steps=2",
        "--optimizer.learning_rate=1e-5",
        "--optimizer.final_learning_rate=1e-6",
    ]
    assert (
        stage(
            "run",
            "decoder_finetuning",
            "--experiment=longer",
            "--parents.latents=further",
            "--parents.tokenizer=further",
            *words,
        )
        == 0
    )
    assert set(temperatures) == {1.0}
    longer = artifacts.load_tokenizer(
        experiment / "tokenizer/artifact", experiment.parent / "longer/decoder_finetuning/artifact"
    )
    weight = longer.decoder.input.weight
    start = artifacts.load_tokenizer(experiment / "tokenizer/artifact").decoder.input.weight
    assert not longer.mean_velocity and 0 < (weight - start).norm() < 0.01 * start.norm()


def test_a_tokenizer_that_learnt_another_way_is_refused(stage, capsys: pytest.CaptureFixture[str]):
    assert (
        stage("run", "decoder_finetuning", "--experiment=refused", "--parents.latents=whole", "--sampling.guidance=2")
        == 1
    )
    assert "--flow.guidance=2.0 --sampling.guidance=1" in capsys.readouterr().err
