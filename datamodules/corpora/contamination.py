"""Recordings that are trained on in one corpus and tested on in it or another: of the same origin (a video's or a
Freesound id), or of the same bytes.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora.inspect import listed
from datamodules.errors import DataError


class Shared(NamedTuple):
    id: str  # of the training recording
    origin: str  # or "sha256:..." where it is the bytes that are the same
    test_of: str  # the corpus


class Tested(NamedTuple):
    """The recordings of test splits -> the corpus."""

    origins: dict[str, str]
    contents: dict[str, str]  # by the SHA-256 of their bytes


def tested(folder: Path, without: Path) -> Tested:
    """Those of the prepared corpora in a folder, except for the corpus `without`."""
    tests = Tested({}, {})
    for path in _manifests(folder, without):
        for custom in _customs(path):
            if custom["split"] == "test":
                for key, names in (("origin", tests.origins), ("sha256", tests.contents)):
                    if key in custom:
                        names.setdefault(custom[key], path.parent.name)
    return tests


def count_trained(out: Path) -> Counter[str]:
    """Corpora beside `out` -> how many of their training recordings are in its test split."""
    tests = [custom for custom in _customs(out / "cuts.jsonl.gz") if custom["split"] == "test"]
    origins, contents = ({custom[key] for custom in tests if key in custom} for key in ("origin", "sha256"))
    counts: Counter[str] = Counter()
    for path in _manifests(out.parent, out) if tests else ():
        counts[path.parent.name] = sum(
            custom["split"] == "train" and (custom.get("origin") in origins or custom.get("sha256") in contents)
            for custom in _customs(path)
        )
    return +counts


def refuse_shared(shared: Sequence[Shared], contamination: str) -> None:
    """Raises DataError that lists them where contamination is error."""
    if shared and contamination == "error":
        rows = listed([f"{row.id}: {row.origin}, in the test split of {row.test_of}" for row in shared])
        raise DataError(
            f"{len(shared)} training recordings are in a test split:\n{rows}\n"
            "--contamination=drop leaves them out, --contamination=keep trains on them"
        )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes one JSON object a line over an earlier file; without rows no file is left."""
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


def prepared_corpora(folder: Path, without: Path) -> dict[str, dict[str, Any]]:
    """The receipts of the prepared corpora of a folder by name, except for the corpus `without`."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(folder.glob("*/receipt.json"))
        if path.parent != without and (path.parent / "cuts.jsonl.gz").is_file()
    }


def manifest_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The cuts of a manifest as they are written, one at a time."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def _manifests(folder: Path, without: Path) -> list[Path]:
    return [folder / name / "cuts.jsonl.gz" for name in prepared_corpora(folder, without)]


def _customs(path: Path) -> Iterator[dict[str, Any]]:
    return (row["custom"] for row in manifest_rows(path))
