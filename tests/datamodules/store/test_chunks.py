"""Every recording is cached exactly once, whatever was killed and however many ranks wrote."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lhotse import MonoCut

from datamodules.store import chunks
from datamodules.store.chunks import (
    ChunkWriter,
    Plan,
    load_array,
    load_rows,
    open_cache,
    pending,
    plan,
    read,
    take_over,
)
from tests.datamodules.store.planned import planned_in

ROOT = Path(__file__).parents[3]
KEY = {"codec": "abc", "window_frames": 215}
DIM = 3


def make_cuts(count: int) -> list[MonoCut]:
    return [MonoCut(f"mine-{n}", 0, 1.0, 0, custom={"split": "train", "corpus": "mine"}) for n in range(count)]


def latents(cut: MonoCut) -> np.ndarray:
    """(F, DIM): of another length and value for each cut."""
    number = int(cut.id.split("-")[1])
    return np.full((1 + number % 4, DIM), number, np.float32)


def write(folder: Path, chunk: chunks.Chunk) -> None:
    writer = ChunkWriter(folder, chunk)
    for cut in chunk.recordings:
        array = latents(cut)
        writer.add_array(cut.id, array[:1])  # a recording comes window by window
        writer.add_array(cut.id, array[1:])
    writer.finish()


def assert_whole(folder: Path, count: int) -> None:
    cuts = read(folder)
    assert [cut.id for cut in cuts] == [cut.id for cut in make_cuts(count)]
    for cut in cuts:
        np.testing.assert_array_equal(load_array(cut), latents(cut))


def stored_std(cut: MonoCut) -> np.ndarray:
    """(F, D) of the posterior of its latents."""
    return load_rows(cut.custom["std"], cut.custom["offset"], cut.custom["length"])


def test_what_is_written_is_read_in_plan_order(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(10), 4, KEY)
    assert [chunk.num_cuts for chunk in planned] == [4, 4, 2]
    for chunk in list(planned)[::-1]:
        write(tmp_path, chunk)
    assert_whole(tmp_path, 10)
    assert not list(tmp_path.glob(".tmp-*"))
    array = load_array(read(tmp_path)[7])
    assert isinstance(array, np.memmap) and array.dtype == np.float16 and array.shape == (4, DIM)


def test_codes_are_joined_to_the_cut_and_latents_stay_where_they_are(tmp_path: Path):
    planned = planned_in(tmp_path / "latents", make_cuts(3), 10, KEY)
    write(tmp_path / "latents", planned[0])
    codes = planned_in(tmp_path / "codes", make_cuts(3), 10, {"tokenizer": "abc"})
    assert codes[0].id == planned[0].id  # the same sounds
    writer = ChunkWriter(tmp_path / "codes", codes[0])
    for number, cut in enumerate(codes[0].recordings):
        writer.add_codes(cut.id, [0, number])
        writer.add_codes(cut.id, np.array([8195]))
    writer.finish()
    actual = read(tmp_path / "codes")
    assert [cut.custom["codes"] for cut in actual] == [[0, 0, 8195], [0, 1, 8195], [0, 2, 8195]]
    assert all(set(cut.custom) == {"split", "corpus", "codes"} for cut in actual)


def test_an_id_that_comes_twice_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'mine-1' comes twice"):
        planned_in(tmp_path, [*make_cuts(3), make_cuts(2)[1]], 10)


def hashed_cuts(*sounds: str, caption: str = "") -> list[MonoCut]:
    """A cut of one second for each letter: the hash of its file."""
    cuts = make_cuts(len(sounds))
    for cut, sound in zip(cuts, sounds, strict=True):
        cut.custom |= {"sha256": sound, "caption": caption}
    return cuts


def test_cuts_of_one_sound_share_one_recording_and_keep_their_order(tmp_path: Path):
    """The same bytes under several names; a part of them is another sound."""
    cuts = hashed_cuts(*"zabyaab")
    cuts[5].duration = 0.5
    for kind in ("latents", "codes"):
        planned = planned_in(tmp_path / kind, cuts, 2, KEY)
        recordings = [[cut.id for cut in chunk.recordings] for chunk in planned]
        assert recordings == [["mine-0", "mine-1"], ["mine-2", "mine-3"], ["mine-5"]]
        assert [chunk.num_cuts for chunk in planned] == [3, 3, 1] and planned.duplicates == 2
        for chunk in planned:
            writer = ChunkWriter(tmp_path / kind, chunk)
            for cut in reversed(chunk.recordings):
                if kind == "latents":
                    writer.add_array(cut.id, latents(cut), latents(cut) / 8)
                else:
                    writer.add_codes(cut.id, [int(cut.id[-1])])
            writer.finish()
    actual = read(tmp_path / "latents")
    assert [cut.id for cut in actual] == [cut.id for cut in cuts]
    for number, source in enumerate((0, 1, 2, 3, 1, 5, 2)):
        np.testing.assert_array_equal(load_array(actual[number]), latents(cuts[source]))
        np.testing.assert_array_equal(stored_std(actual[number]), latents(cuts[source]) / 8)
    assert [cut.custom["codes"] for cut in read(tmp_path / "codes")] == [[0], [1], [2], [3], [1], [5], [2]]
    stored = np.load(next((tmp_path / "latents").glob("000000-*")) / "arrays.npy")
    assert len(stored) == len(latents(cuts[0])) + len(latents(cuts[1]))


def encode(folder: Path, planned: Plan) -> list[str]:
    """Encodes what is pending, each sound as its letter; returns the letters."""
    encoded = []
    for chunk in pending(folder, planned):
        writer = ChunkWriter(folder, chunk)
        for cut in chunk.recordings:
            encoded.append(cut.custom["sha256"])
            writer.add_codes(cut.id, [ord(cut.custom["sha256"])])
        writer.finish()
    return encoded


def stored_codes(folder: Path) -> str:
    """The letters that the cuts are joined to."""
    return "".join(chr(code) for cut in read(folder) for code in cut.custom["codes"])


def test_a_mended_caption_encodes_nothing(tmp_path: Path):
    assert encode(tmp_path, planned_in(tmp_path, hashed_cuts(*"abcde", caption="rian"), 2)) == list("abcde")
    before = {path.name: path.stat().st_ino for path in tmp_path.glob("0*/*.npy")}
    digest, sound = read(tmp_path).digest(), read(tmp_path).digest_of_sound()
    assert encode(tmp_path, planned_in(tmp_path, hashed_cuts(*"abcde", caption="rain"), 2)) == []
    assert before == {path.name: path.stat().st_ino for path in tmp_path.glob("0*/*.npy")}
    assert [cut.custom["caption"] for cut in read(tmp_path)] == ["rain"] * 5 and stored_codes(tmp_path) == "abcde"
    assert read(tmp_path).digest() != digest and read(tmp_path).digest_of_sound() == sound


@pytest.mark.parametrize("now", ["abcdexyz", "xaybzcde", "edcbax", "axb", "x", "aabbxx"])
def test_recordings_that_come_or_go_encode_what_is_new_alone(tmp_path: Path, now: str):
    """Before, between and behind the others, in another order, fewer, or none of the others."""
    encode(tmp_path, planned_in(tmp_path, hashed_cuts(*"abcde"), 2))
    planned = planned_in(tmp_path, hashed_cuts(*now), 2)
    seconds = sum(chunk.seconds for chunk in chunks.pending(tmp_path, planned))
    encoded = encode(tmp_path, planned)
    assert encoded == [letter for letter in dict.fromkeys(now) if letter not in "abcde"] and seconds == len(encoded)
    assert stored_codes(tmp_path) == now
    assert encode(tmp_path, chunks.plan(tmp_path, 2)) == [] and stored_codes(tmp_path) == now


def test_an_earlier_cache_is_taken_over_without_a_second_copy(tmp_path: Path):
    encode(tmp_path / "old", planned_in(tmp_path / "old", hashed_cuts(*"abcd"), 2, KEY))
    for name, key, expected in (("new", KEY, "xy"), ("other", KEY | {"codec": "another"}, "abxycd")):
        folder = tmp_path / name
        open_cache(folder, key)
        take_over(folder, tmp_path / "old")
        assert encode(folder, planned_in(folder, hashed_cuts(*"abxycd"), 2, key)) == list(expected)
        assert stored_codes(folder) == "abxycd"
    files = [path for name in ("old", "new") for path in (tmp_path / name).glob("0*/*")]
    assert len({path.stat().st_ino for path in files}) == len(files) - 2 * 2
    assert stored_codes(tmp_path / "old") == "abcd"


def test_a_chunk_that_was_taken_over_and_is_gone_is_made_anew(tmp_path: Path):
    """With recordings that no cut has any more, which are not."""
    encode(tmp_path, planned_in(tmp_path, hashed_cuts(*"abcd"), 4))
    planned_in(tmp_path, hashed_cuts(*"bdx"), 4)
    (gone,) = chunks.finished(tmp_path)
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    assert sorted(encode(tmp_path, plan(tmp_path, 4))) == list("bdx") and stored_codes(tmp_path) == "bdx"


def test_recordings_that_are_read_otherwise_have_chunks_of_their_own(tmp_path: Path):
    planned_in(tmp_path, hashed_cuts(*"abcdef"), 2)
    (tmp_path / "plan.json").unlink()
    planned = plan(tmp_path, 2, np.array([False, True, True, False, True, False]))
    letters = [[cut.custom["sha256"] for cut in chunk.recordings] for chunk in planned]
    assert letters == [["b", "c"], ["e"], ["a", "d"], ["f"]]


def test_a_cache_of_an_earlier_version_is_refused(tmp_path: Path):
    """Its chunks hold text and sound together."""
    folder = tmp_path / "latents" / "chunks"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text('[{"id": "000000-abc", "cuts": ["mine-0"]}]')
    for attempt in (lambda: read(folder), lambda: open_cache(folder, KEY), lambda: planned_in(folder, make_cuts(1), 1)):
        with pytest.raises(ValueError, match=r"by an earlier version .* stage run latents --restart"):
            attempt()


def test_long_recordings_make_short_chunks(tmp_path: Path):
    cuts = [MonoCut(f"mine-{n}", 0, 9 * 3600.0, 0, custom={"split": "train"}) for n in range(5)]
    assert [chunk.num_cuts for chunk in planned_in(tmp_path, cuts, 4)] == [2, 2, 1]
    cuts[0].duration = 100 * 3600.0
    assert [chunk.num_cuts for chunk in planned_in(tmp_path, cuts, 4)] == [1, 2, 2]


def test_equal_results_are_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On another day too: headers of archives know the time."""
    for day, name in enumerate(("one", "two")):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + 86_400 * day)
        planned = planned_in(tmp_path / name, make_cuts(3), 3, KEY)
        write(tmp_path / name, planned[0])
    for file in ("index.npy", "arrays.npy"):
        one, two = ((tmp_path / name / planned[0].id / file).read_bytes() for name in ("one", "two"))
        assert one == two
    actual = np.load(tmp_path / "one" / planned[0].id / "arrays.npy")
    np.save(tmp_path / "same.npy", actual)
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "one" / planned[0].id / "arrays.npy").read_bytes()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_what_is_pending(tmp_path: Path, world: int):
    planned = planned_in(tmp_path, make_cuts(11), 2, KEY)
    write(tmp_path, planned[3])
    left = pending(tmp_path, planned)
    dealt = [chunk.id for rank in range(world) for chunk in left[rank::world]]
    assert sorted(dealt) == sorted(chunk.id for chunk in planned if chunk.id != planned[3].id)
    for rank in range(world):
        for chunk in left[rank::world]:
            write(tmp_path, chunk)
    assert pending(tmp_path, planned) == []
    assert_whole(tmp_path, 11)


