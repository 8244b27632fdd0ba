"""A run that was killed in the middle never goes on with another parent, configuration or corpus than it was begun with.

Each cell of the table in stages/README.md: refused by name, with nothing touched, or gone on with to the bytes of a run
that was not interrupted, where what changed is nothing that the stage reads.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from datamodules.store import chunks
from stages import READ_CORPORA, STAGES
from stages.cli.main import main
from stages.runs import receipts
from tests.conftest import SMOKE
from tests.interrupt import interrupt

README = Path(__file__).parents[3] / "stages/README.md"
UP_TO = {  # stage -> what is done before it
    "tokenizer": ("latents",),
    "cache": ("latents", "tokenizer"),
    "caption": ("latents", "tokenizer", "cache"),
    "openaqa": ("latents", "tokenizer", "cache", "caption"),
    "all": ("latents", "tokenizer", "cache", "caption", "openaqa"),
}


class Killed(NamedTuple):
    """A stage, and how its unfinished run comes to be."""

    batches: int  # until SIGKILL
    done: tuple[str, ...] = ()  # before it
    parent: str = ""  # that is made again: its key of MADE_AGAIN
    words: tuple[str, ...] = ()


KILLED = {
    "vae": Killed(6),
    "latents": Killed(2, ("vae",), "vae", ("--codec.kind=trained",)),
    "tokenizer": Killed(5, UP_TO["tokenizer"], "latents"),
    "tokenizer_mse": Killed(5, UP_TO["tokenizer"], "latents"),
    "decoder_finetuning": Killed(5, UP_TO["cache"], "tokenizer"),
    "reconstruct": Killed(1, UP_TO["cache"], "tokenizer", ("--batch_size=2",)),
    "cache": Killed(2, UP_TO["cache"], "tokenizer"),
    "rehearsal": Killed(2),
    "caption": Killed(6, UP_TO["caption"], "tokenizer"),
    "openaqa": Killed(5, UP_TO["openaqa"], "caption"),
    "text_to_sound": Killed(5, UP_TO["all"], "openaqa"),
    "preference": Killed(5, UP_TO["all"], "openaqa"),
    "fewshot": Killed(5, UP_TO["openaqa"], "caption", ("--llm=caption", "--splits=[train,validation,test]", "--episodes=6")),
    "generation": Killed(1, UP_TO["all"], "openaqa"),
    "evaluate": Killed(2, UP_TO["all"], "openaqa"),
}  # fmt: skip
# parent -> what is typed to make it again, and what follows from it
MADE_AGAIN = {
    "vae": [("vae", "--restart", "--seed=1")],
    "latents": [("latents", "--restart", "--fit_recordings=2")],
    "tokenizer": [("tokenizer", "--restart", "--seed=1"), ("cache",)],
    "caption": [("caption", "--restart", "--seed=1")],
    "openaqa": [("openaqa", "--restart", "--seed=1")],
}
CHANGES = ("parent", "configuration", "corpus", "code")
STORED = ("latents", "cache")  # what they make is looked up by its sound: a mended caption changes none of it
REFUSED, RIGHT, NONE = "refused", "right", "reads none"


def outcome(stage: str, change: str) -> str:
    """What the table says."""
    if change == "code":
        return f"{RIGHT}, said"
    if change == "parent" and not KILLED[stage].parent:
        return NONE
    if change == "corpus" and (stage in STORED or stage not in READ_CORPORA):
        return RIGHT
    return REFUSED


def table() -> list[str]:
    headings = ["killed in the middle", "a parent made again", "configuration", "a corpus prepared again", "code"]
    rows = [[f"`{stage}`", *(outcome(stage, change) for change in CHANGES)] for stage in KILLED]
    return [f"| {' | '.join(row)} |" for row in (headings, *rows)]


CELLS = [(stage, change) for stage in KILLED for change in CHANGES if outcome(stage, change) != NONE]
# each change and each kind of product (steps, chunks, rows) at least once
BY_DEFAULT = {
    ("tokenizer", "parent"),
    ("tokenizer", "corpus"),
    ("cache", "parent"),
    ("cache", "corpus"),
    ("cache", "code"),
    ("evaluate", "parent"),
    ("evaluate", "configuration"),
    ("rehearsal", "configuration"),
}
MARKED = [cell if cell in BY_DEFAULT else pytest.param(*cell, marks=pytest.mark.matrix) for cell in CELLS]


def files(folder: Path) -> dict[str, bytes]:
    """All but what a start that was refused says."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "error.txt"}


def results(artifact: Path) -> dict[str, bytes]:
    """Weights, codes and rows of an artifact: its other files name the experiment."""
    paths = [
        path for path in artifact.iterdir() if path.suffix in (".safetensors", ".jsonl") or path.name == "cuts.json"
    ]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="session")
