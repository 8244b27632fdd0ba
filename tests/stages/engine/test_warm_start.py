"""`init_from`: a training begins with another run's weights, says so, and refuses what does not fit by name."""

import json
import re
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from stages.runs import receipts

STILL = (
    "--optimizer.learning_rate=0",
    "--optimizer.final_learning_rate=0",
    "--trainer.max_steps=1",
)  # a step to nowhere
FROM_WHOLE = {
    "tokenizer": ("--parents.latents=whole",),
    "caption": ("--parents.tokenizer=whole", "--parents.cache=whole", "--embedding_learning_rate=0"),
    "openaqa": ("--parents.tokenizer=whole", "--parents.cache=whole", "--embedding_learning_rate=0"),
    "vae": ("--discriminator_optimizer.learning_rate=0", "--discriminator_optimizer.final_learning_rate=0"),
}


def weights(folder: Path, name: str) -> dict[str, bytes]:
    """What training moves: the codebook follows its vectors at any rate."""
    file = "diffusion_pytorch_model" if name == "vae" else "model"
    tensors = load_file(folder / f"artifact/{file}.safetensors")
    return {key: tensor.tobytes() for key, tensor in tensors.items() if "quantizer." not in key}


@pytest.mark.parametrize(
    "name", ["tokenizer", *(pytest.param(name, marks=pytest.mark.slow) for name in ("caption", "openaqa", "vae"))]
)
def test_it_begins_with_the_weights_of_the_other_run(stage, tones: Path, whole: Path, name: str):
    if name == "vae":
        assert stage("run", "vae", "--experiment=warm-source", "--trainer.max_steps=2") == 0
    source = tones / "runs" / ("warm-source" if name == "vae" else "whole")
    words = [f"--experiment=warm-{name}", *FROM_WHOLE[name], *STILL, f"--init_from={source.name}"]
    assert stage("run", name, *words) == 0
    folder = tones / f"runs/warm-{name}/{name}"
    assert weights(folder, name) == weights(source / name, name)
    receipt, expected = receipts.read(folder), receipts.read(source / name)
    assert receipt and expected and receipt["steps"] == 1
    assert receipt["init_from"] == {"run": source.name, "artifact_hash": expected["artifact_hash"]}
    assert "caption" not in receipt["parents"], "of which nothing is left"
    begun = json.loads((folder / "run.json").read_text())
    assert begun["init_from"] == expected["artifact_hash"]
    if name == "tokenizer":
        steps = [load_file(one / "artifact/model.safetensors")["quantizer.step"] for one in (source / name, folder)]
        assert steps[0] > 1 and steps[1] == 1, "what revives codes counts from the beginning"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("tokenizer", ["--encoder.width=16"], r"whole/tokenizer cannot be .*\n  encoder\.width: 32 there, 16 here"),
        ("tokenizer", ["--rate.token_rate=2.7"], r"token_rate: 5\.4\d* there, 2\.\d+ here"),
        ("tokenizer", ["--quantizer.codebook_size=8"], r"codebook_size: 16 there, 8 here"),
        ("tokenizer", ["--quantizer.reservoir_size=200"], r"quantizer\.reservoir: \(\d+, \d+\) there, \(200, \d+\) here"),
        ("tokenizer_mse", ["--init_from=runs/whole/tokenizer"], r"objective: flow there, mse here"),
        ("tokenizer", ["--init_from=nobody"], r"runs/nobody/tokenizer has no finished run.*There are: .*whole"),
        ("tokenizer", ["--init_from=runs/whole/cache"], r"runs/whole/cache holds a run of cache"),
        ("caption", ["--lora.rank=2"], r"trained with lora .*'rank': 4.*'rank': 2"),
        ("vae", ["--codec.source=somewhere"], r"init_from: whole: codec\.source=somewhere names weights too"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(
    stage, tones: Path, whole: Path, capsys, name: str, words: list[str], message: str
):
    given = ["--experiment=unfit", *FROM_WHOLE[name.removesuffix("_mse")], "--init_from=whole", *words]
    capsys.readouterr()
    assert stage("run", name, *given) == 1
    assert re.search(message, capsys.readouterr().err, re.S)
    assert not (tones / "runs/unfit" / name / "conf.yaml").exists()


def test_a_run_does_not_start_from_itself(stage, tones: Path, copy_of_whole, capsys):
    copy_of_whole("itself", "latents", "tokenizer")
    assert stage("run", "tokenizer", "--experiment=itself", "--init_from=itself", "--restart") == 1
    assert "is this run itself" in capsys.readouterr().err and (tones / "runs/itself/tokenizer/receipt.json").exists()
