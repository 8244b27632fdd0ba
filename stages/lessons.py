"""The training data of a language stage: one part, or the entries of its curriculum (Gong et al. 2023, arXiv:2305.10790, train so)."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from conf.laws import nearest
from datamodules.conversations import Conversation, Mixture, conversations, texts
from datamodules.language import Encoded, LanguageDataModule, Part, TooLong, Turn
from stages.optim import Phase


class Position(NamedTuple):
    number: int  # from 0
    name: str
    step: int  # steps done in the entry


def data(
    stage: str,
    conf: dict[str, Any],
    cuts: Sequence[Any],
    encode: Callable[[list[list[Turn]]], list[Encoded]],
    pad_id: int,
    written: Path | None = None,
) -> LanguageDataModule:
    """written: what the stage `rehearsal` wrote, the texts where conf names no files.

    Raises ValueError for filters that the corpora know nothing of, and for a part without a conversation.
    """
    for entry in (conf, *conf["curriculum"]):
        _check_filters(entry, cuts)
    batching, accumulate_ = conf["batching"], conf["trainer"]["accumulate_grad_batches"]
    files = conf["text"]["files"] or ([written] if written else [])
    train = [cut for cut in cuts if cut.custom["split"] == "train"]
    validation = [cut for cut in cuts if cut.custom["split"] == "validation"]
    parts = [
        Part(
            _items(conf, entry, train, files),
            entry["max_tokens"] or batching["max_tokens"],
            entry["steps"] * accumulate_,
        )
        for entry in conf["curriculum"]
    ] or [Part(_items(conf, conf, train, files), batching["max_tokens"], None)]
    unseen = _items(conf, conf, validation, [])  # texts train
    made = LanguageDataModule(
        parts, Part(unseen, batching["max_tokens"], None), encode, pad_id,
        tokens_per_batch=batching["tokens_per_batch"], num_buckets=batching["num_buckets"],
        seed=conf["seed"], num_workers=conf["data"]["num_workers"],
    )  # fmt: skip
    for entry, part, items in zip(conf["curriculum"] or [conf], parts, made.train_items, strict=True):
        if not items:
            where = f"the curriculum's entry {entry['name']!r}" if conf["curriculum"] else "the training split"
            raise ValueError(
                f"{stage}: {where} of {', '.join(conf['data']['corpora'])} gives no conversation. It takes captions, questions with answers, "
                f"conversations, or texts; mixture is {entry['mixture']}, max_tokens {part.max_tokens}, too long {_counts(made.too_long) or 0}."
            )
    if made.too_long:
        print(
            f"{stage}: longer than max_tokens={batching['max_tokens']}, or its entry's own, and left out: {_counts(made.too_long)}"
        )
    return made


def write_too_long(too_long: Sequence[TooLong], file: Path) -> dict[str, int]:
    """One JSON object a line: id, kind, tokens. Returns how many of each kind; writes nothing where there is none."""
    if too_long:
        file.write_text("".join(json.dumps(item._asdict()) + "\n" for item in too_long))
    return dict(Counter(item.kind for item in too_long))


def phases(conf: dict[str, Any]) -> list[Phase]:
    return [
        Phase(entry["steps"], entry["learning_rate"], {"new_rows": entry["embedding_learning_rate"]})
        for entry in conf["curriculum"]
    ]


def position(curriculum: Sequence[dict[str, Any]], step: int) -> Position:
    """Where training is after `step` optimizer steps; at the end, the last entry."""
    ends = list(accumulate(entry["steps"] for entry in curriculum))
    number = min(sum(end <= step for end in ends), len(ends) - 1)
    return Position(number, curriculum[number]["name"], step - (ends[number] - curriculum[number]["steps"]))


def _items(
    conf: dict[str, Any], entry: dict[str, Any], cuts: Sequence[Any], files: Sequence[str | Path]
) -> list[Conversation]:
    """entry: of the curriculum, or the stage's own configuration, which filters kinds alone."""
    mixture, prompts = Mixture(**entry["mixture"]), conf["prompts"]
    chosen = cuts if entry is conf else [cut for cut in cuts if _is_taught(entry, cut)]
    sounds = {cut.id: cut.custom["codes"] for cut in cuts}
    spoken = conversations(
        chosen, mixture, prompts["sound_to_text"], prompts["text_to_sound"], conf["batching"]["questions_together"],
        entry["kinds"], conf["caption_dropout"], sounds,
    )  # fmt: skip
    return spoken + (texts(files, mixture.text) if mixture.text else [])


def _is_taught(entry: dict[str, Any], cut: Any) -> bool:
    return (not entry["corpora"] or cut.custom["corpus"] in entry["corpora"]) and (
        not entry["datasets"] or bool(set(_datasets(cut)) & set(entry["datasets"]))
    )


def _datasets(cut: Any) -> list[str]:
    """What the column `dataset` says of a recording."""
    named = cut.custom["metadata"].get("dataset", [])  # one of the user's own columns: not every corpus has it
    return [named] if isinstance(named, str) else named


def _check_filters(entry: dict[str, Any], cuts: Sequence[Any]) -> None:
    name = f"curriculum, entry {entry['name']!r}: " if "name" in entry else ""
    kinds = {sup.custom["kind"] for cut in cuts for sup in cut.supervisions if sup.custom["task"] == "question"}
    for unknown in sorted(set(entry["kinds"]) - kinds):
        raise ValueError(
            f"{name}kinds: no question of {unknown} in these corpora. {nearest(unknown, kinds)}. [] takes all"
        )
    if "datasets" in entry:
        there = {dataset for cut in cuts for dataset in _datasets(cut)}
        for unknown in sorted(set(entry["datasets"]) - there):
            raise ValueError(
                f"{name}datasets: no recording of {unknown} in these corpora. {nearest(unknown, there)}. [] takes all"
            )


def _counts(too_long: Sequence[TooLong]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(item.kind for item in too_long).items())
