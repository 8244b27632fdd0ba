"""What is asked of a trained model: questions and captions of the test split, with the sound, without it, with another clip's."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import lightning as L
from torch.utils.data import DataLoader

from datamodules.conversations import Turn, is_asked


class Asked(NamedTuple):
    id: str
    source: str
    kind: str  # of question, or "caption"
    condition: str  # sound | text | other
    turns: list[Turn]  # one user turn
    question: str
    references: list[str]


def questions(cuts: Sequence[Any], per_kind: int, kinds: Sequence[str]) -> list[Asked]:
    """Up to `per_kind` questions of each of the kinds (empty: of all), chosen by hash, each asked with and without the sound."""
    by_kind: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
    for cut in cuts:
        for sup in cut.supervisions:
            if is_asked(sup, kinds):
                by_kind[sup.custom["kind"]].append((cut, sup))
    found = []
    for kind, pairs in sorted(by_kind.items()):
        for cut, sup in spread(pairs, per_kind, lambda pair: pair[1].id):
            question, answer = sup.custom["question"], [sup.custom["answer"]]
            for condition, segments in (("sound", [list(cut.custom["codes"]), f"\n{question}"]), ("text", [question])):
                name = f"{sup.id}:{condition}"
                found.append(Asked(name, cut.custom["source"], kind, condition, [("user", segments)], question, answer))
    return found


def captions(cuts: Sequence[Any], count: int, prompt: str) -> list[Asked]:
    """One caption a clip, with its sound, with another clip's, and without."""
    captioned = [cut for cut in cuts if any(sup.custom["task"] == "caption" for sup in cut.supervisions)]
    chosen = spread(captioned, count, lambda cut: cut.id)
    found = []
    for index, cut in enumerate(chosen):
        references = [sup.text for sup in cut.supervisions if sup.custom["task"] == "caption"]
        other = chosen[(index + max(1, len(chosen) // 2)) % len(chosen)]
        for condition, segments in (
            ("sound", [list(cut.custom["codes"]), f"\n{prompt}"]),
            ("other", [list(other.custom["codes"]), f"\n{prompt}"]),
            ("text", [prompt]),
        ):
            found.append(
                Asked(
                    f"{cut.id}:caption:{condition}",
                    cut.custom["source"],
                    "caption",
                    condition,
                    [("user", segments)],
                    prompt,
                    references,
                )
            )
    return found


class EvaluationDataModule(L.LightningDataModule):
    """Batches of prompts that are not answered yet, longest first, rank r taking every world-th batch.

    A prompt is a list of the items that ask the very same thing (many do, without the sound): decoding is greedy, so one answer serves all.
    """

    def __init__(self, asked: list[Asked], answered: set[str], batch_size: int) -> None:
        super().__init__()
        prompts: dict[str, list[Asked]] = {}
        for item in asked:
            if item.id not in answered:
                prompts.setdefault(json.dumps(item.turns), []).append(item)
        pending = sorted(prompts.values(), key=lambda items: (-_length(items[0]), items[0].id))
        self.batches = [pending[start : start + batch_size] for start in range(0, len(pending), batch_size)]

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(self.batches[rank::world], batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: list[list[Asked]]) -> list[list[Asked]]:
    return batch


def _length(item: Asked) -> int:
    return sum(len(segment) for _, segments in item.turns for segment in segments)


def spread(items: Sequence[Any], count: int, name: Callable[[Any], str]) -> list[Any]:
    """`count` items, chosen by the hash of their names: the same ones on every run, and no pattern of the order among them."""
    chosen = sorted(items, key=lambda item: hashlib.sha256(name(item).encode()).digest())[:count]
    return sorted(chosen, key=name)


def texts(cuts: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) of all questions."""
    for cut in cuts:
        for sup in cut.supervisions:
            if sup.custom["task"] == "question":
                yield sup.custom["kind"], sup.custom["question"], sup.custom["answer"]
