"""What `stage export` writes is plain transformers, or peft, and answers as the run does."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from datamodules.store import chunks
from models.language.vocabulary import Turn
from stages.cli.main import main
from stages.hub import model_card, sound_tokens_as_text, trained_model, weights
from stages.runs import receipts
from tests.other_luck import IN_A_NEW_PROCESS
from tests.stages.cli.trained_run import QUESTION, TAUGHT, answer, codes_of, load_model, output

BORDER = "=" * 20  # between what two codes print
SCORES = "\nprint(model(**inputs).logits[0, -1].tolist())\n"  # of the first id of the answer


def scores(model: trained_model.TrainedModel, turns: list[Turn]) -> list[float]:
    """What SCORES prints."""
    with torch.no_grad():
        return model.lm(torch.tensor([model.vocabulary.render(turns, generate=True).input_ids])).logits[0, -1].tolist()


def block(folder: Path, codes: list[int]) -> str:
    """The code of an export's README, with the codes of a sound."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = re.sub(r"^question = .*", f"question = {QUESTION!r}", code, flags=re.MULTILINE)
    return re.sub(r"^codes = \[.*?\]", f"codes = {codes}", code, flags=re.MULTILINE)


def outside(folder: Path, *codes: str, path: str = "") -> list[str]:
    """What each code prints, one after another in a fresh process, in the folder, with nothing of ours to import unless `path` says so."""
    check = "" if path else "import sys\nassert not {'stages', 'models', 'datamodules', 'conf'} & set(sys.modules)\n"
    words = [sys.executable, "-P", "-c", f"print({BORDER!r})\n".join(code + check for code in codes)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [text.strip() for text in done.stdout.split(BORDER)]


def test_a_merged_export_is_plain_transformers_and_ours(folder_with_run, run, clip, model, capsys):
    assert main(["export", "--to=out"]) == 0
    codes = codes_of(run, clip)
    wanted = answer(model, [Turn("user", [codes, f"\n{QUESTION}"])])
    text = (folder_with_run / "out/README.md").read_text()
    assert receipts.read(run / "openaqa")["artifact_hash"][:12] in text and "license_name: FILL-IN" in text
    assert "base_model" not in text, "random:tiny is not on the hub"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = {name: json.loads(re.findall(rf"^{name} = (.*)$", code, re.MULTILINE)[0]) for name in ("codes", "question")}
    tests = {cut.id: cut for cut in chunks.read(run / "cache/chunks").of_split("test")}
    cut = tests[re.findall(r"the codes of (\S+), a test recording", code)[0]]
    assert shown["codes"] == list(cut.custom["codes"])
    asked = [entry.custom["question"] for entry in cut.supervisions if entry.custom["task"] == "question"]
    assert shown["question"] in asked
    turns = [Turn("user", [codes, f"\n{QUESTION}"])]
    *answers, printed = outside(
        folder_with_run / "out",
        block(folder_with_run / "out", codes),
        code,
        block(folder_with_run / "out", codes) + SCORES,
    )
    assert answers == [wanted, answer(model, [Turn("user", [shown["codes"], f"\n{shown['question']}"])])]
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(scores(model, turns), abs=1e-3)
    capsys.readouterr()
    assert main(["ask", str(clip), QUESTION, "--model=out"]) == 0
    assert output(capsys) == wanted
    for source in ("--model=out", "--experiment=used"):
        assert (
            main(["generate", "a low sound", f"--out={source[2:].replace('=', '-')}.wav", source, "--seconds-max=1"])
            == 0
        )
    assert Path("model-out.wav").read_bytes() == Path("experiment-used.wav").read_bytes()
    assert main(["encode", str(clip), "--model=out", "--out=codes.json"]) == 0
    assert main(["decode", "codes.json", "--out=back.wav"]) == 0, "the export's tokenizer is the run's"
    assert main(["export", "--to=out"]) == 1
    assert "out exists already" in capsys.readouterr().err
    assert main(["export", "--to=out", "--adapter", "--force"]) == 0
    assert not (folder_with_run / "out/model.safetensors").exists()
    assert main(["export", "--to=again", "--model=out"]) == 1
    assert "is an export already" in capsys.readouterr().err
    assert sorted(path.name for path in folder_with_run.iterdir() if path.name.startswith(".")) == []


def test_a_base_model_is_a_hub_id_and_nothing_else(folder_with_run: Path):
    (folder_with_run / "models/vicuna").mkdir(parents=True)
    sources = [
        "lmsys/vicuna-7b-v1.5",
        "models/vicuna",
        "/models/x",
        "./x/y",
        "../y",
        "smollm2-135m-instruct",
        "a/b.gguf",
    ]
    assert [model_card._is_hub_id(source) for source in (*sources, "random:tiny")] == [True, *[False] * 7]


def test_a_card_shows_the_scores_before_the_losses(folder_with_run: Path):
    receipt = {
        "stage": "openaqa",
        "artifact_hash": "a" * 64,
        "metrics": {"val/text_loss": 0.5, "val/audio_loss": math.nan},
    }
    assert model_card._metrics(folder_with_run / "x/openaqa", receipt).startswith("Not evaluated on held-out sound.\n")
    (folder_with_run / "x/evaluate/artifact").mkdir(parents=True)
    (folder_with_run / "x/evaluate/receipt.json").write_text(json.dumps({"parents": {"openaqa": "a" * 64}}))
    (folder_with_run / "x/evaluate/artifact/report.md").write_text("# x: held-out scores\n\n## Questions\n")
    actual = model_card._metrics(folder_with_run / "x/openaqa", receipt)
    assert actual.startswith("### x: held-out scores\n\n#### Questions\n") and "audio_loss" not in actual
    assert (
        actual.index("#### Questions")
        < actual.index("### At the end of the training")
        < actual.index("- val/text_loss: 0.5")
    )


def test_an_adapter_is_peft_s_and_ours(folder_with_run, run, clip, model, capsys):
    assert main(["export", "--to=out", "--adapter"]) == 0
    names = {name.rpartition(".")[2] for name in load_file("out/adapter_model.safetensors")}
    assert names == {"weight", "trainable_tokens_delta"}
    base, _ = weights.load_language_model("random:tiny", None, "float32")
    base.resize_token_embeddings(model.vocabulary.size, mean_resizing=False)
    peft = PeftModel.from_pretrained(base, "out")
    ids = torch.tensor([model.vocabulary.render([Turn("user", [codes_of(run, clip), "?"])]).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(peft(ids).logits, model.lm(ids).logits, atol=1e-5, rtol=1e-4)
    codes = codes_of(run, clip)
    wanted = answer(model, [Turn("user", [codes, f"\n{QUESTION}"])])
    code = IN_A_NEW_PROCESS + block(folder_with_run / "out", codes)  # random:tiny is made there once more
    assert outside(folder_with_run / "out", code, path=str(Path(__file__).parents[3])) == [wanted]
    capsys.readouterr()
    assert main(["ask", str(clip), QUESTION, "--model=out"]) == 0
    assert output(capsys) == wanted


def test_levels_untied_rows_and_ltu_are_exported_too(
    stage, tones: Path, whole: Path, folder_with_run: Path, monkeypatch
):
    """Blocks of two levels, an LLM with a head of its own, and a prompt that is no chat template of the LLM's."""
    monkeypatch.chdir(tones)
    words = ["--experiment=blocks", "--runs=runs_of_verbs"]
    shutil.copytree(whole / "latents", tones / "runs_of_verbs/blocks/latents")
    assert stage("run", "tokenizer", *words, "--quantizer.kind=residual", "--quantizer.strides=[2,1]") == 0
    assert stage("run", "cache", *words) == 0
    assert stage("run", "caption", *words, *TAUGHT, "--model.source=random:tiny-untied", "--prompts.format=ltu") == 0
    monkeypatch.chdir(folder_with_run)
    run = tones / "runs_of_verbs/blocks"
    assert main(["export", "--to=out", f"--model={run / 'caption'}"]) == 0
    from_run = load_model("runs", str(run / "caption"))
    codes = list(next(iter(chunks.read(run / "cache/chunks"))).custom["codes"])
    turns = [Turn("user", [codes, f"\n{QUESTION}"])]
    text, printed = outside(
        folder_with_run / "out", block(folder_with_run / "out", codes), block(folder_with_run / "out", codes) + SCORES
    )
    assert text == answer(from_run, turns)
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(scores(from_run, turns), abs=1e-3)
    exported = trained_model.load_export(Path("out"))
    assert exported.vocabulary.render([Turn("user", [codes])]) == from_run.vocabulary.render([Turn("user", [codes])])
    assert main(["generate", "rain", "--out=a.wav", "--model=out", "--seconds-max=1"]) == 0


def test_a_tokenizer_that_numbers_otherwise_is_not_exported(model: trained_model.TrainedModel):
    """A hole among the ids is filled first: the sounds would have other ids than those that were trained."""
    _, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    sound_tokens_as_text.add_sound_tokens(tokenizer, model.vocabulary)
    assert tokenizer.convert_tokens_to_ids(model.vocabulary.token_names()) == list(model.vocabulary.new_ids)
    with pytest.raises(ValueError, match=r"has a token <\|sound_start\|> already"):
        sound_tokens_as_text.add_sound_tokens(tokenizer, model.vocabulary)
    _, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    words = model.vocabulary
    holed = type(words).__new__(type(words))
    vars(holed).update(vars(words) | {"text_size": words.text_size + 3, "size": words.size + 3})
    with pytest.raises(ValueError, match=r"would call <\|sound_start\|> 259, and the model was trained with 262"):
        sound_tokens_as_text.add_sound_tokens(tokenizer, holed)
