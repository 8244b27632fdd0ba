"""The training data of a language stage: one part, or the entries of its curriculum (Gong et al. 2023, arXiv:2305.10790, train so)."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.progress import ProgressLine
from conf import plain
from conf.errors import UsageError
from conf.sections.language import CurriculumEntryConf, LanguageConf
from conf.sections.preference import PairsConf, PreferenceConf
from conf.suggest import allowed
from datamodules import fewshot
from datamodules.atomic_files import write_whole
from datamodules.cuts import Cut
from datamodules.language import answer_pairs, conversations, examples, packing, sound_windows
from datamodules.language.conversation_sources import (
    ConversationSource,
    CutConversations,
    JoinedSources,
    TextConversations,
)
from datamodules.language.conversations import Mixture, Prompts, Turn
from datamodules.language.id_batches import DataPart, LanguageDataModule
from datamodules.language.lengths import TooLong
from datamodules.language.packing import Encoded
from datamodules.store.index import CachedCuts
from stages.engine.optim import Phase

log = logging.getLogger(__name__)
MANY = 20_000  # entries: below it no line says how far the measuring is


Entry = LanguageConf | CurriculumEntryConf  # of a curriculum, or the stage itself, which filters kinds alone


class Position(NamedTuple):
    number: int  # from 0
    name: str
    step: int  # steps done in the entry


def data(
    stage: str,
    conf: LanguageConf,
    cuts: CachedCuts,
    encode: Callable[[list[list[Turn]]], list[Encoded]],
    pad_id: int,
    written: str,
    tokenizer: str,
    folder: Path | None,
    texts: Path | None = None,
    frame: int = 1,
) -> LanguageDataModule:
    """written: hash of how text becomes ids. tokenizer: hash of the one whose codes they are. texts: of the stage
    `rehearsal`, where conf names no files. folder: where the items' lengths are kept, so that they are measured once;
    None keeps nothing. frame: codes of a frame, of which windows of long sounds are made.

    Raises UsageError for filters that the corpora know nothing of, for labels before sounds where there are none, and for a
    part without a conversation.
    """
    every: list[Entry] = [conf, *conf.curriculum]
    for entry in every:
        _check_filters(entry, cuts, folder)
    if isinstance(conf, PreferenceConf):
        _check_filters(conf.pairs, cuts, folder, "pairs.")
    if conf.prompts.labels_before_sound and not any(map(conversations.label_words, cuts.of_split("train"))):
        raise UsageError(
            f"prompts.labels_before_sound: no training recording of {', '.join(conf.data.corpora)} has labels (column label). Prepare them "
            "with labels, or type --prompts.labels_before_sound=false"
        )
    batching, accumulate_ = conf.batching, conf.trainer.accumulate_grad_batches
    files = [Path(file) for file in conf.text.files] or ([texts] if texts else [])

    def part(entry: Entry, split: str, batches: int | None) -> DataPart:
        most = (entry.max_tokens if isinstance(entry, CurriculumEntryConf) else None) or batching.max_tokens
        entries, settings = _entries(conf, entry, cuts, tokenizer, split, files, folder)
        key = hashlib.sha256(
            json.dumps([written, _code(), entries.digest(), settings, most, frame]).encode()
        ).hexdigest()
        return DataPart(entries, most, batches, folder / key[:32] if folder else None)

    parts = [part(entry, "train", entry.steps * accumulate_) for entry in conf.curriculum]
    parts = parts or [part(conf, "train", None)]
    validation = part(conf, "validation", None)
    total = sum(len(part.source) for part in (*parts, validation))
    line = ProgressLine(f"{stage} lengths", total, "entries", total >= MANY)
    line.start()
    made = LanguageDataModule(
        parts, validation, encode, pad_id,
        tokens_per_batch=batching.tokens_per_batch, num_buckets=batching.num_buckets,
        seed=conf.seed, num_workers=conf.data.num_workers, progress=line.update, frame=frame,
        times_in_sounds=conf.timestamps.every is not None,
    )  # fmt: skip
    line.stop()
    entries: Sequence[Entry] = conf.curriculum or [conf]
    for entry, made_from, items in zip(entries, parts, made.train_items, strict=True):
        if not items:
            where = (
                f"the curriculum's entry {entry.name!r}"
                if isinstance(entry, CurriculumEntryConf)
                else "the training split"
            )
            raise UsageError(
                f"{stage}: {where} of {', '.join(conf.data.corpora)} gives no conversation. It takes captions, questions with answers, "
                f"conversations, texts, or labels (mixture.examples); mixture is {plain(entry.mixture)}, max_tokens {made_from.max_tokens}, too long "
                f"{_counts(made.too_long) or 0}."
            )
    if made.num_windows:
        text = "%s: %d conversations longer than max_tokens=%d, or their entry's own, give a window of their sound, another one each epoch"
        log.info(text, stage, made.num_windows, batching.max_tokens)
    if made.too_long:
        text, counts = "%s: longer than max_tokens=%d, or its entry's own, and left out: %s", _counts(made.too_long)
        log.info(text, stage, batching.max_tokens, counts)
    return made


def write_too_long(too_long: Sequence[TooLong], file: Path) -> dict[str, int]:
    """One JSON object a line: id, kind, tokens. Returns how many of each kind; writes nothing where there is none."""
    if too_long:
        file.write_text("".join(json.dumps(item._asdict()) + "\n" for item in too_long))
    return dict(Counter(item.kind for item in too_long))


def phases(conf: LanguageConf) -> list[Phase]:
    return [
        Phase(entry.steps, entry.learning_rate, {"new_rows": entry.embedding_learning_rate})
        for entry in conf.curriculum
    ]


def position(curriculum: Sequence[CurriculumEntryConf], step: int) -> Position:
    """Where training is after `step` optimizer steps; at the end, the last entry."""
    ends = list(accumulate(entry.steps for entry in curriculum))
    number = min(sum(end <= step for end in ends), len(ends) - 1)
    return Position(number, curriculum[number].name, step - (ends[number] - curriculum[number].steps))


def _entries(
    conf: LanguageConf,
    entry: Entry,
    every: CachedCuts,
    tokenizer: str,
    split: str,
    files: Sequence[Path],
    folder: Path | None,
) -> tuple[JoinedSources, list[Any]]:
    """What an epoch is made of, and all that its items depend on beside it. every: cuts of all splits."""
    weights, prompts, cuts = entry.mixture, conf.prompts, every.of_split(split)
    mixture = Mixture(**plain(weights))
    making = Prompts(
        prompts.sound_to_text,
        prompts.text_to_sound,
        conf.batching.questions_together,
        entry.kinds,
        conf.caption_dropout,
        entry.text_to_sound_labels,
        prompts.labels_before_sound,
    )
    corpus_weights = conf.corpus_weights if split == "train" else {}
    filters = {"corpora": entry.corpora, "datasets": entry.datasets} if isinstance(entry, CurriculumEntryConf) else None
    is_selected = partial(_is_selected, entry) if isinstance(entry, CurriculumEntryConf) else None
    parts: list[ConversationSource] = [CutConversations(cuts, mixture, making, corpus_weights, is_selected)]
    if isinstance(conf, PreferenceConf):
        parts = [*(parts if any(mixture) else []), *_pairs(conf, cuts, every, tokenizer)]
    if weights.examples:
        parts.append(_examples(conf, entry, cuts, is_selected, split, folder))
    if split == "train" and weights.text:  # texts train
        parts += [TextConversations(file, weights.text) for file in files]
    return JoinedSources(parts), [mixture, making, corpus_weights, filters]


def _examples(
    conf: LanguageConf,
    entry: Entry,
    cuts: CachedCuts,
    is_selected: Callable[[Cut], bool] | None,
    split: str,
    folder: Path | None,
) -> examples.ExampleTexts:
    """Raises UsageError where a part of the training has none. folder: where the labels are kept, read once."""
    chosen = [entry.corpora, entry.datasets] if isinstance(entry, CurriculumEntryConf) else []
    key = hashlib.sha256(json.dumps([cuts.digest(), chosen]).encode()).hexdigest()
    classes = examples.read_classes(cuts, is_selected, folder / f"labels-{key[:32]}.npz" if folder else None)
    corpus_weights = conf.corpus_weights if split == "train" else {}
    making = examples.Making(**plain(conf.examples))
    made = examples.ExampleTexts(cuts, classes, entry.mixture.examples, making, corpus_weights)
    if split == "train" and not made.rows:
        where, corpora, instead = "", conf.data.corpora, "--mixture.examples=0"
        if isinstance(entry, CurriculumEntryConf):
            where, instead = f"curriculum, entry {entry.name!r}: ", "examples: 0.0 in its mixture"
            corpora = entry.corpora or corpora
        raise UsageError(
            f"{where}mixture.examples: {len(classes.names)} labels have a training recording with that label alone, of {', '.join(corpora)}; two of one corpus "
            f"are needed, each with recordings of two sources. Prepare it with a column label, or type {instead}"
        )
    if split == "train" and made.left_out:
        text = "mixture.examples: no text can end with %d recordings with one label: no other source has it, or their corpus has no other such label"
        log.info(text, made.left_out)
    return made


def _pairs(conf: PreferenceConf, cuts: CachedCuts, every: CachedCuts, tokenizer: str) -> list[ConversationSource]:
    pairs = conf.pairs
    making = answer_pairs.Making(
        pairs.absent, pairs.kinds, pairs.question, conf.batching.questions_together, pairs.swapped,
        conf.prompts.sound_to_text,
    )  # fmt: skip
    made: list[ConversationSource] = [
        answer_pairs.FilePairs(Path(file), cuts, every, tokenizer, conf.prompts.labels_before_sound)
        for file in pairs.files
    ]
    if pairs.absent or pairs.kinds or pairs.swapped:
        made.append(answer_pairs.CutPairs(cuts, every.of_split("train"), making))
    return made


def _code() -> str:
    """Of what makes conversations, and counts their ids: lengths that other code measured are measured again."""
    return hashlib.sha256(
        b"".join(
            Path(str(code.__file__)).read_bytes()
            for code in (conversations, packing, sound_windows, answer_pairs, examples, fewshot)
        )
    ).hexdigest()


def _is_selected(entry: CurriculumEntryConf, cut: Cut) -> bool:
    return (not entry.corpora or cut.custom["corpus"] in entry.corpora) and (
        not entry.datasets or bool(set(_datasets(cut)) & set(entry.datasets))
    )


def _datasets(cut: Cut) -> list[str]:
    """What the column `dataset` says of a recording."""
    named = cut.custom["metadata"].get("dataset", [])  # one of the user's own columns: not every corpus has it
    return [named] if isinstance(named, str) else named


def _check_filters(entry: Entry | PairsConf, cuts: CachedCuts, folder: Path | None, name: str = "") -> None:
    name = f"curriculum, entry {entry.name!r}: " if isinstance(entry, CurriculumEntryConf) else name
    wanted = {"kinds": ("question", "kinds"), "swapped": ("question", "kinds"), "datasets": ("recording", "datasets")}
    for key, (what, known_as) in wanted.items():
        chosen = getattr(entry, key, [])
        if not chosen:
            continue
        known = _kinds_and_datasets(cuts, folder)[known_as] + ([answer_pairs.CAPTION] if key == "swapped" else [])
        for unknown in sorted(set(chosen) - set(known)):
            raise UsageError(
                f"{name}{key}: no {what} of {unknown} in these corpora. {allowed(unknown, known)}. [] takes all"
            )


def _kinds_and_datasets(cuts: CachedCuts, folder: Path | None) -> dict[str, list[str]]:
    """The kinds of question and the datasets that there are; read once where there is a folder to keep them."""
    file = folder / f"kinds-{cuts.digest()[:32]}.json" if folder else None
    if file is not None and file.is_file():
        return json.loads(file.read_text())
    names: dict[str, set[str]] = {"kinds": set(), "datasets": set()}
    for cut in cuts:
        names["kinds"] |= {sup.custom["kind"] for sup in cut.supervisions if sup.custom["task"] == "question"}
        names["datasets"] |= set(_datasets(cut))
    available = {key: sorted(values) for key, values in names.items()}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(available))
    return available


def _counts(too_long: Sequence[TooLong]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in Counter(item.kind for item in too_long).items())
