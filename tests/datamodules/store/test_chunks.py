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
from datamodules.store.chunks import ChunkWriter, load_array, load_rows, open_cache, pending, plan, read

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
    for cut in chunk.cuts:
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
    planned = plan(make_cuts(10), 4)
    assert [len(chunk.cuts) for chunk in planned] == [4, 4, 2]
    open_cache(tmp_path, planned, KEY)
    for chunk in reversed(planned):
        write(tmp_path, chunk)
    assert_whole(tmp_path, 10)
    assert not list(tmp_path.glob(".tmp-*"))
    array = load_array(read(tmp_path)[7])
    assert isinstance(array, np.memmap) and array.dtype == np.float16 and array.shape == (4, DIM)


def test_codes_go_into_the_cut_and_leave_the_latents_behind(tmp_path: Path):
    planned = plan(make_cuts(3), 10)
    open_cache(tmp_path / "latents", planned, KEY)
    write(tmp_path / "latents", planned[0])
    again = plan(read(tmp_path / "latents"), 10)
    assert again[0].id == planned[0].id  # where the latents lie is no content
    open_cache(tmp_path / "codes", again, KEY)
    writer = ChunkWriter(tmp_path / "codes", again[0])
    for number, cut in enumerate(again[0].cuts):
        writer.add_codes(cut.id, [0, number])
        writer.add_codes(cut.id, np.array([8195]))
    writer.finish()
    found = read(tmp_path / "codes")
    assert [cut.custom["codes"] for cut in found] == [[0, 0, 8195], [0, 1, 8195], [0, 2, 8195]]
    assert all(set(cut.custom) == {"split", "corpus", "codes"} for cut in found)
    assert all("codes" not in cut.custom for cut in again[0].cuts)


def test_the_chunk_id_hangs_on_what_it_holds():
    first, second = plan(make_cuts(8), 4), plan(make_cuts(8), 4)
    assert [chunk.id for chunk in first] == [chunk.id for chunk in second]
    changed = make_cuts(8)
    changed[5].custom["split"] = "test"
    third = plan(changed, 4)
    assert third[0].id == first[0].id and third[1].id != first[1].id


def test_an_id_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="'mine-1' comes twice"):
        plan([*make_cuts(3), make_cuts(2)[1]], 10)


def test_cuts_of_one_recording_lie_in_one_chunk_and_share_its_result(tmp_path: Path):
    """The same bytes under two names; a part of them is another sound."""
    cuts = make_cuts(7)
    for number, digest in ((1, "a"), (2, "b"), (4, "a"), (5, "a"), (6, "b")):
        cuts[number].custom["sha256"] = digest
    cuts[5].duration = 0.5
    planned = plan(cuts, 2)
    assert [[cut.id for cut in chunk.cuts] for chunk in planned] == [
        ["mine-0", "mine-1", "mine-4"],
        ["mine-2", "mine-6", "mine-3"],
        ["mine-5"],
    ]
    assert [[cut.id for cut in chunk.recordings] for chunk in planned] == [
        ["mine-0", "mine-1"],
        ["mine-2", "mine-3"],
        ["mine-5"],
    ]
    assert [plan(list(reversed(planned[0].cuts)), 2)[0].shared["mine-1"]] == ["mine-4"]
    for kind in ("latents", "codes"):
        open_cache(tmp_path / kind, planned, KEY)
        for chunk in planned:
            writer = ChunkWriter(tmp_path / kind, chunk)
            for cut in reversed(chunk.recordings):
                if kind == "latents":
                    writer.add_array(cut.id, latents(cut), latents(cut) / 8)
                else:
                    writer.add_codes(cut.id, [int(cut.id[-1])])
            writer.finish()
    found = {cut.id: cut for cut in read(tmp_path / "latents")}
    assert sorted(found) == sorted(cut.id for cut in cuts)
    for name, source in (("mine-4", 1), ("mine-6", 2), ("mine-1", 1), ("mine-5", 5), ("mine-0", 0)):
        np.testing.assert_array_equal(load_array(found[name]), latents(cuts[source]))
        np.testing.assert_array_equal(stored_std(found[name]), latents(cuts[source]) / 8)
    assert len(np.load(tmp_path / "latents" / planned[0].id / "arrays.npy")) == len(latents(cuts[0])) + len(
        latents(cuts[1])
    )
    codes = {cut.id: cut.custom["codes"] for cut in read(tmp_path / "codes")}
    assert codes == {"mine-0": [0], "mine-1": [1], "mine-4": [1], "mine-2": [2], "mine-6": [2], "mine-3": [3], "mine-5": [5]}  # fmt: skip
    again = plan(read(tmp_path / "latents"), 2)
    assert [chunk.id for chunk in again] == [chunk.id for chunk in planned]


