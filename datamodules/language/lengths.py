"""An epoch's items and their lengths, found once and stored: three numbers an item, memory-mapped. The item itself is made when it is asked for.

<place>/rows.npy          (I, 3) int32: entry, which of its conversations, ids of its packed sequence
<place>/too_long.jsonl    what is above max_tokens: id, kind, tokens
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from datamodules.language.conversations import Conversation

TOGETHER = 256  # entries, in one call of the tokenizer
ALONE = 16  # blocks of them that one process is as quick with

Lengths = Callable[[Sequence[Conversation]], Sequence[int]]


class TooLong(NamedTuple):
    id: str
    kind: str
    tokens: int


class MeasuredItems(Sequence[Conversation]):
    """The conversations of `entries` that fit, and the others by name."""

    def __init__(
        self, entries: Sequence[Sequence[Conversation]], rows: np.ndarray, too_long: Sequence[TooLong]
    ) -> None:
        self.entries, self.rows, self.too_long = entries, rows, too_long
        digest = hashlib.sha256(np.ascontiguousarray(rows))
        digest.update(_digest(entries).encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        entry, number, _ = self.rows[index]
        return self.entries[int(entry)][number]

    @property
    def lengths(self) -> np.ndarray:
        """(I) int32."""
        return self.rows[:, 2]


def measure(
    entries: Sequence[Sequence[Conversation]],
    max_tokens: int,
    lengths: Lengths,
    num_workers: int,
    place: Path | None,
    progress: Callable[[int], None] = lambda done: None,
) -> MeasuredItems:
    """place: a folder that is named by all that the lengths hang on; what is there is taken, None stores nothing. progress: told of entries."""
    if place is not None and (place / "rows.npy").is_file():
        told = (place / "too_long.jsonl").read_text().splitlines()
        rows = np.load(place / "rows.npy", mmap_mode="r")
        return MeasuredItems(entries, rows, [TooLong(**json.loads(line)) for line in told])
    blocks = _Blocks(entries, max_tokens, lengths)
    loader: Any = blocks
    if num_workers and len(blocks) > ALONE:
        loader = DataLoader(blocks, batch_size=None, num_workers=num_workers, collate_fn=_as_it_is)
    found, too_long = [np.empty((0, 3), np.int32)], []
    for number, (rows, left) in enumerate(loader, 1):
        found.append(rows)
        too_long += left
        progress(min(number * TOGETHER, len(entries)))
    rows = np.concatenate(found)
    if place is not None:
        store(place, rows, too_long)
        rows = np.load(place / "rows.npy", mmap_mode="r")
    return MeasuredItems(entries, rows, too_long)


def store(place: Path, rows: np.ndarray, too_long: Sequence[TooLong]) -> None:
    """Whole or not at all; what another process has stored there meanwhile stays."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "rows.npy", rows)
    (part / "too_long.jsonl").write_text("".join(json.dumps(item._asdict()) + "\n" for item in too_long))
    try:
        part.rename(place)
    except OSError:  # another process was first, and has the same
        if not (place / "rows.npy").is_file():
            raise
        shutil.rmtree(part)


class _Blocks(torch.utils.data.Dataset):
    def __init__(self, entries: Sequence[Sequence[Conversation]], max_tokens: int, lengths: Lengths) -> None:
        self.entries, self.max_tokens, self.lengths = entries, max_tokens, lengths

    def __len__(self) -> int:
        return -(-len(self.entries) // TOGETHER)

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[TooLong]]]:
        return (self[block] for block in range(len(self)))

    def __getitem__(self, block: int) -> tuple[np.ndarray, list[TooLong]]:
        numbers = range(block * TOGETHER, min((block + 1) * TOGETHER, len(self.entries)))
        items = [(entry, number, item) for entry in numbers for number, item in enumerate(self.entries[entry])]
        rows, too_long = [], []
        tokens = self.lengths([item for _, _, item in items]) if items else []
        for (entry, number, item), length in zip(items, tokens, strict=True):
            if length > self.max_tokens:
                too_long.append(TooLong(item.id, item.kind, length))
            else:
                rows.append((entry, number, length))
        return np.array(rows, np.int32).reshape(-1, 3), too_long


def _as_it_is(block: Any) -> Any:
    return block


def _digest(entries: Any) -> str:
    if hasattr(entries, "digest"):
        return entries.digest()
    return hashlib.sha256(json.dumps([item.id for entry in entries for item in entry]).encode()).hexdigest()
