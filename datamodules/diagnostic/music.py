"""Short phrases played by real instruments: random scores, a General MIDI sound font, symusic."""

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from datamodules.diagnostic.phrases import Phrases
from datamodules.errors import DataError

TICKS = 480  # a quarter note
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major, natural minor
DRUMS = {"kick": 36, "snare": 38, "hat": 42, "tom": 45}  # General MIDI percussion keys


class Instrument(NamedTuple):
    programs: tuple[int, ...]  # General MIDI, from 0; empty: the percussion channel
    low: int  # lowest and highest MIDI key of a melody
    high: int
    chords: float  # probability that a phrase is played in triads
    phrases: Phrases

    seconds: tuple[float, float] = (1.0, 3.0)
    held_out: tuple[int, ...] = ()  # programs of the same instrument that no ordinary scene has


def _instrument(
    noun: str, programs: tuple[int, ...], low: int, high: int, chords: float, held_out: tuple[int, ...] = ()
) -> Instrument:
    clauses = (f"{noun} plays", f"{noun} plays a short melody", f"{noun} is heard")
    phrases = Phrases(noun, clauses, (f"{noun} playing", f"music of {noun}"))
    return Instrument(programs, low, high, chords, phrases, held_out=held_out)


DRUM_PHRASES = Phrases("a drum kit", ("someone plays the drums", "drums play a beat"), ("drums", "a drum beat"))
INSTRUMENTS: dict[str, Instrument] = {
    "piano": _instrument("a piano", (0, 1), 52, 84, 0.4, (2, 3)),
    "guitar": _instrument("a guitar", (24, 25), 43, 72, 0.4, (26, 27)),
    "organ": _instrument("an organ", (19,), 48, 76, 0.7, (16, 20)),
    "violin": _instrument("a violin", (40,), 58, 88, 0.0, (110,)),
    "trumpet": _instrument("a trumpet", (56,), 55, 79, 0.0, (59,)),
    "saxophone": _instrument("a saxophone", (65, 66), 46, 72, 0.0, (64, 67)),
    "flute": _instrument("a flute", (73,), 67, 93, 0.0, (72, 74)),
    "xylophone": _instrument("a xylophone", (13,), 67, 93, 0.0),
    "banjo": _instrument("a banjo", (105,), 50, 76, 0.0),
    "drums": Instrument((), 0, 0, 0.0, DRUM_PHRASES),
}


def play(
    rng: Generator, sample_rate: int, seconds: float, instrument: str, sound_font: Path, program: int | None = None
) -> np.ndarray:
    """A phrase in a random key, mode and tempo -> mono (T,) float32, T = round(seconds * sample_rate), any level.

    program: of General MIDI, from 0, in place of one of the instrument's.
    """
    from symusic import Note, Score, Tempo, Track

    score: Any = Score(TICKS)  # of ticks, which its type does not say
    tempo = rng.uniform(100, 160)
    score.tempos.append(Tempo(0, tempo))
    choice = INSTRUMENTS[instrument]
    drawn = int(rng.choice(choice.programs)) if choice.programs else 0
    track = Track(name=instrument, program=drawn if program is None else program, is_drum=not choice.programs)
    length = int(seconds * tempo / 60 * TICKS) + TICKS
    notes = _melody(rng, choice, length) if choice.programs else _beat(rng, length)
    notes_of_track: Any = track.notes
    for start, duration, key, velocity in notes:
        notes_of_track.append(Note(start, duration, key, velocity))
    score.tracks.append(track)
    rendered = np.asarray(_synthesizer(str(sound_font), sample_rate).render(score, stereo=False))[0]
    waveform = np.zeros(round(seconds * sample_rate), np.float32)
    waveform[: rendered.size] = rendered[: waveform.size]
    return waveform


def require_sound_font(path: Path) -> None:
    """Raises DataError where it is missing."""
    if not path.is_file():
        raise DataError(
            f"sound_font: no file {path}. Give a General MIDI .sf2; pretty_midi's wheel holds TimGM6mb.sf2."
        )


def _melody(rng: Generator, instrument: Instrument, length: int) -> list[tuple[int, int, int, int]]:
    """(start, duration in ticks, MIDI key, velocity): a walk on a scale in eighths and quarters, perhaps in triads."""
    scale, tonic = SCALES[rng.integers(2)], int(rng.integers(12))
    keys = [key for key in range(instrument.low, instrument.high + 1) if (key - tonic) % 12 in scale]
    chords = rng.random() < instrument.chords
    degree, start, notes = int(rng.integers(2, len(keys) - 5)), 0, []
    while start < length:
        duration = int(rng.choice([TICKS // 2, TICKS // 2, TICKS]))
        velocity = int(rng.integers(80, 115))
        for step in (0, 2, 4) if chords else (0,):
            notes.append((start, int(duration * 0.95), keys[degree + step], velocity))
        degree = int(np.clip(degree + rng.choice([-3, -2, -1, 1, 1, 2, 3]), 0, len(keys) - 5))
        start += duration
    return notes


def _beat(rng: Generator, length: int) -> list[tuple[int, int, int, int]]:
    """As _melody. A hi-hat on each eighth, over a pattern of kick, snare and tom that begins with a kick."""
    pattern = ["kick", *rng.choice(["kick", "snare", "tom", "-"], 7, p=[0.3, 0.35, 0.1, 0.25])]
    notes = []
    for k, start in enumerate(range(0, length, TICKS // 2)):
        hits = ["hat"] if pattern[k % 8] == "-" else ["hat", str(pattern[k % 8])]
        notes += [(start, TICKS // 4, DRUMS[hit], int(rng.integers(80, 120))) for hit in hits]
    return notes


@lru_cache(maxsize=2)
def _synthesizer(sound_font: str, sample_rate: int) -> Any:
    from symusic import Synthesizer

    require_sound_font(Path(sound_font))
    return Synthesizer(sf_path=sound_font, sample_rate=sample_rate, quality=0)
