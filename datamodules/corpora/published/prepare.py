"""A published corpus: records -> cuts, and what is missing, said twice or in somebody's test split."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora import writer
from datamodules.corpora.contamination import Shared, lines, refuse_shared, tested
from datamodules.corpora.inspect import BadRecording, BadRecordingsError
from datamodules.corpora.published import corpus
from datamodules.corpora.published.records import Files, Options, QuestionAnswer, Record
from datamodules.errors import DataError


class PublishedRecording(NamedTuple):
    """All records of one recording."""

    id: str
    path: str
    split: str
    source: str  # the origin
    free: bool
    records: list[Record]


class PreparedCorpus(NamedTuple):
    report: writer.Report
    repeated: int  # records that say what another has said
    several: dict[str, list[str]]  # path that was taken -> other files of the clip
    contaminated: list[Shared]  # recordings whose origin is in a test split


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
    workers: int,
) -> PreparedCorpus:
    """Writes out/cuts.jsonl.gz, or nothing; out/missing.jsonl and out/contaminated.jsonl where there is something to list.

    split: for all recordings, whatever their publisher says; None keeps the publisher's. contamination: of training recordings whose
    origin is in a test split, this corpus' or that of another beside `out`: drop, keep, or error. Raises DataError.
    """
    writer.check_name(name)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder. It is where the files of {kind} lie; `stage prepare --list` says which"
        )
    about, read = corpus(kind)
    files = Files(root)
    records = list(read(root, Options(files, fold)))
    if not records:
        raise DataError(f"{root}: no recordings. {kind} is expected as `stage prepare --list` says")
    plans, repeated = _plans(records, root, name, kind, split)
    plans = writer.hold_out(plans, validation_fraction)
    plans, contaminated = _clean(plans, out, contamination)
    writer.require_any(plans, root, Path(kind))
    question = label_question or about.question
    entries = [_entry(plan, name, question) for plan in plans]
    missing = out / "missing.jsonl"
    try:
        report = writer.write(entries, root, out, on_bad, workers, root, known_bad=about.known_bad)
    except BadRecordingsError as refused:
        list_bad(missing, refused.bad, plans)
        raise DataError(f"{refused}\nAll of them: {missing}") from None
    list_bad(missing, report.skipped, plans)
    lines(out / "contaminated.jsonl", (row._asdict() for row in contaminated))
    return PreparedCorpus(report, repeated, files.several, contaminated)


def list_bad(path: Path, bad: Iterable[BadRecording], plans: Iterable[PublishedRecording]) -> None:
    clips = {plan.path: plan.records[0].clip for plan in plans}
    lines(path, [{"path": item.path, "clip": clips[item.path], "reason": item.reason} for item in bad])


def _plans(
    records: list[Record], root: Path, name: str, kind: str, split: str | None
) -> tuple[list[PublishedRecording], int]:
    groups: dict[str, list[Record]] = {}
    seen: set[tuple[Any, ...]] = set()
    repeated = 0
    for record in records:
        path = writer.inside(record.path, root, record.where)
        said = (path, record.split, record.captions, record.labels, record.questions)
        repeated += said in seen
        if said not in seen:
            seen.add(said)
            groups.setdefault(path, []).append(record)
    ids = writer.identities(name, list(groups))
    plans = []
    for path, group in groups.items():
        if (other := next((record for record in group if record.split != group[0].split), None)) and split is None:
            raise DataError(
                f"{other.where}: {path} is in {other.split}, and by {group[0].where} in {group[0].split}; one is allowed"
            )
        source = group[0].origin or f"{kind}:{group[0].clip}"
        free = (split or group[0].split) == "train"
        plans.append(PublishedRecording(ids[path], path, split or group[0].split, source, free, group))
    return plans, repeated


def _clean(
    plans: list[PublishedRecording], out: Path, contamination: str
) -> tuple[list[PublishedRecording], list[Shared]]:
    tests = tested(out.parent, out) | {plan.source: out.name for plan in plans if plan.split == "test"}
    found = [
        Shared(plan.id, plan.source, tests[plan.source])
        for plan in plans
        if plan.split == "train" and plan.source in tests
    ]
    refuse_shared(found, contamination)
    gone = {row.id for row in found} if contamination == "drop" else set()
    return [plan for plan in plans if plan.id not in gone], found


def _entry(plan: PublishedRecording, name: str, label_question: str) -> writer.AnnotatedRecording:
    labels = _once(label for record in plan.records for label in record.labels)
    questions = _once(asked for record in plan.records for asked in record.questions)
    said: list[writer.Annotation] = [
        (text, {"task": "caption"}) for text in _once(text for record in plan.records for text in record.captions)
    ]
    said += [(None, _question(asked)) for asked in questions]
    if labels:
        kind = "class" if len(labels) == 1 else "labels"
        said.append((None, _question(QuestionAnswer(kind, label_question, "; ".join(labels)))))
    custom = {
        "split": plan.split,
        "corpus": name,
        "source": plan.source,
        "origin": plan.source,
        "clip": plan.records[0].clip,
        "labels": labels,
        "metadata": _joined([record.metadata for record in plan.records]),
    }
    return writer.AnnotatedRecording(plan.id, plan.path, custom, said)


def _question(asked: QuestionAnswer) -> dict[str, Any]:
    custom: dict[str, Any] = {
        "task": "question",
        "kind": asked.kind,
        "question": asked.question,
        "answer": asked.answer,
    }
    return custom | ({"choices": list(asked.choices)} if asked.choices else {})


def _joined(parts: list[Mapping[str, str | list[str]]]) -> dict[str, str | list[str]]:
    """The one value of a key that the records have, or the list of different ones."""
    found: dict[str, str | list[str]] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        given = [part[key] for part in parts if key in part]
        values = _once(value for item in given for value in ([item] if isinstance(item, str) else item) if value)
        found[key] = values if len(values) > 1 else "".join(values)
    return found


def _once(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
