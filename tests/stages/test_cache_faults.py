"""What may befall a cache while it is written, or between two runs: one clear error each, and what was finished stays."""

import ctypes
import gzip
import json
import os
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from datamodules.store import chunks
from tests import zygote
from tests.conftest import SMOKE

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096


@pytest.fixture(scope="session")
def made(copy_of_whole: Callable[..., Path]) -> Path:
    """latents and tokenizer of the experiment `faults`."""
    return copy_of_whole("faults", "latents", "tokenizer")


PARENTS = ("--parents.latents=faults", "--parents.tokenizer=faults")


def run(where: Path, *words: str, before: Callable[[], object] | None = None) -> zygote.Ended:
    return zygote.run([*words, *SMOKE], where, before)


def at_chunk(does: Callable[..., None]) -> None:
    """does(finish): in place of each end of a chunk, where finish() is that end."""
    finish = chunks.ChunkWriter.finish
    chunks.ChunkWriter.finish = lambda self: does(partial(finish, self))


def is_killed(finish: Callable[[], None]) -> None:
    finish()
    os.kill(os.getpid(), signal.SIGKILL)


def waits(finish: Callable[[], None]) -> None:
    Path("writing").touch()
    while not Path("go on").exists():
        time.sleep(0.01)
    finish()


def limit_files(size: int) -> None:
    """No file may grow beyond `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def finished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())


def whole(folder: Path, expected: Path) -> None:
    """Each recording once, no half chunk, and every byte that of the undisturbed cache."""
    assert [cut.id for cut in chunks.read(folder)] == [cut.id for cut in chunks.read(expected)]
    names = [{str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()} for f in (folder, expected)]
    assert names[0] == names[1]
    for name in names[0] - {"key.json"}:
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("stage: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def test_a_manifest_that_was_cut_off(stage, apart: Path, capsys: pytest.CaptureFixture[str]):
    path = apart / "data/tones/cuts.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-200])
    assert stage("run", "latents", "--experiment=cut-off") == 1
    error = printed(capsys)
    assert "data/tones/cuts.jsonl.gz is cut off, damaged" in error and "Prepare tones again" in error
    assert not (apart / "runs/cut-off/latents/chunks").exists()


def test_a_chunk_that_was_cut_off(stage, tones: Path, made: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(made, tones / "runs/cut-chunk")
    folder = tones / "runs/cut-chunk/latents/chunks"
    name = finished(folder)[1]
    path = folder / name / "arrays.npy"
    path.write_bytes(path.read_bytes()[:-20])
    assert stage("run", "cache", "--experiment=cut-chunk") == 1
    error = printed(capsys)
    assert f"{name} is cut off or damaged" in error
    assert f"Remove runs/cut-chunk/latents/chunks/{name} and runs/cut-chunk/latents/receipt.json, and run" in error
    shutil.rmtree(folder / name)  # as it says
    (tones / "runs/cut-chunk/latents/receipt.json").unlink()
    assert stage("run", "latents", "--experiment=cut-chunk") == 0
    whole(tones / "runs/cut-chunk/latents/chunks", made / "latents/chunks")


@pytest.mark.parametrize("where", ["../../etc/passwd", "/etc/passwd"])
def test_a_manifest_that_leaves_its_root(stage, apart: Path, where: str, capsys: pytest.CaptureFixture[str]):
    path = apart / "data/tones/cuts.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    cuts[3]["recording"]["sources"][0]["source"] = where
    path.write_bytes(gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode()))
    assert stage("run", "latents", "--experiment=leaves") == 1
    assert f"is the file {where!r}; a file under the corpus' root is allowed" in printed(capsys)


def test_a_part_of_a_recording(stage, apart: Path, capsys: pytest.CaptureFixture[str]):
    """Whole files are encoded: a cut's own start would be passed over."""
    path = apart / "data/tones/cuts.jsonl.gz"
    cuts = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    cuts[3]["start"], cuts[3]["duration"] = 0.25, cuts[3]["duration"] - 0.25
    path.write_bytes(gzip.compress("".join(json.dumps(cut) + "\n" for cut in cuts).encode()))
    assert stage("run", "latents", "--experiment=part") == 1
    error = printed(capsys)
    assert "tones-03 is the part of" in error and "from 0.25 s on" in error and "whole recordings are allowed" in error


