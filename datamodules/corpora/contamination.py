"""Recordings that are trained on in one corpus and tested on in another: found by their origin, a video's or a Freesound id."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError

LISTED = 20


class Shared(NamedTuple):
    id: str  # of the training recording
    origin: str
    test_of: str  # the corpus


def tested(folder: Path, but: Path) -> dict[str, str]:
    """Origin -> corpus, of the test splits of the prepared corpora in a folder; `but` is passed over."""
    found: dict[str, str] = {}
    for cuts in _others(folder, but):
        for custom in _customs(cuts):
            if custom["split"] == "test" and "origin" in custom:
                found.setdefault(custom["origin"], cuts.parent.name)
    return found


def trained(out: Path) -> Counter[str]:
    """Corpora beside `out` -> how many of their training recordings are in its test split."""
    origins = {
        custom["origin"]
        for custom in _customs(out / "cuts.jsonl.gz")
        if custom["split"] == "test" and "origin" in custom
    }
    counts: Counter[str] = Counter()
    for cuts in _others(out.parent, out) if origins else ():
        counts[cuts.parent.name] = sum(
            custom["split"] == "train" and custom.get("origin") in origins for custom in _customs(cuts)
        )
    return +counts


def refuse_shared(shared: Sequence[Shared], contamination: str) -> None:
    """Raises DataError that lists them where contamination is error."""
    if shared and contamination == "error":
        rows = [f"  {row.id}: {row.origin}, in the test split of {row.test_of}" for row in shared[:LISTED]]
        rows += [f"  and {len(shared) - LISTED} more"] if len(shared) > LISTED else []
        raise DataError(
            f"{len(shared)} training recordings are in a test split:\n"
            + "\n".join(rows)
            + "\n--contamination=drop leaves them out, --contamination=keep trains on them"
        )


def lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSONL, in place of an earlier one; without rows no file."""
    path.unlink(missing_ok=True)
    file = None
    try:
        for row in rows:
            if file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("w", encoding="utf-8")
            file.write(f"{json.dumps(row)}\n")
    finally:
        if file is not None:
            file.close()


def prepared_in(folder: Path, but: Path) -> dict[str, dict[str, Any]]:
    """The prepared corpora of a folder and their receipts; `but` is passed over."""
    found = sorted(folder.glob("*/receipt.json"))
    return {
        path.parent.name: json.loads(path.read_text())
        for path in found
        if path.parent != but and (path.parent / "cuts.jsonl.gz").is_file()
    }


def read_cuts(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _others(folder: Path, but: Path) -> list[Path]:
    return [folder / name / "cuts.jsonl.gz" for name in prepared_in(folder, but)]


def _customs(cuts: Path) -> Iterator[dict[str, Any]]:
    return (cut["custom"] for cut in read_cuts(cuts))
