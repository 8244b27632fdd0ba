"""Hashes of texts and files: ids of what they hold, and choices among items that are the same on every rank and every
run.
"""

import hashlib
import heapq
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's files, 64 hexadecimal digits."""
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(f"{path.relative_to(folder)}\0".encode() + bytes.fromhex(file_digest(path)))
    return content.hexdigest()


def hash_number(text: str) -> int:
    """A number in [0, 2^64), uniform over texts."""
    return int(digest(text)[:16], 16)


def in_share(share: float, text: str) -> bool:
    """True for `share` of all texts, in steps of 1/10,000; what is in a share is in every larger one."""
    return hash_number(text) % 10_000 < 10_000 * share


def choose_by_hash(items: Iterable[T], count: int, name: Callable[[T], str]) -> list[T]:
    """`count` items, those whose names have the lowest hashes, sorted by name.

    A smaller count chooses among what a larger one does. No more than `count` items are in memory.
    """
    return sorted(heapq.nsmallest(count, items, key=lambda item: digest(name(item))), key=name)
