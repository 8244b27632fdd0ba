"""What is asked of a trained model: questions and captions of the test split, with the sound, without it, with another clip's."""

import hashlib
import heapq
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
from torch.utils.data import DataLoader

from datamodules.errors import DataError
from datamodules.language.conversations import Turn, is_asked


class EvaluationItem(NamedTuple):
    id: str
    source: str
    kind: str  # of question, or "caption"
    condition: str  # sound | text | other
    turns: list[Turn]  # one user turn
    question: str
    references: list[str]
    task: str = ""  # of conf/tasks; empty: asked because the corpora have it
    choices: tuple[str, ...] = ()
    labels: bool = False  # scored label by label by the LLM, not generated


def questions(cuts: Sequence[Any], per_kind: int, kinds: Sequence[str]) -> list[EvaluationItem]:
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
                found.append(
                    EvaluationItem(name, cut.custom["source"], kind, condition, [("user", segments)], question, answer)
                )
    return found


def captions(cuts: Sequence[Any], count: int, prompt: str) -> list[EvaluationItem]:
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
                EvaluationItem(
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


def task_items(
    task: Mapping[str, Any], cuts: Sequence[Any], count: int, kinds: Sequence[str], prompt: str, labels: Sequence[str]
) -> list[EvaluationItem]:
    """Up to `count` items (of questions: of each kind) of a task, each under its conditions: the sound, another clip's, none.

    Questions with choices also in another order (`shuffled`). prompt: what stands where the task has none and the corpus no question;
    labels: those of the task. Raises DataError where no recording of the corpora fits, or one has several labels where one is read.
    """
    name, corpora = task["name"], task["corpora"]
    mine = [cut for cut in cuts if corpora is None or cut.custom["corpus"] in corpora]
    one_label = "mean_average_precision" not in task["metrics"]
    entries: list[_Entry] = []
    for cut in mine:
        entries += _entries(task, cut, kinds, prompt, one_label)
    by_kind: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        by_kind[entry.kind].append(entry)
    chosen = [entry for _, group in sorted(by_kind.items()) for entry in spread(group, count, lambda one: one.id)]
    if not chosen:
        there = ", ".join(sorted({cut.custom["corpus"] for cut in cuts}))
        raise DataError(
            f"task {name}: the test split has no {task['ask']} of {', '.join(corpora) if corpora else 'any corpus'}; it has recordings of {there}. "
            "Prepare that corpus, or take the task captions, labels or questions, which are about any"
        )
    found = []
    for index, entry in enumerate(chosen):
        other = _other(chosen, index)
        for condition in ("sound", "other", "text", *(["shuffled"] if len(entry.choices) > 1 else [])):
            if condition == "other" and other is None:
                continue
            cut, choices = other if condition == "other" and other else entry.cut, entry.choices
            if condition == "shuffled":
                choices = tuple(sorted(choices, key=lambda text, of=entry.id: _digest(f"{of}>{text}")))
            asked = (task["prompt"] or entry.question).replace("{question}", entry.question)
            asked = asked.replace("{labels}", "; ".join(choices or labels))
            segments = [asked] if condition == "text" else [list(cut.custom["codes"]), f"\n{asked}"]
            found.append(
                EvaluationItem(
                    f"{name}:{entry.id}:{condition}", entry.cut.custom["source"], entry.kind, condition, [("user", segments)],
                    entry.question, entry.references, name, choices, task["reading"] == "likelihood",
                )
            )  # fmt: skip
    return found


class _Entry(NamedTuple):
    id: str
    cut: Any
    kind: str
    question: str
    references: list[str]
    choices: tuple[str, ...]


def _entries(task: Mapping[str, Any], cut: Any, kinds: Sequence[str], prompt: str, one_label: bool) -> Iterator[_Entry]:
    """What a task asks of one recording."""
    if task["ask"] == "captions":
        references = [sup.text for sup in cut.supervisions if sup.custom["task"] == "caption"]
        if references:
            yield _Entry(cut.id, cut, "caption", prompt, references, ())
    elif task["ask"] == "labels":
        labels = list(cut.custom.get("labels") or [])
        if len(labels) > 1 and one_label:
            raise DataError(
                f"task {task['name']}: {cut.id} has several labels ({', '.join(labels)}) and one is read; take labels-several"
            )
        asked = [sup.custom["question"] for sup in cut.supervisions if sup.custom.get("kind") in ("class", "labels")]
        if labels:
            yield _Entry(cut.id, cut, "label", asked[0] if asked else prompt, labels, ())
    else:
        for sup in cut.supervisions:
            choices = tuple(sup.custom.get("choices") or ())
            if not is_asked(sup, task["kinds"] or kinds) or (task["ask"] == "choices" and not choices):
                continue
            question = sup.custom["question"].removesuffix(f" Choose one of: {'; '.join(choices)}.")
            yield _Entry(
                sup.id, cut, sup.custom["kind"], question if task["ask"] == "choices" else sup.custom["question"],
                [sup.custom["answer"]], choices if task["ask"] == "choices" else (),
            )  # fmt: skip


def _other(entries: Sequence[_Entry], index: int) -> Any | None:
    """The cut of the entry half the list away, or of the next one after it that is of another source; None where there is none."""
    half = max(1, len(entries) // 2)
    for step in range(len(entries)):
        other = entries[(index + half + step) % len(entries)].cut
        if other.custom["source"] != entries[index].cut.custom["source"]:
            return other
    return None


def label_names(cuts: Iterable[Any], corpora: Sequence[str] | None) -> list[str]:
    """All labels of the recordings of these corpora, in the alphabet's order."""
    mine = (cut for cut in cuts if corpora is None or cut.custom["corpus"] in corpora)
    return sorted({label for cut in mine for label in cut.custom.get("labels") or []})


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


class EvaluationDataModule(L.LightningDataModule):
    """Batches with prompts that are not answered yet, longest first, rank r taking every world-th batch.

    A prompt is a list of the items that ask the very same thing (many do, without the sound): decoding is greedy, so one answer serves all.
    """

    def __init__(self, asked: list[EvaluationItem], answered: set[str], batch_size: int) -> None:
        super().__init__()
        prompts: dict[str, list[EvaluationItem]] = {}
        for item in asked:
            same = json.dumps([item.turns, item.labels and [item.task, item.choices]])
            prompts.setdefault(same, []).append(item)
        ordered = sorted(prompts.values(), key=lambda items: (-_length(items[0]), items[0].id))
        batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        # A batch is the same whatever is answered already: its padding decides the last bits, and so an answer.
        self.batches = [batch for batch in batches if any(item.id not in answered for items in batch for item in items)]

    def predict_dataloader(self) -> DataLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return DataLoader(self.batches[rank::world], batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: list[list[EvaluationItem]]) -> list[list[EvaluationItem]]:
    return batch


def _length(item: EvaluationItem) -> int:
    return sum(len(segment) for _, segments in item.turns for segment in segments)


def spread(items: Iterable[Any], count: int, name: Callable[[Any], str]) -> list[Any]:
    """`count` items, chosen by the hash of their names: the same ones on every run, and no pattern of the order among them. No more are held."""
    chosen = heapq.nsmallest(count, items, key=lambda item: _digest(name(item)))
    return sorted(chosen, key=name)


def texts(cuts: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) of all questions."""
    for cut in cuts:
        for sup in cut.supervisions:
            if sup.custom["task"] == "question":
                yield sup.custom["kind"], sup.custom["question"], sup.custom["answer"]
