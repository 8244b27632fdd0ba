"""What an epoch is made of, opened and not loaded: cuts of the cache and lines of text files. An entry is the list of its conversations."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.language.conversations import Conversation, check_text_file, conversations, text_items
from datamodules.store.index import CachedCuts

BLOCK = 1 << 24  # bytes of a text file that are looked at together


class CutConversations(Sequence[list[Conversation]]):
    """Cuts of the cache; without a conversation where they are not `taught`. how: what `conversations` takes beside cuts."""

    def __init__(self, cuts: CachedCuts, taught: Callable[[Any], bool] | None, how: dict[str, Any]) -> None:
        self.cuts, self.taught, self.how = cuts, taught, how

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: Any) -> Any:
        cut = self.cuts[index]
        return conversations([cut], **self.how) if self.taught is None or self.taught(cut) else []

    def digest(self) -> str:
        return self.cuts.digest()


class TextConversations(Sequence[list[Conversation]]):
    """Lines of a JSONL of texts. Raises DataError where there is no such file."""

    def __init__(self, path: Path, weight: float) -> None:
        check_text_file(path)
        self.path, self.weight = path, weight
        ends, size = [], path.stat().st_size
        with path.open("rb") as file:
            for begin in range(0, size, BLOCK):
                ends.append(begin + 1 + np.flatnonzero(np.frombuffer(file.read(BLOCK), np.uint8) == ord("\n")))
        self.edges = np.unique(np.concatenate([[0], *ends, [size]])).astype(np.int64)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: Any) -> Any:
        with self.path.open("rb") as file:
            file.seek(self.edges[index])
            line = file.read(self.edges[index + 1] - self.edges[index])
        return text_items(self.path, index + 1, line, self.weight)

    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class JoinedSources(Sequence[list[Conversation]]):
    """Entries one after the other."""

    def __init__(self, parts: Sequence[CutConversations | TextConversations]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part][int(index - self.starts[part])]

    def digest(self) -> str:
        return "-".join(part.digest() for part in self.parts)
