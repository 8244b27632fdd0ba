"""Anybody's own recordings: a CSV with a column `path`, and any of caption, label, question, answer, kind, conversation, split, source.

`kind` is the question's, and `question` where it says nothing. `conversation` holds the JSON of datamodules/corpora/turns.py, its sounds paths as
in the column `path`. Other columns are kept. Rows of one path are several captions or questions about one recording. A row with a label and
no question gets the class question. TSV and JSONL (one object a line) are read as well.
"""

import csv
import difflib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora.contamination import lines
from datamodules.corpora.inspect import LISTED, BadRecording, BadRecordingsError
from datamodules.corpora.turns import SELF, placed, sounds_of
from datamodules.corpora.writer import (
    AnnotatedRecording,
    Report,
    check_name,
    hold_out,
    identities,
    inside,
    require_any,
    write,
)
from datamodules.errors import DataError

KNOWN = ("path", "caption", "label", "question", "answer", "kind", "conversation", "split", "source")
SPLIT_SPELLINGS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip


class MetadataRow(NamedTuple):
    line: int
    values: dict[str, str]


class PreparedFolder(NamedTuple):
    report: Report
    found: dict[str, int]  # column -> different texts in it, recording by recording
    translated: dict[str, int]  # "eval -> test" -> recordings whose split is called otherwise in the table
    mistyped: dict[str, str]  # column that is kept and not read -> the known one that it resembles


class TableRecording(NamedTuple):
    """All that the table says of one recording."""

    id: str
    path: str  # relative to the root, with /
    rows: list[MetadataRow]
    split: str
    source: str
    free: bool  # no row of it names a split: it may be held out for validation


def prepare_folder(
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
) -> PreparedFolder:
    """Writes out/cuts.jsonl.gz, or nothing; out/missing.jsonl where recordings are left out, or more are bad than an error lists.

    An earlier receipt in `out` goes before its cuts do.

    split_by: a column whose values in `test` and `validation` decide the split, all others train; None takes the
    column `split`, and train where that says nothing. Where no recording is for validation, `validation_fraction` of
    the training sources, chosen by hash, is; those whose column `split` says train stay. A source is what the column
    `source` says, or the path without its suffix.
    Raises DataError for a table that cannot be read so, and for bad recordings unless on_bad is skip.
    """
    check_name(name)
    rows = _read(root, metadata)
    plans = _plan(rows, root, metadata, name, split_by, test, validation)
    plans = hold_out(plans, validation_fraction)
    told = _told(plans, root, metadata)
    require_any(plans, root, metadata)

    def check(good: set[str]) -> None:
        _require_sounds(told, good, metadata)

    entries = [_entry(plan, name, label_question, told[plan.id]) for plan in plans]
    missing = out / "missing.jsonl"
    try:
        report = write(entries, root, out, on_bad, workers, metadata, check)
    except BadRecordingsError as refused:
        if len(refused.bad) <= LISTED:  # the message lists them all: an earlier corpus stays as it is
            raise
        _list_bad(missing, refused.bad)
        raise DataError(f"{refused}\nAll of them: {missing}") from None
    _list_bad(missing, report.skipped)
    bad = {item.path for item in report.skipped}
    good = [plan for plan in plans if plan.path not in bad]
    return PreparedFolder(report, _found(good), {} if split_by else _translated(good), _mistyped(rows, split_by))


def _list_bad(path: Path, bad: Sequence[BadRecording]) -> None:
    lines(path, (item._asdict() for item in bad))


def _found(plans: Sequence[TableRecording]) -> dict[str, int]:
    columns = ("caption", "label", "question", "conversation")
    return {
        column: sum(len({text for row in plan.rows if (text := row.values.get(column))}) for plan in plans)
        for column in columns
    }


def _translated(plans: Sequence[TableRecording]) -> dict[str, int]:
    """A word in other letters, as TRAIN, is the same word."""
    said = [
        (next((text for row in plan.rows if (text := row.values.get("split"))), plan.split).lower(), plan.split)
        for plan in plans
    ]
    return dict(
        Counter(f"{text} -> {split}" for text, split in said if text != split and SPLIT_SPELLINGS.get(text) == split)
    )


def _mistyped(rows: Sequence[MetadataRow], split_by: str | None) -> dict[str, str]:
    columns = dict.fromkeys(column for row in rows for column in row.values)
    absent = [name for name in KNOWN if name not in columns]
    near = {
        column: difflib.get_close_matches(column.lower(), absent, n=1, cutoff=0.75)
        for column in columns
        if column not in (*KNOWN, split_by)
    }
    return {column: found[0] for column, found in near.items() if found}


