"""What every corpus shares: recordings are decoded and bad ones named, and the cuts are written whole or not at all."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeVar

from lhotse import AudioSource, CutSet, Recording, SupervisionSegment

from datamodules.corpora.inspect import BadRecording, Inspection, inspect, refuse
from datamodules.cuts import SPLITS
from datamodules.errors import DataError
from datamodules.hashing import digest

SHORT = 0.1  # seconds

Annotation = tuple[str | None, dict[str, Any]]  # a supervision's text and custom


class Report(NamedTuple):
    recordings: int
    seconds: float
    splits: dict[str, int]
    skipped: list[BadRecording]
    short: int  # recordings shorter than SHORT


class AnnotatedRecording(NamedTuple):
    """A recording and what is said about it."""

    id: str
    path: str  # relative to the root, with /
    custom: dict[str, Any]  # of the cut; split, corpus and source at least
    said: list[Annotation]


class SplitRecording(Protocol):
    path: str
    split: str
    source: str
    free: bool  # nothing says its split: it may be held out for validation

    def _replace(self, **fields: Any) -> Any: ...


P = TypeVar("P", bound=SplitRecording)


def write(
    entries: Sequence[AnnotatedRecording],
    root: Path,
    out: Path,
    on_bad: str,
    workers: int,
    metadata: Path,
    check: Callable[[set[str]], None] = lambda good: None,
    known_bad: Sequence[str] = (),
) -> Report:
    """Decodes all recordings and writes out/cuts.jsonl.gz, or nothing. An earlier receipt in `out` goes before its cuts do.

    check is asked about the ids of the good ones; known_bad are file stems that their publisher ships broken, which are left out without leave.
    Raises DataError for bad recordings unless on_bad is skip, and where none is good.
    """
    found = inspect([root / entry.path for entry in entries], workers)
    pairs = list(zip(entries, found, strict=True))
    bad = [BadRecording(entry.path, item.reason) for entry, item in pairs if item.reason]
    refuse([item for item in bad if PurePosixPath(item.path).stem not in known_bad], len(found), on_bad)
    good = [(entry, item) for entry, item in pairs if item.reason is None]
    check({entry.id for entry, _ in good})
    if not good:
        raise DataError(
            f"{metadata}: none of its {len(found)} recordings can be used. The first: {bad[0].path}: {bad[0].reason}"
        )
    with writing(out) as add:
        for entry, item in good:
            add(cut(entry, item))
    counts = Counter(entry.custom["split"] for entry, _ in good)
    splits = {split: counts[split] for split in SPLITS}
    short = sum(item.seconds < SHORT for _, item in good)
    return Report(len(good), sum(item.seconds for _, item in good), splits, bad, short)


def check_name(name: str) -> None:
    """Raises DataError for a corpus' name that cannot be a folder's and begin ids."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise DataError(
            f"--name={name}: letters, digits, '_', '.' and '-' are allowed. Give one:   --name={plain(name).lstrip('.')}"
        )


@contextmanager
def writing(out: Path) -> Iterator[Callable[[Any], None]]:
    """Takes cuts; out/cuts.jsonl.gz is there when all of them are."""
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".part-{os.getpid()}-cuts.jsonl.gz"
    try:
        with CutSet.open_writer(part, overwrite=True) as writer:
            yield writer.write
        (out / "receipt.json").unlink(missing_ok=True)
        os.replace(part, out / "cuts.jsonl.gz")
    finally:
        part.unlink(missing_ok=True)


def cut(entry: AnnotatedRecording, item: Inspection) -> Any:
    """The Lhotse cut of a recording that was decoded."""
    channels = list(range(item.num_channels))
    source = AudioSource("file", channels, entry.path)  # relative to the corpus' root
    seconds = item.num_samples / item.sample_rate
    recording = Recording(entry.id, [source], item.sample_rate, item.num_samples, seconds, channel_ids=channels)
    made = recording.to_cut().with_id(entry.id)
    made.custom = {**entry.custom, "size": item.size} | ({"sha256": item.sha256} if item.sha256 else {})
    channel = channels if len(channels) > 1 else 0
    made.supervisions = [
        SupervisionSegment(f"{entry.id}-{number}", entry.id, 0, seconds, channel=channel, text=text, custom=custom)
        for number, (text, custom) in enumerate(entry.said)
    ]
    return made


def inside(given: str, root: Path, where: str) -> str:
    """A path relative to the root, with /. Raises DataError for one that is empty or leaves the root."""
    if not given:
        raise DataError(f"{where}: the path is empty")
    path = (
        os.path.relpath(os.path.normpath(given), os.path.abspath(root))
        if os.path.isabs(given)
        else os.path.normpath(given)
    )
    if path.split(os.sep)[0] == "..":
        raise DataError(f"{where}: {given!r} lies outside {root}. Paths are relative to it, or inside it")
    return PurePosixPath(*Path(path).parts).as_posix()


def require_any(plans: Sequence[SplitRecording], root: Path, metadata: Path) -> None:
    """Raises DataError where not one of the recordings is there: then it is the root that is wrong."""
    if not any((root / plan.path).exists() for plan in plans):
        raise DataError(
            f"{root} holds none of the {len(plans)} recordings that {metadata} names, the first {plans[0].path!r}. "
            f"Paths are relative to {root}"
        )


def hold_out(plans: list[P], fraction: float) -> list[P]:
    """Where no recording is for validation: the share of the free training sources with the lowest hashes.

    At least one where there are two, and never all.
    """
    train = [plan for plan in plans if plan.split == "train"]
    kept = {plan.source for plan in train if not plan.free}
    sources = sorted({plan.source for plan in train} - kept, key=digest)
    if not fraction or len(sources) < 2 or any(plan.split == "validation" for plan in plans):
        return plans
    held = set(sources[: min(max(1, round(fraction * len(sources))), len(sources) - 1)])
    return [
        plan._replace(split="validation") if plan.split == "train" and plan.source in held else plan for plan in plans
    ]


def identities(name: str, paths: Sequence[str]) -> dict[str, str]:
    """Path -> id of letters, digits, '_', '.', '-'; paths that would share one get a hash of the path."""
    short = {path: f"{name}-{plain(os.path.splitext(path)[0])}" for path in paths}
    taken = Counter(short.values())
    ids = {path: text if taken[text] == 1 else f"{text}-{digest(path)[:8]}" for path, text in short.items()}
    assert len(set(ids.values())) == len(paths)
    return ids


def plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
