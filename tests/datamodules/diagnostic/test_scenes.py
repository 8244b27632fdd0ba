"""Scenes: legible timelines, balanced kinds, and a mix that is what the timeline says."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules.diagnostic import speech
from datamodules.diagnostic.captions_and_questions import captions, questions
from datamodules.diagnostic.scene import (
    GRID,
    JITTER,
    KINDS,
    LOUDNESS,
    NOISE_FLOOR,
    SPLITS,
    VOICE_CARDS,
    NoiseFloor,
    Scene,
    loudness,
    mix,
    plan,
)
from tests.datamodules.diagnostic.timeline import RATE, event


@pytest.mark.parametrize("scene_seconds", [4.0, 5.0, 10.0])
def test_scenes_are_legible(scene_seconds: float) -> None:
    for scene in plan(3, "train", 300, [scene_seconds]):
        onsets = np.array([e.onset for e in scene.events])
        assert 1 <= onsets.size <= 4 and (np.diff(onsets) >= 2 * GRID - 2 * JITTER - 1e-6).all()
        assert all(abs(e.onset - e.second) <= JITTER + 1e-9 for e in scene.events)
        assert all(e.seconds >= 0.8 - 1e-6 and e.onset + e.seconds <= scene_seconds + 1e-6 for e in scene.events)
        assert len({e.kind for e in scene.events}) == len(scene.events)
        gaps = [abs(a.gain_db - b.gain_db) for a in scene.events for b in scene.events]
        assert all(gap <= 2 or gap >= 6 for gap in gaps)
        assert all((e.word in speech.WORDS) == (e.kind in speech.VOICES) for e in scene.events)


def test_no_event_shares_its_seed_and_a_shorter_plan_begins_a_longer_one() -> None:
    seeds = [e.seed for split in SPLITS for scene in plan(0, split, 700, [5.0]) for e in scene.events]
    assert len(set(seeds)) == len(seeds) > 3000
    assert plan(0, "test", 50, [5.0]) == plan(0, "test", 80, [5.0])[:50]
    assert plan(0, "test", 50, [5.0]) != plan(1, "test", 50, [5.0])


def test_scenes_have_their_lengths_in_turn() -> None:
    mixed, short, long = (plan(0, "train", 20, lengths) for lengths in ([10.0, 30.0], [10.0], [30.0]))
    assert [scene.seconds for scene in mixed] == [10.0, 30.0] * 10
    for mixed_scene, *alone in zip(mixed, short, long, strict=True):
        kinds = [{event.kind for event in scene.events} for scene in (mixed_scene, *alone)]
        assert kinds[0] == kinds[1] == kinds[2], "what is heard does not depend on the length"
    assert max(event.onset for scene in mixed for event in scene.events) > 10


def test_kinds_and_numbers_of_events_are_balanced() -> None:
    scenes = plan(0, "train", 400, [5.0])
    drawn = Counter(e.kind for scene in scenes for e in scene.events)
    shares = [drawn[kind] / (VOICE_CARDS if kind in speech.VOICES else 1) for kind in KINDS]
    assert max(shares) - min(shares) <= 2
    assert Counter(len(scene.events) for scene in scenes) == {1: 160, 2: 100, 3: 80, 4: 60}


def test_the_mix_puts_an_event_where_and_as_loud_as_the_timeline_says(sound_font: Path) -> None:
    for kind in ("rain", "clock", "horn", "piano", "man"):
        placed = event(
            kind if kind != "horn" else "car horn", 1.0, gain_db=-9.0, pan=0.5, word="seven" if kind == "man" else None
        )
        heard = mix(Scene("train", 0, 4.0, (placed,)), RATE, sound_font)
        assert heard.shape == (2, 4 * RATE) and heard.dtype == np.float32
        assert not heard[:, :RATE].any() and not heard[:, 2 * RATE :].any() and heard[:, RATE : RATE + RATE // 10].any()
        assert np.allclose(
            heard[0] * np.tan(1.5 * np.pi / 4), heard[1], atol=1e-6
        )  # constant power: cos and sin of one angle
        power = np.hypot(heard[0], heard[1]) * np.sign(heard[1])
        assert loudness(power[RATE : 2 * RATE], RATE) == pytest.approx(LOUDNESS - 9.0, abs=0.05)


def test_too_loud_a_scene_is_turned_down_as_a_whole(sound_font: Path) -> None:
    quiet, loud = event("gunshot", 0.0, gain_db=0.0, seed=5), event("gunshot", 2.0, gain_db=40.0, seed=5)
    heard = mix(Scene("train", 0, 4.0, (quiet, loud)), RATE, sound_font)
    assert np.abs(heard).max() == pytest.approx(0.97, abs=1e-5)
    assert np.allclose(heard[:, 2 * RATE : 3 * RATE], 100 * heard[:, :RATE], atol=1e-5)


def test_a_noise_floor_is_below_the_events_at_its_level_and_changes_none(sound_font: Path) -> None:
    rain = event("rain", 1.0, gain_db=-9.0)
    alone = mix(Scene("train", 0, 4.0, (rain,)), RATE, sound_font)
    for slope in (0.0, 0.5, 1.0):
        floor = NoiseFloor(level_db=-52.0, slope=slope, seed=3)
        heard = mix(Scene("train", 0, 4.0, (rain,), floor), RATE, sound_font)
        noise = heard - alone
        levels = 20 * np.log10(np.sqrt((noise**2).mean(1)))
        assert heard.dtype == np.float32 and levels == pytest.approx([-52.0, -52.0], abs=1.0)
        assert abs(np.corrcoef(noise)[0, 1]) < 0.1
        power = np.abs(np.fft.rfft(noise[0])) ** 2
        low, high = (power[round(f * 4) : round(2 * f * 4)].mean() for f in (200, 3200))  # bins of a quarter Hz
        assert 10 * np.log10(low / high) == pytest.approx(slope * 20 * np.log10(16), abs=1.5)


def test_as_many_scenes_have_a_noise_floor_as_was_asked_and_the_timeline_is_the_same() -> None:
    quiet, some, every = (plan(0, "train", 400, [5.0], noise_floor_share=share) for share in (0.0, 0.75, 1.0))
    assert quiet == plan(0, "train", 400, [5.0]) and not any(scene.noise_floor for scene in quiet)
    assert [scene.events for scene in quiet] == [scene.events for scene in some] == [scene.events for scene in every]
    assert 270 < sum(scene.noise_floor is not None for scene in some) < 330
    floors = [scene.noise_floor for scene in every if scene.noise_floor is not None]
    assert len({floor.seed for floor in floors}) == len(floors) == 400
    assert all(NOISE_FLOOR[0] <= floor.level_db <= NOISE_FLOOR[1] and 0 <= floor.slope <= 1 for floor in floors)
    assert captions(some[0], 0) == captions(quiet[0], 0) and questions(some, 0) == questions(quiet, 0)
