"""What does an LLM know, and what does it have by heart? Does the sound decide? Twins of scenes of the embedded corpus.

    python -m tests.benchmarks.minimal_pairs --runs runs/demo/openaqa [--axes voices exchanged] [--questions 24]

A question is asked of two scenes that differ in one thing (datamodules/diagnostic/held_out.py): of one as in training and of
one that has what training never had; or of the two scenes of a minimal pair, of which its answers differ: one sound
exchanged, two that changed places, two that changed their loudness. `both`: right of both scenes; who does not listen
is right of both scenes of a minimal pair in 0 %. Of combinations the questions of the two scenes are not the same.
Kinds of question that the LLM was trained on; of `louder` the loudness, whether or not it was. Percent, 95 % intervals by
scene.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from datamodules.cuts import Cut
from datamodules.diagnostic.captions_and_questions import Question
from datamodules.diagnostic.held_out import Twins, twins
from datamodules.diagnostic.scene import AXES, Event, NoiseFloor, Scene, mix
from datamodules.evaluation_items import EvaluationItem
from datamodules.hashing import choose_by_hash
from datamodules.language.conversations import Turn
from datamodules.store import chunks
from stages.hub import language_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.reports.formatting import markdown_table, percent_interval
from stages.runs import receipts
from stages.scoring.exact_match import is_right
from stages.scoring.intervals import bootstrap
from tests.benchmarks.presence import answers, autocast

USUAL, OTHER = "usual", "other"


class Asked(NamedTuple):
    """One row of the table: a question of a scene, and one of its twin."""

    axis: str
    usual: EvaluationItem
    other: EvaluationItem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0], help="of audio-aware decoding")
    parser.add_argument("--questions", type=int, default=24, help="of an axis, each asked of two scenes, at most")
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        asked = list(pairs(run, options.axes, options.questions))
        items = [item for pair in asked for item in (pair.usual, pair.other)]
        model, _ = language_model.load(run / "artifact")
        for strength in options.strengths:
            with autocast(model, run):
                written = list(answers(model, items, strength, 8))
            right = [is_right(text, item.references[0]) for item, text in zip(items, written, strict=True)]
            for axis in options.axes:
                chosen = [n for n, pair in enumerate(asked) if pair.axis == axis]
                cells = _cells([(right[2 * n], right[2 * n + 1]) for n in chosen], [asked[n].usual for n in chosen])
                both = "n/a" if axis == "combinations" else cells[2]
                rows.append([str(run), f"{strength:g}", axis, str(len(chosen)), *cells[:2], both])
        print(f"{run}: {len(items)} questions, {time.process_time():.0f} processor seconds", flush=True)
    print("\n".join(markdown_table(["run", "a", "axis", "questions", "usual", "changed", "both"], rows)))


def _cells(right: Sequence[tuple[bool, bool]], items: Sequence[EvaluationItem]) -> list[str]:
    """Percent of the usual scenes, of the others, and of both."""
    values = ([a for a, _ in right], [b for _, b in right], [a and b for a, b in right])
    return [percent_interval(bootstrap(one, [item.source for item in items], 1000, 0)) for one in values]


def pairs(run: Path, axes: Sequence[str], count: int) -> Iterator[Asked]:
    """Scenes of the kinds and lengths of the training split of the run's cache."""
    receipt = receipts.read(run)
    if receipt is None:
        raise SystemExit(f"{run} holds no finished run of a language stage")
    training = [_scene(cut) for cut in chunks.read(run.parent / "cache/chunks").of_split("train") if _is_scene(cut)]
    if not training:
        raise SystemExit(f"{run} was not trained on scenes of the embedded corpus")
    kinds = sorted({event.kind for scene in training for event in scene.events})
    seconds = sorted({scene.seconds for scene in training})
    tokenizer = SoundTokenizer.from_pretrained(run.parent / "tokenizer")
    font = Path(weights.resolve("timgm6mb"))
    for axis in axes:
        trained = [*receipt["conf"]["kinds"], *(["loudness"] if axis == "louder" else [])]
        made = twins(axis, 0, count, seconds, kinds, training)
        asked = [
            (one, *both)
            for one in made
            for both in zip(_of(one.usual_questions, trained), _of(one.other_questions, trained), strict=False)
        ]
        chosen = choose_by_hash(asked, count, lambda one: f"{one[0].usual.number} {one[1].question}")
        codes: dict[int, list[list[int]]] = {}
        for one, usual, other in chosen:
            if one.usual.number not in codes:
                codes[one.usual.number] = _codes(one, tokenizer, font)
            both = [
                _item(f"{axis}-{one.usual.number}-{side}", sound, question)
                for side, sound, question in zip((USUAL, OTHER), codes[one.usual.number], (usual, other), strict=True)
            ]
            yield Asked(axis, *both)


def _of(asked: Sequence[Question], kinds: Sequence[str]) -> list[Question]:
    return [one for one in asked if not kinds or one.kind in kinds]


def _codes(pair: Twins, tokenizer: SoundTokenizer, font: Path) -> list[list[int]]:
    stereo = [torch.from_numpy(mix(scene, tokenizer.sample_rate, font)) for scene in (pair.usual, pair.other)]
    sounds = [sound.mean(0, keepdim=True) if tokenizer.channels == 1 else sound for sound in stereo]
    return [list(codes) for codes in tokenizer.encode(sounds, tokenizer.sample_rate)]


def _item(name: str, codes: list[int], asked: Question) -> EvaluationItem:
    turns: list[Turn] = [("user", [codes, f"\n{asked.question}"])]
    return EvaluationItem(name, name.rpartition("-")[0], asked.kind, "sound", turns, asked.question, [asked.answer])


def _is_scene(cut: Cut) -> bool:
    return "events" in (cut.custom.get("metadata") or {})


def _scene(cut: Cut) -> Scene:
    """As the corpus planned it."""
    metadata = cut.custom["metadata"]
    events = map(Event.of_dict, metadata["events"])
    floor = metadata.get("noise_floor")
    return Scene("train", 0, cut.duration, tuple(events), NoiseFloor(**floor) if floor else None)


if __name__ == "__main__":
    main()
