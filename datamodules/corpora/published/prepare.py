"""A published corpus: records to cuts, and what is missing, repeated or in another corpus' test split."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeVar

from datamodules.corpora import writer
from datamodules.corpora.contamination import Shared, refuse_shared, tested, write_jsonl
from datamodules.corpora.inspect import BadRecording, BadRecordingsError
from datamodules.corpora.inspection_record import Inspector
from datamodules.corpora.published import corpus
from datamodules.corpora.published.records import Files, Options, Record
from datamodules.errors import DataError

T = TypeVar("T")


class PublishedRecording(NamedTuple):
    """All records of one recording."""

    id: str
    path: str  # relative to the root, with /
    split: str
    source: str  # the origin
    free: bool  # for training: it may be held out for validation
    records: list[Record]


class PreparedCorpus(NamedTuple):
    report: writer.Report
    repeated: int  # records that repeat another one
    several: dict[str, list[str]]  # path that was taken -> other files of the clip
    contaminated: list[Shared]  # recordings whose origin or content is in a test split


def prepare_published(
    kind: str,
    root: Path,
    out: Path,
    *,
    name: str,
    split: str | None,
    fold: int,
    validation_fraction: float,
    label_question: str | None,
    contamination: str,
    on_bad: str,
    inspector: Inspector,
    surround: str = "mix",
) -> PreparedCorpus:
    """Writes out/cuts.jsonl.gz, or nothing; out/missing.jsonl and out/contaminated.jsonl where there is something to
    list.

    kind: of `published.NAMES`. split: for all recordings, whatever their publisher's is; None keeps the publisher's.
    contamination: of training recordings whose origin or content is in a test split, of this corpus or of another beside `out`:
    drop, keep, or error. Raises DataError.
    """
    about, files = corpus(kind).about, Files(root)
    recordings, repeated = _read(kind, root, files, name, split, fold)
    recordings = writer.hold_out(recordings, validation_fraction)
    recordings, contaminated = _without_tested(recordings, out, contamination)
    writer.require_any(recordings, root, Path(kind))
    question = label_question or about.question
    annotated = [_annotated(recording, name, question) for recording in recordings]
    missing = out / "missing.jsonl"
    try:
        report = writer.write(
            annotated, root, out, on_bad, inspector, root, contamination, known_bad=about.known_bad, surround=surround
        )
    except BadRecordingsError as error:
        _list_bad(missing, error.bad, recordings)
        raise DataError(f"{error}\nAll of them: {missing}") from None
    _list_bad(missing, report.skipped, recordings)
    seen = {row.id for row in contaminated}
    contaminated += [row for row in report.contaminated if row.id not in seen]
    write_jsonl(out / "contaminated.jsonl", (row._asdict() for row in contaminated))
    return PreparedCorpus(report, repeated, files.several, contaminated)


def recording_paths(kind: str, root: Path, name: str, split: str | None, fold: int) -> list[Path]:
    """The recordings of a corpus: what shards have to inspect."""
    recordings, _ = _read(kind, root, Files(root), name, split, fold)
    return [root / recording.path for recording in recordings]


def _read(
    kind: str, root: Path, files: Files, name: str, split: str | None, fold: int
) -> tuple[list[PublishedRecording], int]:
    """The recordings, and how many records repeat another one."""
    writer.check_name(name)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder. It is where the files of {kind} lie; `stage prepare --list` says which"
        )
    records = list(corpus(kind).records(root, Options(files, fold)))
    if not records:
        raise DataError(f"{root}: no recordings. {kind} is expected as `stage prepare --list` says")
    return _join(records, root, name, kind, split)


def _list_bad(path: Path, bad: Iterable[BadRecording], recordings: Iterable[PublishedRecording]) -> None:
    clips = {recording.path: recording.records[0].clip for recording in recordings}
    write_jsonl(path, [{"path": item.path, "clip": clips[item.path], "reason": item.reason} for item in bad])


def _join(
    records: list[Record], root: Path, name: str, kind: str, split: str | None
) -> tuple[list[PublishedRecording], int]:
    """The recordings, and how many records repeat another one. Raises DataError for one that is in two splits."""
    groups: dict[str, list[Record]] = {}
    seen: set[object] = set()
    repeated = 0
    for record in records:
        path = writer.path_in_root(record.path, root, record.where)
        content = (path, record.split, record.captions, record.labels, record.questions)
        if content in seen:
            repeated += 1
            continue
        seen.add(content)
        groups.setdefault(path, []).append(record)
    ids = writer.unique_ids(name, list(groups))
    recordings = []
    for path, group in groups.items():
        first = group[0]
        if (other := next((record for record in group if record.split != first.split), None)) and split is None:
            raise DataError(
                f"{other.where}: {path} is in {other.split}, and by {first.where} in {first.split}; one is allowed"
            )
        source, part = first.origin or f"{kind}:{first.clip}", split or first.split
        recordings.append(PublishedRecording(ids[path], path, part, source, part == "train", group))
    return recordings, repeated


def _without_tested(
    recordings: list[PublishedRecording], out: Path, contamination: str
) -> tuple[list[PublishedRecording], list[Shared]]:
    tests = tested(out.parent, out).origins
    tests |= {recording.source: out.name for recording in recordings if recording.split == "test"}
    shared = [
        Shared(recording.id, recording.source, tests[recording.source])
        for recording in recordings
        if recording.split == "train" and recording.source in tests
    ]
    refuse_shared(shared, contamination)
    dropped = {row.id for row in shared} if contamination == "drop" else set()
    return [recording for recording in recordings if recording.id not in dropped], shared


def _annotated(recording: PublishedRecording, name: str, label_question: str) -> writer.AnnotatedRecording:
    records = recording.records
    labels = _once(label for record in records for label in record.labels)
    questions = _once(question for record in records for question in record.questions)
    annotations: list[writer.Annotation] = [
        writer.caption(text) for text in _once(text for record in records for text in record.captions)
    ]
    annotations += [writer.question(*question) for question in questions]
    if labels:
        kind = "class" if len(labels) == 1 else "labels"
        annotations.append(writer.question(kind, label_question, "; ".join(labels)))
    custom = {
        "split": recording.split,
        "corpus": name,
        "source": recording.source,
        "origin": recording.source,
        "clip": records[0].clip,
        "labels": labels,
        "metadata": writer.merged(record.metadata for record in records),
    }
    return writer.AnnotatedRecording(recording.id, recording.path, custom, annotations)


def _once(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
