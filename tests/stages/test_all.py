"""The whole chain through the command, from files on disk to the table."""

import json
from pathlib import Path

from datamodules.store import chunks
from stages.hub import language_model


def test_run_all_ends_with_the_table_and_skips_what_is_done(stage, printed_by_run_all: str, whole: Path, capsys):
    assert "held-out scores" in printed_by_run_all
    run = whole
    report = json.loads((run / "evaluate/artifact/report.json").read_text())
    decoders = {row["decoder"] for row in report["reconstruction"]["rows"]}
    assert decoders == {"VAE alone", "mean latent", "flow matching", "MSE"}
    assert report["questions"].keys() == {"class", "question"}
    assert report["scored"] == report["expected"] > 0
    page = (run / "evaluate/artifact/report.html").read_text()
    assert (
        page.count('<audio controls preload="metadata" src="data:audio/mpeg;base64,') >= 4
    )  # three of a clip, and an answer's
    assert page.count("<figcaption>written, ") == 1, "a sound of a test caption, beside its recording"
    times = {path: path.stat().st_mtime_ns for path in run.glob("*/receipt.json")}
    assert len(times) == 8

    assert stage("run", "all", "--experiment=whole") == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/receipt.json")} == times

    capsys.readouterr()
    assert stage("status", "--experiment=whole") == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" done " in line for line in lines) >= 8


def test_a_changed_stage_makes_its_children_stale(stage, whole: Path, capsys):
    assert stage("status", "--experiment=whole", "--tokenizer.seed=1") == 0
    words = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert words["latents"] == "done" and words["tokenizer_mse"] == "done"
    assert {words[name] for name in ("tokenizer", "cache", "caption", "openaqa", "evaluate")} == {"stale"}


def test_another_tokenizers_cache_is_refused_by_name(stage, whole: Path, capsys):
    for name in ("tokenizer", "cache"):
        assert stage("run", name, "--experiment=other-seed", "--parents.latents=whole", "--seed=5") == 0
    capsys.readouterr()
    assert stage("run", "openaqa", "--experiment=other-seed", "--parents.caption=whole") == 1
    message = capsys.readouterr().err
    assert "different runs of 'tokenizer'" in message and "--restart" in message


def test_two_levels_go_through_the_cache_into_the_llm(stage, tones: Path, copy_of_whole):
    """Strides 2 and 1: blocks of three codes, from the codebook to the LLM's rows."""
    words = ["--experiment=levels", "--quantizer.kind=residual", "--quantizer.strides=[2,1]"]
    copy_of_whole("levels", "latents")
    assert stage("run", "tokenizer", *words) == 0
    for name in ("cache", "caption"):
        assert stage("run", name, "--experiment=levels") == 0
    facts = json.loads((tones / "runs/levels/caption/receipt.json").read_text())["facts"]
    assert (facts["levels"], facts["num_codebooks"], facts["codebook_size"]) == ([0, 1, 1], 2, 16)
    cuts = chunks.read(tones / "runs/levels/cache/chunks")
    assert cuts and all(len(cut.custom["codes"]) % 3 == 0 for cut in cuts)


def test_evaluate_asks_the_llm_before_and_after_each_stage(stage, tones: Path, whole: Path):
    """Each in an experiment of its own, on the same questions."""
    asked = {}
    for after, parent in (("none", "caption"), ("caption", "caption"), ("openaqa", "openaqa")):
        words = [f"--parents.{name}=whole" for name in ("tokenizer", "cache", parent)]
        assert stage("run", "evaluate", f"--after={after}", *words, f"--experiment={after}") == 0
        receipt = json.loads((Path("runs") / after / "evaluate/receipt.json").read_text())
        assert set(receipt["parents"]) == {"tokenizer", "cache", parent}
        answers = [json.loads(line) for line in (Path("runs") / after / "evaluate/artifact/predictions.jsonl").open()]
        asked[after] = [row["id"] for row in answers]
    assert asked["none"] == asked["caption"] == asked["openaqa"]
    trained, untrained = (
        language_model.load(Path("runs/whole/caption/artifact"), trained)[0].trainable_state()
        for trained in (True, False)
    )
    assert all(not untrained[name].any() for name in untrained if "lora_B" in name)
    assert all(trained[name].any() for name in trained if "lora_B" in name)
    assert stage("run", "evaluate", "--after=nothing") == 1