def test_a_chunk_that_another_process_finished_is_left_alone(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(2), 2, KEY)
    write(tmp_path, planned[0])
    before = (tmp_path / planned[0].id / "arrays.npy").stat().st_ino
    write(tmp_path, planned[0])
    assert (tmp_path / planned[0].id / "arrays.npy").stat().st_ino == before
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_killed_writer_leaves_whole_chunks_only(tmp_path: Path):
    """kill -9 in the middle of a chunk; then two ranks finish what is left."""
    code = (
        f"import importlib.util, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"spec = importlib.util.spec_from_file_location('writer', {str(Path(__file__))!r})\n"
        "writer = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(writer)\n"
        f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\nplanned = writer.plan(folder, 4)\n"
        "save = writer.chunks._save\n"
        "writer.chunks._save = lambda *arguments: (save(*arguments), time.sleep(0.05))\n"
        "for chunk in planned:\n    writer.write(folder, chunk)\n"
    )
    planned = planned_in(tmp_path, make_cuts(40), 4, KEY)
    process = subprocess.Popen([sys.executable, "-c", code])
    limit = time.monotonic() + 60
    while not ((tmp_path / planned[2].id).is_dir() and list(tmp_path.glob(".tmp-*/arrays.npy"))):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".tmp-*"))
    with pytest.raises(ValueError, match="is not whole"):
        read(tmp_path)
    open_cache(tmp_path, KEY)
    assert not list(tmp_path.glob(".tmp-*"))
    left = pending(tmp_path, planned)
    assert 0 < len(left) < 8
    for rank in range(2):
        for chunk in left[rank::2]:
            write(tmp_path, chunk)
    assert_whole(tmp_path, 40)


