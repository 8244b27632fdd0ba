"""Does the LLM hear what is not there? Questions about present sounds and about three kinds of absent ones, at several
strengths of audio-aware decoding.

    python -m tests.benchmarks.presence --runs runs/demo/openaqa [--strengths 0 0.5 1 2] [--scenes 200] [--others 200]

A run is a folder of a language stage; its cache lies beside it, or is named by --cache. A test recording is asked about
a sound of its own, and about sounds that it has not: any, a frequent one, one that is often heard with its own
(datamodules/language/absent_sounds.py), in the corpus' own wordings. Percent, 95 % intervals by recording. `others`:
accuracy of the corpus' questions of the other kinds that the LLM was trained on, which it answers in full; of presence it is
asked for the first word alone, so that a recording is read once for all of its questions and strengths. `text`: the plain LLM
without the sound.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from datamodules.batches import in_groups
from datamodules.evaluation_items import EvaluationItem, question_items
from datamodules.hashing import choose_by_hash, hash_number
from datamodules.language.absent_sounds import ABSENT, AbsentSounds, labels_of, presence_questions
from datamodules.language.conversations import Turn as DataTurn
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from models.language.generation import audio_contrast, pad_left
from models.language.likelihood import read_prefix
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Segment, Turn, Vocabulary
from stages.hub import language_model
from stages.reports.formatting import markdown_table, percent_interval
from stages.runs import receipts
from stages.scoring.exact_match import is_right
from stages.scoring.intervals import Interval, bootstrap

PRESENT, TEXT = "present", "text"
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="run of the stage cache")
    parser.add_argument("--split", default="test", help="validation: to choose a strength on")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--scenes", type=int, default=200, help="recordings that are asked about, at most")
    parser.add_argument("--others", type=int, default=200, help="questions of each other kind, at most")
    parser.add_argument("--text", action=argparse.BooleanOptionalAction, default=True, help="the row without a sound")
    parser.add_argument(
        "--kinds", nargs="+", help="of the others; those that the run was trained on where none is named"
    )
    parser.add_argument("--max-new-tokens", type=int, default=8)
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        cuts = chunks.read((options.cache or run.parent / "cache") / "chunks")
        items = presence_items(cuts, options.split, options.scenes)
        receipt = receipts.read(run)
        if receipt is None:
            raise SystemExit(f"{run} holds no finished run of a language stage")
        kinds = [kind for kind in options.kinds or receipt["conf"]["kinds"] if kind != "presence"]
        others = question_items(cuts.of_split(options.split), options.others, kinds)
        others = [item for item in others if item.condition == "sound"]
        asked = [*items, *others]
        model, _ = language_model.load(run / "artifact")
        settings = {f"{strength:g}": strength for strength in options.strengths} | (
            {TEXT: -1.0} if options.text else {}
        )
        with autocast(model, run):
            said = list(first_words(model, items, list(settings.values())))
        for (name, strength), words in zip(settings.items(), zip(*said, strict=True), strict=True):
            silent = [item._replace(turns=[("user", [item.question])]) for item in others]
            with autocast(model, run):
                rest = answers(model, silent if name == TEXT else others, max(0.0, strength), options.max_new_tokens)
                written = [*words, *rest]
            rows.append([str(run), name, *_cells(asked, written)])
            print(
                " | ".join(rows[-1]), f"{len(asked)} questions, {time.process_time():.0f} processor seconds", flush=True
            )
    print(f"{len(items)} questions of presence, {len(asked) - len(items)} others")
    names = [PRESENT, *ABSENT, "all, yes and no alike", "yes", "others"]
    print("\n".join(markdown_table(["run", "a", *names], rows)))


def presence_items(cuts: CachedCuts, split: str, count: int) -> list[EvaluationItem]:
    """Of each of `count` recordings: one question of each kind for which it has one."""
    train = cuts.of_split("train")
    usual, wordings = AbsentSounds(train), presence_questions(train)
    chosen = choose_by_hash((cut for cut in cuts.of_split(split) if labels_of(cut)), count, lambda cut: cut.id)
    if not wordings or not chosen:
        raise SystemExit("this corpus has no labels, or no questions of the kind `presence` that are answered with yes")
    items = []
    for cut in chosen:
        labels = labels_of(cut)
        asked = {PRESENT: labels[hash_number(cut.id) % len(labels)]}
        asked |= {way: label for way in ABSENT if (label := usual.choose(labels, way, cut.id))}
        for kind, label in asked.items():
            texts = wordings.get(label, [])
            for question in texts[hash_number(f"{cut.id}?{kind}") % len(texts) :][:1] if texts else []:
                turns: list[DataTurn] = [("user", [list(cut.custom["codes"]), f"\n{question}"])]
                answer = "yes" if kind == PRESENT else "no"
                source = cut.custom["source"]
                items.append(EvaluationItem(f"{cut.id}:{kind}", source, kind, "sound", turns, question, [answer]))
    return items


@contextlib.contextmanager
def autocast(model: SoundLanguageModel, run: Path) -> Iterator[None]:
    """In the precision in which the run was trained, as `evaluate` asks it."""
    receipt = receipts.read(run)
    precision = receipt["precision"] if receipt else None
    if narrow := bool(precision and precision["value"] == "bf16-mixed"):
        model.cast_frozen_linears_to_bf16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        yield


def first_words(
    model: SoundLanguageModel, items: Sequence[EvaluationItem], strengths: Sequence[float]
) -> Iterator[list[str]]:
    """The most probable first word of each answer under each strength; -1 is the LLM without the sound."""
    vocabulary, lm = model.vocabulary, model.lm
    questions = sorted({item.question for item in items})
    without = {
        question: log_p
        for group in in_groups(questions, BATCH)
        for question, log_p in zip(group, _next(lm, vocabulary, [[one] for one in group]), strict=True)
    }
    for _, same_sound in groupby(items, lambda item: item.source):
        group = list(same_sound)
        heard = _next(lm, vocabulary, [item.turns[0][1] for item in group])
        for item, log_p in zip(group, heard, strict=True):
            silent = without[item.question]
            best = [int((log_p if a == 0 else (1 + a) * log_p - a * silent).argmax()) for a in strengths]
            yield ["" if token in vocabulary.stop_ids else vocabulary.decode([token]) for token in best]


def _next(lm: PreTrainedModel, vocabulary: Vocabulary, requests: Sequence[Sequence[Segment]]) -> Tensor:
    """(B, V) log p of the id that begins each answer; what the prompts begin with together is read once."""
    turns = [[Turn("user", segments)] for segments in requests]
    prompts = [one.input_ids for one in vocabulary.render_all(turns, generate=True)]
    alike = [len(set(ids)) == 1 for ids in zip(*prompts, strict=False)]  # as far as the shortest
    shared = [*alike[:-1], False].index(False)
    cache = read_prefix(lm, prompts[0][:shared]).cache
    cache.batch_repeat_interleave(len(prompts))
    rest = pad_sequence([torch.tensor(prompt[shared:]) for prompt in prompts], batch_first=True)
    logits = lm(input_ids=rest, past_key_values=cache, use_cache=True).logits
    last = logits[torch.arange(len(prompts)), [len(prompt) - shared - 1 for prompt in prompts]].float()
    last[:, vocabulary.text_size : vocabulary.first_time_id] = -torch.inf
    return last.log_softmax(-1).clamp(min=-1e4)


def answers(
    model: SoundLanguageModel, items: Sequence[EvaluationItem], strength: float, max_tokens: int
) -> Iterator[str]:
    vocabulary = model.vocabulary
    for group in in_groups(items, BATCH):
        turns = [[Turn("user", segments) for _, segments in item.turns] for item in group]
        prompts = [one.input_ids for one in vocabulary.render_all(turns, generate=True)]
        guidance = audio_contrast(vocabulary, turns, strength)
        padded = pad_left(prompts, vocabulary.pad_id)
        for answer in model.generate(*padded, max_tokens, "text", guidance=guidance):
            yield vocabulary.decode(answer)


def _cells(items: Sequence[EvaluationItem], predictions: Sequence[str]) -> list[str]:
    right = [is_right(text, item.references[0]) for item, text in zip(items, predictions, strict=True)]

    def share(kinds: Sequence[str], values: Sequence[bool]) -> Interval:
        chosen = [number for number, item in enumerate(items) if item.kind in kinds]
        return bootstrap([values[n] for n in chosen], [items[n].source for n in chosen], 1000, 0)

    each = [share([kind], right) for kind in (PRESENT, *ABSENT)]
    absent, yes = share(ABSENT, right), [is_right(text, "yes") for text in predictions]
    others = sorted({item.kind for item in items} - {PRESENT, *ABSENT})
    both = f"{50 * (each[0].value + absent.value):.1f}"
    return [
        *map(percent_interval, each),
        both,
        percent_interval(share([PRESENT, *ABSENT], yes)),
        percent_interval(share(others, right)),
    ]


if __name__ == "__main__":
    main()
