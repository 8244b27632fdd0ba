"""Stage `preference`: from openaqa's adapter, against openaqa's model, whose log-probabilities are kept; who takes it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import conf
from datamodules import generation
from datamodules.store import chunks
from models.language.vocabulary import Turn
from stages.cli.main import main
from stages.hub import find_model, language_model, text_to_sound, trained_model
from stages.runs import graph, receipts, row_files
from tests.conftest import KINDS, SMOKE
from tests.stages.cli.trained_run import QUESTION

PARENTS = [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "openaqa")]

EXACT = "--trainer.precision=32-true"


def reference(run: Path) -> dict[str, list[float]]:
    (folder,) = run.glob("reference-*")
    return {row["id"]: row["log_p"] for row in row_files.rows(folder)}


@pytest.fixture(scope="session")
def preferred(tones: Path, copy_of_whole: Callable[..., Path]) -> Path:
    """An experiment whose stages are all done, and this one."""
    folder = copy_of_whole("preferred", "latents", "tokenizer", "cache", "caption", "openaqa")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tones)
        assert main(["run", "preference", "--experiment=preferred", EXACT, *SMOKE]) == 0
    return folder


def test_it_goes_on_from_openaqas_adapter_and_compares_with_it(stage, tones: Path, whole: Path, preferred: Path):
    words = ["--experiment=preference-still", *PARENTS, "--optimizer.learning_rate=0", "--embedding_learning_rate=0"]
    assert stage("run", "preference", *words, "--lora.dropout=0") == 0
    still = tones / "runs/preference-still/preference"
    start, unmoved, moved = (
        load_file(folder / "artifact/model.safetensors")
        for folder in (whole / "openaqa", still, preferred / "preference")
    )
    assert all(torch.equal(start[name], unmoved[name]) and not torch.equal(start[name], moved[name]) for name in start)
    receipt = receipts.read(still)
    assert receipt and set(receipt["parents"]) == {"tokenizer", "cache", "openaqa"}
    assert receipt["metrics"]["train/margin"] == pytest.approx(0, abs=1e-4), "it is what it is compared with"
    assert 0 <= receipt["metrics"]["val/share_of_yes"] <= 1 and 0 <= receipt["metrics"]["val/pair_accuracy"] <= 1
    (folder,) = still.glob("reference-*")
    openaqa = receipts.read(whole / "openaqa")
    assert openaqa and folder.name == f"reference-{openaqa['artifact_hash'][:16]}"


def test_the_reference_is_openaqas_and_made_again_equals(stage, tones: Path, whole: Path, preferred: Path):
    """Computed while the adapter moves: as by openaqa's model by hand, and the same once more."""
    made = reference(preferred / "preference")
    words = ["--experiment=preference-again", EXACT, *PARENTS]
    assert stage("run", "preference", *words) == 0
    assert reference(tones / "runs/preference-again/preference") == made
    model, vocabulary = language_model.load(whole / "openaqa/artifact")
    name = sorted(made)[0]
    codes = next(list(cut.custom["codes"]) for cut in chunks.read(whole / "cache/chunks") if name.startswith(cut.id))

    def log_p(label: str, answer: str) -> float:
        asked = Turn("user", [codes, f"\nIs there the sound of {label}?"])
        ids, labels, _ = vocabulary.render([asked, Turn("assistant", [answer])])
        each = model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0].log_softmax(-1)
        return float(sum(each[n - 1, ids[n]].detach() for n, label in enumerate(labels) if label >= 0))

    possible = [
        (log_p(label, *pair[:1]), log_p(label, *pair[1:])) for label in KINDS for pair in (("no", "yes"), ("yes", "no"))
    ]
    values = made[name]
    assert len(values) >= 4
    for pair in zip(values[::2], values[1::2], strict=True):
        assert any(pair == pytest.approx(one, abs=1e-3) for one in possible)


def test_who_takes_it_names_it(stage, tones: Path, preferred: Path, capsys: pytest.CaptureFixture[str]):
    runs, clip = str(preferred.parent), str(tones / "recordings/00.wav")
    assert find_model.find(runs, "main", "preferred", None).language == preferred / "openaqa"
    for words in ([None, "preference"], [str(preferred / "preference"), None], [str(preferred), "preference"]):
        experiment = None if words[0] else "preferred"
        assert find_model.find(runs, "main", experiment, words[0], after=words[1]).language == preferred / "preference"
    assert main(["ask", clip, QUESTION, "--experiment=preferred", "--after=preference", "--max-new-tokens=4"]) == 0
    assert (
        main(["generate", "low", "--experiment=preferred", "--after=preference", "--out=x.wav", "--seconds-max=1"]) == 0
    )
    assert main(["export", "--experiment=preferred", "--after=preference", "--to=exported"]) == 0
    assert main(["ask", clip, QUESTION, "--experiment=preferred", "--after=preferences"]) == 1
    assert "--after=preferences: Did you mean 'preference'? Allowed: caption" in capsys.readouterr().err
    assert stage("run", "evaluate", "--experiment=preferred", "--after=preference") == 0
    evaluated, receipt = receipts.read(preferred / "evaluate"), receipts.read(preferred / "preference")
    assert evaluated and receipt and evaluated["parents"]["preference"] == receipt["artifact_hash"]
    alone = conf.compose("evaluate", [], [], ["after=preference"]).conf
    assert graph.required("evaluate", alone) == ("tokenizer", "cache", "preference")
    assert "preference" in graph.unused({"evaluate": conf.compose("evaluate").conf})


