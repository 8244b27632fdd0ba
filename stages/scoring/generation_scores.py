"""The scores of stage `generation`: written sounds as a distribution, what a probe of codes reads in them, and how much
they differ.

sound      kernel and Frechet audio distance to real test recordings, with the embedder in their names
accuracy   share of the sounds whose kind a probe, trained on real codes, takes for the caption's: recordings with one label;
           accuracy_of_sound: the same, of embedded sound, by a probe trained on what the tokenizer makes of recordings;
           its row `recorded`: test recordings, by a probe trained on recordings: what the embedder tells of them
diversity  mean cosine distance between embedded sounds: of one caption over seeds, of several clips of one kind, of all clips
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.generation import CAPTION, LEARNT, NOTHING, TEST, TOKENIZER, TRAIN, GenerationItem
from models.metrics.codebook_use import code_histogram
from models.metrics.frechet_distance import frechet_distance
from models.metrics.kernel_distance import kernel_distance
from models.metrics.probe import linear_probe_labels
from stages.scoring.intervals import bootstrap, resampled

HALVES = 200  # random halves of the clips, for a standard error
MIN_CLIPS = 10  # a side, for a distance of one kind
RECORDED = "recorded"  # row of accuracy_of_sound


class CaptionedClip(NamedTuple):
    """A recording whose caption the LLM is asked for, or that written sounds are compared with."""

    id: str
    source: str  # clips of one source are resampled together
    kind: str
    label: str | None  # where it has one and no more
    caption: str


class KindProbe(NamedTuple):
    """What the probe learns from: codes of training recordings with one label."""

    codes: list[list[int]]
    labels: list[str]
    codebook_size: int
    levels: Sequence[int]

    def read(self, sounds: Sequence[Sequence[int]]) -> list[str]:
        """Codes of sounds -> the kind that the probe reads in each."""
        train, test = (
            torch.stack([code_histogram(codes, self.codebook_size, self.levels) for codes in part])
            for part in (self.codes, sounds)
        )
        return linear_probe_labels(train, self.labels, test)


class EmbeddedSounds(NamedTuple):
    clips: list[CaptionedClip]
    vectors: Tensor  # (R, N, E): R embedded sounds of each of N clips


def generation_scores(
    chosen: Mapping[str, Sequence[CaptionedClip]],
    rows: Mapping[str, tuple[list[int], Tensor | None]],
    real: Mapping[str, list[int]],
    probe: KindProbe | None,
    seeds: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """chosen: clips `asked`, `test`, `train`; rows: id of an item -> codes, embedding (E); real: codes of the asked
    recordings by id; probe: None where there is nothing to learn from. What would be NaN is None.
    """
    asked = list(chosen["asked"])
    repeats = {CAPTION: seeds, TOKENIZER: seeds}
    clips = {TEST: list(chosen["test"]), TRAIN: list(chosen["train"])}
    clips[LEARNT] = [clip for clip in clips[TRAIN] if clip.label is not None]
    embedded = {
        condition: _sounds(condition, clips.get(condition, asked), repeats.get(condition, 1), rows)
        for condition in (TRAIN, TOKENIZER, CAPTION, NOTHING, TEST)
    }
    sets = {condition: sounds for condition, sounds in embedded.items() if sounds is not None}
    learnt = _sounds(LEARNT, clips[LEARNT], 1, rows)
    readings = _readings(asked, rows, real, probe, seeds) if probe else {}
    return {
        "captions": len(asked),
        "recordings": {"test": len(clips[TEST]), "train": len(clips[TRAIN])},
        "dimensions": sets[TEST].vectors.shape[2] if sets else None,
        "sounds": [_distances(name, sounds, sets[TEST], seed) for name, sounds in sets.items() if name != TEST],
        "accuracy": _accuracy(asked, readings, probe.labels, samples, seed)
        if probe and any(readings.values())
        else None,
        "accuracy_of_sound": _accuracy_of_sound(asked, learnt, sets, samples, seed) if probe and learnt else None,
        "diversity": [_diversity(name, sounds, samples, seed) for name, sounds in sets.items() if name != TRAIN],
        "kinds": [_kind(kind, asked, sets, readings, seed) for kind in sorted({clip.kind for clip in asked})],
    }


def _sounds(
    condition: str, clips: Sequence[CaptionedClip], count: int, rows: Mapping[str, tuple[list[int], Tensor | None]]
) -> EmbeddedSounds | None:
    vectors = [
        [rows[name][1] for clip in clips if (name := GenerationItem(condition, clip.id, number, "").id) in rows]
        for number in range(count)
    ]
    whole = [[vector for vector in one if vector is not None] for one in vectors]
    if not clips or any(len(one) < len(clips) for one in whole):
        return None
    return EmbeddedSounds(list(clips), torch.stack([torch.stack(one) for one in whole]))


def _distances(name: str, sounds: EmbeddedSounds, reference: EmbeddedSounds, seed: int) -> dict[str, Any]:
    """Over all kinds. Several sounds of a clip: the mean over them, so that every number is of as many sounds as there
    are clips.
    """
    clips = [[clip.source for clip in part.clips] for part in (reference, sounds)]
    kernel = kernel_distance(reference.vectors[0], sounds.vectors, clips[0], clips[1], HALVES, seed)
    frechet = [float(frechet_distance(reference.vectors[0], y)) for y in sounds.vectors]
    return {
        "sounds": name, "count": len(sounds.clips), "repeats": len(sounds.vectors),
        "kad": _finite(kernel.value), "kad_error": _finite(kernel.error),
        "fad": _finite(sum(frechet) / len(frechet)),
    }  # fmt: skip


def _readings(
    asked: Sequence[CaptionedClip],
    rows: Mapping[str, tuple[list[int], Tensor | None]],
    real: Mapping[str, list[int]],
    probe: KindProbe,
    seeds: int,
) -> dict[str, list[tuple[CaptionedClip, bool]]]:
    """Condition, or `real` -> for each of its codes the clip, and whether the probe reads its kind."""
    labelled = [clip for clip in asked if clip.label is not None]
    parts: dict[str, list[tuple[CaptionedClip, Sequence[int]]]] = {"real": [(clip, real[clip.id]) for clip in labelled]}
    for condition, count in ((CAPTION, seeds), (NOTHING, 1)):
        names = [
            (clip, GenerationItem(condition, clip.id, number, "").id) for clip in labelled for number in range(count)
        ]
        parts[condition] = [(clip, rows[name][0]) for clip, name in names if name in rows]
    flat = [(condition, *pair) for condition, pairs in parts.items() for pair in pairs]
    readings: dict[str, list[tuple[CaptionedClip, bool]]] = {condition: [] for condition in parts}
    kinds = probe.read([codes for _, _, codes in flat]) if flat else []
    for (condition, clip, _), kind in zip(flat, kinds, strict=True):
        readings[condition].append((clip, kind == clip.label))
    return readings


def _accuracy(
    asked: Sequence[CaptionedClip],
    readings: Mapping[str, list[tuple[CaptionedClip, bool]]],
    labels: Sequence[str],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """labels: what the probe was trained on. Intervals: bootstrap by source clip, all its sounds together."""
    kinds = Counter(labels)
    frequent = min(kinds, key=lambda name: (-kinds[name], name))
    parts = dict(readings) | {
        "frequent": [(clip, clip.label == frequent) for clip in asked if clip.label is not None],
    }
    rows = [
        {"codes": name}
        | asdict(bootstrap([right for _, right in pairs], [clip.source for clip, _ in pairs], samples, seed))
        for name, pairs in parts.items()
        if pairs
    ]
    return {
        "rows": rows, "chance": 1 / len(kinds), "kinds": len(kinds), "frequent": frequent, "learnt": len(labels),
    }  # fmt: skip


def _accuracy_of_sound(
    asked: Sequence[CaptionedClip],
    learnt: EmbeddedSounds,
    sets: Mapping[str, EmbeddedSounds],
    samples: int,
    seed: int,
) -> dict[str, Any] | None:
    """learnt: decoded training recordings of one label. Trained on undecoded ones, a probe would read what the codec and
    the tokenizer do to every sound. None where there are no two labels.
    """
    labels = [str(clip.label) for clip in learnt.clips]
    if len(set(labels)) < 2:
        return None
    readings = {name: _read(learnt, sounds) for name, sounds in sets.items() if name != TRAIN}
    recorded = _labelled(sets[TRAIN]) if TRAIN in sets else None
    if recorded and len({clip.label for clip in recorded.clips}) > 1:
        readings[RECORDED] = _read(recorded, sets[TEST])
    return _accuracy(asked, readings, labels, samples, seed) if any(readings.values()) else None


def _read(learnt: EmbeddedSounds, sounds: EmbeddedSounds) -> list[tuple[CaptionedClip, bool]]:
    """Each sound of a clip with a label, and whether a probe that is trained on `learnt`, all with labels, reads it."""
    sounds = _labelled(sounds)
    if not sounds.clips:
        return []
    labels, clips = [str(clip.label) for clip in learnt.clips], sounds.clips * len(sounds.vectors)
    kinds = linear_probe_labels(learnt.vectors[0], labels, sounds.vectors.flatten(0, 1))
    return [(clip, kind == clip.label) for clip, kind in zip(clips, kinds, strict=True)]


def _labelled(sounds: EmbeddedSounds) -> EmbeddedSounds:
    return _chosen(sounds, [index for index, clip in enumerate(sounds.clips) if clip.label is not None])


def _diversity(name: str, sounds: EmbeddedSounds, samples: int, seed: int) -> dict[str, Any]:
    """Mean cosine distance, by clip: of its own sounds, to other clips' of its kind, to all other clips'; the last two
    within one seed.
    """
    unit = F.normalize(sounds.vectors.double(), dim=2)  # (R, N, E)
    sources = [clip.source for clip in sounds.clips]
    other = torch.tensor([[one != two for two in sources] for one in sources])
    alike = torch.tensor([[one.kind == two.kind for two in sounds.clips] for one in sounds.clips])
    apart = (1 - unit @ unit.transpose(1, 2)).mean(0)  # (N, N)
    pairs = list(combinations(unit, 2))
    over_seeds = sum((1 - (one * two).sum(1) for one, two in pairs), torch.zeros(len(sources))) / max(1, len(pairs))

    def mean(values: Tensor, clips: Tensor) -> dict[str, float] | None:
        if not clips.any():
            return None
        chosen = [source for source, one in zip(sources, clips.tolist(), strict=True) if one]
        return asdict(resampled(values[clips].tolist(), chosen, samples, seed))

    def beside(mask: Tensor) -> dict[str, float] | None:
        return mean((apart * mask).sum(1) / mask.sum(1).clamp(min=1), mask.any(1))

    return {
        "sounds": name,
        "seeds": mean(over_seeds, torch.ones(len(sources), dtype=torch.bool)) if pairs else None,
        "kind": beside(other & alike) if name != NOTHING else None,  # a sound without a caption has no kind
        "all": beside(other),
    }


def _kind(
    kind: str,
    asked: Sequence[CaptionedClip],
    sets: Mapping[str, EmbeddedSounds],
    readings: Mapping[str, list[tuple[CaptionedClip, bool]]],
    seed: int,
) -> dict[str, Any]:
    sounds = {name: _of_kind(every, kind) for name, every in sets.items()}
    reference = sounds.get(TEST)
    measurable = [
        name
        for name, some in sounds.items()
        if name != TEST and reference and min(len(some.clips), len(reference.clips)) >= MIN_CLIPS
    ]
    right = {name: [one for clip, one in pairs if clip.kind == kind] for name, pairs in readings.items()}
    return {
        "kind": kind,
        "captions": sum(clip.kind == kind for clip in asked),
        "recordings": len(reference.clips) if reference else None,
        "accuracy": {name: sum(ones) / len(ones) for name, ones in right.items() if ones},
        "kad": {name: _distances(name, sounds[name], reference, seed)["kad"] for name in measurable if reference},
        "seeds": _over_seeds(sounds.get(CAPTION)),
    }


def _of_kind(sounds: EmbeddedSounds, kind: str) -> EmbeddedSounds:
    return _chosen(sounds, [index for index, clip in enumerate(sounds.clips) if clip.kind == kind])


def _chosen(sounds: EmbeddedSounds, indices: Sequence[int]) -> EmbeddedSounds:
    return EmbeddedSounds([sounds.clips[index] for index in indices], sounds.vectors[:, indices])


def _over_seeds(sounds: EmbeddedSounds | None) -> float | None:
    if sounds is None or len(sounds.vectors) < 2 or not sounds.clips:
        return None
    interval = _diversity(CAPTION, sounds, 1, 0)["seeds"]
    return interval["value"] if interval else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
