"""The Lhotse cuts of this project, typed: a recording, what its corpus says about it, and where its latents or codes
are.

    cut.custom          split, corpus, source (whose recordings are in one split), labels, metadata, sha256, size;
                        of a cache also codes, or array, std, offset, length
    supervision.custom  task: "caption" (its text), "question" (kind, question, answer, choices), "conversation" (turns)

Lhotse itself is imported only by those who read or write manifests: it takes seconds.
"""

from collections.abc import Sequence
from typing import Any, Protocol

SPLITS = ("train", "validation", "test")


class AudioFile(Protocol):
    """lhotse.AudioSource."""

    source: str  # path, relative to the corpus' root


class Recording(Protocol):
    """lhotse.Recording."""

    id: str
    sources: list[AudioFile]
    sampling_rate: int  # Hz
    num_samples: int  # a channel
    duration: float  # seconds


class Supervision(Protocol):
    """lhotse.SupervisionSegment: a caption, a question with its answer, or a conversation."""

    id: str
    text: str | None
    custom: dict[str, Any]


class Cut(Protocol):
    """lhotse.MonoCut or MultiCut: a whole recording."""

    id: str
    start: float  # seconds
    duration: float  # seconds
    recording: Recording
    supervisions: list[Supervision]
    custom: dict[str, Any]

    def with_id(self, id_: str) -> "Cut": ...

    def to_dict(self) -> dict[str, Any]: ...


def captions(cut: Cut) -> list[Supervision]:
    """Its captions; each has a text."""
    return [supervision for supervision in cut.supervisions if supervision.custom["task"] == "caption"]


def questions(cut: Cut, kinds: Sequence[str] = ()) -> list[Supervision]:
    """Its questions with their answers: those of these kinds, all where no kind is given."""
    return [supervision for supervision in cut.supervisions if is_question(supervision, kinds)]


def is_question(supervision: Supervision, kinds: Sequence[str] = ()) -> bool:
    """Whether it is a question of one of these kinds; of any kind where none is given."""
    custom = supervision.custom
    return custom["task"] == "question" and (not kinds or custom["kind"] in kinds)
