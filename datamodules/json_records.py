"""Records of a JSON list, of JSONL or of a parquet: how benchmarks and files of predictions are shipped. No torch here."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError


class JsonRecord(NamedTuple):
    where: str  # file and number, for errors
    values: dict[str, Any]


def read_json_records(path: Path) -> list[JsonRecord]:
    """One record at least. Raises DataError, with the line, for what is no JSON and no list of objects."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        return [JsonRecord(f"{path}, row {number}", row) for number, row in enumerate(_parquet_rows(path), 1)]
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8") from None
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: no JSON list ({error.msg})") from None
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None
    else:
        values = list(_lines(text, path))
    if not values or not all(isinstance(record, dict) for record in values):
        raise DataError(f"{path}: a list of records is expected, and one record at least")
    return [JsonRecord(f"{path}, record {number}", record) for number, record in enumerate(values, 1)]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as `object_pairs_hook`. Raises ValueError for a key that comes twice: json takes the last."""
    counts = Counter(key for key, _ in pairs)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise ValueError(f"the key {twice[0]!r} comes {counts[twice[0]]} times; each may come once")
    return dict(pairs)


def _lines(text: str, path: Path) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}: no JSON ({error.msg}, character {error.colno}). One object a line, or one JSON "
                "list, is expected"
            ) from None
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}") from None


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Without columns of sound, which are nested."""
    from datamodules.sound_files import open_parquet

    try:
        file = open_parquet(path).file
    except ImportError:
        raise DataError(f"{path}: parquet needs pyarrow: pip install 'make-some-noise[parquet]'") from None
    columns = [field.name for field in file.schema_arrow if field.name not in ("audio", "context")]
    rows: list[dict[str, Any]] = file.read(columns=columns).to_pylist()
    return rows
