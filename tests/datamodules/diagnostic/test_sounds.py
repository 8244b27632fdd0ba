"""Effects, music and words: sounds that differ, each a function of its seed."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.diagnostic import effects, music, speech
from datamodules.diagnostic.scene import (
    loudness,
)
from tests.datamodules.diagnostic.timeline import RATE

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", effects.KINDS)
def test_an_effect_is_finite_audible_at_once_and_another_at_every_take(kind: str) -> None:
    for sample_rate in (16000, 44100):
        takes = [effects.KINDS[kind].synthesize(np.random.default_rng(seed), sample_rate, 0.8) for seed in (0, 0, 1)]
        assert all(
            x.shape == (round(0.8 * sample_rate),) and x.dtype == np.float32 and np.isfinite(x).all() for x in takes
        )
        assert np.array_equal(takes[0], takes[1]) and not np.allclose(takes[0], takes[2])
        start = np.abs(takes[2][: sample_rate // 10]).max()
        assert start > 0.1 * np.abs(takes[2]).max()


def log_mel_statistics(waveform: np.ndarray) -> np.ndarray:
    """(2 * 40,) mean and deviation over the active frames of 40 log bands."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform / waveform.std(), 512), 1024)[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(1024))) ** 2
    edges = np.unique(np.geomspace(2, 513, 41).astype(int))
    levels = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3)
    active = levels[levels.mean(1) > levels.mean(1).max() - 6]
    return np.concatenate([active.mean(0), levels.std(0)])


def test_kinds_of_effect_are_told_apart_by_the_nearest_centroid() -> None:
    kinds = list(effects.KINDS)
    assert len(kinds) >= 20
    lengths = np.random.default_rng(0).uniform(0.8, 2, 24)
    actual = np.array(
        [
            [
                log_mel_statistics(effects.KINDS[kind].synthesize(np.random.default_rng(s), RATE, x))
                for s, x in enumerate(lengths)
            ]
            for kind in kinds
        ]
    )
    actual /= actual[:, :16].std((0, 1)) + 1e-6
    distances = ((actual[:, 16:, None] - actual[:, :16].mean(1)) ** 2).sum(-1)
    assert (distances.argmin(-1) == np.arange(len(kinds))[:, None]).mean() >= 0.9


def test_a_phrase_of_music_is_a_function_of_its_seed(sound_font: Path) -> None:
    for instrument in music.INSTRUMENTS:
        a, b, c = (music.play(np.random.default_rng(s), RATE, 1.5, instrument, sound_font) for s in (0, 0, 1))
        assert a.shape == (round(1.5 * RATE),) and np.array_equal(a, b) and not np.allclose(a, c)
        assert np.abs(a[: RATE // 10]).max() > 0.05 * np.abs(a).max() > 0


def test_a_word_does_not_depend_on_what_was_said_before() -> None:
    script = (
        "import sys; from datamodules.diagnostic.speech import speak; sys.stdout.buffer.write(speak(*{}).tobytes())"
    )
    wanted = ("seven", "en-us+m3", 150, 50, 50)
    fresh = subprocess.run(
        [sys.executable, "-c", script.format(wanted)], capture_output=True, check=True, cwd=ROOT
    ).stdout
    assert len(fresh) > 4 * 0.3 * speech.SAMPLE_RATE
    for other in ("tiger", "blue"):
        speech.speak(other, "en-us+f2", 140, 70, 40)
        assert speech.speak(*wanted).tobytes() == fresh


def test_a_library_of_speech_that_is_in_use_is_refused() -> None:
    import _ctypes

    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(RuntimeError, match="already loaded"):
            speech.speak("red", "en-us+m1", 150, 50, 50)
    finally:
        _ctypes.dlclose(library._handle)
    with pytest.raises(ValueError, match="no voice 'nowhere\\+m1'"):
        speech.speak("red", "nowhere+m1", 150, 50, 50)


def test_every_voice_sounds_different() -> None:
    names = [f"{accent}+{v}" for accent in speech.ACCENTS for voice in speech.VOICES.values() for v in voice.variants]
    assert len({speech.speak("yellow", name, 150, 50, 50).tobytes() for name in names}) == len(names)


@pytest.mark.parametrize("voice", speech.VOICES)
def test_every_word_fits_its_event_at_the_slowest_speed(voice: str) -> None:
    for variant in speech.VOICES[voice].variants:
        for word in speech.WORDS:
            samples = np.abs(speech.speak(word, f"en-us+{variant}", speech.SPEED[0], 50, 50))
            loud = np.flatnonzero(samples > 0.02 * samples.max())
            assert (loud[-1] - loud[0]) / speech.SAMPLE_RATE < speech.VOICES[voice].seconds[0]


def test_resampling_keeps_a_tone() -> None:
    t = np.arange(2205) / 22050
    expected = np.sin(2 * np.pi * 440 * np.arange(4410) / 44100)
    assert np.allclose(speech.resample(np.sin(2 * np.pi * 440 * t), 4410), expected, atol=1e-5)


def test_loudness_of_a_sine_is_the_standards() -> None:
    """BS.1770: a full-scale 997 Hz sine in one channel reads -3.01 after the offset of -0.691, so -2.32 before it."""
    sine = np.sin(2 * np.pi * 997 * np.arange(48000) / 48000).astype(np.float32)
    assert loudness(sine, 48000) == pytest.approx(-3.01 + 0.691, abs=0.03)
    assert loudness(0.5 * sine, 48000) == pytest.approx(loudness(sine, 48000) - 6.02, abs=0.01)
    silence = np.zeros(96000, np.float32)
    assert loudness(np.concatenate([sine, silence]), 48000) == pytest.approx(loudness(sine, 48000), abs=0.01)