def killed(tones: Path, whole: Path) -> Callable[[str], Path]:
    """The folder of an experiment in which the stage was killed in the middle: to be copied."""

    def make(stage: str) -> Path:
        experiment = whole.with_name(f"middle-of-{stage}")
        if not experiment.exists():
            for name in KILLED[stage].done:
                if (whole / name).exists():
                    shutil.copytree(whole / name, experiment / name)
                else:  # `all` leaves it out
                    assert main(["run", name, f"--experiment={experiment.name}", *SMOKE]) == 0
            interrupt(tones, stage, KILLED[stage].batches, f"--experiment={experiment.name}", *KILLED[stage].words)
        return experiment

    return make


@pytest.fixture(scope="session")
def made_again(tones: Path, whole: Path) -> Callable[[str], list[Path]]:
    """The run folders of a parent that was made again, and of what was made from it."""

    def make(parent: str) -> list[Path]:
        experiment = whole.with_name(f"{parent}-again")
        if not experiment.exists():
            shutil.copytree(whole, experiment)
            for name, *words in MADE_AGAIN[parent]:
                assert main(["run", name, f"--experiment={experiment.name}", *words, *SMOKE]) == 0
        return [experiment / name for name, *_ in MADE_AGAIN[parent]]

    return make


@pytest.fixture(scope="session")
def mended(tones: Path) -> str:
    """A data root in which `tones` has one caption more."""
    root = tones / "data-mended"
    if not root.exists():
        rows = list(csv.DictReader((tones / "recordings/metadata.csv").open()))
        rows[0]["caption"] = "a deep sound"
        with (tones / "recordings/mended.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        metadata = f"--metadata={tones / 'recordings/mended.csv'}"
        words = ["prepare", "folder", str(tones / "recordings"), metadata, "--name=tones", f"--data.root={root}"]
        assert main(words) == 0
    return root.name


@pytest.mark.parametrize(("stage", "change"), MARKED)
def test_what_was_killed_in_the_middle_is_not_mixed(
    stage: str,
    change: str,
    killed: Callable[[str], Path],
    made_again: Callable[[str], list[Path]],
    mended: str,
    tones: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tones)
    experiment = shutil.copytree(killed(stage), whole.with_name(f"{stage}-{change}"))
    folder, row, named = experiment / stage, KILLED[stage], f"--experiment={stage}-{change}"
    words = ["run", stage, named, *row.words, *SMOKE]
    expected = ""
    if change == "parent":
        for run in (run for run in made_again(row.parent) if run.name in row.done):
            shutil.rmtree(experiment / run.name)
            shutil.copytree(run, experiment / run.name)
        expected = f"its parent {row.parent} changed"
    elif change == "configuration":
        words, expected = [*words, "--seed=7"], "seed: 0 -> 7"
    elif change == "corpus":
        words, expected = [*words, f"--data.root={mended}"], "the corpus tones was prepared again"
    else:
        run_json = folder / "run.json"
        run_json.write_text(json.dumps(json.loads(run_json.read_text()) | {"commit": "0123456789ab"}))
    before = files(folder)
    capsys.readouterr()
    status = main(words)
    error = capsys.readouterr().err
    if outcome(stage, change) == REFUSED:
        assert status == 1 and re.search(rf"{stage} holds an unfinished run \((step|chunk|\d+ row)", error), error
        assert expected in error and "--restart" in error and files(folder) == before
        assert main(["status", *words[2:]]) == 0
        assert re.search(rf"{stage} +stale .*{expected}", capsys.readouterr().out)
        return
    receipt = receipts.read(folder)
    assert status == 0 and receipt, error
    assert ("begun by the code of commit 0123456789ab" in error) == (change == "code")
    undisturbed = receipts.read(whole / stage)
    if stage in STORED and change == "corpus":
        cuts, others = ({cut.id: cut for cut in chunks.read(run / stage / "chunks")} for run in (experiment, whole))
        assert [cut.supervisions[0].text for cut in cuts.values()].count("a deep sound") == 1
        assert set(cuts) == set(others)
        assert stage != "cache" or all(cuts[name].custom["codes"] == others[name].custom["codes"] for name in cuts)
    elif undisturbed and not row.words:
        made, other = (results(run / "artifact") for run in (folder, whole / stage))
        assert made and made == other


def test_a_run_that_is_refused_begins_again_with_the_new_parent(
    killed: Callable[[str], Path], made_again: Callable[[str], list[Path]], tones: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tones)
    experiment = shutil.copytree(killed("tokenizer"), tones / "runs/tokenizer-begins-again")
    (latents,) = made_again("latents")
    shutil.rmtree(experiment / "latents")
    shutil.copytree(latents, experiment / "latents")
    assert main(["run", "tokenizer", "--experiment=tokenizer-begins-again", "--restart", *SMOKE]) == 0
    receipt, made = receipts.read(experiment / "tokenizer"), receipts.read(latents)
    assert receipt and made and receipt["parents"] == {"latents": made["artifact_hash"]}


def test_every_stage_has_a_line_in_the_readme():
    assert set(KILLED) == set(STAGES)
    assert "\n".join([table()[0], "|---|---|---|---|---|", *table()[1:]]) in README.read_text()
