"""Validation clips with their caption and with another clip's: what the caption gap is measured on."""

from collections.abc import Collection
from typing import NamedTuple

from datamodules.cuts import Cut
from datamodules.generation import caption_of, label_of
from datamodules.hashing import choose_by_hash
from datamodules.language.conversations import label_words


class CaptionPair(NamedTuple):
    """A clip's codes, one of its captions, and a caption of another clip."""

    id: str
    codes: list[int]
    seconds: float
    caption: str
    other_caption: str
    words: str = ""  # that stand before the codes under the clip's caption
    other_words: str = ""  # those of the other clip, under its caption


class CaptionPairs(NamedTuple):
    pairs: list[CaptionPair]
    kinds: int | None  # different labels among the clips; None where they have no label of one event each


def caption_pairs(cuts: Collection[Cut], count: int, labels_before_sound: bool = False) -> CaptionPairs:
    """Up to `count` clips of these that have a caption, by the hash of their names: the same ones on every rank.

    Where there are two kinds or more, the clips are of one label each, and the other caption is that of the next clip
    of another kind; else of the next one with another text. A clip for which there is none is left out.
    """
    clips = choose_by_hash((cut for cut in cuts if caption_of(cut) and label_of(cut)), count, _id)
    kinds = len({label_of(cut) for cut in clips})
    if kinds < 2:
        clips = choose_by_hash((cut for cut in cuts if caption_of(cut)), count, _id)
    pairs = []
    for number, cut in enumerate(clips):
        other = next((one for one in clips[number + 1 :] + clips[:number] if _differ(cut, one, kinds > 1)), None)
        if other is not None:
            captions = caption_of(cut) or "", caption_of(other) or ""
            words = [label_words(one) if labels_before_sound else "" for one in (cut, other)]
            pairs.append(CaptionPair(cut.id, list(cut.custom["codes"]), cut.duration, *captions, *words))
    return CaptionPairs(pairs, kinds if kinds > 1 else None)


def _id(cut: Cut) -> str:
    return cut.id


def _differ(one: Cut, other: Cut, by_kind: bool) -> bool:
    return caption_of(one) != caption_of(other) and not (by_kind and label_of(one) == label_of(other))
