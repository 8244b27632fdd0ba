"""What a run needs is known before it starts: base presets fit an 80 GB card, and what does not fit is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import conf
from conf.errors import UsageError
from stages.engine import devices
from stages.launch import plan
from stages.launch.gpus import GPUS, USABLE

H100 = GPUS["h100"]
LANGUAGE = [name for name in conf.presets() if "openaqa" in conf.units_of(name)]
TOKENIZER = [name for name in conf.presets() if "tokenizer" in conf.units_of(name)]


def planned(stage: str, presets: tuple[str, ...] = (), *typed: str) -> plan.StagePlan:
    made = plan.plan(stage, conf.compose(stage, presets, overrides=list(typed)).conf, plan.Corpus(1e4, 1e5, False))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("stage", "preset"),
    [("openaqa", None), ("tokenizer", None), *(("openaqa", name) for name in LANGUAGE), *(("tokenizer", name) for name in TOKENIZER)],
)  # fmt: skip
def test_every_preset_fits_an_80_gb_card(stage: str, preset: str | None):
    made = planned(stage, (preset,) if preset else (), "trainer.devices=8")
    assert made.total < USABLE * H100.memory, made.memory


def test_batch_that_was_the_base_does_not_fit():
    """16,384 tokens with dropout: 125 GB of activations."""
    made = planned("openaqa", (), "batching.tokens_per_batch=16384", "lora.dropout=0.05")
    assert made.memory["activations"] > 110e9 and made.total > USABLE * H100.memory


def test_data_parallel_ranks_hold_as_much_and_share_the_encoding():
    one, eight = (planned("tokenizer", (), f"trainer.devices={n}") for n in (1, 8))
    assert eight.total - one.total == one.memory["gradients"]  # DDP's buckets
    one, eight = (planned("latents", (), f"trainer.devices={n}") for n in (1, 8))
    assert one.steps == 8 * eight.steps


@pytest.mark.parametrize("stage", ["tokenizer", "openaqa"])
def test_refusal_names_keys_that_make_it_fit(stage: str):
    memory, configuration = GPUS["a100-40gb"].memory, conf.compose(stage).conf
    with pytest.raises(UsageError, match=rf"{stage}: needs \d+ GB a rank .*card has 42") as caught:
        plan.require_fit(stage, configuration, memory, "card")
    typed = str(caught.value).split("Type ")[1].split(".   stage")[0]
    for way in typed.split(", or "):
        keys = [word.removeprefix("--") for word in way.split()]
        plan.require_fit(stage, conf.compose(stage, overrides=keys).conf, memory, "card")
    if stage == "openaqa":
        assert "--batching.tokens_per_batch" in typed and "--model.activation_checkpointing=true" in typed


def test_run_is_refused_before_its_model_is_built(
    whole: Path, stage: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """A card of a megabyte in place of the one that this machine lacks."""
    monkeypatch.setattr(devices, "memory", lambda configuration: (1e6, "a card"))
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache")]
    assert stage("run", "caption", "--experiment=unfit", *parents) == 1
    assert "caption: needs" in capfd.readouterr().err and not (whole.parent / "unfit").exists()


def test_command_prints_a_line_a_stage_without_torch(tmp_path: Path):
    words: Any = "import sys; from stages.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", words, "plan", "all", "--trainer.devices=8", "--gpu", "h200"]
    root = str(Path(__file__).parents[3])
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60)
    lines = run.stdout.splitlines()
    stages = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert stages[2:] == ["latents", "tokenizer", "tokenizer_mse", "cache", "caption", "openaqa"], run.stderr
    assert lines[-1] == "False"
