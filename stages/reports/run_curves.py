"""Losses of the trainings that a run was made from, by step, as their loggers wrote them to disk."""

import csv
import io
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from callbacks import pictures
from callbacks.pictures import Picture
from stages import STAGES
from stages.runs import receipts
from stages.runs.receipts import FinishedRun, lineage

SHOWN = ("train/loss", "val/latent_nmse", "val/text_loss", "val/audio_loss")
MOST_POINTS = 1000  # of a line
MOST_BYTES = 4096  # of a record: sounds and pictures have more

Line = list[tuple[float, float]]  # (step, value)


class RunCurves(NamedTuple):
    stage: str
    picture: Picture
    lines: list[tuple[str, str]]  # name, and its colour as HTML writes it


def of_parents(parents: Mapping[str, FinishedRun]) -> list[RunCurves]:
    """Of the parents and of what they were made from, in the order of the stages. A training without a log of TensorBoard
    or CSV has no curves, nor has one whose run is no longer beside its child.
    """
    folders: dict[str, Path] = {}
    for name, parent in parents.items():
        for stage, digest in lineage(name, parent.receipt).items():
            folder = parent.folder if stage == name else parent.folder.parent / stage
            receipt = receipts.read(folder)
            if receipt is not None and receipt["artifact_hash"] == digest:
                folders[stage] = folder
    curves = []
    for stage in [stage for stage in STAGES if stage in folders]:
        lines = read(folders[stage])
        if lines:
            named = [(name, pictures.colour(number)) for number, name in enumerate(lines)]
            curves.append(RunCurves(stage, pictures.curves(list(lines.values())), named))
    return curves


def read(folder: Path) -> dict[str, Line]:
    """Name -> its points by step; a step that was trained again has its last value. folder: of a run."""
    lines: dict[str, dict[float, float]] = {name: {} for name in SHOWN}
    for name, step, value in [*_tensorboard(folder / "tensorboard"), *_csv(folder / "csv")]:
        if name in lines and math.isfinite(value):
            lines[name][step] = value
    points = {name: sorted(line.items()) for name, line in lines.items() if line}
    return {name: line[:: -(-len(line) // MOST_POINTS)] for name, line in points.items()}


def _tensorboard(folder: Path) -> Iterator[tuple[str, float, float]]:
    """(name, step, value). Records of a few bytes alone are read: tensorboard's own reader takes a minute for 100 MB of sound.

    A record: its length (8 bytes), a sum of that (4), an Event, a sum of that (4).
    """
    from tensorboard.compat.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.out.tfevents.*")):
        with path.open("rb") as file:
            while len(head := file.read(12)) == 12:
                (length,) = struct.unpack_from("<Q", head)
                if length > MOST_BYTES:
                    file.seek(length + 4, io.SEEK_CUR)
                    continue
                record = file.read(length + 4)
                if len(record) < length + 4:
                    break  # a run that was killed while it wrote
                event = Event.FromString(record[:length])
                for one in event.summary.value:
                    if one.WhichOneof("value") == "simple_value":
                        yield one.tag, event.step, one.simple_value


def _csv(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Of all starts."""
    for path in sorted(folder.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.rpartition("_")[2])):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                yield from ((name, float(row["step"]), float(row[name])) for name in SHOWN if row.get(name))