def _read(root: Path, metadata: Path) -> list[MetadataRow]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty. It is where the recordings of --metadata lie")
    if not metadata.is_file():
        raise DataError(
            f"--metadata {metadata}: no such file. It is a CSV with the columns {', '.join(KNOWN)}; "
            "only path is required"
        )
    try:
        rows = list(_objects(metadata) if metadata.suffix == ".jsonl" else _table(metadata))
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{metadata} cannot be read as CSV: {error}") from None
    if not rows:
        raise DataError(
            f"{metadata}: no rows. One row a recording, or a caption or question of one, is expected under the header"
        )
    return rows


def _table(metadata: Path) -> Iterator[MetadataRow]:
    with metadata.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if metadata.suffix == ".tsv" else ",")
        columns = [column.strip() for column in next(reader, [])]
        _require_path(columns, metadata)
        for column, count in Counter(columns).items():
            if count > 1:
                raise DataError(f"{metadata}: the column {column!r} comes {count} times; each may come once")
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) != len(columns):
                raise DataError(
                    f"{metadata}, line {reader.line_num}: {len(fields)} fields under {len(columns)} columns. "
                    'A text with a comma in it stands in quotes: "rain, then thunder"'
                )
            yield MetadataRow(
                reader.line_num, {column: field.strip() for column, field in zip(columns, fields, strict=True)}
            )


def _objects(metadata: Path) -> Iterator[MetadataRow]:
    with metadata.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                values = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{metadata}, line {line}: no JSON ({error})") from None
            if not isinstance(values, dict):
                raise DataError(
                    f'{metadata}, line {line}: one object a line is expected, as {{"path": "a.wav", "caption": "rain"}}'
                )
            _require_path(list(values), metadata)
            told = values.get("conversation")
            values |= {"conversation": json.dumps(told)} if isinstance(told, list) else {}
            yield MetadataRow(line, {key: "" if value is None else str(value).strip() for key, value in values.items()})


def _require_path(columns: Sequence[str], metadata: Path) -> None:
    if "path" not in columns:
        joined = len(columns) == 1 and re.search("[;\t]", columns[0])
        hint = ". Separate columns by commas; by tabs in a .tsv" if joined else ""
        raise DataError(
            f"{metadata}: no column 'path'. It has {', '.join(columns) or 'none'}; known are {', '.join(KNOWN)}, "
            f"others are kept{hint}"
        )


def _plan(
    rows: list[MetadataRow],
    root: Path,
    metadata: Path,
    name: str,
    split_by: str | None,
    test: Sequence[str],
    validation: Sequence[str],
) -> list[TableRecording]:
    """One plan a recording, in the order of their first rows."""
    _check_split_by(rows, metadata, split_by, test, validation)
    groups: dict[str, list[MetadataRow]] = defaultdict(list)
    for row in rows:
        if bool(row.values.get("question")) != bool(row.values.get("answer")):
            raise DataError(
                f"{metadata}, line {row.line}: a question and its answer go together, here only one of them is given"
            )
        groups[_inside(row, root, metadata)].append(row)
    ids, plans = identities(name, list(groups)), []
    for path, group in groups.items():
        speaking = [row for row in group if split_by or row.values.get("split")]
        splits = {_split(row, split_by, test, validation, metadata) for row in speaking} or {"train"}
        sources = {row.values["source"] for row in group if row.values.get("source")} or {os.path.splitext(path)[0]}
        split = _one(splits, "splits", path, group, metadata)
        free = split_by is not None or not speaking
        plans.append(
            TableRecording(ids[path], path, group, split, _one(sources, "sources", path, group, metadata), free)
        )
    places: dict[str, set[str]] = defaultdict(set)
    for plan in plans:
        places[plan.source].add(plan.split)
    if leaks := [
        source for source, splits in places.items() if {"train", "test"} <= splits and "source" in rows[0].values
    ]:
        raise DataError(
            f"{metadata}: {len(leaks)} sources are in train and in test, the first {leaks[0]!r}. The column source "
            "says which recordings belong together; rename it if it means something else"
        )
    return plans


def _check_split_by(
    rows: list[MetadataRow], metadata: Path, split_by: str | None, test: Sequence[str], validation: Sequence[str]
) -> None:
    if split_by is None:
        if test or validation:
            raise DataError("--test and --validation are values of a column: say which, as --split_by=fold")
        return
    if split_by not in rows[0].values:
        raise DataError(f"{metadata}: no column {split_by!r} to split by. It has {', '.join(rows[0].values)}")
    values = {row.values.get(split_by, "") for row in rows}
    shown = ", ".join(sorted(values)[:20]) + (", ..." if len(values) > 20 else "")
    if not test and not validation:
        raise DataError(
            f"--split_by={split_by} needs --test=VALUE, --validation=VALUE or both. The column holds {shown}"
        )
    if unknown := [value for value in [*test, *validation] if value not in values]:
        raise DataError(f"{metadata}: no row has {split_by} {unknown[0]!r}. The column holds {shown}")
    if both := set(test) & set(validation):
        raise DataError(f"{split_by} {both.pop()!r} is in --test and in --validation; one is allowed")


