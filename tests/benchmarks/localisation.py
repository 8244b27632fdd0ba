"""From when to when is it heard? What an LLM says in times, beside a linear probe of the codes and a guess from the text.

    python -m tests.benchmarks.localisation --tokens runs/demo [--change plain both] [--steps 200] [--seeds 1] [--scenes 800]

In the current folder (data/, runs/): prepares the embedded corpus with the extra `grounding`, scenes of --seconds in turn
(data/when), and its codes by the tokenizer of --tokens (runs/when/cache). With each change of the loss and each seed it
trains the stage `openaqa` on from that run's `openaqa`, with times (runs/when-CHANGE-SEED); what is done is not done again.
Then each is asked from when to when, greedily, with the sound and without, on test scenes of each length. Percent, 95 %
intervals by scene.

probe   a logistic regression for each kind, of the code of a frame and of its two neighbours; the longest run of frames that
        are more probably of the kind than not, but for gaps of one
guess   the training answer to the same words, in scenes of that length, that overlaps most with the others
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from datamodules.cuts import Cut
from datamodules.diagnostic.scene import KINDS
from datamodules.evaluation_items import EvaluationItem, question_items, question_texts
from datamodules.store import chunks
from stages.hub import language_model
from stages.reports.formatting import markdown_table, percent_interval
from stages.runs import receipts
from stages.scoring.localisation import localisation
from stages.scoring.span_guess import SpanGuess
from tests.benchmarks.chain import run, stage
from tests.benchmarks.presence import answers, autocast

CHANGES = {
    "plain": (),
    "weight 4": ("--loss.time_weight=4",),
    "width 0.2": ("--loss.time_width=0.2",),
    "both": ("--loss.time_weight=4", "--loss.time_width=0.2"),
    "stamps": ("--timestamps.every=1",),
    "all": ("--loss.time_weight=4", "--loss.time_width=0.2", "--timestamps.every=1"),
}
KIND, ABSENT = "grounding", "not heard"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=Path, required=True, metavar="FOLDER", help="experiment: tokenizer, openaqa")
    parser.add_argument("--change", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=800, help="of training; a quarter as many of test")
    parser.add_argument("--seconds", type=float, nargs="+", default=[5.0, 10.0])
    parser.add_argument("--questions", type=int, default=200, help="of each length, at most")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], help="for what is trained, as trainer.precision=32-true")
    options = parser.parse_args()
    cuts = chunks.read(_prepare(options))
    facts = (receipts.read(options.tokens / "tokenizer") or {})["facts"]
    train = list(cuts.of_split("train"))
    items, kinds = {}, [kind for kind in KINDS if any(kind in cut.custom["labels"] for cut in train)]
    for seconds in options.seconds:
        chosen = [cut for cut in cuts.of_split("test") if cut.duration == seconds]
        items[seconds] = question_items(chosen, options.questions, [KIND])
    rows: list[list[str]] = []
    probe = Probe(train, kinds, facts)
    for seconds, asked in items.items():
        heard = [item for item in asked if item.condition == "sound"]
        guess = SpanGuess(question_texts(cut for cut in train if cut.duration == seconds))
        rows.append(_row("guess", seconds, heard, [guess(item.kind, item.question) for item in heard]))
        rows.append(_row("probe", seconds, heard, [probe.answer(item) for item in heard]))
    print(f"probe and guess: {time.process_time():.0f} processor seconds", flush=True)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for change in options.change:
            folder = _train(options, change, seed)
            model, _ = language_model.load(folder / "artifact")
            for seconds, asked in items.items():
                same = {str(item.turns): item for item in asked}  # without the sound many questions are one
                with autocast(model, folder):
                    written = dict(zip(same, answers(model, list(same.values()), 0.0, 12), strict=True))
                for condition, name in (("sound", ""), ("text", ", without the sound")):
                    part = [item for item in asked if item.condition == condition]
                    said = [written[str(item.turns)] for item in part]
                    rows.append(_row(f"{change}, seed {seed}{name}", seconds, part, said))
                    print(" | ".join(rows[-1]), flush=True)
    print(f"{options.steps} steps; {time.process_time():.0f} processor seconds of asking, probe and guess")
    print("\n".join(markdown_table(["", "scenes, s", "questions", *SHOWN.values()], rows)))


SHOWN = {
    "event_f1": "event F1",
    "segment_f1": "segment F1",
    "mean_iou": "mean IoU",
    "recall_iou_0.3": "IoU at least 0.3",
    "recall_iou_0.5": "0.5",
    "recall_iou_0.7": "0.7",
    "located": "located",
    "denied": "denied",
}


def _row(name: str, seconds: float, items: Sequence[EvaluationItem], written: Sequence[str]) -> list[str]:
    asked = [item._asdict() | {"prediction": text} for item, text in zip(items, written, strict=True)]
    scores = localisation(asked, 1000, 0)
    if scores is None:
        raise SystemExit("no test scene has a sound: ask for more --questions")
    return [name, f"{seconds:g}", str(len(items)), *(percent_interval(scores[key]) for key in SHOWN)]


class Probe:
    """Which kinds sound in a frame, read from codes."""

    def __init__(self, train: Sequence[Cut], kinds: Sequence[str], facts: Mapping[str, Any]) -> None:
        """facts: of the tokenizer; with one code a token."""
        self.rate, self.size = facts["token_rate"], facts["codebook_size"]
        features = _join([self.features(cut.custom["codes"]) for cut in train])
        self.classifiers = {}
        for kind in kinds:
            active = np.concatenate([_active(cut, kind, self.rate) for cut in train])
            if 0 < active.sum() < len(active):
                self.classifiers[kind] = LogisticRegression(max_iter=2000).fit(features, active)

    def features(self, codes: Sequence[int]) -> csr_array:
        """(N, 3 K): the code of each token and of the one before and after it, one-hot; none beyond the ends."""
        count = len(codes)
        places = [(n, n + offset, shift) for shift, offset in enumerate((0, -1, 1)) for n in range(count)]
        inside = [(n, shift * self.size + codes[m]) for n, m, shift in places if 0 <= m < count]
        rows, columns = zip(*inside, strict=True)
        return csr_array((np.ones(len(rows)), (rows, columns)), shape=(count, 3 * self.size))

    def answer(self, item: EvaluationItem) -> str:
        (_, (codes, _)) = item.turns[0]
        kind = max((kind for kind in self.classifiers if f"the {kind}" in item.question), key=len, default=None)
        if kind is None:
            return ABSENT
        active = self.classifiers[kind].predict_proba(self.features(codes))[:, 1] >= 0.5
        longest = max(_runs(active), key=lambda run: run[1] - run[0], default=None)
        if longest is None:
            return ABSENT
        start, end = (place / self.rate for place in longest)
        return f"<|{start:.2f}|> to <|{end:.2f}|>"


def _join(parts: Sequence[csr_array]) -> csr_array:
    from scipy.sparse import vstack

    return vstack(parts, format="csr")


def _active(cut: Cut, kind: str, rate: float) -> np.ndarray:
    """(N,) of the tokens of a cut: whether the kind sounds at the middle of each."""
    middles = (np.arange(len(cut.custom["codes"])) + 0.5) / rate
    spans = [
        (one["onset"], one["onset"] + one["seconds"]) for one in cut.custom["metadata"]["events"] if one["kind"] == kind
    ]
    return np.array([any(start <= middle < end for start, end in spans) for middle in middles])


def _runs(active: np.ndarray) -> Iterator[tuple[int, int]]:
    """[start, end) of frames that are active, or between two that are."""
    closed = active | (np.append(active[1:], False) & np.append(False, active[:-1]))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(int)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _prepare(options: argparse.Namespace) -> Path:
    """The cache of the corpus, made if there is none."""
    root, folder = Path("data/when"), Path("runs/when/cache")
    if not (folder / receipts.FILE).is_file():
        lengths = ",".join(f"{seconds:g}" for seconds in options.seconds)
        stage(
            "prepare", "diagnostic", "--preset", options.preset, f"--data.root={root}", f"--extras=[{KIND}]", f"--scene_seconds=[{lengths}]",
            f"--train_scenes={options.scenes}", f"--test_scenes={options.scenes // 4}",
        )  # fmt: skip
    run("cache", "when", *_shared(options))
    return folder / "chunks"


def _shared(options: argparse.Namespace) -> tuple[str, ...]:
    return (
        "--preset",
        options.preset,
        "--data.root=data/when",
        "--threads=1",
        f"--parents.tokenizer={options.tokens / 'tokenizer'}",
    )


def _train(options: argparse.Namespace, change: str, seed: int) -> Path:
    name = f"when-{change.replace(' ', '-')}-{seed}"
    run(
        "openaqa", name, *_shared(options), "--parents.cache=when", f"--init_from={options.tokens / 'openaqa'}", f"--seed={seed}",
        f"--kinds=[{KIND}]", "--mixture.text=0", f"--timestamps.max_seconds={max(options.seconds):g}", f"--trainer.max_steps={options.steps}",
        f"--trainer.val_check_interval={options.steps}", *CHANGES[change], *(f"--{word}" for word in options.set),
    )  # fmt: skip
    return Path("runs") / name / "openaqa"


if __name__ == "__main__":
    main()
