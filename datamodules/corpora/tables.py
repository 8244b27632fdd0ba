"""The table of anybody's own recordings: CSV, TSV or JSONL (one object a line), with a column `path`. No torch here."""

import ast
import csv
import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.json_records import unique_keys

KEPT = ("start", "end")  # columns of numbers that are read, and kept as metadata
COLUMNS = ("path", "caption", "label", "question", "answer", "kind", "conversation", "split", "source")
SPREADSHEET = "Save the sheet as CSV, in UTF-8"
OTHER_TABLES = {  # suffix -> what to do
    ".json": "Write the objects of the list one a line, and call it .jsonl",
    ".parquet": "Parquet with its sounds inside is read by `stage prepare huggingface`",
    **dict.fromkeys((".xlsx", ".xls", ".ods"), SPREADSHEET),
}

csv.field_size_limit(1 << 24)  # a conversation's JSON is long


class CsvLine(NamedTuple):
    line: int  # its first one in the file
    fields: list[str]


class MetadataRow(NamedTuple):
    line: int
    values: dict[str, str]  # column -> text, "" where the field is empty
    name: str = ""  # of the recording, from which its id is made; "": its path


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
    if other := OTHER_TABLES.get(metadata.suffix.lower()):
        raise DataError(f"--metadata {metadata}: a CSV, TSV or JSONL is read. {other}")
    is_jsonl = metadata.suffix.lower() in (".jsonl", ".ndjson")
    try:
        rows = list(_read_jsonl(metadata) if is_jsonl else _read_csv(root, metadata))
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8") from None
    if not rows:
        raise DataError(
            f"{metadata}: no rows. One row a recording, or a caption or question of one, is expected under the header"
        )
    return rows


def mistyped_columns(rows: Sequence[MetadataRow], split_by: str | None) -> dict[str, str]:
    """Column that is kept and not read -> the known one that it resembles: in other letters, or one that the table lacks."""
    columns = dict.fromkeys(column for row in rows for column in row.values)
    absent = [name for name in (*COLUMNS, *KEPT) if name not in columns]
    similar = {
        column: [name for name in COLUMNS if name == column.lower()]
        or difflib.get_close_matches(re.sub("_(time|seconds?|s)$", "", column.lower()), absent, n=1, cutoff=0.75)
        for column in columns
        if column not in (*COLUMNS, *KEPT, split_by)
    }
    return {column: names[0] for column, names in similar.items() if names}


def csv_lines(path: Path, encoding: str = "utf-8-sig", delimiter: str = ",", blanks: bool = False) -> Iterator[CsvLine]:
    """The lines of a CSV, or of a TSV (delimiter: a tab), which has no quoting: its quotation marks are text.

    blanks: those behind a comma are skipped. Raises DataError with the line for a field that is opened by a quotation
    mark and not closed, or that goes on behind its closing one.
    """
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, skipinitialspace=blanks, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                yield CsvLine(first, next(reader))
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{path}, line {first}: cannot be read as CSV ({error}). A field with a quotation mark stands in "
                    'quotes, and its own ones are doubled: "a man says ""hello"" loudly"'
                ) from None
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is not {encoding.removesuffix('-sig').upper()} ({error.reason} at byte {error.start}). "
                    "Save it as UTF-8"
                ) from None


def read_json(text: str, read: Collection[str]) -> Any:
    """A value of JSON. Where it is an object, the numbers of its fields that are not in `read` are as they were written:
    1.10 is not 1.1. Raises ValueError for what is no JSON, and for a key that comes twice.
    """
    values = json.loads(text, object_pairs_hook=unique_keys)
    if isinstance(values, dict):
        written = json.loads(text, parse_int=str, parse_float=str)
        for field, value in values.items():
            if field not in read and isinstance(value, int | float) and not isinstance(value, bool):
                values[field] = value if value != value else written[field]
    return values


def texts_of(values: Mapping[str, object], where: str) -> list[dict[str, str]]:
    """The rows that one JSON object is: one for each caption and each label of its lists. where: begins an error.

    A column that is read holds a text; null, NaN and an empty list are none. Other columns keep numbers and what is
    nested as JSON. Raises DataError for any other value, for a text that is no Unicode, and for a caption or a label
    that is the text of a list.
    """
    several = {column: _texts(values[column], column, where) for column in ("caption", "label") if column in values}
    row = {column: _text(value, column, where) for column, value in values.items() if column not in several}
    rows = []
    for number, pair in enumerate(zip_longest(*several.values(), fillvalue="")):
        rows.append(row | dict(zip(several, pair, strict=True)) | ({"conversation": ""} if number else {}))
    return rows or [row | dict.fromkeys(several, "")]


def _texts(value: object, column: str, where: str) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [text for item in items if (text := _text(item, column, where))]


