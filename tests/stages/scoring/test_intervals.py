"""Intervals of scores: worked out by hand, and against the binomial."""

import math

import pytest
import torch

from datamodules.fewshot import LabelledSound, episodes
from stages.scoring.intervals import Interval, bootstrap, by_recording, resampled


def test_bootstrap_draws_whole_clips():
    """Three right questions on one clip, one wrong on another: draws of two clips give 0, 3/4, 1 and nothing between.
    Drawn by question, fewer than 1 % of the means would be 0, and the interval would begin at 1/4 or above.
    """
    actual = bootstrap([True, True, True, False], ["a", "a", "a", "b"], 2000, 0)
    assert actual == Interval(0.75, 0.0, 1.0, 4)
    assert bootstrap([True, False, True, False], ["a"] * 4, 100, 0) == Interval(0.5, 0.5, 0.5, 4)


def test_bootstrap_interval():
    """Contains the mean, is the binomial's where clips have one question each, narrows with the root of their number,
    and depends on the seed alone.
    """
    right = [number % 4 != 0 for number in range(400)]
    clips = [str(number) for number in range(400)]
    actual, fewer = bootstrap(right, clips, 4000, 0), bootstrap(right[:100], clips[:100], 4000, 0)
    deviation = math.sqrt(0.75 * 0.25 / 400)
    assert actual.low < actual.value == 0.75 < actual.high and actual.count == 400
    assert actual.value - actual.low == pytest.approx(1.96 * deviation, rel=0.1)
    assert actual.high - actual.value == pytest.approx(1.96 * deviation, rel=0.1)
    assert (fewer.high - fewer.low) / (actual.high - actual.low) == pytest.approx(2, rel=0.15)
    assert bootstrap(right, clips, 4000, 0) == actual
    assert any(bootstrap(right, clips, 400, seed) != bootstrap(right, clips, 400, 0) for seed in range(1, 6))


def test_where_all_clips_agree_the_interval_is_wilsons():
    """z squared is 3.8415, and of n clips it reaches 3.8415 / (n + 3.8415) away: 4 clips 49.0 %, 2 clips 65.8 %."""
    wrong = bootstrap([False] * 4, list("abcd"), 100, 0)
    assert wrong.value == wrong.low == 0.0 and wrong.high == pytest.approx(0.4899, abs=1e-4) and wrong.count == 4
    right = bootstrap([True] * 4, list("aabb"), 100, 0)
    assert right.value == right.high == 1.0 and right.low == pytest.approx(1 - 0.6576, abs=1e-4), "two clips, not four"
    assert resampled([0.0] * 4, list("abcd"), 100, 0) == Interval(0.0, 0.0, 0.0, 4), "a score may have no upper end"


def test_bootstrap_takes_questions_in_any_order():
    one = bootstrap([True, False, True, True], ["a", "a", "b", "b"], 500, 0)
    assert bootstrap([True, True, False, True], ["a", "b", "a", "b"], 500, 0) == one


def test_bootstrap_of_nothing_is_no_number():
    actual = bootstrap([], [], 100, 0)
    assert actual.count == 0 and all(map(math.isnan, (actual.value, actual.low, actual.high)))


def test_episodes_asked_again_tell_no_more_of_new_recordings():
    """Nor do more episodes of the same recordings narrow the interval to nothing, as one by episode would."""
    right, queries, shots = [True, True, False, True, False], list("abcab"), [["d", "e"], ["e"], ["d"], ["c"], ["a"]]
    once = by_recording(right, queries, shots, 500, 0)
    often = by_recording(right * 9, queries * 9, shots * 9, 500, 0)
    assert once.low < once.value == 0.6 < once.high and often.count == 45
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert by_recording([True] * 9, list("aabbaabba"), [["c"]] * 9, 500, 0).low == pytest.approx(1 - 0.6576, abs=1e-4)


def test_an_interval_by_recording_holds_what_new_recordings_would_give():
    """Sounds are points, an episode is right where the nearest shot has the query's class; each world has recordings of its own.
    Of the nominal 95 of 100 it holds the mean of all worlds in 94 or more, one by episode in fewer than 90, one by query in 90.
    """
    centres = torch.randn(10, 2, generator=torch.Generator().manual_seed(1))
    held, worlds = {"recording": 0, "episode": 0}, []
    for seed in range(100):
        points = centres[:, None] + torch.randn(10, 8, 2, generator=torch.Generator().manual_seed(seed))
        place = {f"{label}-{n}": points[label, n] for label in range(10) for n in range(8)}
        asked = episodes([LabelledSound(name, name, name[0]) for name in place], 2, 1, 200, seed)
        shots = [[shot.sound for shot in one.shots] for one in asked]
        nearest = [
            min(one.shots, key=lambda shot, at=place[one.query]: float((place[shot.sound] - at).norm())).label
            for one in asked
        ]
        right = [label == one.answer for label, one in zip(nearest, asked, strict=True)]
        worlds.append(
            (
                by_recording(right, [one.query for one in asked], shots, 200, 0),
                bootstrap(right, list(map(str, range(200))), 200, 0),
            )
        )
    truth = sum(one.value for one, _ in worlds) / len(worlds)
    for pair in worlds:
        for name, one in zip(held, pair, strict=True):
            held[name] += one.low <= truth <= one.high
    assert held["recording"] >= 94 and held["episode"] < 90, held
