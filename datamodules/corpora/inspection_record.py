"""What `prepare` has decoded, on disk: an append-only record that later runs take over, so that a kill, a mended caption or
another split decodes nothing again.

    data/<corpus>/inspected.jsonl            of a run that prepares the whole corpus
    data/<corpus>/inspected-3-of-32.jsonl    of a shard, which only inspects: `--shard 3/32`

A line is a recording that can be used, as it was decoded, and the size and time of change of its file. One whose file has
another size or time is decoded again; so is a bad one, which may have been mended, or its decoder installed, since.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from datamodules.atomic_files import mend_lines
from datamodules.corpora.inspect import Inspection, inspect_each
from datamodules.sound_files import stamp, url

RULES = 2  # of inspect.py: what another version of them has passed is decoded again
T = TypeVar("T")


class Shard(NamedTuple):
    """One of several processes that inspect a corpus, each its part."""

    number: int  # from 0 on
    total: int

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Neighbours, which lie in the same archives."""
        first, end = (number * len(items) // self.total for number in (self.number, self.number + 1))
        return items[first:end]


class Inspector:
    """Decodes the recordings of a corpus, each once. Shards may inspect beside one another, and before the run that prepares.

    folder: of the prepared corpus, where the record is; None keeps none. shard: which one this is; None inspects all that
    it is given. progress: called with how many recordings are done, and of how many.
    """

    def __init__(
        self,
        workers: int,
        folder: Path | None = None,
        shard: Shard | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.workers, self.folder, self.shard, self.progress = workers, folder, shard, progress

    def inspect(self, paths: Sequence[Path]) -> list[Inspection]:
        """In the order given; of a shard, those of its part."""
        paths = paths if self.shard is None else self.shard.part(paths)
        known = self._recorded(paths)
        rest = [number for number, path in enumerate(paths) if _key(path) not in known]
        results = {
            number: known[key]._replace(path=str(path))
            for number, path in enumerate(paths)
            if (key := _key(path)) in known
        }
        self.progress(len(results), len(paths))
        with _Appender(self._file()) as append:
            for position, inspection in inspect_each([paths[number] for number in rest], self.workers):
                results[rest[position]] = inspection
                append(inspection)
                self.progress(len(results), len(paths))
        return [results[number] for number in range(len(paths))]

    def _file(self) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / (
            f"inspected-{self.shard.number}-of-{self.shard.total}.jsonl" if self.shard else "inspected.jsonl"
        )

    def _recorded(self, paths: Sequence[Path]) -> dict[str, Inspection]:
        """By the key of their path, those of the record whose files have not changed since."""
        files = sorted(self.folder.glob("inspected*.jsonl")) if self.folder else []
        known = _read(files, {_key(path) for path in paths}) if files else {}
        present = [path for path in paths if _key(path) in known]
        with ThreadPoolExecutor(max(1, self.workers)) as pool:  # it waits for a disk
            stamps = list(pool.map(stamp, present))
        return {
            key: known[key] for path, now in zip(present, stamps, strict=True) if known[key := _key(path)].stamp == now
        }


def _read(files: Sequence[Path], wanted: Collection[str]) -> dict[str, Inspection]:
    """The last line of each wanted path; lines that a kill cut short, or of other rules, are none."""
    known = {}
    for file in files:
        with file.open("rb") as lines:
            for line in lines:
                try:
                    row = json.loads(line)
                    if row.pop("rules") == RULES and row["path"] in wanted:
                        known[row["path"]] = Inspection(reason=None, **row)
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
    return known


def _key(path: Path) -> str:
    """The path as the record has it, wherever the command was typed."""
    return str(path) if url(path) else os.path.abspath(path)


class _Appender:
    """Appends good recordings to the record, each as soon as it is known; without a file, nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file: IO[bytes] | None = None

    def __enter__(self) -> Callable[[Inspection], None]:
        return self._append

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def _append(self, inspection: Inspection) -> None:
        if self.path is None or inspection.reason is not None or inspection.stamp is None:
            return
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mend_lines(self.path)
            self.file = self.path.open("ab", buffering=0)
        row = inspection._asdict() | {"path": _key(Path(inspection.path)), "rules": RULES}
        del row["reason"]
        self.file.write(json.dumps(row).encode() + b"\n")
