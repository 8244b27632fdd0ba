"""What prepared corpora contain, and whether every stage of a chain has something to learn or to ask. No torch here."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from conf.errors import UsageError
from conf.sections.common import StageConf
from conf.sections.language import CurriculumEntryConf, LanguageConf, MixtureConf
from datamodules.corpora import FOLDER
from stages.runs.receipts import CorpusReceipt

SPLITS = ("train", "validation", "test")


class Contents(NamedTuple):
    """Counts of one split."""

    recordings: int
    captions: int
    questions: dict[str, int]  # by kind
    conversations: int = 0
    labelled: int | None = None  # recordings with one label; None: an earlier version's receipt does not say


def count(cuts: Path) -> dict[str, dict[str, Any]]:
    """What a corpus contains: split -> the fields of Contents, as a receipt keeps them."""
    recordings: Counter[str] = Counter()
    tasks: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    kinds: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    labelled: Counter[str] = Counter()
    with gzip.open(cuts, "rt", encoding="utf-8") as file:
        for cut in map(json.loads, file):
            split, texts = cut["custom"]["split"], [supervision["custom"] for supervision in cut["supervisions"]]
            recordings[split] += 1
            labelled[split] += len(cut["custom"].get("labels") or []) == 1
            tasks[split].update(item["task"] for item in texts)
            kinds[split].update(item["kind"] for item in texts if item["task"] == "question")
    return {
        split: Contents(
            recordings[split],
            tasks[split]["caption"],
            dict(kinds[split]),
            tasks[split]["conversation"],
            labelled[split],
        )._asdict()
        for split in SPLITS
    }


def check(corpora: dict[str, CorpusReceipt], root: Path, confs: dict[str, StageConf]) -> None:
    """corpora: name -> receipt; confs: stage -> configuration. Raises UsageError where a stage has nothing to learn or to ask."""
    if {"latents", "cache"} & set(confs["cache"].parents):
        return  # the recordings are another experiment's
    # a receipt of an earlier version has none
    each = [receipt.get("contents") or count(root / name / "cuts.jsonl.gz") for name, receipt in corpora.items()]
    total = {split: _sum([Contents(**contents[split]) for contents in each]) for split in SPLITS}
    lacks = [
        f"{stage}: {lack}"
        for stage, conf in confs.items()
        if stage not in conf.parents and (lack := _lacks(stage, conf, total))
    ]
    if lacks:
        raise UsageError(
            f"{', '.join(corpora)} cannot go through the whole chain:\n  - " + "\n  - ".join(lacks) + "\n"
            f"Where the CSV changes, prepare again:   {FOLDER.format(next(iter(corpora)))}"
        )


def _sum(parts: Sequence[Contents]) -> Contents:
    kinds = sum((Counter(part.questions) for part in parts), Counter())
    recordings = sum(part.recordings for part in parts)
    captions = sum(part.captions for part in parts)
    counted = [part.labelled for part in parts if part.labelled is not None]
    labelled = sum(counted) if len(counted) == len(parts) else None
    return Contents(recordings, captions, dict(kinds), sum(part.conversations for part in parts), labelled)


def _lacks(stage: str, conf: StageConf, total: dict[str, Contents]) -> str | None:
    """What a stage lacks, and where it is to be written; None where nothing is missing."""
    if stage == "evaluate" and not total["test"].recordings:
        return "no recording is in the split test. Write test in the column split of some, or --split_by=COLUMN --test=VALUE"
    if not isinstance(conf, LanguageConf):
        return None
    known = {kind for contents in total.values() for kind in contents.questions}
    entries: Sequence[LanguageConf | CurriculumEntryConf] = conf.curriculum or [conf]
    for entry in entries:
        if unknown := [kind for kind in entry.kinds if kind not in known]:
            return (
                f"no question is of the kinds {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'no questions'}. "
                + (
                    f"They are named by the curriculum's entry {entry.name!r}"
                    if isinstance(entry, CurriculumEntryConf)
                    else f"--{stage}.kinds=[] takes all"
                )
            )
        if lack := _lacks_items(entry.mixture, entry.kinds, total["train"]):
            return lack + ". --evaluate.examples.after=null does without this stage" * (stage == "text_to_sound")
    return None


def _lacks_items(mixture: MixtureConf, kinds: Sequence[str], train: Contents) -> str | None:
    wanted = []
    if mixture.sound_to_text or mixture.text_to_sound:
        wanted.append(("caption (column caption)", train.captions))
    if mixture.question:
        asked = sum(number for kind, number in train.questions.items() if not kinds or kind in kinds)
        wanted.append(("question (columns question and answer, or label)", asked))
    if mixture.conversation:
        wanted.append(("conversation (column conversation)", train.conversations))
    if mixture.examples:
        wanted.append(("label (column label)", 1 if train.labelled is None else train.labelled))
    if not wanted or mixture.text or any(number for _, number in wanted):
        return None
    return f"no training recording has a {' or a '.join(text for text, _ in wanted)}"