def _text(value: object, column: str, where: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if column not in COLUMNS or (column == "conversation" and isinstance(value, list)):
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: {column} is {json.dumps(value, default=str)[:60]}; a text is expected, in quotes"
            + (", or a list of texts" if column in ("caption", "label") else "")
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {column} holds {value[error.start]!a}, half of a character that takes two (a surrogate). Write "
            "the whole character"
        ) from None
    value = value if column == "path" else value.strip()
    if column in ("caption", "label"):
        _refuse_list(value, column, where)
    return value


def _refuse_list(text: str, column: str, where: str) -> None:
    """Raises DataError for a text that is a list, or the like, as Python or JSON writes it: several captions or labels."""
    if (text[:1], text[-1:]) not in (("[", "]"), ("(", ")"), ("{", "}")):
        return
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return
    if isinstance(value, list | tuple | set | dict) and all(isinstance(item, str) for item in value):
        raise DataError(
            f"{where}: {column} is the text {text[:60]!r}; one caption or label is expected. Write a row for each, or, in "
            "JSON, a list without quotation marks around it"
        )


def _read_csv(root: Path, metadata: Path) -> Iterator[MetadataRow]:
    delimiter = _delimiter(metadata)
    lines = csv_lines(metadata, delimiter=delimiter)
    header = next((line.fields for line in lines if any(map(str.strip, line.fields))), [])
    columns = [column.strip() for column in header]
    _require_path(columns, metadata)
    for column, count in Counter(columns).items():
        if count > 1:
            raise DataError(f"{metadata}: the column {column!r} comes {count} times; each may come once")
    for line, fields in lines:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(columns):
            cure = (
                "Each column has a field in each row, empty or not"
                if len(fields) < len(columns)
                else "A TSV has no quoting: a text with a tab in it cannot stand there, but in a CSV"
                if delimiter == "\t"
                else f'A text with a {delimiter!r} in it stands in quotes, no blank before them: "rain{delimiter} then thunder"'
            )
            raise DataError(f"{metadata}, line {line}: {len(fields)} fields under {len(columns)} columns. {cure}")
        for field in fields:
            if delimiter != "\t" and re.fullmatch(r'\s+".*"\s*', field, re.DOTALL):
                raise DataError(
                    f"{metadata}, line {line}: {field[:60]!r} is quoted behind a blank, so that its quotation marks are "
                    "text: no blank stands before them"
                )
            if "\0" in field:
                raise DataError(f"{metadata}, line {line}: a field has a NUL, which is no text. Save it as UTF-8")
            _refuse_swallowed(field, columns, delimiter, root, f"{metadata}, line {line}")
        values = {name: text if name == "path" else text.strip() for name, text in zip(columns, fields, strict=True)}
        for column in ("caption", "label"):
            _refuse_list(values.get(column, ""), column, f"{metadata}, line {line}")
        yield MetadataRow(line, values)


def _delimiter(metadata: Path) -> str:
    """A tab in a TSV; in a CSV a comma, or, where its header has none, a semicolon: as spreadsheets write it in languages
    whose numbers have a decimal comma.
    """
    if metadata.suffix.lower() == ".tsv":
        return "\t"
    with metadata.open(encoding="utf-8-sig") as file:
        header = next((line for line in file if line.strip()), "")
    if "\0" in header:
        raise DataError(f"{metadata} is not UTF-8 (it has a NUL, as UTF-16 has). Save it as UTF-8")
    return ";" if ";" in header and "," not in header else ","


def _refuse_swallowed(field: str, columns: Sequence[str], delimiter: str, root: Path, where: str) -> None:
    """Raises DataError for a field of several lines, one of which is a row: its path exists."""
    for text in field.splitlines()[1:]:
        parts = text.split(delimiter)
        path = parts[columns.index("path")].strip() if len(parts) == len(columns) else ""
        if path and (root / path).is_file():
            raise DataError(
                f"{where}: a field in quotes goes over several lines, and one of them is a row of {path}: close its "
                "quotation mark"
            )


def _read_jsonl(metadata: Path) -> Iterator[MetadataRow]:
    with metadata.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            where = f"{metadata}, line {line}"
            try:
                values = read_json(text, COLUMNS)
            except ValueError as error:
                raise DataError(f"{where}: no JSON ({error}). One object a line is expected") from None
            if not isinstance(values, dict):
                raise DataError(f'{where}: one object a line is expected, as {{"path": "a.wav", "caption": "rain"}}')
            _require_path(list(values), metadata)
            yield from (MetadataRow(line, row) for row in texts_of(values, where))


def _require_path(columns: Sequence[str], metadata: Path) -> None:
    if "path" not in columns:
        joined = len(columns) == 1 and "\t" in columns[0]
        hint = ". Separate columns by commas; by tabs in a .tsv" if joined else ""
        hint += ". A .tsv has no quotation marks" if '"path"' in columns else ""
        raise DataError(
            f"{metadata}: no column 'path'. It has {', '.join(columns) or 'none'}; known are {', '.join((*COLUMNS, *KEPT))}, "
            f"others are kept{hint}"
        )
