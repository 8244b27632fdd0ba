"""Does an answer that says when, say it right? Event and segment F1 of sound event detection, and IoU of moment retrieval.

An answer holds spans, `<|0.50|> to <|1.40|>`, or says that there is none. F1 as sed_eval (Mesaros et al. 2016, Metrics for
Polyphonic Sound Event Detection), over all questions, each a file of one event class; intersection over union, and the share
of questions where it reaches a threshold, as Gao et al. 2017, arXiv:1705.02101. Times are compared in hundredths of a second,
as they are written: no rounding decides what is within a collar.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from models.language.vocabulary import TIME
from stages.scoring.exact_match import is_right
from stages.scoring.intervals import bootstrap, percentile_interval, resample_counts, resampled

COLLAR = 20  # hundredths of a second: how far a beginning may be off, and an end
OFFSET_SHARE = 0.5  # of the event's length, by which an end may be off where that is more than the collar
SEGMENT = 100  # hundredths of a second
THRESHOLDS = (0.3, 0.5, 0.7)  # of intersection over union


class Span(NamedTuple):
    """Hundredths of a second; start < end."""

    start: int
    end: int


class Counts(NamedTuple):
    """Of events or of segments."""

    right: int
    wrong: int  # said, and not there
    missed: int


def spans(text: str) -> list[Span]:
    """Of a text, its times two by two; none where they are not pairs of a beginning and a later end."""
    times = [round(100 * float(time)) for time in TIME.findall(text)]
    pairs = [Span(*pair) for pair in zip(times[::2], times[1::2], strict=False)]
    return pairs if len(times) % 2 == 0 and all(pair.start < pair.end for pair in pairs) else []


def localisation(rows: Sequence[Mapping[str, Any]], samples: int, seed: int) -> dict[str, dict[str, Any]] | None:
    """rows: {kind, prediction, references, source} of one condition. Those of kinds of question of which a reference has a
    span count: where theirs has none, what is asked for is absent. None where there are none.

    event_f1, segment_f1: over all of these; mean_iou, recall_iou_...: over what is present; located: share of what is present
    of which the answer has a span; denied: share of what is absent of which the answer says so.
    """
    timed = {row["kind"] for row in rows if spans(row["references"][0])}
    rows = [row for row in rows if row["kind"] in timed]
    if not rows:
        return None
    answers = [spans(row["prediction"] or "") for row in rows]
    references = [spans(row["references"][0]) for row in rows]
    sources, pairs = [row["source"] for row in rows], list(zip(answers, references, strict=True))
    overlaps = [iou(*pair) for pair in pairs]

    def share(values: Sequence[bool], is_present: bool = True) -> dict[str, Any]:
        chosen = [number for number, spans in enumerate(references) if bool(spans) == is_present]
        return asdict(bootstrap([values[n] for n in chosen], [sources[n] for n in chosen], samples, seed))

    present = [number for number, spans in enumerate(references) if spans]
    mean = resampled([overlaps[n] for n in present], [sources[n] for n in present], samples, seed)
    return {
        "event_f1": _f1([events(*pair) for pair in pairs], sources, samples, seed),
        "segment_f1": _f1([segments(*pair) for pair in pairs], sources, samples, seed),
        "mean_iou": asdict(mean),
        **{f"recall_iou_{least:g}": share([value >= least for value in overlaps]) for least in THRESHOLDS},
        "located": share([bool(answer) for answer in answers]),
        "denied": share([is_right(row["prediction"] or "", row["references"][0]) for row in rows], is_present=False),
    }


def events(answer: Sequence[Span], reference: Sequence[Span]) -> Counts:
    """As many pairs as can be made of spans whose beginnings, and whose ends, are near enough."""
    near = [[number for number, span in enumerate(answer) if _is_near(span, event)] for event in reference]
    matched: dict[int, int] = {}  # answer -> reference

    def match(number: int, tried: set[int]) -> bool:
        """Whether this reference gets an answer, another one's if that one can take another (Kuhn 1955)."""
        for candidate in near[number]:
            if candidate not in tried:
                tried.add(candidate)
                if candidate not in matched or match(matched[candidate], tried):
                    matched[candidate] = number
                    return True
        return False

    right = sum(match(number, set()) for number in range(len(reference)))
    return Counts(right, len(answer) - right, len(reference) - right)


def segments(answer: Sequence[Span], reference: Sequence[Span]) -> Counts:
    """Whole seconds in which something of a span is."""
    said, true = (
        {second for span in spans for second in range(span.start // SEGMENT, -(-span.end // SEGMENT))}
        for spans in (answer, reference)
    )
    return Counts(len(said & true), len(said - true), len(true - said))


def iou(answer: Sequence[Span], reference: Sequence[Span]) -> float:
    """Of the times that either covers, the share that both cover."""
    said, true = ({time for span in spans for time in range(*span)} for spans in (answer, reference))
    return len(said & true) / len(said | true) if said | true else 0.0


def _is_near(answer: Span, reference: Span) -> bool:
    at_end = max(COLLAR, OFFSET_SHARE * (reference.end - reference.start))
    return abs(answer.start - reference.start) <= COLLAR and abs(answer.end - reference.end) <= at_end


def _f1(counts: Sequence[Counts], sources: Sequence[str], samples: int, seed: int) -> dict[str, Any]:
    """2 right / (2 right + wrong + missed), of the sums; 0 where there is nothing."""
    table = torch.tensor(counts, dtype=torch.float64)
    sums = torch.cat([table.sum(0)[None], resample_counts(sources, samples, seed) @ table])
    f1 = 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2]).clamp(min=1)
    return asdict(percentile_interval(float(f1[0]), f1[1:], len(counts)))
