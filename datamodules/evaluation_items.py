"""What a trained model is asked: questions and captions of the test split, with the sound, with another clip's,
without any.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from datamodules.batches import in_groups
from datamodules.cuts import Cut, captions, is_question, questions
from datamodules.errors import DataError
from datamodules.hashing import choose_by_hash, digest
from datamodules.language.conversations import Segment, Turn
from datamodules.sampler import DealtBatches


class Task(Protocol):
    """An evaluation task: conf.sections.tasks says what its values mean."""

    name: str
    corpora: list[str] | None
    ask: Literal["captions", "labels", "questions", "choices"]
    kinds: list[str]
    prompt: str | None
    metrics: list[str]

    @property
    def reading(self) -> str: ...


class EvaluationItem(NamedTuple):
    """One prompt under one condition, and what a right answer is."""

    id: str
    source: str
    kind: str  # of question, or "caption"
    condition: str  # sound | text | other | shuffled
    turns: list[Turn]  # one user turn
    question: str
    references: list[str]
    task: str = ""  # of conf/tasks; empty: asked because the corpora have it
    choices: tuple[str, ...] = ()
    by_likelihood: bool = False  # the LLM scores label by label; else it writes an answer
    fields: dict[str, str] | None = None  # what else the publisher says of the question


def question_items(cuts: Sequence[Cut], per_kind: int, kinds: Sequence[str]) -> list[EvaluationItem]:
    """Up to `per_kind` questions of each of the kinds (empty: of all), chosen by hash, each asked with and without
    the sound.
    """
    by_kind: dict[str, list[tuple[Cut, Any]]] = defaultdict(list)
    for cut in cuts:
        for question in questions(cut, kinds):
            by_kind[question.custom["kind"]].append((cut, question))
    items = []
    for kind, pairs in sorted(by_kind.items()):
        for cut, supervision in choose_by_hash(pairs, per_kind, lambda pair: pair[1].id):
            question, references = supervision.custom["question"], [supervision.custom["answer"]]
            for condition, codes in (("sound", cut.custom["codes"]), ("text", None)):
                name, source, turns = f"{supervision.id}:{condition}", cut.custom["source"], _prompt(codes, question)
                items.append(EvaluationItem(name, source, kind, condition, turns, question, references))
    return items


def caption_items(cuts: Sequence[Cut], count: int, prompt: str) -> list[EvaluationItem]:
    """The captions of up to `count` clips, each asked for with its sound, with another clip's, and without any."""
    chosen = choose_by_hash([cut for cut in cuts if captions(cut)], count, lambda cut: cut.id)
    items = []
    for index, cut in enumerate(chosen):
        references = [str(caption.text) for caption in captions(cut)]
        other = chosen[(index + max(1, len(chosen) // 2)) % len(chosen)]
        for condition, codes in (("sound", cut.custom["codes"]), ("other", other.custom["codes"]), ("text", None)):
            name, source, turns = f"{cut.id}:caption:{condition}", cut.custom["source"], _prompt(codes, prompt)
            items.append(EvaluationItem(name, source, "caption", condition, turns, prompt, references))
    return items


def task_items(
    task: Task, cuts: Sequence[Cut], count: int, kinds: Sequence[str], prompt: str, labels: Sequence[str]
) -> list[EvaluationItem]:
    """Up to `count` items (of questions: of each kind) of a task, each under its conditions: the sound, another clip's,
    none; questions with choices also with these in another order (`shuffled`).

    prompt: used where the task has none and the corpus no question; labels: those of the task. Raises DataError where
    no recording of the corpora fits, or one has several labels where one is read.
    """
    name, corpora = task.name, task.corpora
    one_label = "mean_average_precision" not in task.metrics
    by_kind: dict[str, list[_Entry]] = defaultdict(list)
    for cut in cuts:
        if corpora is None or cut.custom["corpus"] in corpora:
            for entry in _entries(task, cut, kinds, prompt, one_label):
                by_kind[entry.kind].append(entry)
    chosen = [
        entry for _, group in sorted(by_kind.items()) for entry in choose_by_hash(group, count, lambda one: one.id)
    ]
    if not chosen:
        available = ", ".join(sorted({cut.custom["corpus"] for cut in cuts}))
        raise DataError(
            f"task {name}: the test split has no {task.ask} of {', '.join(corpora) if corpora else 'any corpus'}; "
            f"it has recordings of {available}. Prepare that corpus, or take the task captions, labels or questions, "
            "which are about any"
        )
    return [item for index in range(len(chosen)) for item in _conditions(task, chosen, index, labels)]


class _Entry(NamedTuple):
    id: str
    cut: Cut
    kind: str
    question: str
    references: list[str]
    choices: tuple[str, ...]
    fields: dict[str, str] | None = None


def _conditions(task: Task, entries: Sequence[_Entry], index: int, labels: Sequence[str]) -> Iterator[EvaluationItem]:
    entry, other = entries[index], _other(entries, index)
    for condition in ("sound", "other", "text", *(["shuffled"] if len(entry.choices) > 1 else [])):
        cut, choices = entry.cut, entry.choices
        if condition == "other":
            if other is None:
                continue
            cut = other
        elif condition == "shuffled":
            choices = tuple(sorted(choices, key=lambda text: digest(f"{entry.id}>{text}")))
        question = (task.prompt or entry.question).replace("{question}", entry.question)
        question = question.replace("{labels}", "; ".join(choices or labels))
        lettered = [f"{chr(ord('A') + number)}. {choice}" for number, choice in enumerate(choices)]
        question = question.replace("{lettered}", "\n".join(lettered))
        yield EvaluationItem(
            f"{task.name}:{entry.id}:{condition}",
            entry.cut.custom["source"],
            entry.kind,
            condition,
            _prompt(None if condition == "text" else cut.custom["codes"], question),
            entry.question,
            entry.references,
            task.name,
            choices,
            task.reading == "likelihood",
            entry.fields,
        )


def _entries(task: Task, cut: Cut, kinds: Sequence[str], prompt: str, one_label: bool) -> Iterator[_Entry]:
    """What a task asks about one recording."""
    if task.ask == "captions":
        references = [str(caption.text) for caption in captions(cut)]
        if references:
            yield _Entry(cut.id, cut, "caption", prompt, references, ())
    elif task.ask == "labels":
        labels = list(cut.custom.get("labels") or [])
        if len(labels) > 1 and one_label:
            raise DataError(
                f"task {task.name}: {cut.id} has several labels ({', '.join(labels)}) and one is read; "
                "take labels-several"
            )
        asked = [item.custom["question"] for item in questions(cut, ("class", "labels"))]
        if labels:
            yield _Entry(cut.id, cut, "label", asked[0] if asked else prompt, labels, ())
    else:
        with_choices = task.ask == "choices"
        # a benchmark is asked whole, whatever kinds of question the LLM was trained on
        for item in questions(cut, task.kinds or ([] if with_choices else kinds)):
            choices = tuple(item.custom.get("choices") or ())
            question = item.custom["question"]
            if with_choices:
                if not choices:
                    continue
                question = question.removesuffix(f" Choose one of: {'; '.join(choices)}.")
            references = [item.custom["answer"]]
            own = item.custom.get("fields")
            yield _Entry(item.id, cut, item.custom["kind"], question, references, choices if with_choices else (), own)


def _other(entries: Sequence[_Entry], index: int) -> Cut | None:
    """The cut of the entry half the list away, or of the next one after it that is of another source; None where
    there is none.
    """
    half = max(1, len(entries) // 2)
    for step in range(len(entries)):
        other = entries[(index + half + step) % len(entries)].cut
        if other.custom["source"] != entries[index].cut.custom["source"]:
            return other
    return None


def _prompt(codes: Sequence[int] | None, text: str) -> list[Turn]:
    """One user turn: the sound, where there is one, and the text."""
    segments: list[Segment] = [text] if codes is None else [list(codes), f"\n{text}"]
    return [("user", segments)]


def label_names(cuts: Iterable[Cut], corpora: Sequence[str] | None) -> list[str]:
    """All labels of the recordings of these corpora (None: of all), in the order of the alphabet."""
    chosen = (cut for cut in cuts if corpora is None or cut.custom["corpus"] in corpora)
    return sorted({label for cut in chosen for label in cut.custom.get("labels") or []})


def question_texts(cuts: Iterable[Cut]) -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) of all questions."""
    for cut in cuts:
        for item in cut.supervisions:
            if is_question(item):
                yield item.custom["kind"], item.custom["question"], item.custom["answer"]


class EvaluationDataModule(DealtBatches[Sequence[list[EvaluationItem]]]):
    """Batches with prompts that are not answered yet, kind by kind and longest first, rank r taking every world-th.

    A prompt is a list of the items that ask the very same thing (many do, without the sound): decoding is greedy, so
    one answer serves all. A batch is the same whatever is answered already: its padding decides the last bits, and so
    an answer.
    """

    def __init__(self, items: Iterable[EvaluationItem], answered: set[str], batch_size: int) -> None:
        prompts: dict[str, list[EvaluationItem]] = {}
        for item in items:
            same = json.dumps([item.turns, item.by_likelihood and [item.task, item.choices]])
            prompts.setdefault(same, []).append(item)
        # answers of a kind are about as long: a batch is decoded until its longest answer ends
        ordered = sorted(prompts.values(), key=lambda items: (items[0].kind, -_length(items[0]), items[0].id))
        batches = in_groups(ordered, batch_size)
        super().__init__(
            [batch for batch in batches if any(item.id not in answered for items in batch for item in items)]
        )


def _length(item: EvaluationItem) -> int:
    return sum(len(segment) for _, segments in item.turns for segment in segments)
