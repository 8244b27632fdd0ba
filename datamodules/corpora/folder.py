"""Anybody's own recordings: a table with a column `path`, and any of caption, label, question, answer, kind,
conversation, split, source (tables.py), start and end (segments.py).

`kind` is that of the question, and `question` where it is empty. `conversation` holds the JSON of turns.py, its sounds
paths as in the column `path`. Other columns are kept. Rows of one path are several captions or questions about one
recording. A row with a label and no question gets the class question.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.contamination import write_jsonl
from datamodules.corpora.inspect import LISTED, BadRecording, BadRecordingsError
from datamodules.corpora.inspection_record import Inspector
from datamodules.corpora.segments import with_segments
from datamodules.corpora.tables import COLUMNS, MetadataRow, mistyped_columns, read_table
from datamodules.corpora.turns import SELF, TurnFields, read_conversation, sounds_of
from datamodules.corpora.writer import (
    AnnotatedRecording,
    Annotation,
    Report,
    caption,
    check_name,
    hold_out,
    merged,
    path_in_root,
    question,
    require_any,
    unique_ids,
    write,
)
from datamodules.errors import DataError

SPLIT_SPELLINGS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip

NULLS = ("nan", "none", "null", "<na>", "n/a")


class PreparedFolder(NamedTuple):
    report: Report
    texts: dict[str, int]  # column -> different texts in it, recording by recording
    labels_joined: int  # recordings with several labels: one question, all of them its answer
    translated: dict[str, int]  # "eval -> test" -> recordings whose split has another name in the table
    mistyped: dict[str, str]  # column that is kept and not read -> the known one that it resembles
    similar_labels: list[list[str]]  # labels that differ in case, blanks or normal form alone
    answered_twice: list[str]  # recordings with a question that has several answers: all of them are taught
    unread: list[str]  # columns that are kept and not read
    null_texts: list[str]  # texts as "nan", which a program writes where it has none


class SplitRule(NamedTuple):
    """How rows get their split: by the values of a column, or, without one, by the column `split`."""

    column: str | None
    test: Sequence[str]
    validation: Sequence[str]


class TableRecording(NamedTuple):
    """All rows of one recording."""

    id: str
    path: str  # relative to the root, with /
    rows: list[MetadataRow]
    split: str
    source: str
    free: bool  # no row of it names a split: it may be held out for validation


class RecordingConversation(NamedTuple):
    """A conversation whose sounds are ids of recordings."""

    line: int
    turns: list[TurnFields]


def prepare_folder(
    root: Path,
    metadata: Path,
    out: Path,
    rows: list[MetadataRow] | None = None,
    *,
    name: str,
    split_by: str | None,
    test: Sequence[str],
    validation: Sequence[str],
    validation_fraction: float,
    label_question: str,
    contamination: str,
    on_bad: str,
    inspector: Inspector,
    surround: str = "mix",
) -> PreparedFolder:
    """Writes out/cuts.jsonl.gz, or nothing; out/contaminated.jsonl for training recordings whose bytes are in a test
    split (contamination: drop, keep, or error); out/missing.jsonl where recordings are left out, or more are bad than an
    error lists. An earlier receipt in `out` goes before its cuts do.

    rows: of another format; `metadata` is then where they are from, for messages. None reads the table `metadata`.
    split_by: a column whose values in `test` and `validation` decide the split, all others train; None takes the
    column `split`, and train where that is empty. Where no recording is for validation, `validation_fraction` of the
    training sources, chosen by hash, is; those whose column `split` is train stay. A source is what the column
    `source` has, or the path without its suffix. Raises DataError for a table that cannot be read so, and for bad
    recordings unless on_bad is skip.
    """
    check_name(name)
    rows = _read_table(root, metadata) if rows is None else rows
    recordings = _recordings(rows, root, metadata, name, SplitRule(split_by, test, validation))
    recordings = hold_out(recordings, validation_fraction)
    conversations = _conversations(recordings, root, metadata)
    require_any(recordings, root, metadata)
    annotated = [_annotated(recording, name, label_question, conversations[recording.id]) for recording in recordings]
    missing = out / "missing.jsonl"
    try:
        check = partial(_require_sounds, conversations, metadata)
        report = write(annotated, root, out, on_bad, inspector, metadata, contamination, check, surround=surround)
    except BadRecordingsError as error:
        if len(error.bad) <= LISTED:  # the message lists them all: an earlier corpus stays as it is
            raise
        _list_bad(missing, error.bad)
        raise DataError(f"{error}\nAll of them: {missing}") from None
    _list_bad(missing, report.skipped)
    write_jsonl(out / "contaminated.jsonl", (row._asdict() for row in report.contaminated))
    bad = {item.path for item in report.skipped}
    bad |= {row.id for row in report.contaminated} if contamination == "drop" else set()
    good = [recording for recording in recordings if not {recording.path, recording.id} & bad]
    translated = {} if split_by else _translated(good)
    joined = sum(len(_class_labels(recording.rows)) > 1 for recording in good)
    return PreparedFolder(
        report, _count_texts(good), joined, translated, mistyped_columns(rows, split_by), _similar_labels(good),
        _answered_twice(good), [column for column in rows[0].values if column not in COLUMNS], _null_texts(good),
    )  # fmt: skip


def recording_paths(root: Path, metadata: Path, rows: list[MetadataRow] | None) -> list[Path]:
    """The recordings that a table names, in the order of their first rows: what shards have to inspect."""
    rows = _read_table(root, metadata) if rows is None else rows
    return [root / path for path in _by_path(rows, root, metadata)]


def _read_table(root: Path, metadata: Path) -> list[MetadataRow]:
    return with_segments(read_table(root, metadata), root, metadata)


def _list_bad(path: Path, bad: Sequence[BadRecording]) -> None:
    write_jsonl(path, (item._asdict() for item in bad))


def _count_texts(recordings: Sequence[TableRecording]) -> dict[str, int]:
    columns = ("caption", "label", "question", "conversation")
    return {
        column: sum(len({text for row in one.rows if (text := row.values.get(column))}) for one in recordings)
        for column in columns
    }


def _similar_labels(recordings: Sequence[TableRecording]) -> list[list[str]]:
    labels = {row.values["label"] for one in recordings for row in one.rows if row.values.get("label")}
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(labels):
        groups[_folded(label)].append(label)
    return [group for group in groups.values() if len(group) > 1]


def _answered_twice(recordings: Sequence[TableRecording]) -> list[str]:
    paths = []
    for one in recordings:
        pairs = {(text, row.values["answer"]) for row in one.rows if (text := row.values.get("question"))}
        if len({text for text, _ in pairs}) < len(pairs):
            paths.append(one.path)
    return paths


def _null_texts(recordings: Sequence[TableRecording]) -> list[str]:
    columns = ("caption", "label", "question", "answer")
    texts = {row.values.get(column, "") for one in recordings for row in one.rows for column in columns}
    return sorted(text for text in texts if text.lower() in NULLS)


def _translated(recordings: Sequence[TableRecording]) -> dict[str, int]:
    """Other letters, as TRAIN, are no other name."""
    names = [
        (next((text for row in one.rows if (text := row.values.get("split"))), one.split).lower(), one.split)
        for one in recordings
    ]
    changed = ((text, split) for text, split in names if text != split and SPLIT_SPELLINGS.get(text) == split)
    return dict(Counter(f"{text} -> {split}" for text, split in changed))


def _recordings(
    rows: list[MetadataRow], root: Path, metadata: Path, name: str, rule: SplitRule
) -> list[TableRecording]:
    """The recordings of a table, in the order of their first rows."""
    _check_rule(rows, metadata, rule)
    for row in rows:
        if bool(row.values.get("question")) != bool(row.values.get("answer")):
            raise DataError(
                f"{metadata}, line {row.line}: a question and its answer go together, here only one of them is given"
            )
    groups = _by_path(rows, root, metadata)
    names = {path: group[0].name or path for path, group in groups.items()}
    if len(set(names.values())) < len(names):
        names = {path: path for path in groups}
    ids, recordings = unique_ids(name, list(names.values())), []
    for path, group in groups.items():
        naming = [row for row in group if rule.column or row.values.get("split")]
        splits = {_split(row, rule, metadata) for row in naming} or {"train"}
        sources = {row.values["source"] for row in group if row.values.get("source")} or {
            os.path.splitext(names[path])[0]
        }
        split = _only(splits, "splits", path, group, metadata)
        source = _only(sources, "sources", path, group, metadata)
        recordings.append(
            TableRecording(ids[names[path]], path, group, split, source, rule.column is not None or not naming)
        )
    _check_sources(recordings, rows, metadata)
    return recordings


def _by_path(rows: list[MetadataRow], root: Path, metadata: Path) -> dict[str, list[MetadataRow]]:
    groups: dict[str, list[MetadataRow]] = defaultdict(list)
    for row in rows:
        groups[path_in_root(row.values["path"], root, f"{metadata}, line {row.line}")].append(row)
    return groups


def _check_sources(recordings: Sequence[TableRecording], rows: Sequence[MetadataRow], metadata: Path) -> None:
    splits: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        splits[recording.source].add(recording.split)
    leaks = [source for source, names in splits.items() if {"train", "test"} <= names]
    if leaks and any("source" in row.values for row in rows):
        raise DataError(
            f"{metadata}: {len(leaks)} sources are in train and in test, the first {leaks[0]!r}. The column source, or "
            "the recording that rows with start and end are parts of, says what belongs together: give the parts one "
            "split, or a source of their own; rename the column if it means something else"
        )


def _check_rule(rows: list[MetadataRow], metadata: Path, rule: SplitRule) -> None:
    column, test, validation = rule
    if column is None:
        if test or validation:
            raise DataError("--test and --validation are values of a column: say which, as --split_by=fold")
        return
    if column not in rows[0].values:
        raise DataError(f"{metadata}: no column {column!r} to split by. It has {', '.join(rows[0].values)}")
    values = {row.values.get(column, "") for row in rows}
    shown = ", ".join(sorted(values)[:20]) + (", ..." if len(values) > 20 else "")
    if not test and not validation:
        raise DataError(f"--split_by={column} needs --test=VALUE, --validation=VALUE or both. The column holds {shown}")
    if unknown := [value for value in [*test, *validation] if value not in values]:
        raise DataError(f"{metadata}: no row has {column} {unknown[0]!r}. The column holds {shown}")
    folded = {_folded(value): value for value in (*test, *validation)}
    for value in sorted(values - {*test, *validation}):
        if near := folded.get(_folded(value)):
            raise DataError(
                f"{metadata}: {column} is {near!r} in some rows and {value!r} in others. Write one of them in all, or "
                f"name both, as --test=[{near},{value}]"
            )
    if both := set(test) & set(validation):
        raise DataError(f"{column} {both.pop()!r} is in --test and in --validation; one is allowed")


def _folded(value: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split())


def _split(row: MetadataRow, rule: SplitRule, metadata: Path) -> str:
    if rule.column is not None:
        value = row.values.get(rule.column, "")
        return "test" if value in rule.test else "validation" if value in rule.validation else "train"
    value = row.values["split"]
    if value.lower() not in SPLIT_SPELLINGS:
        raise DataError(f"{metadata}, line {row.line}: split {value!r}; allowed are {', '.join(SPLIT_SPELLINGS)}")
    return SPLIT_SPELLINGS[value.lower()]


def _only(values: set[str], what: str, path: str, group: list[MetadataRow], metadata: Path) -> str:
    if len(values) > 1:
        lines = ", ".join(str(row.line) for row in group[:5])
        raise DataError(
            f"{metadata}, lines {lines}: {path} is in the {what} {' and '.join(sorted(values))}; one is allowed"
        )
    return next(iter(values))


def _conversations(
    recordings: list[TableRecording], root: Path, metadata: Path
) -> dict[str, list[RecordingConversation]]:
    """The conversations of each recording, by its id."""
    by_path = {recording.path: recording for recording in recordings}
    conversations: dict[str, list[RecordingConversation]] = {recording.id: [] for recording in recordings}
    for recording in recordings:
        for row in recording.rows:
            if text := row.values.get("conversation"):
                where = f"{metadata}, line {row.line}"
                normalize = partial(path_in_root, root=root, where=where)
                turns = read_conversation(text, f"{where}: conversation", recording, by_path, normalize)
                conversations[recording.id].append(RecordingConversation(row.line, turns))
    return conversations


def _require_sounds(conversations: dict[str, list[RecordingConversation]], metadata: Path, good: set[str]) -> None:
    """Raises DataError for a conversation of a good recording that names a bad one."""
    for name in good:
        for line, turns in conversations[name]:
            if missing := [sound for sound in sounds_of(turns) if sound not in {*good, SELF}]:
                raise DataError(
                    f"{metadata}, line {line}: the conversation names {missing[0]}, which cannot be read or "
                    "is in a test split. Take the row out"
                )


def _annotated(
    recording: TableRecording, name: str, label_question: str, conversations: list[RecordingConversation]
) -> AnnotatedRecording:
    rows = recording.rows
    custom = {
        "split": recording.split,
        "corpus": name,
        "source": f"{name}-{recording.source}",
        "labels": list(dict.fromkeys(row.values["label"] for row in rows if row.values.get("label"))),
        "metadata": merged({key: row.values[key] for key in row.values if key not in COLUMNS} for row in rows),
    }
    annotations = _annotations(rows, label_question)
    annotations += [(None, {"task": "conversation", "turns": turns}) for _, turns in conversations]
    return AnnotatedRecording(recording.id, recording.path, custom, annotations)


def _annotations(rows: list[MetadataRow], label_question: str) -> list[Annotation]:
    """Each caption and question once, however many rows repeat it."""
    annotations: dict[tuple[str, ...], Annotation] = {}
    for row in rows:
        text, asked, answer = (row.values.get(column, "") for column in ("caption", "question", "answer"))
        if text:
            annotations["caption", text] = caption(text)
        if asked:
            kind = row.values.get("kind") or "question"
            annotations["question", asked, answer] = question(kind, asked, answer)
    if labels := _class_labels(rows):
        kind = "class" if len(labels) == 1 else "labels"
        annotations["class", ""] = question(kind, label_question, "; ".join(labels))
    return list(annotations.values())


def _class_labels(rows: list[MetadataRow]) -> list[str]:
    """The labels of rows without a question."""
    labels = (row.values.get("label") for row in rows if not row.values.get("question"))
    return list(dict.fromkeys(filter(None, labels)))
