"""What the stage `generation` makes and measures: sounds from captions of the test split, and what they are compared
with.

real recordings of the test split ──────────────────────────────┐
real recordings of the training split                           │ compared with
the same test recordings' codes, decoded: the tokenizer alone   │ these
codes that the LLM writes of a caption, decoded                 │
codes that it writes of none, decoded ──────────────────────────┘
the training recordings' codes of one label, decoded: what a probe of embedded sound learns from
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datamodules.batches import in_groups
from datamodules.cuts import Cut, captions
from datamodules.hashing import choose_by_hash, digest
from datamodules.reconstruction import group_of
from datamodules.sampler import DealtBatches

TEST, TRAIN, TOKENIZER, CAPTION, NOTHING = "test", "train", "tokenizer", "caption", "no_caption"
LEARNT = "train_tokenizer"


class GenerationItem(NamedTuple):
    """One sound."""

    condition: str
    cut: str  # id: of the recording, or of the one whose caption it is
    number: int  # 0, 1, ... of its clip's sounds
    caption: str  # what the LLM gets

    @property
    def id(self) -> str:
        return f"{self.cut}:{self.condition}:{self.number}"


class ChosenRecordings(NamedTuple):
    asked: list[Cut]  # of the test split: their captions are given to the LLM
    test: list[Cut]  # of the test split, `asked` among them
    train: list[Cut]


def choose_recordings(
    test: Iterable[Cut], train: Iterable[Cut], captions: int, recordings: int, one_label: bool = False
) -> ChosenRecordings:
    """Up to `recordings` of each split that have a caption, by the hash of their names, and `captions` of the test
    split among them, of one label each where that is asked for: the same ones on every run.
    """
    chosen_test, chosen_train = (
        choose_by_hash((cut for cut in cuts if caption_of(cut) is not None), recordings, lambda cut: cut.id)
        for cuts in (test, train)
    )
    askable = [cut for cut in chosen_test if not one_label or label_of(cut) is not None]
    return ChosenRecordings(choose_by_hash(askable, captions, lambda cut: cut.id), chosen_test, chosen_train)


def caption_of(cut: Cut) -> str | None:
    """One of its captions, by the hash of its name; None where it has none."""
    available = [caption for caption in captions(cut) if caption.text]
    return min(available, key=lambda caption: digest(caption.id)).text if available else None


def label_of(cut: Cut) -> str | None:
    """Its label, where it has one and no more."""
    labels = cut.custom.get("labels") or []
    return labels[0] if len(labels) == 1 else None


def kind_of(cut: Cut) -> str:
    """Its label, or its group where it has not exactly one."""
    return label_of(cut) or group_of(cut)


def generation_items(chosen: ChosenRecordings, seeds: int, with_sound: bool) -> list[GenerationItem]:
    """`seeds` sounds of each caption, and what they are compared with. with_sound: sounds are measured, not their
    codes alone.
    """
    items = [GenerationItem(CAPTION, cut.id, n, caption_of(cut) or "") for n in range(seeds) for cut in chosen.asked]
    items += [GenerationItem(NOTHING, cut.id, 0, "") for cut in chosen.asked]
    if with_sound:
        items += [GenerationItem(TOKENIZER, cut.id, n, "") for n in range(seeds) for cut in chosen.asked]
        items += [GenerationItem(TEST, cut.id, 0, "") for cut in chosen.test]
        items += [GenerationItem(TRAIN, cut.id, 0, "") for cut in chosen.train]
        items += [GenerationItem(LEARNT, cut.id, 0, "") for cut in chosen.train if label_of(cut) is not None]
    return items


class GenerationDataModule(DealtBatches[Sequence[GenerationItem]]):
    """Batches of one condition in which something is not done, rank r taking every world-th.

    A batch is the same whatever of it is done already: its padding decides the last bits of what comes out.
    """

    def __init__(self, items: Sequence[GenerationItem], done: set[str], batch_size: int) -> None:
        conditions: dict[str, list[GenerationItem]] = {}
        for item in items:
            conditions.setdefault(item.condition, []).append(item)
        batches = [batch for group in conditions.values() for batch in in_groups(group, batch_size)]
        super().__init__([batch for batch in batches if any(item.id not in done for item in batch)])
