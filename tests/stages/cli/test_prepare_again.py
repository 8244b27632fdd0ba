"""`stage prepare`, killed, mended and in shards: what is decoded, and that the corpus is the same."""

import gzip
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from callbacks import progress
from stages.cli.main import main
from tests import zygote

COUNT = 12
PREPARE = ["prepare", "folder", "in", "--metadata", "in/m.csv", "--name", "mine", "--data.num_workers=0"]


@pytest.fixture
def recordings(folder: Path) -> Path:
    (folder / "in").mkdir()
    for number in range(COUNT):
        soundfile.write(folder / "in" / f"{number:02}.wav", 0.3 * np.sin(np.arange(4000) * 0.01 * (number + 1)), 8000)
    splits = ("train", "train", "val", "test")
    rows = [f"{number:02}.wav,sound {number},{splits[number % 4]}\n" for number in range(COUNT)]
    (folder / "in/m.csv").write_text("path,caption,split\n" + "".join(rows))
    return folder


def cuts(folder: Path, data: str = "data") -> str:
    with gzip.open(folder / data / "mine/cuts.jsonl.gz", "rt") as file:
        return file.read()


def note_decoded(notes: Path, moment: str = "") -> None:
    """In the process of `stage`: counts what is decoded, and kills it at a moment."""
    from datamodules.corpora import inspect, inspection_record, writer
    from stages.launch import corpus_contents

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    decode, append, make = inspect._inspect, inspection_record._Appender._append, writer.make_cut
    done = []

    def noted(path: Path) -> Any:
        with notes.open("a") as file:
            print(path.name, file=file)
        if moment == "the first is decoded" or (moment == "the sixth is decoded" and path.name == "05.wav"):
            die()
        return decode(path)

    def half(self: Any, inspection: Any) -> None:
        if moment == "a line is written" and inspection.path.endswith("05.wav"):
            record = Path("data/mine/inspected.jsonl")
            before = record.stat().st_size
            append(self, inspection)
            os.truncate(record, before + 40)
            die()
        append(self, inspection)

    def made(*arguments: Any) -> Any:
        done.append(1)
        if moment == "cuts are written" and len(done) == 6:
            die()
        return make(*arguments)

    inspect._inspect, inspection_record._Appender._append, writer.make_cut = noted, half, made
    if moment == "the receipt is due":
        corpus_contents.count = die


# what is decoded twice is what was in hand
@pytest.mark.parametrize(
    "moment, twice",
    {
        "the first is decoded": 1,
        "the sixth is decoded": 1,
        "a line is written": 1,
        "cuts are written": 0,
        "the receipt is due": 0,
    }.items(),
)
def test_a_kill_costs_the_recording_in_hand(recordings: Path, moment: str, twice: int):
    notes = recordings / "notes"
    killed = zygote.run(PREPARE, recordings, partial(note_decoded, notes, moment))
    assert killed.status == -signal.SIGKILL and not (recordings / "data/mine/receipt.json").exists()
    ended = zygote.run(PREPARE, recordings, partial(note_decoded, notes))
    assert ended.status == 0, ended.output
    assert len(notes.read_text().splitlines()) - COUNT == twice
    known = cuts(recordings)
    whole = zygote.run([*PREPARE, "--data.root=whole"], recordings)
    assert whole.status == 0 and cuts(recordings, "whole") == known


def test_another_caption_or_split_decodes_nothing(recordings: Path, capsys: pytest.CaptureFixture[str]):
    assert main(PREPARE) == 0
    table = recordings / "in/m.csv"
    table.write_text(table.read_text().replace("sound 3,test", "a bell,train"))
    capsys.readouterr()
    ended = zygote.run(PREPARE, recordings, partial(note_decoded, recordings / "notes"))
    assert ended.status == 0 and not (recordings / "notes").exists()
    assert f"{COUNT} of {COUNT} recordings were inspected before" in ended.stderr
    assert "a bell" in cuts(recordings) and 'sound 3"' not in cuts(recordings)


def test_a_line_a_minute_says_the_rate_and_the_time_left(
    recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert main(PREPARE) == 0
    assert "recordings/s" not in capsys.readouterr().err, "it took less"
    (recordings / "data/mine/inspected.jsonl").unlink()
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert main(PREPARE) == 0
    lines = re.findall(
        r"^mine +(\d+)/12 recordings +[\d.]+ s +[\d.e+]+ recordings/s, 0 min left$",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    assert list(map(int, lines)) == list(range(1, COUNT))


def test_shards_inspect_and_the_command_without_them_joins(recordings: Path, capsys: pytest.CaptureFixture[str]):
    (recordings / "in/07.wav").write_bytes(b"")
    for shard in ("0/2", "1/2"):
        assert main([*PREPARE, f"--shard={shard}"]) == 0
    printed = capsys.readouterr().out
    assert f"shard 0/2: {COUNT // 2} of {COUNT} recordings are inspected. The same" in printed
    assert f"shard 1/2: {COUNT // 2} of {COUNT} recordings are inspected, 1 cannot be used. The same" in printed
    assert sorted(path.name for path in (recordings / "data/mine").iterdir()) == [
        "inspected-0-of-2.jsonl",
        "inspected-1-of-2.jsonl",
    ]
    ended = zygote.run([*PREPARE, "--data.on_bad=skip"], recordings, partial(note_decoded, recordings / "notes"))
    assert ended.status == 0 and (recordings / "notes").read_text() == "07.wav\n", ended.output


@pytest.mark.parametrize(
    "words, message",
    [
        ([*PREPARE, "--shard=2/2"], r"--shard=2/2: I/N with I from 0 to N - 1 is allowed, as --shard=0/32"),
        ([*PREPARE, "--shard=half"], r"--shard=half: I/N"),
        (["prepare", "diagnostic", "--shard=0/2"], r"prepare diagnostic decodes no recordings .* leave --shard out"),
    ],
)
def test_a_shard_is_one_of_several(
    recordings: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert main(words) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (recordings / "data").exists()


@pytest.mark.parametrize("words", [PREPARE, ["prepare", "diagnostic", "--data.root=data"]])
def test_a_corpus_is_prepared_by_one_process_at_a_time(
    recordings: Path, capsys: pytest.CaptureFixture[str], words: list[str]
):
    name = "diagnostic" if "diagnostic" in words else "mine"
    hold = f"from pathlib import Path; from stages.runs import lock\nwith lock.claimed_corpus(Path('data/{name}')): print(flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdin and other.stdout and other.stdout.readline()
    assert main(words) == 1
    assert f"data/{name} is being written by another `stage prepare` (process {other.pid} on" in capsys.readouterr().err
    if name == "mine":
        assert main([*words, "--shard=0/2"]) == 0, "shards inspect beside it"
    other.communicate("\n")
    if name == "mine":
        assert main(words) == 0
