"""What an epoch is made of, opened and not loaded: cuts of the cache and lines of text files.

A source is a sequence of entries; an entry is the list of the conversations that a cut or a line gives in one epoch.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from datamodules.cuts import Cut
from datamodules.language.conversations import Conversation, Mixture, Prompts, conversations, text_conversations
from datamodules.language.line_files import LineFile
from datamodules.store.index import CachedCodes, CachedCuts


class ConversationSource(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sequence[Conversation]: ...

    def digest(self) -> str:
        """Hash of what the source reads."""
        ...


class CutConversations:
    """Conversations about the cuts of the cache; none about a cut where `is_selected` says no.

    weights: corpus -> factor of all of its items' weights in the mixture, 1 for others.
    """

    def __init__(
        self,
        cuts: CachedCuts,
        mixture: Mixture,
        prompts: Prompts,
        weights: Mapping[str, float] = {},
        is_selected: Callable[[Cut], bool] | None = None,
    ) -> None:
        self.cuts, self.mixture, self.prompts = cuts, mixture, prompts
        self.weights, self.is_selected = weights, is_selected
        self.sounds = CachedCodes(cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, index: int) -> list[Conversation]:
        cut = self.cuts[index]
        if self.is_selected is not None and not self.is_selected(cut):
            return []
        return conversations([cut], self.mixture, self.prompts, self.sounds, self.weights)

    def digest(self) -> str:
        return self.cuts.digest()


class TextConversations:
    """Conversations of the lines of a JSONL file (conversations.py says what a line is).

    weight: how often a line comes in an epoch. Raises DataError where there is no such file.
    """

    def __init__(self, path: Path, weight: float) -> None:
        self.lines = LineFile(path, "text.files", '{"text": ...} or {"messages": [...]}')
        self.weight = weight

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> list[Conversation]:
        return text_conversations(self.lines.path, index + 1, self.lines.text(index), self.weight)

    def digest(self) -> str:
        return self.lines.digest()


class JoinedSources:
    """The entries of several sources, one source after the other."""

    def __init__(self, parts: Sequence[ConversationSource]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sequence[Conversation]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part][int(index - self.starts[part])]

    def digest(self) -> str:
        return "-".join(part.digest() for part in self.parts)
