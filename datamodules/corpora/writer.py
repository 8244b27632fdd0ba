"""What every corpus shares: recordings are decoded and bad ones named, and the cuts are written whole or not at all."""

import gzip
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, TypeVar

from lhotse import AudioSource, Recording, SupervisionSegment

from datamodules.atomic_files import whole_file
from datamodules.corpora.contamination import Shared, refuse_shared, tested
from datamodules.corpora.inspect import LOUD, SILENCE, BadRecording, Inspection, refuse
from datamodules.corpora.inspection_record import Inspector
from datamodules.cuts import SPLITS, Cut
from datamodules.errors import DataError
from datamodules.hashing import digest
from datamodules.sound_files import absent, size, url

SHORT = 0.1  # seconds

Annotation = tuple[str | None, dict[str, Any]]  # a supervision's text and custom (datamodules/cuts.py)


class Report(NamedTuple):
    recordings: int
    seconds: float
    splits: dict[str, int]
    skipped: list[BadRecording]
    short: int  # recordings shorter than SHORT
    loud: Sequence[str] = ()  # paths whose peak is above LOUD: integers that were not scaled
    cancelling: Sequence[str] = ()  # paths of stereo that is silent for a mono codec
    contaminated: Sequence[Shared] = ()  # training recordings whose bytes are in a test split


class AnnotatedRecording(NamedTuple):
    """A recording and what its corpus says about it."""

    id: str
    path: str  # relative to the root, with /
    custom: dict[str, Any]  # of the cut; split, corpus and source at least
    annotations: list[Annotation]