def test_half_written_folders_go_when_their_process_has_gone(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(2), 2, KEY)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive, dead, ours = (tmp_path / f".tmp-{planned[0].id}-{pid}" for pid in (os.getppid(), gone.pid, os.getpid()))
    for folder in (alive, dead, ours):
        folder.mkdir()
    open_cache(tmp_path, KEY)
    assert alive.is_dir() and not dead.exists() and not ours.exists()


def test_another_producer_is_refused_by_name(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(2), 2, KEY)
    write(tmp_path, planned[0])
    with pytest.raises(ValueError, match=r"window_frames: 215 -> 100.*--restart"):
        open_cache(tmp_path, KEY | {"window_frames": 100})
    assert json.loads((tmp_path / "key.json").read_text()) == KEY
    assert_whole(tmp_path, 2)


def test_a_chunk_with_other_cuts_is_refused(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(4), 2, KEY)
    for chunk in planned:
        write(tmp_path, chunk)
    for name in ("index.npy", "arrays.npy"):
        (tmp_path / planned[0].id / name).write_bytes((tmp_path / planned[1].id / name).read_bytes())
    with pytest.raises(ValueError, match="other recordings than planned"):
        read(tmp_path)


@pytest.mark.parametrize("value", [65536.0, -1e6, np.nan, np.inf])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float):
    writer = ChunkWriter(tmp_path, planned_in(tmp_path, make_cuts(1), 1)[0])
    array = np.zeros((2, DIM), np.float32)
    writer.add_array("mine-0", array + 65504)
    array[1, 2] = value
    with pytest.raises(ValueError, match="mine-0: latents are not finite or above"):
        writer.add_array("mine-0", array)