def test_a_table_that_leaves_its_root(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from stages.cli.main import main

    for where in ("../secret.wav", "/etc/passwd"):
        (tmp_path / "table.csv").write_text(f"path,caption\n{where},secret\n")
        words = [
            "prepare",
            "folder",
            str(tones / "recordings"),
            "--metadata",
            str(tmp_path / "table.csv"),
            "--name=out",
        ]
        assert main([*words, f"--data.root={tmp_path / 'data'}"]) == 1
        assert f"{where!r} lies outside" in printed(capsys)


def test_a_recording_twice(stage, apart: Path, capsys: pytest.CaptureFixture[str]):
    path = apart / "data/tones/cuts.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines, lines[2]])))
    assert stage("run", "latents", "--experiment=twice") == 1
    assert "comes twice in the prepared corpora" in printed(capsys)


def test_the_same_bytes_under_two_names_are_encoded_once(apart: Path):
    from stages.cli.main import main

    table = apart / "recordings/metadata.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:13]))  # two rows a recording
    words = ["prepare", "folder", "recordings", "--metadata", str(table)]
    assert main([*words, "--name=twin", "--data.root=data"]) == 0
    for name in ("latents", "cache"):
        for needed in ("tokenizer", name) if name == "cache" else (name,):
            assert main(["run", needed, *SMOKE, "--experiment=twins", "--data.corpora=[tones,twin]"]) == 0
        cuts = {cut.id: cut for cut in chunks.read(apart / "runs/twins" / name / "chunks")}
        assert len(cuts) == 24 + 6
        for number in range(6):
            one, two = cuts[f"tones-{number:02d}"].custom, cuts[f"twin-{number:02d}"].custom
            keys = ("array", "offset", "length") if name == "latents" else ("codes",)
            assert [one[key] for key in keys] == [two[key] for key in keys] and one["corpus"] != two["corpus"]
        receipt = json.loads((apart / "runs/twins" / name / "receipt.json").read_text())
        assert receipt["metrics"]["recordings"] == 30 and receipt["metrics"]["duplicates"] == 6


def test_a_tokenizer_that_changed_under_a_cache(stage, tones: Path, made: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--experiment=changed", *PARENTS]
    assert run(tones, "run", "cache", *words, before=partial(at_chunk, is_killed)).status == -signal.SIGKILL
    folder = tones / "runs/changed/cache/chunks"
    before = finished(folder)
    assert before
    assert stage("run", "tokenizer", "--experiment=changed", PARENTS[0], "--seed=7") == 0
    capsys.readouterr()
    assert stage("run", "cache", "--experiment=changed", PARENTS[0], "--parents.tokenizer=changed") == 1
    error = capsys.readouterr().err
    assert "runs/changed/cache holds an unfinished run (chunk" in error and "--restart" in error
    assert re.search(r"its parent tokenizer .*changed", error)
    assert finished(folder) == before


def test_two_runs_of_one_cache(stage, tones: Path, made: Path, capsys: pytest.CaptureFixture[str]):
    """The second is refused by name, --restart too; the first ends as if it had been alone."""
    assert stage("run", "cache", "--experiment=faults") == 0
    words = ["run", "cache", "--experiment=two", *PARENTS]
    first = zygote.start([*words, *SMOKE], tones, partial(at_chunk, waits))
    try:
        limit = time.monotonic() + 300
        while not (tones / "writing").exists():
            assert first.running() and time.monotonic() < limit
            time.sleep(0.01)
        for more in ((), ("--restart",)):
            capsys.readouterr()
            assert stage(words[0], *words[1:], *more) == 1
            assert f"runs/two/cache is being written by another run (process {first.pid} on " in printed(capsys)
    finally:
        (tones / "go on").touch()
    assert first.wait().status == 0
    whole(tones / "runs/two/cache/chunks", made / "cache/chunks")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """mount(2), undone at the end; skips where this process may not."""
    libc, points = ctypes.CDLL(None, use_errno=True), []

    def mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
        if libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, data.encode()):
            pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
        points.append(target)

    yield mount
    for target in reversed(points):
        libc.umount2(str(target).encode(), 2)


def test_a_full_disk(stage, tones: Path, made: Path, mounted: Callable[..., None]):
    """A tmpfs that holds the first chunks and no more; with more room the same command ends with the undisturbed bytes."""
    runs = tones / "small"
    runs.mkdir()
    chunk_folders = [made / "latents/chunks" / name for name in finished(made / "latents/chunks")]
    page = os.sysconf("SC_PAGE_SIZE")
    files = [
        path for folder in (made / "latents/codec", *chunk_folders[:2]) for path in folder.rglob("*") if path.is_file()
    ]
    files += [path for path in (made / "latents/chunks").iterdir() if path.is_file()]
    pages = (
        sum(-(-path.stat().st_size // page) for path in files) + 12
    )  # for conf.yaml and the like; the third chunk has more
    mounted("tmpfs", runs, "tmpfs", 0, f"size={pages * page}")
    shutil.copytree(made / "latents/codec", runs / "full/latents/codec")
    words = ["run", "latents", "--runs=small", "--experiment=full"]
    done = run(tones, *words)
    assert done.status == 1 and "Traceback" not in done.stderr, done.stderr
    assert "small/full/latents/chunks: chunk 00000" in done.stderr and "No space left on device" in done.stderr
    assert "The finished ones are kept" in done.stderr
    folder = runs / "full/latents/chunks"
    assert 0 < len(finished(folder)) < 3 and not list(folder.glob(".tmp-*"))
    mounted("tmpfs", runs, "tmpfs", MS_REMOUNT, "size=64m")
    assert run(tones, *words).status == 0
    whole(folder, made / "latents/chunks")


def test_a_quota(tones: Path, made: Path):
    """No file may grow beyond a limit: the same error without a mount, for those who may not."""
    words = ["run", "latents", "--experiment=quota"]
    size = max(path.stat().st_size for path in (made / "latents/chunks").rglob("arrays.npy"))
    (tones / "runs/quota/latents").mkdir(parents=True)
    shutil.copytree(made / "latents/codec", tones / "runs/quota/latents/codec")
    done = run(tones, *words, before=partial(limit_files, size - 1))
    assert done.status == 1 and "cannot be written: File too large" in done.stderr, done.stderr
    assert run(tones, *words).status == 0
    whole(tones / "runs/quota/latents/chunks", made / "latents/chunks")


def test_a_folder_that_is_read_only(stage, tones: Path, made: Path, mounted: Callable[..., None]):
    runs = tones / "sealed"
    shutil.copytree(made, runs / "faults")
    shutil.rmtree(runs / "faults/cache", ignore_errors=True)
    mounted(str(runs), runs, "", MS_BIND)
    mounted(str(runs), runs, "", MS_BIND | MS_REMOUNT | MS_RDONLY)
    done = run(tones, "run", "cache", "--runs=sealed", "--experiment=faults")
    assert done.status == 1 and "Traceback" not in done.stderr, done.stderr
    assert "sealed/faults cannot be written: Read-only file system" in done.stderr
    assert "--runs=FOLDER" in done.stderr


def test_a_codec_that_could_not_be_written_is_fitted_again(tones: Path, made: Path):
    """It appears whole or not at all: its config.json, which says that it is fitted, comes last."""
    size = (made / "latents/codec/model.safetensors").stat().st_size
    words = ["run", "latents", "--experiment=half-codec"]
    done = run(tones, *words, before=partial(limit_files, size - 1))
    codec = tones / "runs/half-codec/latents/codec"
    assert done.status == 1 and not (codec / "config.json").exists() and not list(codec.glob("model*")), done.stderr
    assert run(tones, *words).status == 0
    whole(tones / "runs/half-codec/latents/chunks", made / "latents/chunks")