class SplitRecording(Protocol):
    """A recording of a table, with its split."""

    @property
    def path(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def source(self) -> str:
        """Recordings of one source are in one split."""
        ...

    @property
    def free(self) -> bool:
        """Nothing names its split: it may be held out for validation."""
        ...


R = TypeVar("R", bound=SplitRecording)


def caption(text: str) -> Annotation:
    return text, {"task": "caption"}


def question(
    kind: str, question: str, answer: str, choices: Sequence[str] = (), fields: Iterable[tuple[str, str]] = ()
) -> Annotation:
    """fields: what else its publisher says of it."""
    custom: dict[str, Any] = {"task": "question", "kind": kind, "question": question, "answer": answer}
    custom |= {"choices": list(choices)} if choices else {}
    return None, custom | ({"fields": dict(fields)} if fields else {})


def merged(parts: Iterable[Mapping[str, str | list[str]]]) -> dict[str, str | list[str]]:
    """Key -> the one value that the parts have, or the list of different ones; "" where all are empty."""
    values: dict[str, dict[str, None]] = {}
    for part in parts:
        for key, given in part.items():
            texts = [given] if isinstance(given, str) else given
            values.setdefault(key, {}).update(dict.fromkeys(filter(None, texts)))
    return {key: list(texts) if len(texts) > 1 else "".join(texts) for key, texts in values.items()}


def write(
    recordings: Sequence[AnnotatedRecording],
    root: Path,
    out: Path,
    on_bad: str,
    inspector: Inspector,
    metadata: Path,
    contamination: str = "drop",
    check: Callable[[set[str]], None] = lambda good: None,
    known_bad: Sequence[str] = (),
    surround: str = "mix",
) -> Report:
    """Decodes all recordings and writes out/cuts.jsonl.gz, or nothing. An earlier receipt in `out` goes before its
    cuts do.

    contamination: of training recordings whose bytes are in a test split, of this corpus or of another beside `out`:
    drop, keep, or error. check: called with the ids of the good recordings before anything is written; known_bad: file stems that their
    publisher ships broken, which are left out unasked; surround: whether 3 to 5.1 channels are mixed down when they are read (mix), or
    such a recording is a bad one (refuse). Raises DataError for bad recordings unless on_bad is skip, and
    where none is good.
    """
    inspections = inspector.inspect([root / recording.path for recording in recordings])
    inspections = [
        item._replace(reason=f"missing. There is {near}: upper and lower case differ")
        if item.reason == "missing" and (near := _in_other_case(recording.path, root))
        else item
        for recording, item in zip(recordings, inspections, strict=True)
    ]
    if surround == "refuse":
        inspections = [_without_surround(item) for item in inspections]
    pairs = list(zip(recordings, inspections, strict=True))
    bad = [BadRecording(one.path, f"{item.reason}{_id_in_archive(one)}") for one, item in pairs if item.reason]
    refuse([item for item in bad if PurePosixPath(item.path).stem not in known_bad], len(pairs), on_bad)
    good = [(recording, item) for recording, item in pairs if item.reason is None]
    contaminated = _contaminated(good, out)
    refuse_shared(contaminated, contamination)
    dropped = {row.id for row in contaminated} if contamination == "drop" else set()
    good = [(recording, item) for recording, item in good if recording.id not in dropped]
    check({recording.id for recording, _ in good})
    if not good:
        raise DataError(
            f"{metadata}: none of its {len(pairs)} recordings can be used. The first: {bad[0].path}: {bad[0].reason}"
        )
    with cut_writer(out) as write_cut:
        for recording, item in good:
            write_cut(make_cut(recording, item))
    counts = Counter(recording.custom["split"] for recording, _ in good)
    splits = {split: counts[split] for split in SPLITS}
    short = sum(item.seconds < SHORT for _, item in good)
    loud = [one.path + _id_in_archive(one) for one, item in good if item.peak > LOUD]
    cancelling = [one.path + _id_in_archive(one) for one, item in good if item.mono_peak < min(SILENCE, item.peak)]
    return Report(len(good), sum(item.seconds for _, item in good), splits, bad, short, loud, cancelling, contaminated)


def _id_in_archive(recording: AnnotatedRecording) -> str:
    """What a message says beside the path of a part of an archive, which is a number of bytes or a row."""
    return f" ({recording.id})" if "::bytes=" in recording.path or "::row=" in recording.path else ""


def _without_surround(item: Inspection) -> Inspection:
    if item.reason or item.num_channels <= 2:
        return item
    return item._replace(reason=f"has {item.num_channels} channels (--surround=mix takes them down to stereo)")


def _contaminated(good: Sequence[tuple[AnnotatedRecording, Inspection]], out: Path) -> list[Shared]:
    """Training recordings whose bytes are in a test split."""
    tests = tested(out.parent, out).contents
    tests |= {str(item.sha256): out.name for recording, item in good if recording.custom["split"] == "test"}
    return [
        Shared(recording.id, f"sha256:{item.sha256}", tests[str(item.sha256)])
        for recording, item in good
        if recording.custom["split"] == "train" and item.sha256 in tests
    ]


@contextmanager
def cut_writer(out: Path) -> Iterator[Callable[[Cut], object]]:
    """A function that takes cuts, one by one; out/cuts.jsonl.gz appears when all of them are written.

    It is ASCII, as JSON may be: whoever reads it needs no encoding. Raises DataError for text that is no Unicode.
    """
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "cuts.jsonl.gz", durable=True) as part:
        with gzip.open(part, "wt", encoding="ascii") as file:
            yield lambda cut: file.write(f"{_json(cut)}\n")
        (out / "receipt.json").unlink(missing_ok=True)


def _json(cut: Cut) -> str:
    fields = cut.to_dict()
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{cut.id}: its text holds {error.object[error.start]!a}, half of a character that takes two (a surrogate). "
            "Write the whole character"
        ) from None
    return json.dumps(fields)


def make_cut(recording: AnnotatedRecording, item: Inspection) -> Cut:
    """The Lhotse cut of a recording that was decoded."""
    name, channels = recording.id, list(range(item.num_channels))
    source = AudioSource("file", channels, recording.path)  # relative to the corpus' root
    seconds = item.num_samples / item.sample_rate
    audio = Recording(name, [source], item.sample_rate, item.num_samples, seconds, channel_ids=channels)
    cut: Any = audio.to_cut().with_id(name)
    cut.custom = {**recording.custom, "size": item.size} | ({"sha256": item.sha256} if item.sha256 else {})
    channel = channels if len(channels) > 1 else 0
    cut.supervisions = [
        SupervisionSegment(f"{name}-{number}", name, 0, seconds, channel=channel, text=text, custom=custom)
        for number, (text, custom) in enumerate(recording.annotations)
    ]
    return cut


