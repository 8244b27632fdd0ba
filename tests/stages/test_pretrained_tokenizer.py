"""Tokenizers of `transformers`, small and random and at their true rates, through the whole chain."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch

from conf import compose
from datamodules.store import chunks
from stages import ON_DEMAND, STAGES
from stages.hub import weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.launch import plan, preflight
from stages.runs import graph
from tests.models.tokenizer.tiny_pretrained import RATES, tiny

KINDS = ["mimi", *(pytest.param(kind, marks=pytest.mark.slow) for kind in RATES if kind != "mimi")]


def saved(kind: str, folder: Path) -> Path:
    if not folder.exists():
        tiny(kind).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_cache_caption_generate_and_reconstruct_with_anothers_tokenizer(
    kind: str, stage: Callable[..., int], tones: Path, copy_of_whole: Callable[..., Path]
):
    rate, hop, codebooks = RATES[kind]
    name, source = f"of-{kind}", saved(kind, tones / f"model-{kind}")
    copy_of_whole(name, "latents")
    typed = (f"--experiment={name}",)
    assert stage("run", "tokenizer", *typed, f"--source={source}", f"--pretrained.codebooks={codebooks}") == 0
    assert stage("run", "cache", *typed) == 0
    assert stage("run", "caption", *typed, "--trainer.max_steps=2", "--batching.max_tokens=4000",
                 "--batching.tokens_per_batch=4000") == 0  # fmt: skip
    assert stage("run", "reconstruct", *typed, "--speed_repeats=0") == 0

    receipt = json.loads((tones / f"runs/{name}/tokenizer/receipt.json").read_text())
    facts = receipt["facts"]
    assert (facts["sample_rate"], facts["hop_length"], facts["num_codebooks"]) == (rate, hop, codebooks)
    assert facts["bitrate"] == pytest.approx(rate / hop * codebooks * 6)  # 64 codes
    assert receipt["parents"] == {} and list(facts["weights"]) == ["model.safetensors"]

    cuts = chunks.read(tones / f"runs/{name}/cache/chunks")
    tokenizer = SoundTokenizer.from_pretrained(tones / f"runs/{name}/tokenizer")
    for row in range(3):
        cut = cuts[row]
        frames = -(-round(cut.duration * rate) // hop)
        assert len(cuts.codes(row)) == frames * codebooks

    report = json.loads((tones / f"runs/{name}/reconstruct/artifact/report.json").read_text())
    (heard,) = [one for one in report["rows"] if one["decoder"] == f"model-{kind} x {codebooks}"]
    assert heard["mel"] > 0 and heard["stft"] > 0 and "latent_nmse" not in heard

    from stages.cli.main import main

    out = tones / f"{name}.wav"
    words = ["generate", "a low sound", f"--experiment={name}", "--out", str(out), "--seconds_max=0.5"]
    assert main(words) == 0
    sound, written_rate = soundfile.read(out)
    assert written_rate == rate and 0 < len(sound) <= 0.5 * rate
    assert tokenizer.decode([[0] * codebooks * 3])[0].shape == torch.Size([1, 3 * hop])


def test_with_anothers_tokenizer_the_chain_needs_no_latents():
    confs = {
        name: compose(name, ["smoke"], overrides=["tokenizer.source=kyutai/mimi"], shared=True).conf for name in STAGES
    }
    assert graph.required("tokenizer", confs["tokenizer"]) == ()
    assert graph.target("tokenizer", confs["tokenizer"]) != STAGES["tokenizer"].target
    assert graph.target("tokenizer_mse", confs["tokenizer_mse"]) == STAGES["tokenizer_mse"].target
    assert graph.unused(confs) - set(ON_DEMAND) == {"latents", "tokenizer_mse", "reconstruct"}
    assert {name for name in STAGES if plan.plan(name, confs[name], parents=confs) is None} >= {"tokenizer", "caption"}
    (lacks,) = preflight._pretrained(
        {name: one for name, one in confs.items() if name not in graph.unused(confs)}, weights.missing
    )
    assert lacks.startswith("sound tokenizer kyutai/mimi") and "--tokenizer.source=FOLDER_OR_HUB_ID" in lacks


@pytest.mark.slow
def test_a_row_beside_our_own_tokenizer_has_its_bitrate(
    stage: Callable[..., int], tones: Path, copy_of_whole: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    """Rows that were made with another tokenizer of the same name are made again."""
    source = saved("mimi", tones / "model-mimi")
    words = ("--experiment=beside", "--others=[other]", "--speed_repeats=0")
    copy_of_whole("beside", "latents", "tokenizer", "tokenizer_mse")
    assert stage("run", "reconstruct", *words) == 1
    assert "stage run tokenizer --experiment=other" in capsys.readouterr().err
    assert stage("run", "tokenizer", "--experiment=other", f"--source={source}", "--pretrained.codebooks=4") == 0
    assert "mimi: 12.50 Hz x 4 codebooks of 64, 50.0 codes a second, 0.30 kbps" in capsys.readouterr().out
    assert stage("run", "reconstruct", *words) == 0
    page = (tones / "runs/beside/reconstruct/artifact/report.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| model-mimi x 4 |"))
    assert row.endswith(" 0.300 |") and "| flow matching | 2 | sample |" in page
    assert "| model-mimi x 4 | " in page.split("## tones")[0]  # its codebook

    folder = tones / "runs/beside/reconstruct"
    (rows,) = folder.glob("predictions-*")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert all(line["others"].keys() == {"model-mimi x 4"} for line in lines)
    first = lines[0] | {"others": {"model-mimi x 4": "0" * 64}}
    rows.write_text("\n".join(map(json.dumps, [first, *lines[1:]])) + "\n")
    report = json.loads((folder / "artifact/report.json").read_text())
    shutil.rmtree(folder / "artifact")
    (folder / "receipt.json").unlink()
    assert stage("run", "reconstruct", *words) == 0
    assert json.loads((folder / "artifact/report.json").read_text()) == report
    assert len(rows.read_text().splitlines()) == len(lines) + 1
