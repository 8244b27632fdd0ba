"""What was decoded once is not decoded again, unless its file changed."""

import json
import os
import signal
import tarfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.corpora import inspect
from datamodules.corpora.inspection_record import Inspector, Shard
from datamodules.errors import DataError

RATE = 8000


def recordings(root: Path, count: int = 8) -> list[Path]:
    root.mkdir(parents=True, exist_ok=True)
    paths = [root / f"{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, 0.3 * np.sin(np.arange(900 + 10 * number) * 0.1), RATE)
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were decoded since it was cleared."""
    names: list[str] = []
    decode = inspect._inspect
    monkeypatch.setattr(inspect, "_inspect", lambda path: (names.append(path.name), decode(path))[1])
    return names


def test_a_recording_is_decoded_again_where_its_file_changed_or_was_bad(tmp_path: Path, decoded: list[str]):
    paths = recordings(tmp_path / "in")
    paths[1].write_bytes(b"")
    first = Inspector(1, tmp_path / "out").inspect(paths)
    assert decoded == [path.name for path in paths] and first[1].reason == "empty file"
    decoded.clear()
    assert Inspector(1, tmp_path / "out").inspect(paths) == first
    assert decoded == ["1.wav"], "a bad one may have been mended"
    decoded.clear()
    soundfile.write(paths[1], 0.3 * np.sin(np.arange(900) * 0.2), RATE)
    soundfile.write(paths[2], 0.3 * np.sin(np.arange(950) * 0.2), RATE)  # another size
    sound = paths[3].read_bytes()
    paths[3].write_bytes(sound[:-2] + b"\1\0")  # the same size
    os.utime(paths[3], ns=(1, 1))
    second = Inspector(1, tmp_path / "out").inspect(paths)
    assert decoded == ["1.wav", "2.wav", "3.wav"]
    assert [new.sha256 == old.sha256 for new, old in zip(second, first, strict=True)] == [
        True,
        *3 * [False],
        *4 * [True],
    ]
    assert second == Inspector(1).inspect(paths), "as without a record"


def test_the_record_is_the_same_from_wherever_it_is_asked(
    tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
):
    paths = recordings(tmp_path / "in")
    Inspector(1, tmp_path / "out").inspect(paths)
    decoded.clear()
    monkeypatch.chdir(tmp_path / "in")
    again = Inspector(1, Path("../out")).inspect([Path(path.name) for path in paths])
    assert not decoded and [item.path for item in again] == [path.name for path in paths]


def test_lines_that_a_kill_cut_short_or_other_rules_wrote_count_for_nothing(tmp_path: Path, decoded: list[str]):
    paths = recordings(tmp_path / "in")
    whole = Inspector(1, tmp_path / "out").inspect(paths)
    record = tmp_path / "out/inspected.jsonl"
    lines = record.read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | {"rules": 0})
    lines[1] = "[1, 2"
    lines[2] = json.dumps({key: value for key, value in json.loads(lines[2]).items() if key != "num_samples"})
    record.write_text("\n".join(lines)[:-5])
    decoded.clear()
    assert Inspector(1, tmp_path / "out").inspect(paths) == whole
    assert decoded == ["0.wav", "1.wav", "2.wav", "7.wav"]
    decoded.clear()
    assert Inspector(1, tmp_path / "out").inspect(paths) == whole and not decoded, (
        "what is appended stands in lines of its own"
    )


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_shards_share_the_recordings_and_the_whole_takes_all_over(tmp_path: Path, decoded: list[str], count: int):
    paths = recordings(tmp_path / "in")
    parts = [Inspector(1, tmp_path / "out", Shard(number, count)).inspect(paths) for number in range(count)]
    assert [item.path for part in parts for item in part] == list(map(str, paths)), (
        "each in one part, neighbours together"
    )
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    decoded.clear()
    assert Inspector(1, tmp_path / "out").inspect(paths) == [item for part in parts for item in part]
    assert not decoded


def test_members_of_an_archive_are_decoded_again_where_it_changed(tmp_path: Path, decoded: list[str]):
    paths, archive = recordings(tmp_path / "in", 2), tmp_path / "in/a.tar"
    with tarfile.open(archive, "w") as tar:
        for path in paths:
            tar.add(path, path.name)
    with tarfile.open(archive) as tar:
        members = [Path(f"{archive}::bytes={member.offset_data}+{member.size}") for member in tar]
    first = Inspector(1, tmp_path / "out").inspect(members)
    assert [item.sha256 for item in first] == [item.sha256 for item in Inspector(1).inspect(paths)]
    decoded.clear()
    assert Inspector(1, tmp_path / "out").inspect(members) == first and not decoded
    os.utime(archive, ns=(1, 1))
    Inspector(1, tmp_path / "out").inspect(members)
    assert len(decoded) == 2


def test_a_process_that_dies_names_what_it_decoded_and_the_rest_is_kept(tmp_path: Path):
    paths, done = recordings(tmp_path / "in", 64), 0

    def kill_one(number: int, total: int) -> None:
        nonlocal done
        done = number
        if number == 8:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(
        DataError, match=r"a process ended while it decoded one of these:\n  .*\.wav\n(.*\n)*.*num_workers=1"
    ):
        Inspector(2, tmp_path / "out", progress=kill_one).inspect(paths)
    assert len((tmp_path / "out/inspected.jsonl").read_text().splitlines()) == done >= 8


def test_a_pool_that_broke_before_it_gets_more_is_told_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    submit, count = ProcessPoolExecutor.submit, 0

    def broken(pool: ProcessPoolExecutor, *task: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            os.kill(active_children()[0].pid or 0, signal.SIGKILL)
            while True:  # the pool takes tasks until it has noticed
                submit(pool, *task)
                time.sleep(0.01)
        return submit(pool, *task)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", broken)
    with pytest.raises(DataError, match=r"a process ended while it decoded one of these:\n  .*\.wav\n"):
        Inspector(2, tmp_path / "out").inspect(recordings(tmp_path / "in", 64))
