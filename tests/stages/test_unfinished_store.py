"""`latents` and `cache`, killed in the middle and gone on with after their corpus changed: right, and nothing encoded twice."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from datamodules.store import chunks
from stages.cli.main import main
from tests.conftest import SMOKE
from tests.interrupt import interrupt

PARTS = ("--recordings_per_chunk=4",)


@pytest.fixture
def folder(apart: Path) -> Path:
    """recordings/ and data/ with the corpus `tones`, prepared here."""
    prepare(apart)
    return apart


def prepare(folder: Path, change: Callable[[str], str | None] = lambda line: line) -> None:
    """Prepares the corpus again, with each line of its table as `change` makes it; None leaves it out."""
    table = folder / "recordings/metadata.csv"
    head, *lines = table.read_text().splitlines()
    kept = [text for line in lines if (text := change(line)) is not None]
    table.write_text("\n".join([head, *kept]) + "\n")
    words = ["prepare", "folder", str(table.parent), "--metadata", str(table), "--name", "tones"]
    assert main([*words, f"--data.root={folder / 'data'}"]) == 0


def run(stage: str, experiment: str, *words: str) -> dict[str, Any]:
    """The receipt."""
    assert main(["run", stage, *SMOKE, *PARTS, f"--experiment={experiment}", *words]) == 0
    return json.loads(Path("runs", experiment, stage, "receipt.json").read_text())


def stored(stage: str, experiment: str) -> dict[str, Any]:
    """Id -> text and sound."""
    cuts = chunks.read(Path("runs", experiment, stage, "chunks"))
    return {
        cut.id: ([sup.text for sup in cut.supervisions], cut.custom.get("codes") or chunks.load_array(cut).tobytes())
        for cut in cuts
    }


def statistics(experiment: str) -> dict[str, np.ndarray]:
    return load_file(f"runs/{experiment}/latents/artifact/statistics.safetensors")


def killed(folder: Path, stage: str, batches: int, *words: str) -> dict[str, int]:
    """Kills a stage of the experiment `one` after some batches -> its finished chunks' files, with their inodes."""
    ended = interrupt(folder, stage, batches, *PARTS, *words, "--experiment=one")
    assert ended.status == -signal.SIGKILL
    return files(folder / "runs/one" / stage)


def files(run_folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in run_folder.glob("chunks/0*/*.npy")}


def train_statistics(experiment: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the stored latents of the training sounds, each once."""
    cuts = chunks.read(Path("runs", experiment, "latents/chunks")).of_split("train")
    arrays = {cut.custom["sha256"]: chunks.load_array(cut).astype(np.float64) for cut in cuts}
    whole = np.concatenate(list(arrays.values()))
    return whole.mean(0), whole.std(0)


def without(*names: str) -> Callable[[str], str | None]:
    return lambda line: None if line.startswith(names) else line


def test_captions_are_mended_and_clips_come(folder: Path, capsys: pytest.CaptureFixture[str]):
    """What is stored stays, as its codec does; the statistics are of all."""
    table = folder / "recordings/metadata.csv"
    rows = table.read_text()
    prepare(folder, without("20", "21", "22", "23"))
    before = killed(folder, "latents", 2)
    assert before
    table.write_text(rows.replace("a low sound", "a deep sound"))
    prepare(folder)
    capsys.readouterr()
    receipt = run("latents", "one")
    printed = capsys.readouterr().err
    assert "goes on with corpora that have changed" in printed
    assert before.items() <= files(folder / "runs/one/latents").items(), "nothing is encoded twice"
    assert receipt["metrics"]["recordings"] == len(stored("latents", "one")) == 24
    assert any("a deep sound" in texts for texts, _ in stored("latents", "one").values())
    seconds = chunks.Plan(folder / "runs/one/latents/chunks").seconds()
    assert receipt["metrics"]["encoded_seconds"] == pytest.approx(seconds, abs=1e-3)
    actual, (mean, deviation) = statistics("one"), train_statistics("one")
    np.testing.assert_allclose(actual["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual["std"], deviation, rtol=1e-4)


@pytest.mark.slow
def test_clips_are_taken_away(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Training sounds that the codec was fitted on are gone: it is fitted anew, and all is as of a run that never saw them."""
    assert killed(folder, "latents", 2)
    prepare(folder, without("00", "01"))
    run("latents", "one")
    assert "training sounds are gone" in capsys.readouterr().err
    run("latents", "at_once")
    assert stored("latents", "one") == stored("latents", "at_once") and len(stored("latents", "one")) == 22
    for name, value in statistics("one").items():
        np.testing.assert_array_equal(value, statistics("at_once")[name])


@pytest.mark.slow
def test_a_cache_goes_on_with_other_captions_and_clips(folder: Path, whole: Path):
    for name in ("latents", "tokenizer"):
        shutil.copytree(whole / name, folder / "runs/one" / name)
    before = killed(folder, "cache", 2, "--batch_size=4")
    assert before
    table = folder / "recordings/metadata.csv"
    table.write_text(table.read_text().replace("a low sound", "a deep sound"))
    shutil.copy(table.parent / "02.ogg", table.parent / "again.ogg")
    with table.open("a") as file:
        file.write("again.ogg,heard before,,,,train\n")
    prepare(folder, without("03"))
    run("latents", "one", "--recordings_per_chunk=8")
    receipt = run("cache", "one", "--batch_size=4")
    assert before.items() <= files(folder / "runs/one/cache").items(), "nothing is encoded twice"
    assert receipt["metrics"]["recordings"] == 24 and receipt["metrics"]["duplicates"] == 1
    run("cache", "two", "--batch_size=4", "--parents.latents=one", "--parents.tokenizer=one")
    one, two = stored("cache", "one"), stored("cache", "two")
    assert list(one) == list(two)
    for name, (texts, codes) in one.items():
        assert texts == two[name][0] and len(codes) == len(two[name][1])
        assert np.mean(np.array(codes) == np.array(two[name][1])) > 0.9, name  # of batches that are padded otherwise
    assert one["tones-again"][1] == one["tones-02"][1] and "tones-03" not in one
