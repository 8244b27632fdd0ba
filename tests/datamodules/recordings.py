"""Recordings and tables of one's own, for tests."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import CutSet

from datamodules.corpora import folder
from datamodules.corpora.inspection_record import Inspector

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
DEFAULTS: dict[str, Any] = dict(
    name="mine",
    split_by=None,
    test=(),
    validation=(),
    validation_fraction=0.0,
    label_question="What is it?",
    contamination="keep",  # many tests write one tone under several names
    on_bad="error",
    inspector=Inspector(1),
)


def tone(seconds: float, rate: int, channels: int = 1, hz: float = 440.0) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    return np.stack([wave * (1 - 0.5 * channel) for channel in range(channels)], 1).astype(np.float32)


def sound(path: Path, seconds: float = 0.5, rate: int = 22050, channels: int = 1, hz: float = 440.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, channels, hz), rate, subtype=FORMATS[path.suffix[1:]])
    return path


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file,
            list(dict.fromkeys(key for row in rows for key in row)),
            delimiter="\t" if path.suffix == ".tsv" else ",",
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepared(root: Path, rows: list[dict[str, str]], **changes: Any) -> tuple[folder.Report, dict[str, Any]]:
    """Report, and the cuts by path."""
    out = root / "out"
    report = folder.prepare_folder(root, table(root / "metadata.csv", rows), out, **DEFAULTS | changes).report
    cuts = list(CutSet.from_file(out / "cuts.jsonl.gz"))
    return report, {cut.recording.sources[0].source: cut for cut in cuts}
