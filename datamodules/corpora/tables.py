"""The table of anybody's own recordings: CSV, TSV or JSONL (one object a line), with a column `path`. No torch here."""

import csv
import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.errors import DataError

COLUMNS = ("path", "caption", "label", "question", "answer", "kind", "conversation", "split", "source")


class MetadataRow(NamedTuple):
    line: int
    values: dict[str, str]  # column -> text, "" where the field is empty


def read_table(root: Path, metadata: Path) -> list[MetadataRow]:
    """All rows that are not empty. Raises DataError for a root without files, and for a table that cannot be read."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if not any(root.iterdir()):
        raise DataError(f"{root}: the folder is empty. It is where the recordings of --metadata lie")
    if not metadata.is_file():
        raise DataError(
            f"--metadata {metadata}: no such file. It is a CSV with the columns {', '.join(COLUMNS)}; "
            "only path is required"
        )
    try:
        rows = list(_read_jsonl(metadata) if metadata.suffix == ".jsonl" else _read_csv(metadata))
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{metadata} cannot be read as CSV: {error}") from None
    if not rows:
        raise DataError(
            f"{metadata}: no rows. One row a recording, or a caption or question of one, is expected under the header"
        )
    return rows


def mistyped_columns(rows: Sequence[MetadataRow], split_by: str | None) -> dict[str, str]:
    """Column that is kept and not read -> the known one that it resembles and that the table lacks."""
    columns = dict.fromkeys(column for row in rows for column in row.values)
    absent = [name for name in COLUMNS if name not in columns]
    similar = {
        column: difflib.get_close_matches(column.lower(), absent, n=1, cutoff=0.75)
        for column in columns
        if column not in (*COLUMNS, split_by)
    }
    return {column: names[0] for column, names in similar.items() if names}


def _read_csv(metadata: Path) -> Iterator[MetadataRow]:
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
            values = {column: field.strip() for column, field in zip(columns, fields, strict=True)}
            yield MetadataRow(reader.line_num, values)


def _read_jsonl(metadata: Path) -> Iterator[MetadataRow]:
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
            turns = values.get("conversation")
            values |= {"conversation": json.dumps(turns)} if isinstance(turns, list) else {}
            texts = {key: "" if value is None else str(value).strip() for key, value in values.items()}
            yield MetadataRow(line, texts)


def _require_path(columns: Sequence[str], metadata: Path) -> None:
    if "path" not in columns:
        joined = len(columns) == 1 and re.search("[;\t]", columns[0])
        hint = ". Separate columns by commas; by tabs in a .tsv" if joined else ""
        raise DataError(
            f"{metadata}: no column 'path'. It has {', '.join(columns) or 'none'}; known are {', '.join(COLUMNS)}, "
            f"others are kept{hint}"
        )