def test_long_recordings_make_short_chunks(tmp_path: Path):
    cuts = [MonoCut(f"mine-{n}", 0, 9 * 3600.0, 0, custom={"split": "train"}) for n in range(5)]
    assert [len(chunk.cuts) for chunk in plan(cuts, 4)] == [2, 2, 1]
    cuts[0].duration = 100 * 3600.0
    assert [len(chunk.cuts) for chunk in plan(cuts, 4)] == [1, 2, 2]


def test_equal_results_are_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On another day too: headers of archives know the time."""
    planned = plan(make_cuts(3), 3)
    for day, name in enumerate(("one", "two")):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + 86_400 * day)
        open_cache(tmp_path / name, planned, KEY)
        write(tmp_path / name, planned[0])
    for file in ("cuts.jsonl", "index.npy", "index.json", "arrays.npy"):
        one, two = ((tmp_path / name / planned[0].id / file).read_bytes() for name in ("one", "two"))
        assert one == two
    found = np.load(tmp_path / "one" / planned[0].id / "arrays.npy")
    np.save(tmp_path / "same.npy", found)
    assert (tmp_path / "same.npy").read_bytes() == (tmp_path / "one" / planned[0].id / "arrays.npy").read_bytes()


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_what_is_pending(tmp_path: Path, world: int):
    planned = plan(make_cuts(11), 2)
    open_cache(tmp_path, planned, KEY)
    write(tmp_path, planned[3])
    left = pending(tmp_path, planned)
    dealt = [chunk.id for rank in range(world) for chunk in left[rank::world]]
    assert sorted(dealt) == sorted(chunk.id for chunk in planned if chunk is not planned[3])
    for rank in range(world):
        for chunk in left[rank::world]:
            write(tmp_path, chunk)
    assert pending(tmp_path, planned) == []
    assert_whole(tmp_path, 11)


def test_a_chunk_that_another_process_finished_is_left_alone(tmp_path: Path):
    planned = plan(make_cuts(2), 2)
    open_cache(tmp_path, planned, KEY)
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
        f"from pathlib import Path\nfolder = Path({str(tmp_path)!r})\nplanned = writer.plan(writer.make_cuts(40), 4)\n"
        "writer.open_cache(folder, planned, writer.KEY)\n"
        "save = writer.chunks._save\n"
        "writer.chunks._save = lambda *arguments: (save(*arguments), time.sleep(0.05))\n"
        "for chunk in planned:\n    writer.write(folder, chunk)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    planned = plan(make_cuts(40), 4)
    limit = time.monotonic() + 60
    while not ((tmp_path / planned[2].id).is_dir() and list(tmp_path.glob(".tmp-*/arrays.npy"))):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".tmp-*"))
    with pytest.raises(ValueError, match="is not whole"):
        read(tmp_path)
    open_cache(tmp_path, planned, KEY)
    assert not list(tmp_path.glob(".tmp-*"))
    left = pending(tmp_path, planned)
    assert 0 < len(left) < 8
    for rank in range(2):
        for chunk in left[rank::2]:
            write(tmp_path, chunk)
    assert_whole(tmp_path, 40)


def test_half_written_folders_go_when_their_process_has_gone(tmp_path: Path):
    planned = plan(make_cuts(2), 2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    alive, dead, own = (tmp_path / f".tmp-{planned[0].id}-{pid}" for pid in (os.getppid(), gone.pid, os.getpid()))
    for folder in (alive, dead, own):
        folder.mkdir()
    open_cache(tmp_path, planned, KEY)
    assert alive.is_dir() and not dead.exists() and not own.exists()


def test_a_changed_corpus_makes_its_chunk_anew_and_keeps_the_others(tmp_path: Path):
    before = plan(make_cuts(6), 2)
    open_cache(tmp_path, before, KEY)
    for chunk in before:
        write(tmp_path, chunk)
    changed = make_cuts(6)
    changed[3].custom["split"] = "test"
    after = plan(changed, 2)
    open_cache(tmp_path, after, KEY)
    assert [chunk.id for chunk in pending(tmp_path, after)] == [after[1].id]
    assert not (tmp_path / before[1].id).exists()
    write(tmp_path, after[1])
    assert_whole(tmp_path, 6)


def test_another_producer_is_refused_by_name(tmp_path: Path):
    planned = plan(make_cuts(2), 2)
    open_cache(tmp_path, planned, KEY)
    write(tmp_path, planned[0])
    with pytest.raises(ValueError, match=r"window_frames: 215 -> 100.*--restart"):
        open_cache(tmp_path, planned, KEY | {"window_frames": 100})
    assert json.loads((tmp_path / "key.json").read_text()) == KEY
    assert_whole(tmp_path, 2)


def test_a_chunk_with_other_cuts_is_refused(tmp_path: Path):
    planned = plan(make_cuts(4), 2)
    open_cache(tmp_path, planned, KEY)
    for chunk in planned:
        write(tmp_path, chunk)
    for name in ("cuts.jsonl", "index.npy", "index.json", "arrays.npy"):
        (tmp_path / planned[0].id / name).write_bytes((tmp_path / planned[1].id / name).read_bytes())
    with pytest.raises(ValueError, match="other recordings than planned"):
        read(tmp_path)


@pytest.mark.parametrize("value", [65536.0, -1e6, np.nan, np.inf])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float):
    writer = ChunkWriter(tmp_path, plan(make_cuts(1), 1)[0])
    array = np.zeros((2, DIM), np.float32)
    writer.add_array("mine-0", array + 65504)
    array[1, 2] = value
    with pytest.raises(ValueError, match="mine-0: latents are not finite or above"):
        writer.add_array("mine-0", array)


def test_a_recording_without_a_result_is_never_written(tmp_path: Path):
    planned = plan(make_cuts(2), 2)
    open_cache(tmp_path, planned, KEY)
    writer = ChunkWriter(tmp_path, planned[0])
    writer.add_array("mine-0", np.zeros((1, DIM), np.float32))
    with pytest.raises(AssertionError, match="mine-1 has no result"):
        writer.finish()
    assert pending(tmp_path, planned) == planned


def test_a_standard_deviation_lies_beside_its_mean_and_nowhere_else(tmp_path: Path):
    planned = plan(make_cuts(6), 4)
    open_cache(tmp_path / "spread", planned, KEY)
    for chunk in planned:
        writer = ChunkWriter(tmp_path / "spread", chunk)
        for cut in reversed(chunk.cuts):  # workers' windows interleave
            array = latents(cut)
            writer.add_array(cut.id, array[:1], array[:1] / 8)
            writer.add_array(cut.id, array[1:], array[1:] / 8)
        writer.finish()
    for cut in read(tmp_path / "spread"):
        np.testing.assert_array_equal(load_array(cut), latents(cut))
        std = stored_std(cut)
        assert std.dtype == np.float16
        np.testing.assert_array_equal(std, latents(cut) / 8)
    assert [chunk.id for chunk in plan(read(tmp_path / "spread"), 4)] == [chunk.id for chunk in planned]

    open_cache(tmp_path / "plain", planned, KEY)
    for chunk in planned:
        write(tmp_path / "plain", chunk)
    assert not list((tmp_path / "plain").glob("*/std.npy"))
    assert not any("std" in cut.custom for cut in read(tmp_path / "plain"))
