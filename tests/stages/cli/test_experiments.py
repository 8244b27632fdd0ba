"""`stage runs`, `stage compare`, `stage clean`, as they are typed."""

import json
import os
import shutil
from pathlib import Path

import pytest

from stages import STAGES
from stages.cli.main import main
from stages.reports.runs_table import KEY_METRICS
from stages.runs.lock import claimed
from stages.runs.state import EARLIER, begin_run
from tests.stages.runs.written_experiment import WrittenExperiment


@pytest.fixture
def house(tmp_path: Path) -> WrittenExperiment:
    house = WrittenExperiment(tmp_path)
    house.make_all()
    return house


def cells(printed: str) -> dict[str, list[str]]:
    """First cell of a row of a table -> the others."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows}


def test_runs_lists_what_is_done_under_way_and_worth(house: WrittenExperiment, capsys, whole: Path):
    house.checkpoint("tokenizer", 120, "experiment=later")
    (house.root / "runs" / "empty").mkdir()
    for name, value in (("openaqa", 1.25), ("caption", 2.5)):
        path = house.root / "runs/demo" / name / "receipt.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"val/text_loss": value}}))
    os.utime(house.root / "runs/later/tokenizer", (2e9, 2e9))
    assert main(["runs", "--runs", str(house.root / "runs")]) == 0
    rows = cells(capsys.readouterr().out)
    assert list(rows) == ["experiment", "---", "later", "demo"], "the newest first, and none that is empty"
    headings = rows["experiment"]
    later, demo = (dict(zip(headings, rows[name], strict=True)) for name in ("later", "demo"))
    assert later["done"] == "" and later["under way"].startswith("tokenizer: step 120 of ")
    assert later["newest"].startswith("2033-05-18")
    assert demo["done"].split(", ")[:3] == ["vae", "latents", "tokenizer"] and demo["under way"] == ""
    assert demo["text loss"] == "1.250", "of the stage that is last in the chain"
    assert demo["latent NMSE"] == "\N{EN DASH}"
    assert main(["runs", "--runs", str(whole.parent)]) == 0
    measured = dict(zip(headings, cells(capsys.readouterr().out)["whole"], strict=True))
    assert all(float(measured[name]) for name in KEY_METRICS), "real receipts have these metrics"
    assert float(measured["questions right, %"]) >= 0


def test_compare_shows_what_differs_and_all_that_is_equal_if_asked(house: WrittenExperiment, capsys):
    for stage, *overrides in (("vae",), ("latents", "seed=4")):
        house.make(stage, "x", "experiment=other", *overrides)
    path = house.root / "runs/other/latents/receipt.json"
    rows = [{"group": "tones", "steps": 2, "mel": 0.5}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": {"loss": 2.0, "rows": rows}}))
    words = ["compare", "demo", "other", "--runs", str(house.root / "runs")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("| latents")]
    assert lines == [
        "| latents | seed | 0 | 4 |",
        "| latents | loss | 1 | 2 |",
        "| latents | rows[tones, 2].mel | \N{EN DASH} | 0.5 |",
    ]
    assert "| vae " not in printed and "tokenizer is in demo alone" in printed
    assert main([*words, "--all"]) == 0
    assert "| vae | seed | 0 | 0 |" in capsys.readouterr().out
    assert main(["compare", "demo", "othr", "--runs", str(house.root / "runs")]) == 1
    assert "no experiment 'othr'" in (error := capsys.readouterr().err) and "Did you mean 'other'" in error


def test_clean_says_first_and_removes_what_nothing_needs(house: WrittenExperiment, capsys, monkeypatch):
    runs = house.root / "runs"
    words = ["clean", "demo", "--runs", str(runs)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"nothing to remove in {runs}/demo\n"
    for number in (1, 2):  # the second is of the same weights as the one in use
        begin_run("tokenizer", house.conf("tokenizer"), restart=True)
        house.make("tokenizer", "other weights" if number == 1 else "tokenizer weights")
    (runs / "demo/cache/.artifact").mkdir()
    (runs / "demo/cache/.artifact/half").write_bytes(b"x" * 3_000_000)
    os.link(runs / "demo/latents/artifact/weights", runs / "demo/.old/tokenizer-2/shared")
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "Remove 3, which frees 3.0 MB?" in printed.err and "--yes" in printed.err
    assert f"{runs}/demo/.old/tokenizer-1 | earlier run, finished 20" in printed.out
    assert (runs / "demo/.old/tokenizer-1/artifact").is_dir(), "nothing is removed before it is asked"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(words) == 0 and (runs / "demo/.old/tokenizer-1").is_dir()
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(words) == 0
    assert not list((runs / "demo/.old").iterdir()) and not (runs / "demo/cache/.artifact").exists()
    assert (runs / "demo/latents/artifact/weights").read_text() == "latents weights"


def test_clean_keeps_what_something_needs(house: WrittenExperiment, capsys):
    runs = house.root / "runs"
    for stage in ("tokenizer", "cache"):
        begin_run(stage, house.conf(stage), restart=True)
        house.make(stage, f"other {stage}")
    house.make("latents", "of p", "experiment=p")
    house.make("tokenizer", "of p", "experiment=p", f"parents.latents={runs / 'demo/latents'}")
    begin_run("latents", house.conf("latents"), restart=True)
    (runs / "demo/latents" / EARLIER).write_text("latents-1")
    assert main(["clean", "--yes", "--runs", str(runs)]) == 0
    table = cells(capsys.readouterr().out)
    assert table[f"{runs}/demo/.old/latents-1"][1] == "kept: demo/latents takes over its chunks"
    # caption was made from the first tokenizer and cache, which are nowhere else
    assert table[f"{runs}/demo/.old/tokenizer-1"][1].startswith("kept: demo/")
    assert {path.name for path in (runs / "demo/.old").iterdir()} == {"latents-1", "tokenizer-1", "cache-1"}
    for stage in STAGES:
        house.make(stage, f"new {stage}")
    assert main(["clean", "--yes", "--runs", str(runs)]) == 0
    table = cells(capsys.readouterr().out)
    assert table[f"{runs}/demo/.old/latents-1"][1] == "kept: p/tokenizer was made from it"
    assert [path.name for path in (runs / "demo/.old").iterdir()] == ["latents-1"]


def test_clean_removes_a_run_that_stands_for_a_checkpoint_unless_one_reads_it(house: WrittenExperiment, capsys):
    demo = house.root / "runs/demo"
    house.make("tokenizer", "as it was at two steps", "experiment=half", "parents.latents=demo")
    for step in (100, 200):
        shutil.copytree(demo.with_name("half") / "tokenizer", demo / f"tokenizer.step-{step:08d}")
    shutil.rmtree(demo.with_name("half"))
    (demo / ".tokenizer.step-00000300.17").mkdir()
    house.make(
        "cache",
        "codes",
        "experiment=other",
        "parents.latents=demo",
        f"parents.tokenizer={demo / 'tokenizer.step-00000200'}",
    )
    assert main(["clean", "--yes", "--runs", str(demo.parent)]) == 0
    table = cells(capsys.readouterr().out)
    assert table[str(demo / "tokenizer.step-00000200")][1] == "kept: other/cache names it as a parent"
    assert [path.name for path in demo.glob("*tokenizer.step-*")] == ["tokenizer.step-00000200"]
    shutil.rmtree(demo.with_name("other"))
    assert main(["clean", "--yes", "--runs", str(demo.parent)]) == 0
    assert not list(demo.glob("tokenizer.step-*")) and (demo / "tokenizer").is_dir()


def test_clean_removes_nothing_under_a_run_that_writes(house: WrittenExperiment, capsys):
    """Another process has the folder: what it may read is not removed under it."""
    from tests import zygote

    begin_run("latents", house.conf("latents"), restart=True)
    house.make("latents", "latents weights")
    conf = house.conf("latents")
    with claimed("latents", conf):
        ended = zygote.run(["clean", "--yes", "--runs", str(house.root / "runs")], house.root)
    assert ended.status == 1 and "is being written by another run" in ended.stderr
    assert (house.root / "runs/demo/.old/latents-1").is_dir()
