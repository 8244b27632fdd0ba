"""Does the sound decide? A scene of the embedded corpus and the same scene with one sound exchanged, asked the same questions.

    python -m tests.benchmarks.minimal_pairs --runs runs/demo/openaqa [--scenes 100] [--strengths 0 1]

Of each scene an effect is exchanged for another one, of the same onset, length, level and place, and everything else is
the same sample for sample. "Is there A?" and "is there B?" are then asked of both. `question`: a question is right if it is
answered rightly of both scenes; who does not listen, or says the same of both, is right in none. `pair`: both questions are.
Percent, 95 % intervals by scene.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from datamodules.cuts import Cut
from datamodules.diagnostic.effects import KINDS
from datamodules.diagnostic.scene import Event, NoiseFloor, Scene, mix
from datamodules.evaluation_items import EvaluationItem
from datamodules.hashing import choose_by_hash, hash_number
from datamodules.language.absent_sounds import labels_of, presence_questions
from datamodules.language.conversations import Turn
from datamodules.store import chunks
from stages.hub import language_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.reports.formatting import markdown_table, percent_interval
from stages.scoring.exact_match import is_right
from stages.scoring.intervals import bootstrap
from tests.benchmarks.presence import answers, autocast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 1.0], help="of audio-aware decoding")
    parser.add_argument("--scenes", type=int, default=100, help="at most")
    options = parser.parse_args()
    rows = []
    for run in options.runs:
        items = list(pairs(run, options.scenes))
        model, _ = language_model.load(run / "artifact")
        for strength in options.strengths:
            with autocast(model, run):
                written = list(answers(model, items, strength, 8))
            right = [is_right(text, item.references[0]) for item, text in zip(items, written, strict=True)]
            questions = [all(right[n : n + 2]) for n in range(0, len(right), 2)]
            both = [all(right[n : n + 4]) for n in range(0, len(right), 4)]
            scores = [(right, items), (questions, items[::2]), (both, items[::4])]
            cells = [bootstrap(values, [item.source for item in part], 1000, 0) for values, part in scores]
            rows.append([str(run), f"{strength:g}", *map(percent_interval, cells)])
    print(f"{len(items) // 4} pairs of scenes")
    print("\n".join(markdown_table(["run", "a", "answers", "question", "pair"], rows)))


def pairs(run: Path, count: int) -> Iterator[EvaluationItem]:
    """Of each scene four items: A of the scene and of the other one, then B of both."""
    cuts = chunks.read(run.parent / "cache/chunks")
    wordings = presence_questions(cuts.of_split("train"))
    tokenizer = SoundTokenizer.from_pretrained(run.parent / "tokenizer")
    font = Path(weights.resolve("timgm6mb"))
    scenes = (cut for cut in cuts.of_split("test") if set(labels_of(cut)) & set(KINDS) & set(wordings))
    for cut in choose_by_hash(scenes, count, lambda cut: cut.id):
        own = sorted(set(labels_of(cut)) & set(KINDS) & set(wordings))
        absent = sorted(set(KINDS) & set(wordings) - set(labels_of(cut)))
        a, b = own[hash_number(cut.id) % len(own)], absent[hash_number(f"{cut.id}~") % len(absent)]
        stereo = [
            torch.from_numpy(mix(scene, tokenizer.sample_rate, font)) for scene in (_scene(cut), _scene(cut, a, b))
        ]
        sounds = [sound.mean(0, keepdim=True) if tokenizer.channels == 1 else sound for sound in stereo]
        codes = tokenizer.encode(sounds, tokenizer.sample_rate)
        for label, expected in ((a, ("yes", "no")), (b, ("no", "yes"))):
            question = wordings[label][hash_number(cut.id) % len(wordings[label])]
            for sound, answer in zip(codes, expected, strict=True):
                turns: list[Turn] = [("user", [list(sound), f"\n{question}"])]
                yield EvaluationItem(cut.id, cut.custom["source"], "presence", "sound", turns, question, [answer])


def _scene(cut: Cut, exchanged: str | None = None, by: str = "") -> Scene:
    """As the corpus planned it, or with one kind exchanged."""
    metadata = cut.custom["metadata"]
    events = [Event(**{name: event[name] for name in Event._fields}) for event in metadata["events"]]
    events = [event._replace(kind=by) if event.kind == exchanged else event for event in events]
    floor = metadata.get("noise_floor")
    return Scene("test", 0, cut.duration, tuple(events), NoiseFloor(**floor) if floor else None)


if __name__ == "__main__":
    main()
