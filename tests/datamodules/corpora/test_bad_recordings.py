"""Every bad recording named once with its reason, and nothing half-written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.corpora import inspect
from datamodules.errors import DataError
from tests.datamodules.recordings import FORMATS, prepared, sound, tone


def cut_short(path: Path, share: float) -> Path:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def spoil_nan(path: Path) -> None:
    wave = tone(0.5, 8000)
    wave[100] = np.nan
    soundfile.write(path, wave, 8000, subtype="FLOAT")


BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {  # name -> (words of the reason, how to make it)
    "missing.wav": ("missing", lambda path: None),
    "empty.wav": ("empty file", lambda path: path.write_bytes(b"")),
    "short.wav": ("truncated", lambda path: cut_short(sound(path, 2.0), 0.6)),
    "barely_short.wav": ("truncated", lambda path: path.write_bytes(sound(path, 2.0).read_bytes()[:-600])),
    "header.wav": ("cannot be decoded", lambda path: path.write_bytes(sound(path).read_bytes()[:20])),
    "short.flac": ("(truncated|cannot be decoded)", lambda path: cut_short(sound(path, 2.0), 0.6)),
    "short.ogg": ("(truncated|cannot be decoded)", lambda path: cut_short(sound(path, 4.0), 0.6)),
    "short.mp3": ("(truncated|cannot be decoded)", lambda path: cut_short(sound(path, 4.0), 0.6)),
    "silent.wav": ("silent", lambda path: soundfile.write(path, np.zeros(8000, np.float32), 8000)),
    "silent.flac": ("silent", lambda path: soundfile.write(path, np.zeros(8000, np.float32), 8000)),
    "no_samples.wav": ("has no samples", lambda path: soundfile.write(path, np.zeros((0, 1), np.float32), 8000)),
    "nan.wav": ("NaN", spoil_nan),
    "text.wav": ("cannot be decoded", lambda path: path.write_text("this is no sound")),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_has_its_reason(tmp_path: Path, name: str):
    reason, make = BAD[name]
    make(tmp_path / name)
    (actual,) = inspect.inspect([tmp_path / name], workers=1)
    assert actual.reason is not None
    with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
        inspect.refuse([inspect.BadRecording(name, actual.reason)], 1, "error")


def test_a_good_recording_has_none(tmp_path: Path):
    """Every format, silence at the start, an odd number of bytes with its padding."""
    paths = [sound(tmp_path / f"a.{suffix}", 1.0) for suffix in FORMATS]
    soundfile.write(tmp_path / "late.wav", np.r_[np.zeros(8000), tone(0.1, 8000)[:, 0]], 8000)
    soundfile.write(tmp_path / "odd.wav", tone(0.1, 8010)[:801], 8010, subtype="PCM_U8")
    actual = inspect.inspect([*paths, tmp_path / "late.wav", tmp_path / "odd.wav"], workers=1)
    assert [item.reason for item in actual] == [None] * 6


def test_all_bad_recordings_are_named_and_counted_in_one_error(tmp_path: Path):
    for name, (_, make) in BAD.items():
        make(tmp_path / name)
    sound(tmp_path / "good.wav")
    rows = [{"path": name, "caption": "x"} for name in ["good.wav", *BAD]]
    with pytest.raises(ValueError) as caught:
        prepared(tmp_path, rows)
    message = str(caught.value)
    assert f"{len(BAD)} of {len(BAD) + 1} recordings cannot be used" in message
    assert all(f"  {name}: " in message for name in BAD)
    assert "good.wav" not in message and "--data.on_bad=skip" in message
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_skip_goes_on_without_them_and_reports(tmp_path: Path):
    for name, (_, make) in BAD.items():
        make(tmp_path / name)
    sound(tmp_path / "good.wav")
    report, cuts = prepared(tmp_path, [{"path": name, "caption": "x"} for name in ["good.wav", *BAD]], on_bad="skip")
    assert [item.path for item in report.skipped] == list(BAD)
    assert (report.recordings, list(cuts)) == (1, ["good.wav"])
    with pytest.raises(ValueError, match="none of its 2 recordings can be used"):
        prepared(tmp_path, [{"path": "silent.wav"}, {"path": "nan.wav"}], on_bad="skip")


def test_very_short_recordings_are_counted(tmp_path: Path):
    for name, seconds in {"a": 0.09, "b": 0.1, "c": 0.02}.items():
        sound(tmp_path / f"{name}.wav", seconds, 8000)
    report, _ = prepared(tmp_path, [{"path": f"{name}.wav"} for name in "abc"])
    assert report.short == 2


def test_a_failed_preparation_keeps_the_earlier_one(tmp_path: Path):
    sound(tmp_path / "a.wav")
    prepared(tmp_path, [{"path": "a.wav", "caption": "x"}])
    before = (tmp_path / "out" / "cuts.jsonl.gz").read_bytes()
    with pytest.raises(ValueError, match="1 of 2"):
        prepared(tmp_path, [{"path": "a.wav", "caption": "y"}, {"path": "b.wav", "caption": "z"}])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cuts.jsonl.gz"]
    assert (tmp_path / "out" / "cuts.jsonl.gz").read_bytes() == before


def test_a_long_list_is_cut_and_counted(tmp_path: Path):
    bad = [inspect.BadRecording(f"{number}.wav", "missing") for number in range(25)]
    with pytest.raises(ValueError, match=r"25 of 30 recordings") as caught:
        inspect.refuse(bad, 30, "error")
    assert "and 5 more" in str(caught.value) and "19.wav" in str(caught.value) and "20.wav" not in str(caught.value)


def test_more_channels_than_two_may_be_refused(tmp_path: Path):
    """`mix` takes them down to stereo when they are read; `refuse` lists the file with how many it has."""
    sound(tmp_path / "stereo.wav", channels=2)
    sound(tmp_path / "surround.wav", channels=6)
    rows = [{"path": "stereo.wav", "caption": "a"}, {"path": "surround.wav", "caption": "b"}]
    assert prepared(tmp_path, rows)[0].recordings == 2
    with pytest.raises(DataError, match=r"surround\.wav: has 6 channels \(--surround=mix"):
        prepared(tmp_path, rows, surround="refuse")
    report, cuts = prepared(tmp_path, rows, surround="refuse", on_bad="skip")
    assert list(cuts) == ["stereo.wav"] and [bad.path for bad in report.skipped] == ["surround.wav"]