def test_a_recording_without_a_result_is_never_written(tmp_path: Path):
    planned = planned_in(tmp_path, make_cuts(2), 2, KEY)
    writer = ChunkWriter(tmp_path, planned[0])
    writer.add_array("mine-0", np.zeros((1, DIM), np.float32))
    with pytest.raises(AssertionError, match="mine-1 has no result"):
        writer.finish()
    assert [chunk.id for chunk in pending(tmp_path, planned)] == [chunk.id for chunk in planned]


def test_a_standard_deviation_lies_beside_its_mean_and_nowhere_else(tmp_path: Path):
    planned = planned_in(tmp_path / "spread", make_cuts(6), 4, KEY)
    for chunk in planned:
        writer = ChunkWriter(tmp_path / "spread", chunk)
        for cut in reversed(chunk.recordings):  # workers' windows interleave
            array = latents(cut)
            writer.add_array(cut.id, array[:1], array[:1] / 8)
            writer.add_array(cut.id, array[1:], array[1:] / 8)
        writer.finish()
    for cut in read(tmp_path / "spread"):
        np.testing.assert_array_equal(load_array(cut), latents(cut))
        std = stored_std(cut)
        assert std.dtype == np.float16
        np.testing.assert_array_equal(std, latents(cut) / 8)
    for chunk in planned_in(tmp_path / "plain", make_cuts(6), 4, KEY):
        write(tmp_path / "plain", chunk)
    assert not list((tmp_path / "plain").glob("*/std.npy"))
    assert not any("std" in cut.custom for cut in read(tmp_path / "plain"))
