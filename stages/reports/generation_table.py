"""The table of stage `generation`: written sounds as a distribution, what a probe of codes finds in them, and how much they differ.

sound      kernel and Frechet audio distance to real test recordings, with the embedder in their names
accuracy   share of the sounds whose kind a probe, trained on real codes, takes for the caption's: recordings with one label
diversity  mean cosine distance between embedded sounds: of one caption over seeds, of several clips of one kind, of all clips
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.generation import CAPTION, NOTHING, TEST, TOKENIZER, TRAIN, GenerationItem
from models.metrics.codebook import code_histogram
from models.metrics.frechet_distance import frechet_distance
from models.metrics.kernel_distance import kernel_distance
from models.metrics.probe import linear_probe_labels
from stages.scoring.answers import Interval, bootstrap, resampled

HALVES = 200  # random halves of the clips, for a standard error
LEAST = 10  # clips a side, for a distance of one kind
ABSENT = "\N{EN DASH}"  # there is no such number
NAMES = {
    TRAIN: "real recordings of the training split",
    TOKENIZER: "the test recordings through the tokenizer",
    CAPTION: "the LLM, with the caption",
    NOTHING: "the LLM, without a caption",
    TEST: "real recordings of the test split",
    "real": "the real codes",
    "frequent": "always the most frequent kind",
    "chance": "chance",
}


class Clip(NamedTuple):
    id: str
    source: str
    kind: str
    label: str | None  # where it has one and no more
    caption: str


class Judge(NamedTuple):
    """What the probe learns from: codes of training recordings with one label."""

    codes: list[list[int]]
    labels: list[str]
    codebook_size: int
    levels: Sequence[int]

    def named(self, sounds: Sequence[Sequence[int]]) -> list[str]:
        learnt, asked = (
            torch.stack([code_histogram(codes, self.codebook_size, self.levels) for codes in part])
            for part in (self.codes, sounds)
        )
        return linear_probe_labels(learnt, self.labels, asked)


class Sounds(NamedTuple):
    clips: list[Clip]
    vectors: Tensor  # (R, N, E): R embedded sounds of each of N clips


def tables(
    chosen: Mapping[str, Sequence[Clip]],
    rows: Mapping[str, tuple[list[int], Tensor | None]],
    real: Mapping[str, list[int]],
    judge: Judge | None,
    seeds: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """chosen: clips `asked`, `test`, `train`; rows: id of an item -> codes, embedding (E); real: codes of the asked recordings by id;
    judge: None where there is nothing to learn from. NaN is None: there is no such number.
    """
    asked = list(chosen["asked"])
    repeats = {CAPTION: seeds, TOKENIZER: seeds}
    clips = {TEST: list(chosen["test"]), TRAIN: list(chosen["train"])}
    heard = {
        condition: _sounds(condition, clips.get(condition, asked), repeats.get(condition, 1), rows)
        for condition in (TRAIN, TOKENIZER, CAPTION, NOTHING, TEST)
    }
    sets = {condition: found for condition, found in heard.items() if found is not None}
    answers = _answers(asked, rows, real, judge, seeds) if judge else {}
    return {
        "captions": len(asked),
        "recordings": {"test": len(clips[TEST]), "train": len(clips[TRAIN])},
        "dimensions": sets[TEST].vectors.shape[2] if sets else None,
        "sounds": [_distances(name, found, sets[TEST], seed) for name, found in sets.items() if name != TEST],
        "accuracy": _accuracy(asked, answers, judge, samples, seed) if judge and any(answers.values()) else None,
        "diversity": [_diversity(name, found, samples, seed) for name, found in sets.items() if name != TRAIN],
        "kinds": [_kind(kind, asked, sets, answers, seed) for kind in sorted({clip.kind for clip in asked})],
    }


def _sounds(
    condition: str, clips: Sequence[Clip], count: int, rows: Mapping[str, tuple[list[int], Tensor | None]]
) -> Sounds | None:
    vectors = [
        [rows[name][1] for clip in clips if (name := GenerationItem(condition, clip.id, number, "").id) in rows]
        for number in range(count)
    ]
    whole = [[vector for vector in one if vector is not None] for one in vectors]
    if not clips or any(len(one) < len(clips) for one in whole):
        return None
    return Sounds(list(clips), torch.stack([torch.stack(one) for one in whole]))


def _distances(name: str, found: Sounds, reference: Sounds, seed: int) -> dict[str, Any]:
    """Over all kinds. Several sounds of a clip: the mean over them, so that every number is of as many sounds as there are clips."""
    kernel = kernel_distance(
        reference.vectors[0], found.vectors, *([clip.source for clip in part.clips] for part in (reference, found)),
        HALVES, seed,
    )  # fmt: skip
    frechet = [float(frechet_distance(reference.vectors[0], y)) for y in found.vectors]
    return {
        "sounds": name, "count": len(found.clips), "repeats": len(found.vectors),
        "kad": _finite(kernel.value), "kad_error": _finite(kernel.error),
        "fad": _finite(sum(frechet) / len(frechet)),
    }  # fmt: skip


def _answers(
    asked: Sequence[Clip],
    rows: Mapping[str, tuple[list[int], Tensor | None]],
    real: Mapping[str, list[int]],
    judge: Judge,
    seeds: int,
) -> dict[str, list[tuple[Clip, bool]]]:
    """Whose codes -> for each of them the clip, and whether the probe finds its kind."""
    lone = [clip for clip in asked if clip.label is not None]
    parts: dict[str, list[tuple[Clip, Sequence[int]]]] = {"real": [(clip, real[clip.id]) for clip in lone]}
    for condition, count in ((CAPTION, seeds), (NOTHING, 1)):
        names = [(clip, GenerationItem(condition, clip.id, number, "").id) for clip in lone for number in range(count)]
        parts[condition] = [(clip, rows[name][0]) for clip, name in names if name in rows]
    flat = [(condition, *pair) for condition, pairs in parts.items() for pair in pairs]
    found: dict[str, list[tuple[Clip, bool]]] = {condition: [] for condition in parts}
    said = judge.named([codes for _, _, codes in flat]) if flat else []
    for (condition, clip, _), label in zip(flat, said, strict=True):
        found[condition].append((clip, label == clip.label))
    return found


def _accuracy(
    asked: Sequence[Clip], answers: Mapping[str, list[tuple[Clip, bool]]], judge: Judge, samples: int, seed: int
) -> dict[str, Any]:
    """Intervals: bootstrap by source clip, all its sounds together."""
    kinds = Counter(judge.labels)
    frequent = min(kinds, key=lambda name: (-kinds[name], name))
    parts = dict(answers) | {
        "frequent": [(clip, clip.label == frequent) for clip in asked if clip.label is not None],
    }
    rows = [
        {"codes": name}
        | bootstrap([right for _, right in pairs], [clip.source for clip, _ in pairs], samples, seed)._asdict()
        for name, pairs in parts.items()
        if pairs
    ]
    return {
        "rows": rows, "chance": 1 / len(kinds), "kinds": len(kinds), "frequent": frequent, "learnt": len(judge.labels),
    }  # fmt: skip


def _diversity(name: str, found: Sounds, samples: int, seed: int) -> dict[str, Any]:
    """Mean cosine distance, by clip: of its own sounds, to other clips' of its kind, to all other clips'; the last two within one seed."""
    unit = F.normalize(found.vectors.double(), dim=2)  # (R, N, E)
    sources = [clip.source for clip in found.clips]
    other = torch.tensor([[one != two for two in sources] for one in sources])
    alike = torch.tensor([[one.kind == two.kind for two in found.clips] for one in found.clips])
    apart = (1 - unit @ unit.transpose(1, 2)).mean(0)  # (N, N)
    pairs = list(combinations(unit, 2))
    own = sum((1 - (one * two).sum(1) for one, two in pairs), torch.zeros(len(sources))) / max(1, len(pairs))

    def mean(values: Tensor, clips: Tensor) -> dict[str, float] | None:
        if not clips.any():
            return None
        held = [source for source, there in zip(sources, clips.tolist(), strict=True) if there]
        return resampled(values[clips].tolist(), held, samples, seed)._asdict()

    def beside(mask: Tensor) -> dict[str, float] | None:
        return mean((apart * mask).sum(1) / mask.sum(1).clamp(min=1), mask.any(1))

    return {
        "sounds": name,
        "seeds": mean(own, torch.ones(len(sources), dtype=torch.bool)) if pairs else None,
        "kind": beside(other & alike) if name != NOTHING else None,  # what is told nothing has no kind
        "all": beside(other),
    }


def _kind(
    kind: str,
    asked: Sequence[Clip],
    sets: Mapping[str, Sounds],
    answers: Mapping[str, list[tuple[Clip, bool]]],
    seed: int,
) -> dict[str, Any]:
    mine = {name: _of_kind(found, kind) for name, found in sets.items()}
    reference = mine.get(TEST)
    enough = [
        name
        for name, found in mine.items()
        if name != TEST and reference and min(len(found.clips), len(reference.clips)) >= LEAST
    ]
    right = {name: [one for clip, one in pairs if clip.kind == kind] for name, pairs in answers.items()}
    return {
        "kind": kind,
        "captions": sum(clip.kind == kind for clip in asked),
        "recordings": len(reference.clips) if reference else None,
        "accuracy": {name: sum(ones) / len(ones) for name, ones in right.items() if ones},
        "kad": {name: _distances(name, mine[name], reference, seed)["kad"] for name in enough if reference},
        "seeds": _over_seeds(mine.get(CAPTION)),
    }


def _of_kind(found: Sounds, kind: str) -> Sounds:
    places = [place for place, clip in enumerate(found.clips) if clip.kind == kind]
    return Sounds([found.clips[place] for place in places], found.vectors[:, places])


def _over_seeds(found: Sounds | None) -> float | None:
    if found is None or len(found.vectors) < 2 or not found.clips:
        return None
    interval = _diversity(CAPTION, found, 1, 0)["seeds"]
    return interval["value"] if interval else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write(folder: Path, found: dict[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps(found, indent=1))
    (folder / "report.md").write_text(markdown(found))


def markdown(found: dict[str, Any]) -> str:
    return "\n".join([f"# {found['experiment']}: sound from captions", "", *lines(found)])


def lines(found: dict[str, Any]) -> list[str]:
    """Of Markdown, without a heading."""
    written = [" ".join(about(found)), ""]
    if found["sounds"]:
        kad, fad = (f"{name}[{found['embedder']}]" for name in ("KAD", "FAD"))
        written += [f"| sounds | clips | of each | {kad} x 100 | {fad} |", "|---|---|---|---|---|"]
        for row in found["sounds"]:
            distance = f"{number(row['kad'])} ± {number(row['kad_error'])}"
            written.append(
                f"| {NAMES[row['sounds']]} | {row['count']} | {row['repeats']} | {distance} | {number(row['fad'])} |"
            )
        written.append("")
    if found["accuracy"]:
        written += ["| codes | n | kind found, % |", "|---|---|---|"]
        for row in found["accuracy"]["rows"]:
            written.append(f"| {NAMES[row['codes']]} | {row['count']} | {percent(row)} |")
        written += [f"| {NAMES['chance']} | | {100 * found['accuracy']['chance']:.1f} |", ""]
    if found["diversity"]:
        written += ["| cosine distance | of one clip, over seeds | of one kind | of all |", "|---|---|---|---|"]
        for row in found["diversity"]:
            values = [number(row[key]["value"] if row[key] else None, 4) for key in ("seeds", "kind", "all")]
            written.append(f"| {NAMES[row['sounds']]} | " + " | ".join(values) + " |")
        written.append("")
    columns = kind_columns(found)
    written += ["| kind | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    written += [
        f"| {row['kind']} | " + " | ".join(read(row) for read in columns.values()) + " |" for row in found["kinds"]
    ]
    missing = found["expected"] - found["scored"]
    return [*written, "", f"{found['expected']} sounds expected, {found['scored']} scored, {missing} failed.", ""]


def about(found: dict[str, Any]) -> list[str]:
    """What was done, and how far the numbers may be believed: sentences."""
    settings = found["settings"]
    said = [
        f"{found['llm']} writes codes for {found['captions']} captions of the test split of {', '.join(found['corpora'])}, {settings['seeds']} of each, at "
        f"temperature {settings['temperature']:g}, top_p {settings['top_p']:g}, guidance {settings['guidance']:g}; at most {found['codes_max']} codes "
        "a sound, real ones too."
    ]
    if found["sounds"]:
        said.append(
            f"Distances to {found['recordings']['test']} real test recordings. KAD: kernel audio distance, 0 for equal distributions, with the standard "
            f"error over random halves of the clips. FAD: Frechet audio distance, for more than {found['dimensions']} clips a side; it falls with their "
            "number. Both belong to their embedder. Several sounds of a clip: the mean over seeds."
        )
    if found["accuracy"]:
        one = found["accuracy"]
        said.append(
            f"Kind found: by a logistic regression on log(1 + count) of the codes of {one['learnt']} training recordings with one label ({one['kinds']} "
            "kinds), asked of test recordings with one label; 95 % interval by clip."
        )
    if found["diversity"]:
        said.append(
            "Diversity: mean cosine distance of embedded sounds. Over seeds, the tokenizer's is what its decoder's noise alone does to the same codes."
        )
    said.append(f"By kind, a distance needs {LEAST} clips a side.")
    return said


def kind_columns(found: dict[str, Any]) -> dict[str, Any]:
    """Heading -> what a row of `kinds` has under it; columns that are empty throughout are left out."""

    def part(key: str, name: str, factor: float, digits: int) -> Any:
        return lambda row: number(factor * row[key][name] if row[key].get(name) is not None else None, digits)

    columns: dict[str, Any] = {
        "captions": lambda row: str(row["captions"]),
        "kind found, %": part("accuracy", CAPTION, 100, 1),
        "without a caption": part("accuracy", NOTHING, 100, 1),
        "real codes": part("accuracy", "real", 100, 1),
        "recordings": lambda row: number(row["recordings"], 0),
        "KAD, the LLM": part("kad", CAPTION, 1, 1),
        "without a caption's": part("kad", NOTHING, 1, 1),
        "the tokenizer's": part("kad", TOKENIZER, 1, 1),
        "training recordings'": part("kad", TRAIN, 1, 1),
        "over seeds": lambda row: number(row["seeds"], 4),
    }
    return {name: read for name, read in columns.items() if any(read(row) != ABSENT for row in found["kinds"])}


def number(value: float | None, digits: int = 2) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def percent(row: dict[str, Any]) -> str:
    interval = Interval(*(row[key] for key in Interval._fields))
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
