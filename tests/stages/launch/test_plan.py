"""What a run needs is known before it starts: base presets fit an 80 GB card, and what does not fit is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import conf
from conf.errors import UsageError
from stages import STAGES
from stages.engine import devices
from stages.hub import text_to_sound
from stages.launch import plan, prediction_plans
from stages.launch.gpus import GPUS, USABLE

H100 = GPUS["h100"]
PRESETS = [(stage, None) for stage in STAGES]
PRESETS += [(stage, preset) for preset in conf.presets() for stage in STAGES if stage in conf.units_of(preset)]


def planned(stage: str, presets: tuple[str, ...] = (), *typed: str) -> plan.StagePlan:
    made = plan.plan(stage, conf.compose(stage, presets, overrides=list(typed)).conf, plan.Corpus(1e4, 1e5, False))
    assert made is not None
    return made


@pytest.mark.parametrize(("stage", "preset"), PRESETS)
def test_every_preset_fits_an_80_gb_card(stage: str, preset: str | None):
    for ranks in (1, 8):
        configuration = conf.compose(stage, (preset,) if preset else (), overrides=[f"trainer.devices={ranks}"]).conf
        made = plan.plan(stage, configuration, plan.Corpus(1e4, 1e5, False))
        if made is None:
            assert configuration.codec.kind == "mel"  # the only one whose sizes are not known
            return
        assert made.total < USABLE * H100.memory, made.memory
        assert all(value > 0 for value in (made.parameters, made.steps, made.flops, made.traffic, made.disk))
        assert 0 < made.peak_share(H100) < 0.7


def test_batch_of_the_vae_that_was_the_base_does_not_fit():
    """16 crops of 65,536 samples: 96 GB of activations."""
    made = planned("vae", (), "batch_size=16")
    assert made.memory["activations"] > 90e9 and made.total > H100.memory


def test_writing_is_bound_by_what_is_read_for_each_token():
    """At one row the products are a thousandth of the time: each token reads all weights of the LLM."""
    made = planned("generation", (), "batch_size=1", "embedder=null")
    tokens = 10 * 230 / 13.0007
    assert made.traffic > tokens * 2 * 6.7e9 and made.peak_share(H100) < 0.005
    wider = planned("generation", (), "batch_size=16", "embedder=null")
    assert wider.traffic < 2 * made.traffic and wider.flops > 15 * made.flops


def test_guidance_doubles_keys_and_values():
    plain, guided = (planned("generation", (), f"guidance={weight}") for weight in (1, 3))
    assert guided.memory["KV cache"] == 2 * plain.memory["KV cache"]
    assert planned("generation", ()).memory["KV cache"] == guided.memory["KV cache"]  # the LLM's own


def test_sounds_to_choose_from_are_drawn_in_passes():
    one, eight = (planned("generation", (), f"best_of={count}", "batch_size=16", "embedder=null") for count in (1, 8))
    assert text_to_sound.ROWS == prediction_plans.ROWS == 64
    assert eight.memory["KV cache"] == 4 * one.memory["KV cache"]  # 64 of 128 at a time, beside 16
    assert (
        eight.kernels == (2 * 2 + 1) / (2 + 1) * one.kernels
    )  # two passes for each of two seeds, one without a caption


def test_a_contrast_reads_sounds_under_two_captions_and_keeps_what_it_began_with():
    one, two = (planned("text_to_sound", (), f"loss.contrast.weight={weight}") for weight in (0, 1))
    assert 1.99 < two.memory["activations"] / one.memory["activations"] < 2  # but for autocast's copies of LoRA
    assert two.memory["reference"] == two.memory["trained weights"] and "reference" not in one.memory
    assert two.flops == 2 * 1.5 * one.flops, "forward and backward of both, and forward of both as it was"


def test_what_is_contrasted_with_no_sound_is_answered_in_twice_the_rows():
    one, two = (planned("evaluate", (), f"audio_contrast={strength}") for strength in (0, 1))
    assert two.memory["KV cache"] == 2 * one.memory["KV cache"]


def test_a_preference_keeps_what_it_began_with_and_reads_it_forward():
    one, two = (planned("preference", (), f"pair_loss.kind={kind}") for kind in ("simpo", "dpo"))
    assert two.memory["reference"] == two.memory["trained weights"] and "reference" not in one.memory
    assert two.flops == 1.5 * one.flops and two.memory["activations"] == one.memory["activations"]


def test_sizes_of_a_parent_are_those_of_its_configuration():
    evaluate, small = conf.compose("evaluate").conf, conf.compose("openaqa", ("qwen3_0.6b",)).conf
    base, smaller = (plan.plan("evaluate", evaluate, parents=parents) for parents in ({}, {"openaqa": small}))
    assert base and smaller and smaller.parameters < 0.15 * base.parameters


def test_batch_that_was_the_base_does_not_fit():
    """16,384 tokens with dropout: 125 GB of activations."""
    made = planned("openaqa", (), "batching.tokens_per_batch=16384", "lora.dropout=0.05")
    assert made.memory["activations"] > 110e9 and made.total > USABLE * H100.memory


def test_data_parallel_ranks_hold_as_much_and_share_the_encoding():
    one, eight = (planned("tokenizer", (), f"trainer.devices={n}") for n in (1, 8))
    assert eight.total - one.total == one.memory["gradients"]  # DDP's buckets
    one, eight = (planned("latents", (), f"trainer.devices={n}") for n in (1, 8))
    assert one.steps == 8 * eight.steps


@pytest.mark.parametrize(
    ("stage", "gigabytes"),
    [("tokenizer", 42), ("openaqa", 42), ("vae", 42), ("latents", 10), ("reconstruct", 10), ("generation", 18),
     ("rehearsal", 17), ("evaluate", 18), ("fewshot", 17)],
)  # fmt: skip
def test_refusal_names_keys_that_make_it_fit(stage: str, gigabytes: float):
    memory, configuration = gigabytes * 1e9, conf.compose(stage).conf
    with pytest.raises(UsageError, match=rf"{stage}: needs \d+ GB a rank .*card has {gigabytes}") as caught:
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


def test_chain_is_refused_before_its_first_stage(
    tones: Path, stage: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(devices, "memory", lambda configuration: (1e6, "a card"))
    assert stage("run", "all", "--experiment=unfit-chain") == 1
    assert "tokenizer: needs" in capfd.readouterr().err and not (tones / "runs/unfit-chain").exists()


def test_command_prints_a_line_a_stage_without_torch(tmp_path: Path):
    words: Any = "import sys; from stages.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    command = [sys.executable, "-c", words, "plan", "all", "--trainer.devices=8", "--gpu", "h200"]
    root = str(Path(__file__).parents[3])
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60)
    lines = run.stdout.splitlines()
    stages = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert stages[2:] == list(STAGES), run.stderr
    assert (
        "not part of `stage run all` with this configuration: vae, decoder_finetuning, rehearsal, text_to_sound, preference, fewshot, generation"
        in lines
    )
    assert lines[-1] == "False"
