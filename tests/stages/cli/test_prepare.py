"""`stage prepare folder` and what reads its corpus: bad recordings are refused whole, the table is said back."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

import conf
from stages.cli.main import main
from stages.runs import corpora
from tests.stages.cli.small_corpus import PREPARE, halve, left, recordings, rewrite

SPOILED = {
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "in: the folder is empty"),
    "no recordings": (
        lambda folder: [path.unlink() for path in folder.glob("*.wav")],
        "in holds none of the 3 recordings",
    ),
    "no path": (
        lambda folder: (folder / "m.csv").write_text("file\n0.wav\n"),
        r"m\.csv: no column 'path'\. It has file",
    ),
    "no rows": (lambda folder: (folder / "m.csv").write_text("path\n"), r"m\.csv: no rows"),
    "missing": (lambda folder: (folder / "1.wav").unlink(), r"1 of 3 .*\n  1\.wav: missing\n.*--data\.on_bad=skip"),
    "silent": (lambda folder: soundfile.write(folder / "2.wav", np.zeros(4000), 8000), r"1 of 3 .*\n  2\.wav: silent"),
    "truncated": (lambda folder: halve(folder / "0.wav"), r"1 of 3 .*\n  0\.wav: truncated"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_bad_recordings_are_refused_whole(folder: Path, capsys: pytest.CaptureFixture[str], name: str):
    spoil, output = SPOILED[name]
    recordings(folder)
    spoil(folder / "in")
    before = left(folder)
    assert main(PREPARE) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("stage: ") and "Traceback" not in printed.err
    assert re.search(output, printed.err), printed.err
    record = {"data", "data/mine", "data/mine/inspected.jsonl"}  # of the good ones
    assert [path for path in left(folder) if path not in record] == before, "nothing half-written"


def test_skip_goes_on_and_says_how_many(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    (folder / "in" / "1.wav").unlink()
    assert main([*PREPARE, "--data.on_bad=skip"]) == 0
    printed = capsys.readouterr()
    assert "1 recordings were left out" in printed.err and "1.wav: missing" in printed.err
    assert "2 recordings (1 train, 1 test)" in printed.out


def test_a_long_list_of_bad_recordings_is_cut_and_its_file_named(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    gone = [f"gone-{number}.wav" for number in range(23)]
    with (folder / "in" / "m.csv").open("a") as file:
        file.writelines(f"{name},none,train\n" for name in gone)
    listed = folder / "data/mine/missing.jsonl"
    for words in (PREPARE, [*PREPARE, "--data.on_bad=skip"]):
        listed.unlink(missing_ok=True)
        assert main(words) == (words is PREPARE)
        printed = "".join(capsys.readouterr())
        assert "  gone-19.wav: missing\n  and 3 more" in printed and "data/mine/missing.jsonl" in printed
        assert [json.loads(line) for line in listed.read_text().splitlines()] == [
            {"path": name, "reason": "missing"} for name in gone
        ]
    (folder / "in" / "m.csv").write_text("path,caption,split\n0.wav,low,train\n")
    assert main(PREPARE) == 0 and not listed.exists(), "nothing is missing any more"


def test_what_was_understood_of_the_table_is_said(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    (folder / "in" / "m.csv").write_text(
        "path,captions,label,description,split\n0.wav,low,l,1,Training\n1.wav,middle,m,2,TRAIN\n2.wav,high,,3,eval\n"
    )
    assert main([*PREPARE, "--validation_fraction=0"]) == 0
    printed = capsys.readouterr().out
    assert "found 0 captions, 2 labels, 0 questions, 0 conversations\n" in printed
    assert printed.count("did you mean") == 1
    assert "column `captions` is kept and not read; did you mean `caption`?\n" in printed
    assert "column split: training -> train: 1, eval -> test: 1\n" in printed
    assert "for validation" not in printed, "none was asked for"
    assert "replaces" not in printed


def test_columns_that_are_not_read_are_named_where_nothing_is(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    (folder / "in" / "m.csv").write_text("path,text,speaker\n0.wav,low,a\n1.wav,middle,b\n2.wav,high,c\n")
    assert main(PREPARE) == 0
    printed = capsys.readouterr().out
    assert "nothing is said about any recording" in printed and "kept and not read: text, speaker; " in printed
    (folder / "in" / "m.csv").write_text("path,caption,speaker\n0.wav,low,a\n1.wav,None,b\n2.wav,high,c\n")
    assert main(PREPARE) == 0
    printed = "".join(capsys.readouterr())
    assert "not read" not in printed and "taken as texts: 'None'" in printed


def test_an_earlier_corpus_of_the_name_is_said_to_be_replaced(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    assert main(PREPARE) == 0 and "replaces" not in capsys.readouterr().out
    (folder / "in").rename(folder / "other")
    assert main([word.replace("in", "other") if word.startswith("in") else word for word in PREPARE]) == 0
    assert f"it replaces one of 3 recordings, prepared from {folder / 'in'}\n" in capsys.readouterr().out


def test_recordings_are_prepared(folder: Path, capsys: pytest.CaptureFixture[str]):
    recordings(folder)
    assert main(PREPARE) == 0
    assert "mine" in capsys.readouterr().out
    names = ["cuts.jsonl.gz", "inspected.jsonl", "receipt.json"]
    assert sorted(path.name for path in (folder / "data" / "mine").iterdir()) == names


@pytest.mark.parametrize("value", ["1.10", "01", "2024_01_05", "on", "null", "1e3", "0x10"])
def test_a_value_is_the_text_that_was_typed(folder: Path, value: str):
    recordings(folder)
    (folder / "in" / "m.csv").write_text(f"path,caption,take\n0.wav,low,1.1\n1.wav,middle,{value}\n2.wav,high,1\n")
    typed = ["--split_by", "take", "--test", value, "--name", value, "--validation_fraction=0"]
    assert main(["prepare", "folder", "in", "--metadata", "in/m.csv", *typed]) == 0
    name = "in" if value == "null" else value  # null is no name: the folder's
    with gzip.open(folder / "data" / name / "cuts.jsonl.gz", "rt") as file:
        cuts = list(map(json.loads, file))
    assert [cut["supervisions"][0]["text"] for cut in cuts if cut["custom"]["split"] == "test"] == ["middle"]


def test_help_and_show_say_what_preparing_takes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["prepare", "folder", "--help"])
    explained = {line.split()[0] for line in capsys.readouterr().out.splitlines() if re.match(r"  \w[\w.]+ ", line)}
    keys = set(conf.compose("folder").origins) - {"root", "data.corpora"}
    assert keys <= explained, "root is the argument ROOT"
    assert main(["show", "folder"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["metadata"][1] == rows["root"][1] == "null" and rows["validation_fraction"][1] == "0.1"


REPLACED = {
    "another size": (lambda path: rewrite(path, 0.31), r"has changed since prepare: 0\.31 s, was 0\.50 s"),
    "the same size": (
        lambda path: rewrite(path, 0.31, size=path.stat().st_size),
        r"has changed since prepare: 0\.31 s, was 0\.50 s",
    ),
    "truncated": (halve, "truncated.*"),
    "another rate": (
        lambda path: rewrite(path, 0.5, 16000),
        "has changed since prepare: 16000 Hz and 1 channels, was 8000 Hz and 1 channels",
    ),
}


@pytest.mark.parametrize("rendered", [False, True], ids=["found", "rendered"])
@pytest.mark.parametrize("how", REPLACED)
def test_a_recording_of_another_length_is_found_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], how: str, rendered: bool
):
    """rendered: the project's own corpora keep no file sizes."""
    recordings(folder)
    assert main(PREPARE) == 0
    if rendered:
        forget_sizes(folder / "data" / "mine" / "cuts.jsonl.gz")
    spoil, output = REPLACED[how]
    spoil(folder / "in" / "0.wav")
    capsys.readouterr()
    before = left(folder)
    words = ["run", "latents", "--preset", "smoke", "--data.root=data", "--data.corpora=mine"]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert re.search(rf"1 of 3 recordings cannot be used:\n.*0\.wav: {output}\n", printed), printed
    assert left(folder) == before
    skipped = corpora.recordings("latents", conf.compose("latents", overrides=[*SKIP]).conf.data)
    assert re.search(rf"1 of 3 recordings are left out.*\n.*0\.wav: {output}\n", capsys.readouterr().err)
    assert [cut.id for cut in skipped.cuts] == ["mine-1", "mine-2"]


