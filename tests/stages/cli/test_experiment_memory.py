"""An experiment remembers what it was begun with; a finished run is never begun again because a flag was forgotten."""

import re
from pathlib import Path

import pytest
import yaml

from stages.cli.main import main
from stages.runs import receipts
from stages.runs.experiment_memory import FILE, Typed, added, read, together, write
from tests.conftest import SMOKE

DEMO = Typed(("demo",), (), ("data.corpora=tones", "tokenizer.seed=4"))


@pytest.mark.parametrize(
    ("typed", "stage", "remembered"),
    [
        (DEMO, None, DEMO),
        (Typed(keys=("seed=1", "experiment=x", "runs=y", "limits.seconds=9", "tokenizer.limits.margin=1")), None,
         Typed(keys=("seed=1",))),
        (Typed(keys=("seed=1", "batch_size=2")), "tokenizer", Typed(keys=("tokenizer.seed=1", "tokenizer.batch_size=2"))),
        (Typed(keys=("limits.seconds=9", "slurm.partition=gpu")), "cache", Typed(keys=("slurm.partition=gpu",))),
    ],
)  # fmt: skip
def test_what_is_remembered_of_a_first_command(typed: Typed, stage: str | None, remembered: Typed):
    assert added(Typed(), typed, stage) == remembered


@pytest.mark.parametrize(
    ("typed", "stage", "remembered"),
    [
        (DEMO, None, DEMO),  # typed again
        (Typed(), "tokenizer", DEMO),
        (Typed(("demo",), (), ("data.corpora=tones", "seed=4")), "tokenizer", DEMO),  # what a child is given
        (Typed(("smoke", "demo")), None, DEMO._replace(presets=("smoke", "demo"))),
        (Typed(("large",), without=("tokenizer_mse",)), None, DEMO._replace(presets=("demo", "large"), without=("tokenizer_mse",))),
        (Typed(keys=("seed=5",)), "tokenizer", DEMO._replace(keys=("data.corpora=tones", "tokenizer.seed=5"))),
        (Typed(keys=("data.corpora=mine",)), None, DEMO._replace(keys=("tokenizer.seed=4", "data.corpora=mine"))),
        (Typed(keys=("data.corpora=mine",)), "cache", DEMO._replace(keys=(*DEMO.keys, "cache.data.corpora=mine"))),
    ],
)  # fmt: skip
def test_what_a_later_command_adds(typed: Typed, stage: str | None, remembered: Typed):
    assert added(DEMO, typed, stage) == remembered


def test_files_are_remembered_by_where_they_lie(tmp_path: Path):
    Path("mine.yaml").write_text("seed: 3\n")
    remembered = added(Typed(), Typed(files=("mine.yaml",)), None)
    assert remembered.files == (str(tmp_path / "mine.yaml"),)
    assert together(remembered, Typed(files=("mine.yaml",)), None) == remembered


