"""Anybody's own recordings: a CSV with a column `path`, and any of caption, label, question, answer, split, source; other columns are kept.

Rows of one path are several captions or questions about one recording. A row with a label and no question gets the class question.
"""

import csv
import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.audio.utils import set_audio_duration_mismatch_tolerance

from datamodules.corpora.inspect import Bad, Found, inspect, refuse

KNOWN = ("path", "caption", "label", "question", "answer", "split", "source")
SPLITS = {"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
          "test": "test", "eval": "test", "evaluation": "test"}  # fmt: skip
DURATION_TOLERANCE = 0.025  # seconds


class Report(NamedTuple):
    recordings: int
    seconds: float
    splits: dict[str, int]
    skipped: list[Bad]


def hold_durations() -> None:
    """Lhotse mends recordings up to 0.5 s off their manifest in silence: for the whole process, only rounding is mended from here on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its warning concerns perturbed speed, which nothing here uses
        set_audio_duration_mismatch_tolerance(DURATION_TOLERANCE)


class Row(NamedTuple):
    line: int
    values: dict[str, str]


def prepare(
    root: Path,
    metadata: Path,
    out: Path,
    *,
    name: str,
    split_by: str | None,
    test: Sequence[str],
    validation: Sequence[str],
    validation_fraction: float,
    label_question: str,
    on_bad: str,
    workers: int,
) -> Report:
    """Writes out/cuts.jsonl.gz, or nothing.

    split_by: a column whose values in `test` and `validation` decide the split, all others train; None takes the column `split`. Where no row is
    for validation, `validation_fraction` of the training sources, chosen by hash, are. Raises ValueError for a CSV that cannot be read so, and for
    bad recordings unless on_bad is skip.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ValueError(f"--name={name}: letters, digits, '_', '.' and '-' are allowed")
    rows = _read(root, metadata, split_by)
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(os.path.normpath(row.values["path"]), []).append(row)
    splits = {path: _split(group, split_by, test, validation, metadata) for path, group in groups.items()}
    sources = {path: group[0].values.get("source") or Path(path).stem for path, group in groups.items()}
    if "validation" not in splits.values() and validation_fraction:
        for path, split in splits.items():
            if split == "train" and _share(sources[path]) < validation_fraction:
                splits[path] = "validation"
    found = inspect([root / path for path in groups], workers)
    bad = [Bad(str(path), item.reason) for path, item in zip(groups, found, strict=True) if item.reason]
    refuse(bad, len(found), on_bad)
    good = [(path, item) for path, item in zip(groups, found, strict=True) if item.reason is None]
    if not good:
        raise ValueError(f"{metadata}: none of its {len(found)} recordings can be used")
    ids = _ids(name, [path for path, _ in good])
    hold_durations()
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".part-{os.getpid()}-cuts.jsonl.gz"
    with CutSet.open_writer(part, overwrite=True) as writer:
        for path, item in good:
            writer.write(_cut(ids[path], root, path, item, groups[path], name, splits[path], sources[path], label_question))
    os.replace(part, out / "cuts.jsonl.gz")
    kept = [splits[path] for path, _ in good]
    counts = {split: kept.count(split) for split in ("train", "validation", "test")}
    return Report(len(good), sum(item.seconds for _, item in good), counts, bad)


def _read(root: Path, metadata: Path, split_by: str | None) -> list[Row]:
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    if not metadata.is_file():
        raise ValueError(f"--metadata {metadata}: no such file. It is a CSV with the columns {', '.join(KNOWN)}; only path is required")
    with metadata.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if metadata.suffix == ".tsv" else ",")
        columns = list(reader.fieldnames or [])
        if "path" not in columns:
            raise ValueError(f"{metadata}: no column 'path'. It has {', '.join(columns) or 'none'}; known are {', '.join(KNOWN)}, others are kept")
        if split_by is not None and split_by not in columns:
            raise ValueError(f"{metadata}: no column {split_by!r} to split by. It has {', '.join(columns)}")
        rows = [Row(line, {key: (value or "").strip() for key, value in row.items() if key}) for line, row in enumerate(reader, 2)]
    if not rows:
        raise ValueError(f"{metadata}: no rows. One row a recording, or a caption or question of one, is expected under the header")
    for row in rows:
        if not row.values["path"]:
            raise ValueError(f"{metadata}, line {row.line}: the path is empty")
        if bool(row.values.get("question")) != bool(row.values.get("answer")):
            raise ValueError(f"{metadata}, line {row.line}: a question and its answer go together, here only one of them is given")
    return rows


def _split(group: list[Row], split_by: str | None, test: Sequence[str], validation: Sequence[str], metadata: Path) -> str:
    found = set()
    for row in group:
        if split_by is not None:
            value = row.values[split_by]
            found.add("test" if value in test else "validation" if value in validation else "train")
        else:
            value = row.values.get("split") or "train"
            if value.lower() not in SPLITS:
                raise ValueError(f"{metadata}, line {row.line}: split {value!r}; allowed are {', '.join(SPLITS)}")
            found.add(SPLITS[value.lower()])
    if len(found) > 1:
        raise ValueError(f"{metadata}, line {group[0].line}: {group[0].values['path']} is in the splits {' and '.join(sorted(found))}; one is allowed")
    return found.pop()


def _cut(
    cut_id: str, root: Path, path: str, item: Found, group: list[Row], name: str, split: str, source: str, label_question: str
) -> object:
    recording = Recording.from_file(root / path, recording_id=cut_id)
    recording.sources[0].source = path  # relative to the corpus' root
    cut = recording.to_cut().with_id(cut_id)
    labels = list(dict.fromkeys(row.values["label"] for row in group if row.values.get("label")))
    extra = {key: value for key, value in group[0].values.items() if key not in KNOWN}
    cut.custom = {"split": split, "corpus": name, "source": f"{name}-{source}", "labels": labels, "metadata": extra, "size": item.size}
    said: list[tuple[str | None, dict[str, str]]] = []
    for row in group:
        values = row.values
        if values.get("caption"):
            said.append((values["caption"], {"task": "caption"}))
        if values.get("question"):
            said.append((None, {"task": "question", "kind": "question", "question": values["question"], "answer": values["answer"]}))
        elif values.get("label"):
            said.append((None, {"task": "question", "kind": "class", "question": label_question, "answer": values["label"]}))
    distinct = [item for number, item in enumerate(said) if item not in said[:number]]
    channel = recording.channel_ids if recording.num_channels > 1 else 0
    cut.supervisions = [
        SupervisionSegment(f"{cut_id}-{number}", cut_id, 0, recording.duration, channel=channel, text=text, custom=custom)
        for number, (text, custom) in enumerate(distinct)
    ]
    return cut


def _ids(name: str, paths: Sequence[str]) -> dict[str, str]:
    """Path -> id of letters, digits, '_', '.', '-'; paths that would share one get a hash of the path."""
    plain = {path: f"{name}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', os.path.splitext(path)[0])}" for path in paths}
    taken = Counter(plain.values())
    return {path: short if taken[short] == 1 else f"{short}-{_hash(path)[:8]}" for path, short in plain.items()}


def _share(source: str) -> float:
    return int(_hash(source)[:8], 16) / 0xFFFFFFFF


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
