"""What a language stage may be taught, through the command: a curriculum, conversations, texts, times; and that a killed one goes on exactly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conf.sections.language import CurriculumEntryConf, MixtureConf
from datamodules.store import chunks
from stages.cli.main import main
from stages.engine import language_data
from stages.runs.progress import newest_checkpoint
from tests.conftest import SMOKE, write_tones
from tests.interrupt import interrupt

CURRICULUM = """
openaqa:
  trainer: {max_steps: 15}
  checkpoints: {every_n_steps: 2}
  text: {files: [texts.jsonl]}
  curriculum:
  - {name: rows, steps: 4, learning_rate: 1.0e-3, embedding_learning_rate: 1.0e-2, train: new_rows, kinds: [class], corpora: [tones], datasets: [],
     max_tokens: null, mixture: {sound_to_text: 0, text_to_sound: 0, question: 1, conversation: 0, text: 0}}
  - {name: closed, steps: 7, learning_rate: 1.0e-3, embedding_learning_rate: 1.0e-3, train: all, kinds: [question], corpora: [], datasets: [],
     max_tokens: 400, mixture: {sound_to_text: 1, text_to_sound: 1, question: 1, conversation: 0, text: 1}}
  - {name: all, steps: 4, learning_rate: 1.0e-4, embedding_learning_rate: 1.0e-4, train: all, kinds: [], corpora: [], datasets: [],
     max_tokens: null, mixture: {sound_to_text: 1, text_to_sound: 0, question: 1, conversation: 1, text: 0.5}}
"""


@pytest.fixture
def taught(stage, tones: Path, whole: Path) -> list[str]:
    """The words of a run of openaqa with that curriculum."""
    (tones / "language_data.yaml").write_text(CURRICULUM)
    rows = [{"text": f"It rains for the {n}th time."} for n in range(8)]
    (tones / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache", "caption")]
    return ["--conf=language_data.yaml", *parents]


def test_measuring_is_shown_on_a_terminal(stage, whole: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    """It takes minutes where there are millions of entries."""
    monkeypatch.setattr(language_data, "MANY", 1)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache")]
    assert stage("run", "caption", "--experiment=measuring-shown", *parents, "--trainer.max_steps=1") == 0
    assert "caption lengths" in capsys.readouterr().out


def test_a_curriculum_killed_in_its_second_entry_ends_with_the_same_weights(
    stage, tones: Path, taught: list[str], capsys
):
    assert stage("run", "openaqa", "--experiment=taught", *taught) == 0
    printed = capsys.readouterr().err
    for number, (name, steps) in enumerate((("rows", 4), ("closed", 7), ("all", 4)), 1):
        assert f"openaqa: curriculum: {name} (entry {number} of 3), step 0 of {steps}, " in printed
    interrupt(tones, "openaqa", 9, "--experiment=killed-taught", *taught)
    run = tones / "runs/killed-taught/openaqa"
    newest = newest_checkpoint(run)
    assert newest is not None and newest.name == "step-00000008.ckpt"
    assert torch.load(newest, weights_only=True)["curriculum"] == {"number": 1, "name": "closed", "step": 4}
    capsys.readouterr()
    assert stage("run", "openaqa", "--experiment=killed-taught", *taught) == 0
    assert "openaqa: curriculum: closed (entry 2 of 3), step 4 of 7" in capsys.readouterr().err
    before, after = (
        load_file(tones / f"runs/{name}/openaqa/artifact/model.safetensors") for name in ("taught", "killed-taught")
    )
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)
    facts = json.loads((run / "receipt.json").read_text())["facts"]
    assert [(entry["name"], entry["steps"]) for entry in facts["curriculum"]] == [
        ("rows", 4),
        ("closed", 7),
        ("all", 4),
    ]
    assert [entry["items"] for entry in facts["curriculum"]] == facts["items"] and min(facts["items"]) > 0


def test_an_entry_of_new_rows_moves_nothing_else(stage, tones: Path, whole: Path, taught: list[str]):
    """The first entry alone: LoRA is caption's to the last bit, the rows are not."""
    text = CURRICULUM[: CURRICULUM.index("  - {name: closed")].replace("max_steps: 15", "max_steps: 4")
    (tones / "rows.yaml").write_text(text.replace("  text: {files: [texts.jsonl]}\n", ""))
    assert stage("run", "openaqa", "--experiment=rows", "--conf=rows.yaml", *taught[1:]) == 0
    before, after = (
        load_file(folder / "artifact/model.safetensors") for folder in (whole / "caption", tones / "runs/rows/openaqa")
    )
    moved = {key for key in before if not before[key].equal(after[key])}
    assert moved == {key for key in before if "new_rows" in key}