def test_what_is_typed_wins_and_show_says_which_is_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    Path("mine.yaml").write_text("threads: 3\n")
    write(
        Path("runs/mine"), Typed(("demo",), (str(tmp_path / "mine.yaml"),), ("seed=4", "cache.seed=5", "batch_size=2"))
    )
    words = ["show", "tokenizer", "--experiment=mine", "--encoder.depth=3", "--batch_size=8"]
    assert main(words) == 0
    rows = {line.split()[0]: line.split(None, 1)[1].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["seed"] == ["4", FILE] and rows["threads"] == ["3", str(tmp_path / "mine.yaml")]
    assert rows["encoder.width"] == ["128", "conf/tokenizer/demo.yaml"]
    assert rows["batch_size"] == ["8", "command", "line"] and rows["encoder.depth"] == ["3", "command", "line"]
    assert main(["plan", "tokenizer", "--experiment=mine"]) == 0
    capsys.readouterr()
    assert main(["show", "tokenizer"]) == 0
    rows = {line.split()[0]: line.split(None, 1)[1].split() for line in capsys.readouterr().out.splitlines()}
    assert rows["threads"] == ["0", "conf/base.yaml"], "another experiment remembers nothing of it"


def test_what_is_typed_again_for_all_leaves_a_stage_its_own():
    remembered = Typed(keys=("seed=4", "tokenizer.seed=5"))
    assert (
        together(remembered, Typed(keys=("seed=4",)), None)
        == remembered
        == added(remembered, Typed(keys=("seed=4",)), None)
    )
    assert together(remembered, Typed(keys=("seed=6",)), None).keys[-1] == "seed=6"
    assert together(remembered, Typed(keys=("seed=4",)), "tokenizer").keys[-1] == "seed=4"
    assert together(remembered, Typed(), "cache").keys == ("seed=4",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keys: [seed=1\n", "is damaged"),
        ("key: [seed=1]\n", "is damaged .*lists of words: presets, files, keys, without"),
        ("keys: [sede=1]\n", "no stage has a key 'sede'"),
        (
            "files: [/gone.yaml]\n",
            "--conf /gone.yaml: no such file. Bring it back, or take it out of runs/mine/experiment",
        ),
    ],
)
def test_a_file_that_cannot_be_followed_is_named(capsys: pytest.CaptureFixture[str], text: str, message: str):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine", FILE).write_text(text)
    assert main(["run", "tokenizer", "--experiment=mine"]) == 1
    assert re.search(f"stage: runs/mine/{FILE}.*{message}", capsys.readouterr().err.replace("\n", " "))


def test_a_second_command_needs_no_flags_and_a_changed_one_begins_nothing(stage, tones: Path, copy_of_whole, capsys):
    folder = copy_of_whole("remembering", "latents") / "tokenizer"
    experiment = "--experiment=remembering"
    assert main(["run", "tokenizer", experiment, "--seed=x", *SMOKE]) == 1
    assert not (folder.parent / FILE).exists(), "a command that is refused is not remembered"
    assert stage("run", "tokenizer", experiment, "--trainer.max_steps=4", "--limits.seconds=3000") == 0
    made = receipts.read(folder)
    assert made and made["steps"] == 4
    assert yaml.safe_load((folder.parent / FILE).read_text()) == {
        "presets": ["smoke"],
        "keys": [f"tokenizer.{key}" for key in
                 ("trainer.max_steps=4", "data.root=data", "data.corpora=tones", "threads=1")],
    }  # fmt: skip
    capsys.readouterr()
    assert main(["run", "tokenizer", experiment]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("tokenizer      done (4 steps")
    assert f"runs/remembering/{FILE} remembers   --preset smoke --trainer.max_steps=4 " in printed.err

    for words in (
        ["run", "tokenizer", experiment, "--seed=3"],
        ["run", "all", experiment, "--tokenizer.seed=3", *SMOKE],
    ):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert "runs/remembering/tokenizer is finished, and was begun with something else:\n  seed: 0 -> 3\n" in error
        assert re.search(r"To begin it again .*:   stage run tokenizer --restart .*seed=3", error)
        assert "Nothing was begun" in error and receipts.read(folder) == made
    assert main(["run", "tokenizer", experiment]) == 0, "what was refused is not remembered"
    assert main(["run", "tokenizer", experiment, "--restart", "--seed=3"]) == 0
    again = receipts.read(folder)
    assert again and again["seed"] == 3 and again["steps"] == 4
    assert receipts.read(folder.parent / ".old/tokenizer-1") == made
    assert main(["run", "tokenizer", experiment]) == 0
    assert main(["status", experiment]) == 0
    assert re.search(r"tokenizer +done", capsys.readouterr().out) and receipts.read(folder) == again
    assert read(folder.parent).keys[-1] == "tokenizer.seed=3"


def test_run_all_needs_no_flags_the_second_time(stage, tones: Path, copy_of_whole, capsys, monkeypatch):
    folder = copy_of_whole("chained")
    monkeypatch.chdir(tones)
    assert stage("run", "all", "--experiment=chained", "--without", "tokenizer_mse") == 0
    capsys.readouterr()
    assert main(["run", "all", "--experiment=chained"]) == 0
    printed = capsys.readouterr().out
    done = re.findall(r"^(\w+) +done", printed, re.M)
    assert done == ["latents", "tokenizer", "reconstruct", "cache", "caption", "openaqa", "evaluate"]
    assert main(["run", "all", "--experiment=chained", "--seed=3"]) == 1
    error = capsys.readouterr().err
    assert error.count("seed: 0 -> 3") == len(done), "all of them at once, before anything begins"
    assert not (folder / ".old").exists()
