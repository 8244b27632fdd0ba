"""What the stage `generation` makes and measures: sounds from captions of the test split, and the sounds that they are held against.

real recordings of the test split ──────────────────────────────┐
real recordings of the training split                           │ held against
the same test recordings' codes, decoded: the tokenizer alone   │ these
codes that the LLM writes of a caption, decoded                 │
codes that it writes of none, decoded ──────────────────────────┘
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import lightning as L
from torch.utils.data import DataLoader

from datamodules.evaluation import spread
from datamodules.reconstruction import group_of

TEST, TRAIN, TOKENIZER, CAPTION, NOTHING = "test", "train", "tokenizer", "caption", "no_caption"


class GenerationItem(NamedTuple):
    """One sound."""

    condition: str
    cut: str  # id: of the recording, or of the one whose caption it is
    number: int  # 0, 1, ... of its clip's sounds
    caption: str  # what the LLM is told

    @property
    def id(self) -> str:
        return f"{self.cut}:{self.condition}:{self.number}"


class ChosenRecordings(NamedTuple):
    asked: list[Any]  # cuts of the test split whose caption is given to the LLM
    test: list[Any]  # cuts of the test split, `asked` among them
    train: list[Any]


def choose(test: Iterable[Any], train: Iterable[Any], captions: int, recordings: int) -> ChosenRecordings:
    """Recordings with a caption, by the hash of their names: the same ones on every run, and those of a smaller number among those of a larger one."""
    many, trained = (
        spread((cut for cut in cuts if caption_of(cut) is not None), recordings, lambda cut: cut.id)
        for cuts in (test, train)
    )
    return ChosenRecordings(spread(many, captions, lambda cut: cut.id), many, trained)


def caption_of(cut: Any) -> str | None:
    """One of its captions, by the hash of its name; None where it has none."""
    told = [sup for sup in cut.supervisions if sup.custom["task"] == "caption" and sup.text]
    return min(told, key=lambda sup: hashlib.sha256(sup.id.encode()).digest()).text if told else None


def label_of(cut: Any) -> str | None:
    """Its label, where it has one and no more."""
    labels = cut.custom.get("labels") or []
    return labels[0] if len(labels) == 1 else None


def kind_of(cut: Any) -> str:
    return label_of(cut) or group_of(cut)


def items(chosen: ChosenRecordings, seeds: int, heard: bool) -> list[GenerationItem]:
    """heard: sounds are measured, not their codes alone."""
    found = [GenerationItem(CAPTION, cut.id, n, caption_of(cut) or "") for n in range(seeds) for cut in chosen.asked]
    found += [GenerationItem(NOTHING, cut.id, 0, "") for cut in chosen.asked]
    if heard:
        found += [GenerationItem(TOKENIZER, cut.id, n, "") for n in range(seeds) for cut in chosen.asked]
        found += [GenerationItem(TEST, cut.id, 0, "") for cut in chosen.test]
        found += [GenerationItem(TRAIN, cut.id, 0, "") for cut in chosen.train]
    return found


class GenerationDataModule(L.LightningDataModule):
    """Batches of one condition in which something is not done, rank r taking every world-th.

    A batch is the same whatever of it is done already: its padding decides the last bits of what comes out.
    """

    def __init__(self, asked: Sequence[GenerationItem], done: set[str], batch_size: int) -> None:
        super().__init__()
        conditions: dict[str, list[GenerationItem]] = {}
        for item in asked:
            conditions.setdefault(item.condition, []).append(item)
        batches = [
            held[start : start + batch_size]
            for held in conditions.values()
            for start in range(0, len(held), batch_size)
        ]
        self.batches = [batch for batch in batches if any(item.id not in done for item in batch)]

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(self.batches[rank::world], batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: list[GenerationItem]) -> list[GenerationItem]:
    return batch