def test_pairs_of_a_file_and_questions_beside_them(stage, tones: Path, whole: Path, capsys: pytest.CaptureFixture[str]):
    """simpo asks no reference, and keeps none. Most batches hold no pair, and say nothing of pairs."""
    line = {"sound": "tones-00", "prompt": "What is it?", "chosen": "a low sound", "rejected": "rain"}
    Path("pairs.jsonl").write_text(json.dumps(line) + "\n")
    words = ["--experiment=preference-file", *PARENTS, "--pairs.files=[pairs.jsonl]", "--pairs.absent=[]"]
    more = ["--pair_loss.kind=simpo", "--mixture.question=1", "--trainer.max_steps=8", "--seed=1"]
    more += ["--trainer.log_every_n_steps=8", "--batching.tokens_per_batch=800"]
    assert stage("run", "preference", *words, *more) == 0
    run = tones / "runs/preference-file/preference"
    receipt = receipts.read(run)
    assert receipt and receipt["facts"]["items"][0] > 1 and not list(run.glob("reference-*"))
    assert {"train/preference_loss", "train/margin", "train/text_loss"} <= receipt["metrics"].keys()
    assert stage("run", "preference", *words, "--pairs.kinds=[gone]", "--restart") == 1
    assert "pairs.kinds: no question of gone in these corpora" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pairs.absent=[]"], "pairs: no pair would be made: files, absent, kinds or swapped"),
        (["pairs.question=Is it?"], "pairs.question: 'Is it?' has no {label} in it"),
        (
            ["model.attention=flash_attention_2", "model.dtype=bfloat16", "batching.questions_together=1"],
            "model.attention: flash_attention_2 takes no mask",
        ),
        (["loss.contrast.weight=1"], "loss.contrast.weight: 1.0; 0 is allowed"),
    ],
)
def test_what_makes_no_pairs_is_refused(words: list[str], message: str):
    with pytest.raises(ValueError, match=message.replace("?", r"\?").replace("{", r"\{")):
        conf.compose("preference", overrides=words)


def test_own_sounds_are_drawn_ranked_and_learned_from(
    stage, tones: Path, whole: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    """`stage pairs`: the best and the worst of what is drawn, by the ear that says so; then the stage prefers the best."""
    words = ["pairs", "--experiment=whole", "--best_of=4", "--seconds_max=1", "--out=own.jsonl", "--captions=9"]
    assert main(words) == 0
    lines = [json.loads(line) for line in Path("own.jsonl").read_text().splitlines()]
    assert f"own.jsonl: {len(lines)} pairs of" in capsys.readouterr().out and len(lines) > 2
    cuts = {cut.id: cut for cut in chunks.read(whole / "cache/chunks")}
    assert {cuts[line["sound"]].custom["split"] for line in lines} <= {"train", "validation"}
    model = trained_model.load(whole / "openaqa", torch.device("cpu"))
    for line in lines:
        sounds = [line["chosen"], line["rejected"]]
        caption = generation.caption_of(cuts[line["sound"]])
        assert caption in line["prompt"]
        best, worst = text_to_sound.caption_scores(model, caption, sounds)
        assert best >= worst
    assert main(words) == 1 and "own.jsonl exists; --force" in capsys.readouterr().err

    learn = [
        "--experiment=own",
        *PARENTS[:2],
        "--init_from=whole/caption",
        "--preset=sound",
        "--pairs.files=[own.jsonl]",
    ]
    learn = [word.replace("whole/caption", str(whole / "caption")) for word in learn]
    steps = ["--trainer.max_steps=6", "--optimizer.learning_rate=1e-2", "--prompts.guidance=3", EXACT]
    assert stage("run", "preference", *learn, *steps) == 0
    assert "prompts.guidance" in caplog.text
    run = tones / "runs/own/preference"
    receipt = receipts.read(run)
    assert receipt and receipt["metrics"]["train/margin"] > 0 and receipt["facts"]["items"][0] > 0
    assert receipt["facts"]["too_long"] == {}
    foreign = [line | {"tokenizer": "0" * 64} for line in lines]
    Path("foreign.jsonl").write_text("\n".join(map(json.dumps, foreign)))
    other = [word.replace("own.jsonl", "foreign.jsonl").replace("=own", "=foreign") for word in learn]
    assert stage("run", "preference", *other) == 1
    assert "foreign.jsonl, line 1: codes of the tokenizer 0000000000000000" in capsys.readouterr().err