def test_filters_that_the_corpora_know_nothing_of_are_named(stage, tones: Path, taught: list[str], capsys):
    for old, new, message in (
        (
            "kinds: [class]",
            "kinds: [clas]",
            "curriculum, entry 'rows': kinds: no question of clas in these corpora. Did you mean 'class'?",
        ),
        ("datasets: []", "datasets: [as_20k]", "curriculum, entry 'rows': datasets: no recording of as_20k"),
        (
            "corpora: [tones]",
            "corpora: [tone]",
            "curriculum: entry 'rows': data.corpora has no 'tone'. Did you mean 'tones'?",
        ),
    ):
        (tones / "wrong.yaml").write_text(CURRICULUM.replace(old, new, 1))
        assert stage("run", "openaqa", "--experiment=filter-mistakes", "--conf=wrong.yaml", *taught[1:]) == 1
        assert message in capsys.readouterr().err
    assert not (tones / "runs/filter-mistakes").exists()


def test_conversations_of_several_sounds_texts_and_times_go_through_the_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """A corpus in JSONL whose recordings talk about one another, with times in their answers: trained on, and what is too long is listed."""
    monkeypatch.chdir(tmp_path)
    write_tones(tmp_path / "recordings", 24)
    rows = []
    for n in range(24):
        split = ("train", "train", "validation", "test")[n % 4]
        other = f"{n + 4 if n < 20 else n - 20:02d}"
        name, suffix = f"{n:02d}", ("wav", "flac", "ogg")
        turns = [
            {
                "role": "user",
                "content": [{"sound": "self"}, {"sound": f"{other}.{suffix[int(other) % 3]}"}, "Are they one?"],
            },
            {"role": "assistant", "content": "no"},
            {"role": "user", "content": "When does it begin?"},
            {"role": "assistant", "content": "at <|0.52|>"},
        ]
        rows.append({"path": f"{name}.{suffix[n % 3]}", "split": split, "caption": f"sound {n}", "conversation": turns})
        rows.append(
            {
                **rows[-1],
                "question": "Is it?",
                "answer": "yes " * (900 if n == 0 else 1),
                "kind": "is",
                "conversation": None,
            }
        )
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.jsonl").write_text('{"text": "It rains at <|1.00|>."}\n')
    assert (
        main(["prepare", "folder", "recordings", "--metadata", "mine.jsonl", "--name", "tones", "--data.root=data"])
        == 0
    )
    words = [
        *SMOKE, "--without", "tokenizer_mse", "--timestamps.max_seconds=6", "--timestamps.step=0.5", "--mixture.conversation=1",
        "--mixture.text=2", "--text.files=[texts.jsonl]", "--openaqa.kinds=[is]",
    ]  # fmt: skip
    assert main(["run", "all", *words]) == 0
    left_out = "openaqa: longer than max_tokens=800, or its entry's own, and left out: 1 question"
    assert left_out in capsys.readouterr().err
    run = tmp_path / "runs/smoke/openaqa"
    facts = json.loads((run / "receipt.json").read_text())["facts"]
    assert facts["too_long"] == {"question": 1}
    (listed,) = [json.loads(line) for line in (run / "artifact/too_long.jsonl").read_text().splitlines()]
    assert listed["kind"] == "question" and listed["tokens"] > 800 and "00" in listed["id"]
    # 12 recordings of training: a caption to text, a conversation and (but for one) a question each, and the text twice
    assert facts["items"] == [12 + 12 + 11 + 2]
    state = load_file(run / "artifact/model.safetensors")
    rows_of = next(tensor for key, tensor in state.items() if "new_rows" in key)
    tokenizer = json.loads((tmp_path / "runs/smoke/tokenizer/receipt.json").read_text())["facts"]
    assert len(rows_of) == 2 + tokenizer["codebook_size"] * tokenizer["num_codebooks"] + 13
    assert main(["run", "openaqa", *SMOKE, "--timestamps.step=0.25", "--restart"]) == 1
    assert (
        "was trained with timestamps {'max_seconds': 6.0, 'step': 0.5, 'every': None}, this stage asks for"
        in capsys.readouterr().err
    )


