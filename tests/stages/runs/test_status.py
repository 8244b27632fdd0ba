"""`stage status`, as it is typed: each run is seen with the parents that it was run with."""

from pathlib import Path

import pytest

from stages import STAGES
from stages.cli.main import main
from tests.stages.runs.written_experiment import WrittenExperiment

TAKEN = ("experiment=p", "parents.tokenizer=demo", "parents.latents=demo")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WrittenExperiment:
    """The experiment `demo`, whole, and `p`, which took its tokenizer and latents; no data/ lies in the folder it stands in."""
    monkeypatch.chdir(tmp_path)
    house = WrittenExperiment(tmp_path)
    house.make_all()
    for stage in STAGES:
        if stage not in ("vae", "latents", "tokenizer"):
            house.make(stage, f"{stage} of p", *TAKEN)
    return house


def lines(house: WrittenExperiment, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Stage -> what is said of it in `p`."""
    capsys.readouterr()
    assert main(["status", "--experiment=p", f"--runs={house.root / 'runs'}", *words]) == 0
    printed = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:]]
    return {stage: " ".join(line.split()) for stage, line in printed}


OTHERS = [stage for stage in STAGES if stage not in ("vae", "latents", "tokenizer")]


@pytest.mark.parametrize(
    "words", [[], ["--preset", "demo"], ["--parents.latents=demo"], ["--data.root=elsewhere"]], ids=str
)
def test_what_is_taken_from_another_experiment_is_not_missing(house: WrittenExperiment, capsys, words: list[str]):
    """And a key that decides nothing does not hold the runs against the full-size defaults."""
    shown = lines(house, capsys, *words)
    assert (shown["latents"], shown["tokenizer"]) == ("taken from demo", "taken from demo")
    assert {stage: shown[stage] for stage in OTHERS} == dict.fromkeys(OTHERS, "done 2 s")


def test_a_key_that_decides_compares(house: WrittenExperiment, capsys):
    shown = lines(house, capsys, "--preset", "demo", "--cache.seed=3")
    assert shown["cache"] == "stale its configuration changed: seed: 0 -> 3"
    assert shown["caption"] == "stale its parent cache is not done" and shown["tokenizer_mse"] == "done 2 s"


def test_what_changed_elsewhere_is_said(house: WrittenExperiment, capsys):
    house.make("latents", "other latents")
    shown = lines(house, capsys)
    assert (shown["latents"], shown["tokenizer"]) == ("taken from demo", "taken from demo (stale there)")
    assert shown["tokenizer_mse"] == "stale its parent latents changed"


def test_the_corpora_are_those_that_a_run_found(house: WrittenExperiment, capsys, monkeypatch: pytest.MonkeyPatch):
    """Another corpus of that name under the default data.root is none of its business."""
    other = house.root / "work" / "data" / "diagnostic"
    other.mkdir(parents=True)
    (other / "receipt.json").write_text('{"hash": "another"}')
    monkeypatch.chdir(house.root / "work")
    words = ["status", "--experiment=demo", f"--runs={house.root / 'runs'}"]
    assert main(words) == 0
    assert " stale " not in capsys.readouterr().out
    assert main([*words, "--data.root=data"]) == 0
    assert "the corpus diagnostic was prepared again" in capsys.readouterr().out


def test_an_unknown_key_is_refused(house: WrittenExperiment, capsys):
    assert main(["status", "--experimnt=p"]) == 1
    assert "Did you mean 'experiment'" in capsys.readouterr().err