def _inside(row: MetadataRow, root: Path, metadata: Path) -> str:
    """The row's path relative to the root. Raises DataError for one that is empty or leaves the root."""
    return inside(row.values["path"], root, f"{metadata}, line {row.line}")


def _split(
    row: MetadataRow, split_by: str | None, test: Sequence[str], validation: Sequence[str], metadata: Path
) -> str:
    if split_by is not None:
        value = row.values.get(split_by, "")
        return "test" if value in test else "validation" if value in validation else "train"
    value = row.values["split"]
    if value.lower() not in SPLIT_SPELLINGS:
        raise DataError(f"{metadata}, line {row.line}: split {value!r}; allowed are {', '.join(SPLIT_SPELLINGS)}")
    return SPLIT_SPELLINGS[value.lower()]


def _one(values: set[str], what: str, path: str, group: list[MetadataRow], metadata: Path) -> str:
    if len(values) > 1:
        lines = ", ".join(str(row.line) for row in group[:5])
        raise DataError(
            f"{metadata}, lines {lines}: {path} is in the {what} {' and '.join(sorted(values))}; one is allowed"
        )
    return next(iter(values))


class RecordingConversation(NamedTuple):
    """A conversation whose sounds are recordings' ids."""

    line: int
    turns: list[dict[str, Any]]


def _told(plans: list[TableRecording], root: Path, metadata: Path) -> dict[str, list[RecordingConversation]]:
    """The conversations of each recording, by its id. Raises DataError."""
    by_path: dict[str, TableRecording] = {plan.path: plan for plan in plans}
    found: dict[str, list[RecordingConversation]] = {plan.id: [] for plan in plans}
    for plan in plans:
        for row in plan.rows:
            if row.values.get("conversation"):
                where = f"{metadata}, line {row.line}: conversation"

                def inside(name: str, line: int = row.line) -> str:
                    return _inside(MetadataRow(line, {"path": name}), root, metadata)

                found[plan.id].append(
                    RecordingConversation(row.line, placed(row.values["conversation"], where, plan, by_path, inside))
                )
    return found


def _require_sounds(told: dict[str, list[RecordingConversation]], good: set[str], metadata: Path) -> None:
    for name in good:
        for line, turns in told[name]:
            if missing := [sound for sound in sounds_of(turns) if sound not in {*good, SELF}]:
                raise DataError(
                    f"{metadata}, line {line}: the conversation names {missing[0]}, which cannot be read. Take the row out"
                )


def _entry(
    plan: TableRecording, name: str, label_question: str, told: list[RecordingConversation]
) -> AnnotatedRecording:
    labels = list(dict.fromkeys(row.values["label"] for row in plan.rows if row.values.get("label")))
    custom = {
        "split": plan.split,
        "corpus": name,
        "source": f"{name}-{plan.source}",
        "labels": labels,
        "metadata": _kept(plan.rows),
    }
    said = [
        *_said(plan.rows, label_question),
        *((None, {"task": "conversation", "turns": turns}) for _, turns in told),
    ]
    return AnnotatedRecording(plan.id, plan.path, custom, said)


def _said(rows: list[MetadataRow], label_question: str) -> list[tuple[str | None, dict[str, str]]]:
    """(text, custom) of each caption and question; what several rows repeat is said once."""
    said: dict[tuple[str, ...], tuple[str | None, dict[str, str]]] = {}
    for row in rows:
        caption, label, question, answer = (
            row.values.get(column, "") for column in ("caption", "label", "question", "answer")
        )
        if caption:
            said[("caption", caption)] = (caption, {"task": "caption"})
        if question:
            said["question", question, answer] = (
                None,
                {
                    "task": "question",
                    "kind": row.values.get("kind") or "question",
                    "question": question,
                    "answer": answer,
                },
            )
        elif label:
            said["class", label] = (
                None,
                {"task": "question", "kind": "class", "question": label_question, "answer": label},
            )
    return list(said.values())


def _kept(rows: list[MetadataRow]) -> dict[str, str | list[str]]:
    """The other columns: the one value that the recording's rows have, or the list of different ones."""
    columns = dict.fromkeys(column for row in rows for column in row.values if column not in KNOWN)
    values = {column: list(dict.fromkeys(filter(None, (row.values.get(column) for row in rows)))) for column in columns}
    return {column: found if len(found) > 1 else "".join(found) for column, found in values.items()}