SKIP = ("data.corpora=mine", "data.on_bad=skip")


def forget_sizes(path: Path) -> None:
    with gzip.open(path, "rt") as file:
        cuts = [json.loads(line) for line in file]
    for cut in cuts:
        del cut["custom"]["size"]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in cuts)


def test_a_receipt_counts_what_is_said(folder: Path):
    recordings(folder)
    (folder / "in" / "m.csv").write_text(
        "path,caption,label,question,answer,split\n0.wav,a,low,,,train\n0.wav,b,,Is it?,yes,train\n1.wav,,,,,test\n"
    )
    assert main(PREPARE) == 0
    output = json.loads((folder / "data" / "mine" / "receipt.json").read_text())["contents"]
    assert output["train"] == {
        "recordings": 1,
        "captions": 2,
        "questions": {"class": 1, "question": 1},
        "conversations": 0,
        "labelled": 1,
    }
    assert output["test"] == {"recordings": 1, "captions": 0, "questions": {}, "conversations": 0, "labelled": 0}


@pytest.mark.parametrize("splits", [("train", "train", "train"), ("train", "val", "test"), ("", "", "test")], ids=str)
def test_a_split_without_recordings_is_said(folder: Path, capsys: pytest.CaptureFixture[str], splits: tuple[str, ...]):
    recordings(folder)
    rows = [f"{number}.wav,a,{split}\n" for number, split in enumerate(splits)]
    (folder / "in" / "m.csv").write_text("".join(["path,caption,split\n", *rows]))
    assert main(PREPARE) == 0
    printed = capsys.readouterr().out
    assert ("no recording is for validation: " in printed) == (splits[1] == "train")
    assert ("no recording is for test: " in printed) == ("test" not in splits)