def check_name(name: str) -> None:
    """Raises DataError for a corpus' name that cannot be a folder's and begin ids."""
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise DataError(
            f"--name={name}: letters, digits, '_', '.' and '-' are allowed. "
            f"Give one:   --name={_plain(name).lstrip('.')}"
        )


def path_in_root(given: str, root: Path, where: str) -> str:
    """A path relative to the root, with /. Raises DataError, which begins with `where`, for one that is empty or
    leaves it.
    """
    if not given:
        raise DataError(f"{where}: the path is empty")
    path = os.path.normpath(given)
    if os.path.isabs(given):
        path = os.path.relpath(path, os.path.abspath(root))
    if path.split(os.sep)[0] == "..":
        raise DataError(f"{where}: {given!r} lies outside {root}. Paths are relative to it, or inside it")
    return _existing(PurePosixPath(*Path(path).parts).as_posix(), root)


def _existing(path: str, root: Path) -> str:
    """The path, as it is where it exists; else the one that exists and differs from it in separators (\\ for /), in
    the normal form of Unicode, or in blanks around its names.
    """
    if url(root) or "::" in path or (root / path).exists():
        return path
    return _alike(path, root, _key) or path


def _in_other_case(path: str, root: Path) -> str | None:
    """The path that exists and differs from it as for `_existing`, or in upper and lower case."""
    near = None if url(root) or "::" in path else _alike(path, root, _caseless_key)
    return None if near == path else near


def _alike(path: str, root: Path, key: Callable[[str], str]) -> str | None:
    """The one path that exists and whose names have the keys of the path's."""
    existing = PurePosixPath()
    for part in path.replace("\\", "/").split("/"):
        names = [part] if (root / existing / part).exists() else _names(root / existing, key).get(key(part), [])
        if len(names) != 1 or part == "..":
            return None
        existing /= names[0]
    return existing.as_posix()


@lru_cache(maxsize=1024)
def _names(folder: Path, key: Callable[[str], str]) -> dict[str, list[str]]:
    """The files and folders of a folder by their key."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        names.setdefault(key(name), []).append(name)
    return names


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _caseless_key(name: str) -> str:
    return _key(name).casefold()


def require_any(recordings: Sequence[SplitRecording], root: Path, metadata: Path) -> None:
    """Raises DataError where not one of the recordings exists: then it is the root that is wrong."""
    if not any(size(root / recording.path) is not None for recording in recordings):
        near = _in_other_case(recordings[0].path, root)
        what = absent(root / recordings[0].path)
        cure = f"There is {near}: upper and lower case differ" if near else f"Paths are relative to {root}"
        raise DataError(
            f"{root} holds none of the {len(recordings)} recordings that {metadata} names, the first "
            f"{recordings[0].path!r}{what.removeprefix('missing')}. {cure}"
        )


def hold_out(recordings: list[R], fraction: float) -> list[R]:
    """Where no recording is for validation: the share of the free training sources with the lowest hashes becomes so.

    At least one where there are two, and never all.
    """
    train = [recording for recording in recordings if recording.split == "train"]
    fixed = {recording.source for recording in train if not recording.free}
    sources = sorted({recording.source for recording in train} - fixed, key=digest)
    if not fraction or len(sources) < 2 or any(recording.split == "validation" for recording in recordings):
        return recordings
    chosen = set(sources[: min(max(1, round(fraction * len(sources))), len(sources) - 1)])
    return [
        _for_validation(recording) if recording.split == "train" and recording.source in chosen else recording
        for recording in recordings
    ]


def _for_validation(recording: R) -> R:
    fields: Any = recording  # a NamedTuple
    return fields._replace(split="validation")


def unique_ids(name: str, paths: Sequence[str]) -> dict[str, str]:
    """Path -> id of letters, digits, '_', '.', '-'; paths that would share one get a hash of the path."""
    short = {path: f"{name}-{_plain(os.path.splitext(path)[0])}" for path in paths}
    counts = Counter(short.values())
    ids = {path: text if counts[text] == 1 else f"{text}-{digest(path)[:8]}" for path, text in short.items()}
    assert len(set(ids.values())) == len(paths)
    return ids


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