EXAMPLES = ("--mixture.examples=2", "--mixture.question=0", "--mixture.sound_to_text=0", "--examples.shots=1")


def test_texts_of_examples_are_trained_and_a_killed_run_ends_with_the_same_weights(
    stage, tones: Path, whole: Path, capsys
):
    """All but those that are longer than a sequence, which are listed; `fewshot` then asks the LLM in the words that it learned."""
    words = [*(f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache", "caption")), *EXAMPLES]
    assert stage("run", "openaqa", "--experiment=examples", *words) == 0
    facts = json.loads((tones / "runs/examples/openaqa/receipt.json").read_text())["facts"]
    recordings = sum(cut.custom["split"] == "train" for cut in chunks.read(whole / "cache/chunks"))
    assert facts["items"] == [2 * recordings - facts["too_long"].get("examples", 0)] and facts["items"][0] > recordings
    interrupt(tones, "openaqa", 7, "--experiment=examples-killed", *words)
    assert stage("run", "openaqa", "--experiment=examples-killed", *words) == 0
    before, after = (
        load_file(tones / f"runs/{name}/openaqa/artifact/model.safetensors") for name in ("examples", "examples-killed")
    )
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)


def test_examples_of_a_corpus_without_labels_are_refused(apart: Path, whole: Path, capsys):
    (apart / "runs").mkdir()
    shutil.copytree(whole, apart / "runs/whole")
    names = sorted(path.name for path in (apart / "recordings").glob("0[0-5].*"))
    (apart / "plain.csv").write_text("".join(["path,caption\n", *(f"{name},a sound\n" for name in names)]))
    words = ["prepare", "folder", "recordings", "--metadata", "plain.csv", "--name=plain", "--data.root=data"]
    assert main([*words, "--data.num_workers=0", "--validation_fraction=0"]) == 0
    named = [*(word for word in SMOKE if "corpora" not in word), "--experiment=plain", "--data.corpora=[plain]"]
    words = [*named, "--parents.tokenizer=whole"]
    assert main(["run", "cache", *words]) == 0
    assert main(["run", "caption", *words, *EXAMPLES]) == 1
    message = "mixture.examples: 0 labels have a training recording with that label alone, of plain; two of one corpus are needed, each with "
    assert message in capsys.readouterr().err
    entry = CURRICULUM[: CURRICULUM.index("  - {name: closed")].replace("max_steps: 15", "max_steps: 4")
    entry = (
        entry.replace("openaqa:", "caption:")
        .replace("corpora: [tones]", "corpora: [plain]")
        .replace("kinds: [class]", "kinds: []")
    )
    entry = entry.replace("question: 1", "question: 0").replace("text: 0}", "text: 0, examples: 1}")
    (apart / "entry.yaml").write_text(entry.replace("  text: {files: [texts.jsonl]}\n", ""))
    assert main(["run", "caption", *words, "--conf=entry.yaml"]) == 1
    printed = capsys.readouterr().err
    assert f"curriculum, entry 'rows': {message}" in printed
    assert "or type examples: 0.0 in its mixture" in printed
    assert not (apart / "runs/plain/caption/artifact").exists()


def test_the_position_in_a_curriculum():
    mixture = MixtureConf(0.0, 0.0, 1.0, 0.0, 0.0)
    entries = [
        CurriculumEntryConf(name, steps, 1e-4, 1e-3, "all", mixture, [], [], [], None)
        for name, steps in (("a", 3), ("b", 1), ("c", 2))
    ]
    positions = [language_data.position(entries, step) for step in range(7)]
    assert [(where.name, where.step) for where in positions] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 0),
        ("c", 0),
        ("c", 1),
        ("c", 2),
    ]
