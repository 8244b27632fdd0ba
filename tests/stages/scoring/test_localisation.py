"""Answers that say when: worked out by hand, and as sed_eval counts."""

import random

import pytest

from stages.scoring.localisation import Counts, Span, events, iou, localisation, segments, spans
from stages.scoring.span_guess import SpanGuess


def span(start: float, end: float) -> Span:
    return Span(round(100 * start), round(100 * end))


def row(prediction: str | None, reference: str, number: int, kind: str = "grounding") -> dict[str, object]:
    return {"prediction": prediction, "references": [reference], "source": str(number), "kind": kind}


def test_times_are_read_two_by_two() -> None:
    assert spans("<|0.50|> to <|1.40|>") == [Span(50, 140)]
    assert spans("<|0.5|><|1|>, and again from <|2.00|> to <|2.29|>.") == [Span(50, 100), Span(200, 229)]
    for unread in ("not heard", "", "0.5 to 1", "<|0.50|>", "<|1.00|> to <|0.50|>", "<|1.00|> to <|1.00|>"):
        assert spans(unread) == []


def test_an_event_is_right_within_the_collar_and_its_end_within_half_its_length() -> None:
    long, short = span(1.0, 3.0), span(1.0, 1.2)
    assert events([span(1.2, 4.0)], [long]) == Counts(1, 0, 0), "the very edge is within, however 1.2 - 1.0 is rounded"
    assert events([span(1.21, 3.0)], [long]) == events([span(1.0, 4.01)], [long]) == Counts(0, 1, 1)
    assert events([span(0.8, 1.4)], [short]) == Counts(1, 0, 0) and events([span(1.0, 1.41)], [short]).right == 0
    assert events([], [long, short]) == Counts(0, 0, 2) and events([long], []) == Counts(0, 1, 0)


def test_an_answer_is_right_of_one_event_only_and_as_many_as_can_be_are() -> None:
    reference = [span(1.0, 2.0), span(1.3, 2.0)]
    # the first answer fits both events, the second fits the first alone
    assert events([span(1.15, 2.0), span(0.9, 2.0)], reference) == Counts(2, 0, 0)
    assert events([span(1.15, 2.0)], reference) == Counts(1, 0, 1)


def test_segments_and_overlaps_by_hand() -> None:
    assert segments([span(0.9, 2.0)], [span(1.0, 2.1)]) == Counts(1, 1, 1)
    assert iou([span(0.0, 1.0)], [span(0.5, 1.5)]) == pytest.approx(1 / 3)
    assert iou([span(0.0, 1.0), span(0.5, 2.0)], [span(0.0, 2.0)]) == 1
    assert iou([], [span(0.0, 1.0)]) == iou([], []) == 0


def test_what_is_there_and_what_is_not() -> None:
    rows = [
        row("<|0.50|> to <|1.50|>", "<|0.50|> to <|1.50|>", 0),
        row("<|0.50|> to <|1.50|>", "<|1.00|> to <|2.00|>", 1),
        row("Not heard.", "<|1.00|> to <|2.00|>", 2),
        row(None, "<|1.00|> to <|2.00|>", 3),
        row("not heard", "not heard", 4),
        row("<|0.00|> to <|1.00|>", "not heard", 5),
        row("dog", "dog", 6, "what"),
    ]
    scores = localisation(rows, 100, 0)
    assert scores is not None
    assert {name: (pytest.approx(one["value"]), one["count"]) for name, one in scores.items()} == {
        "event_f1": (2 * 1 / (2 * 1 + 2 + 3), 6),
        # right: 2 and 1 seconds; wrong: 1 and 1; missed: 0, 1 and twice 1
        "segment_f1": (2 * 3 / (2 * 3 + 1 + 1 + 2), 6),
        "mean_iou": ((1 + 1 / 3) / 4, 4),
        "recall_iou_0.3": (0.5, 4),
        "recall_iou_0.5": (0.25, 4),
        "recall_iou_0.7": (0.25, 4),
        "located": (0.5, 4),
        "denied": (0.5, 2),
    }
    assert localisation(rows[-1:], 100, 0) is None


def test_counts_are_those_of_sed_eval() -> None:
    sed_eval = pytest.importorskip("sed_eval", reason="sed_eval is not installed: pip install sed_eval")
    from dcase_util.containers import MetaDataContainer

    draw = random.Random(0)

    def some() -> list[Span]:
        """On tenths of a second."""
        starts = [draw.randrange(40) for _ in range(draw.randrange(4))]
        return [Span(10 * start, 10 * (start + draw.randrange(3, 20))) for start in starts]

    def guess(reference: list[Span]) -> list[Span]:
        """Off by 0.03 s and tenths: no difference is the collar, where sed_eval's depend on rounding."""
        near = [Span(*(time + 10 * draw.randrange(-3, 4) + 3 for time in one)) for one in [*reference, *some()[:1]]]
        return [one for one in near if 0 <= one.start < one.end]

    questions = [(guess(reference), reference) for reference in (some() for _ in range(200))]
    by_event = sed_eval.sound_event.EventBasedMetrics(
        ["dog"], t_collar=0.2, percentage_of_length=0.5, event_matching_type="optimal"
    )
    by_segment = sed_eval.sound_event.SegmentBasedMetrics(["dog"], time_resolution=1.0)
    for number, pair in enumerate(questions):
        lists = [
            MetaDataContainer(
                [
                    {"filename": str(number), "event_label": "dog", "onset": one.start / 100, "offset": one.end / 100}
                    for one in found
                ]
            )
            for found in pair
        ]
        for metric in (by_event, by_segment):
            metric.evaluate(reference_event_list=lists[1], estimated_event_list=lists[0])
    for count, metric in ((events, by_event), (segments, by_segment)):
        right, wrong, missed = (sum(column) for column in zip(*(count(*pair) for pair in questions), strict=True))
        overall = metric.results_overall_metrics()["f_measure"]
        assert overall["f_measure"] == pytest.approx(2 * right / (2 * right + wrong + missed)) and right > 50
        assert overall["precision"] == pytest.approx(right / (right + wrong))


def test_the_guess_from_text_is_the_answer_that_overlaps_most_with_the_others() -> None:
    train = [
        ("grounding", "When is the dog?", "<|0.00|> to <|1.00|>"),
        ("grounding", "When is the dog?", "<|0.50|> to <|1.50|>"),
        ("grounding", "When is the dog?", "<|1.00|> to <|2.00|>"),
        ("grounding", "When is the dog?", "not heard"),
        ("grounding", "When is the cat?", "not heard"),
        ("what", "What?", "dog"),
    ]
    guess = SpanGuess(train)
    assert guess("grounding", "when is the dog") == "<|0.50|> to <|1.50|>" == guess("grounding", "Never asked?")
    assert guess("grounding", "When is the cat?") == "not heard" and guess("what", "What?") == ""
