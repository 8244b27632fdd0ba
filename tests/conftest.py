"""A small corpus of real sound files, prepared as a user's own recordings are, and the smoke preset on it."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile

KINDS = {"low": 220.0, "high": 1760.0, "noise": 0.0}


def write_tones(root: Path, count: int) -> Path:
    """`count` recordings of a low tone, a high tone or noise, 0.7 to 5.5 s, of several formats and rates; returns the CSV."""
    root.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        rate = (44100, 22050, 16000)[index % 3]
        times = np.arange(int(rate * (0.7 + 4.8 * index / count))) / rate
        sound = generator.normal(size=len(times)) if kind == "noise" else np.sin(2 * np.pi * KINDS[kind] * times)
        sound = 0.3 * sound / np.abs(sound).max()
        name = f"{index:02d}.{('wav', 'flac', 'ogg')[index % 3]}"
        soundfile.write(root / name, np.stack([sound, sound], 1) if index % 2 else sound, rate)
        split = ("train", "train", "train", "validation", "test", "train")[index % 6 if index < 18 else index % 5]
        rows.append(
            {
                "path": name,
                "caption": f"a {kind} sound",
                "label": kind,
                "question": "Is it noise?",
                "answer": "yes" if kind == "noise" else "no",
                "split": split,
            }
        )
        rows.append({**rows[-1], "caption": "", "question": "", "answer": ""})
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "metadata.csv"


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with the corpus `tones` prepared in data/ and nothing run yet."""
    from stages.cli.main import main

    place = tmp_path_factory.mktemp("tones")
    before = Path.cwd()
    os.chdir(place)
    try:
        metadata = write_tones(place / "recordings", 24)
        words = ["prepare", "folder", str(metadata.parent), "--metadata", str(metadata), "--name", "tones"]
        assert main([*words, "--data.root=data"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def stage(tones: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command, in that folder: stage("run", "tokenizer", "--experiment=x") -> exit status."""
    from stages.cli.main import main

    monkeypatch.chdir(tones)
    return lambda verb, *words: main([verb, *words, *SMOKE])


@pytest.fixture
def whole(stage: Callable[..., int], tones: Path) -> Path:
    """Every stage of the experiment `whole`, done once for this session."""
    assert stage("run", "all", "--experiment=whole") == 0
    return tones / "runs" / "whole"


SMOKE = ("--preset", "smoke", "--data.root=data", "--data.corpora=tones", "--threads=1")
