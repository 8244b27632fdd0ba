"""Rows of a table that are a part of a recording, by their start and end in seconds."""

from pathlib import Path

import pytest
import torch

from datamodules.audio import load_sound
from datamodules.errors import DataError
from tests.datamodules.recordings import prepared, sound

RATE = 22_050


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_row_with_a_start_and_an_end_is_that_part(tmp_path: Path, suffix: str):
    """Its samples are those of the whole; the parts of a recording are of one source; a part that is all of it is the
    recording.
    """
    name = f"talk.{suffix}"
    sound(tmp_path / name, 2.0, RATE)
    rows = [
        {"path": name, "start": "0", "end": "0.5", "caption": "one"},
        {"path": name, "start": "0.5", "end": "1.3", "caption": "two"},
        {"path": name, "start": "0.50", "end": "1.3", "caption": "three"},
        {"path": name, "start": "1.5", "end": "", "caption": "rest"},
        {"path": name, "start": "", "end": "", "caption": "all"},
    ]
    report, cuts = prepared(tmp_path, rows)
    whole = load_sound(cuts[name], tmp_path, RATE, 1)
    assert report.recordings == 4 and report.splits == {"train": 4, "validation": 0, "test": 0}
    assert {path.partition("::")[2]: [sup.text for sup in cut.supervisions] for path, cut in cuts.items()} == {
        "samples=0+11025": ["one"],
        "samples=11025+17640": ["two", "three"],
        f"samples=33075+{whole.shape[1] - 33075}": ["rest"],
        "": ["all"],
    }
    part = cuts[f"{name}::samples=11025+17640"]
    assert part.custom["source"] == cuts[name].custom["source"] == "mine-talk"
    assert part.id == "mine-talk-11025-28665" and part.duration == pytest.approx(0.8, abs=1e-4)
    torch.testing.assert_close(load_sound(part, tmp_path, RATE, 1), whole[:, 11025:28665])
    assert len({cut.custom["sha256"] for cut in cuts.values()}) == 4


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("one", "2", "line 2: start is 'one'; the seconds are expected"),
        ("-1", "2", "line 2: start is '-1'"),
        ("0", "nan", "line 2: end is 'nan'"),
        ("1", "1", "line 2: it ends at 1 s, and begins at 1"),
        ("0.5", "3", "ends before its part does: 1.50 of 2.50 s are in the file"),
        ("3", "", "line 2: it begins at 3 s, and the recording has 2.00 s"),
    ],
)
def test_a_part_that_is_not_in_the_recording_is_refused(tmp_path: Path, start: str, end: str, message: str):
    sound(tmp_path / "a.wav", 2.0, RATE)
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, [{"path": "a.wav", "start": start, "end": end, "caption": "x"}])


def test_parts_of_one_recording_in_train_and_test_are_refused_unless_they_name_sources(tmp_path: Path):
    sound(tmp_path / "a.wav", 2.0, RATE)
    rows = [
        {"path": "a.wav", "start": "0", "end": "1", "split": "train"},
        {"path": "a.wav", "start": "1", "end": "2", "split": "test"},
    ]
    with pytest.raises(DataError, match="1 sources are in train and in test, the first 'a'"):
        prepared(tmp_path, rows)
    report, _ = prepared(tmp_path, [row | {"source": row["start"]} for row in rows])
    assert report.splits == {"train": 1, "validation": 0, "test": 1}
