"""A scene: one to four sounds of different kinds at known onsets, gains and pans, all from (seed, split, index).

    plan(seed, split, ...) --> Scene(events: kind, onset, seconds, gain, pan, seed; noise floor) --> mix --> (2, T)
                                        \\-> captions_and_questions.py

What makes the questions well posed: a kind comes at most once in a scene; onsets lie on a half-second grid, 0.1 s off
at most, and neighbours at least 0.8 s apart; every event has the same loudness before its gain, and gains are near -1
or near -9 dB, so that two events differ by 2 dB at most or by 6 at least.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from datamodules.cuts import SPLITS
from datamodules.diagnostic import effects, music, speech
from datamodules.diagnostic.phrases import Phrases
from datamodules.errors import DataError
from datamodules.hashing import digest

GRID = 0.5  # s; answers to "when" are multiples of it
JITTER = 0.1  # s
TAIL = 1.0  # s; the least room of the last event
COUNTS = (1,) * 8 + (2,) * 5 + (3,) * 4 + (4,) * 3  # events a scene, in every 20 scenes
LOUDNESS = -24.0  # dB; K-weighted level of an event's active part at 0 dB gain
VOICE_CARDS = 2  # a voice is drawn as often as two effects, since it also carries a word
NOISE_FLOOR = (-60.0, -50.0)  # dBFS, root mean square of a channel; the quietest event is 16 dB louder
# streams of random numbers; events: 1 to 4
LAYOUT, EVENTS, CAPTIONS, QUESTIONS, DECKS, ABSENT, ROOM, EXTRAS, CHANGES, PLACES = 0, 1, 8, 9, 10, 11, 12, 13, 14, 15
# twin scenes that differ in one thing (held_out.py); each axis has random numbers of its own, as a split has
AXES = ("combinations", "wordings", "voices", "programs", "length", "level", "exchanged", "moved", "louder")
REVERBERATION, DIRECT_DB = 0.6, -9.0  # s until a far sound's room is 60 dB down; direct sound over the room's, dB
# kinds that can be struck several times, and how long a strike lasts (s): in so short a time each sounds once
STRIKES = {"bell": 0.5, "gunshot": 0.4, "car horn": 0.3, "dog": 0.3, "door knock": 0.14, "cat": 0.6}

T = TypeVar("T")

KINDS: dict[str, effects.Effect | music.Instrument | speech.Voice] = effects.KINDS | music.INSTRUMENTS | speech.VOICES


class Event(NamedTuple):
    kind: str  # a key of KINDS
    onset: float  # s
    seconds: float
    gain_db: float
    pan: float  # -1 left, 1 right
    seed: int  # of this take; no other event of the corpus has it
    word: str | None  # what a voice says
    timbre: str | int | None = None  # a voice variant or a MIDI program that no ordinary take has
    strikes: tuple[float, ...] = ()  # s after the onset, where one thing sounds several times
    far: bool = False  # heard by a room's reverberation more than by itself

    def as_dict(self) -> dict[str, object]:
        """Of the manifest; without what only richer scenes have."""
        values = self._asdict() | {"family": self.family}
        return {name: value for name, value in values.items() if value or name not in Event._field_defaults}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "Event":
        """The inverse of as_dict."""
        event = cls(**{name: values[name] for name in cls._fields if name in values})
        return event._replace(strikes=tuple(event.strikes))

    @property
    def family(self) -> str:
        return "music" if self.kind in music.INSTRUMENTS else "speech" if self.kind in speech.VOICES else "effect"

    @property
    def second(self) -> float:
        """The onset on the half-second grid."""
        return round(self.onset / GRID) * GRID

    @property
    def phrases(self) -> Phrases:
        return KINDS[self.kind].phrases


class NoiseFloor(NamedTuple):
    """What is heard where no event is, in place of digital silence: noise from white to brown."""

    level_db: float  # dBFS, root mean square of a channel
    slope: float  # amplitudes fall as frequency ** -slope: 0 white, 0.5 pink, 1 brown
    seed: int


class Scene(NamedTuple):
    split: str  # or one of AXES
    number: int  # in its split
    seconds: float
    events: tuple[Event, ...]  # by onset
    noise_floor: NoiseFloor | None = None


def describe() -> dict[str, list[str]]:
    """Every answer of the closed sets: {"effect", "instrument", "voice", "word", "kind" (the first three)}."""
    families: dict[str, Iterable[str]] = {
        "effect": effects.KINDS,
        "instrument": music.INSTRUMENTS,
        "voice": speech.VOICES,
        "kind": KINDS,
    }
    return {family: list(names) for family, names in families.items()} | {"word": list(speech.WORDS)}


def generator(seed: int, split: str, index: int, stream: int) -> Generator:
    return default_rng(SeedSequence((seed, (*SPLITS, *AXES).index(split), index, stream)))


def _event_seed(seed: int, split: str, index: int, event: int) -> int:
    """53 bits, which JSON keeps everywhere."""
    sequence = SeedSequence((seed, (*SPLITS, *AXES).index(split), index, EVENTS + event))
    return int(sequence.generate_state(1, np.uint64)[0]) >> 11


def plan(
    seed: int,
    split: str,
    scenes: int,
    scene_seconds: Sequence[float],
    only: Sequence[str] = (),
    noise_floor_share: float = 0.0,
    apart: bool = False,
) -> list[Scene]:
    """The timelines of a split; decks balance kinds, words and event numbers. A shorter plan begins a longer one.

    scene_seconds: the lengths that scenes have in turn. only: the kinds of sound to draw from; empty for all.
    noise_floor_share: of the scenes, which have noise below their events; the events are the same whatever it is.
    apart: each kind has another one that it is never heard with.
    """
    if split not in (*SPLITS, *AXES):
        raise DataError(f"split: {split!r} is not one of {', '.join(SPLITS)}.")
    if not scene_seconds or min(scene_seconds) < 4:
        raise DataError(f"scene_seconds: {list(scene_seconds)} is too short for four sounds; type 4 or more.")
    if unknown := sorted(set(only) - set(KINDS)):
        raise DataError(f"kinds: {', '.join(unknown)} not among {', '.join(KINDS)}.")
    fewest = max(COUNTS) * (2 if apart else 1)
    if 0 < len(set(only)) <= fewest:
        raise DataError(f"kinds: {len(set(only))} given; more than {fewest} are allowed, or [] for all.")
    rng = generator(seed, split, 0, DECKS)
    every = [*effects.KINDS, *music.INSTRUMENTS, *list(speech.VOICES) * VOICE_CARDS]
    cards = [kind for kind in every if not only or kind in only]
    kinds, words, counts = Deck(rng, cards), Deck(rng, speech.WORDS), Deck(rng, COUNTS)
    partner = partners(cards) if apart else {}
    planned = []
    for index in range(scenes):
        seconds = scene_seconds[index % len(scene_seconds)]
        chosen: list[str] = []
        for _ in range(counts.draw()):
            chosen.append(kinds.draw([*chosen, *(partner[kind] for kind in chosen if kind in partner)]))
        layout = generator(seed, split, index, LAYOUT)
        onsets, lengths = _times(layout, chosen, seconds)
        events = tuple(
            Event(
                kind=kind,
                onset=onset,
                seconds=length,
                gain_db=round(float(layout.choice([-1.0, -9.0]) + layout.uniform(-1, 1)), 2),
                pan=round(float(layout.uniform(-0.8, 0.8)), 2),
                seed=_event_seed(seed, split, index, k),
                word=words.draw() if kind in speech.VOICES else None,
            )
            for k, (kind, onset, length) in enumerate(zip(chosen, onsets, lengths, strict=True))
        )
        noise_floor = _noise_floor(generator(seed, split, index, ROOM), noise_floor_share)
        planned.append(Scene(split, index, seconds, events, noise_floor))
    return planned


def partners(kinds: Iterable[str]) -> dict[str, str]:
    """kind -> the kind that it is never heard with, where such pairs are set apart; one of an odd number has none."""
    mixed = sorted(set(kinds), key=digest)
    return dict(zip(mixed[::2], mixed[1::2], strict=False)) | dict(zip(mixed[1::2], mixed[::2], strict=False))


class Deck(Generic[T]):
    """Draws without replacement from shuffled packs: every card comes equally often."""

    def __init__(self, rng: Generator, cards: Iterable[T]) -> None:
        self.rng, self.cards = rng, list(cards)
        self.pending: list[T] = []

    def draw(self, but: Iterable[T] = ()) -> T:
        """The next card that is not among `but`; those passed over come next."""
        assert not set(self.cards) <= set(but)
        while not any(card not in but for card in self.pending):
            self.pending += [self.cards[k] for k in self.rng.permutation(len(self.cards))]
        return self.pending.pop(next(k for k, card in enumerate(self.pending) if card not in but))


def _times(rng: Generator, kinds: list[str], scene_seconds: float) -> tuple[list[float], list[float]]:
    """Onsets and lengths (s), mostly one after another: a quarter of the events may reach 0.5 s into the next one."""
    positions, count = int((scene_seconds - TAIL) / GRID) + 1, len(kinds)
    # no two neighbours on the grid
    free = np.sort(rng.choice(positions - (count - 1), count, replace=False)) + np.arange(count)
    onsets = [round(max(0.0, float(k * GRID + rng.uniform(-JITTER, JITTER))), 3) for k in free]
    lengths = []
    for kind, onset, following in zip(kinds, onsets, [*onsets[1:], scene_seconds], strict=True):
        room = min(scene_seconds, following + (0.5 if rng.random() < 0.25 else 0.0)) - onset
        lengths.append(round(min(float(rng.uniform(*KINDS[kind].seconds)), room), 3))
    return onsets, lengths


def _noise_floor(rng: Generator, share: float) -> NoiseFloor | None:
    if rng.random() >= share:
        return None
    level, slope = rng.uniform(*NOISE_FLOOR), rng.uniform(0, 1)
    return NoiseFloor(round(float(level), 2), round(float(slope), 2), int(rng.integers(1 << 53)))


def mix(scene: Scene, sample_rate: int, sound_font: Path) -> np.ndarray:
    """(2, T) float32, |x| <= 0.97: a louder scene is turned down as a whole, which keeps the differences of gain."""
    total = np.zeros((2, round(scene.seconds * sample_rate)), np.float32)
    for event in scene.events:
        waveform = take(event, sample_rate, sound_font)
        if event.far:
            waveform = from_far(waveform, event.seed, sample_rate)
        level = 10 ** ((LOUDNESS + event.gain_db - loudness(waveform, sample_rate)) / 20)
        angle = (event.pan + 1) * np.pi / 4  # constant power
        start = round(event.onset * sample_rate)
        waveform = waveform[: total.shape[1] - start] * np.float32(level)
        total[:, start : start + waveform.size] += np.outer([np.cos(angle), np.sin(angle)], waveform).astype(np.float32)
    if scene.noise_floor is not None:
        total += _noise(scene.noise_floor, total.shape[1], sample_rate)
    return total * np.float32(min(1.0, 0.97 / max(1e-9, np.abs(total).max())))


def _noise(floor: NoiseFloor, count: int, sample_rate: int) -> np.ndarray:
    """(2, count) float32; the channels are independent."""
    rng, amplitude = default_rng(floor.seed), np.float32(10 ** (floor.level_db / 20))

    def response(frequencies: np.ndarray) -> np.ndarray:
        return np.maximum(frequencies, 20.0) ** -floor.slope

    return np.stack([effects.noise(rng, count, sample_rate, response) * amplitude for _ in range(2)]).astype(np.float32)


def take(event: Event, sample_rate: int, sound_font: Path) -> np.ndarray:
    """The event alone: mono (T,) float32, T = round(seconds * sample_rate), any level; ends in a fade of 30 ms."""
    if event.strikes:
        alone = event._replace(strikes=(), seconds=STRIKES[event.kind])
        strike, waveform = (
            take(alone, sample_rate, sound_font),
            np.zeros(round(event.seconds * sample_rate), np.float32),
        )
        for offset in event.strikes:
            effects.add_at(waveform, strike, round(offset * sample_rate))
        return waveform
    rng = default_rng(event.seed)
    if event.family == "music":
        program = event.timbre if isinstance(event.timbre, int) else None
        waveform = music.play(rng, sample_rate, event.seconds, event.kind, sound_font, program)
    elif event.word is not None:
        variant = event.timbre if isinstance(event.timbre, str) else None
        waveform = speech.say(rng, sample_rate, event.seconds, event.kind, event.word, variant)
    else:
        waveform = effects.KINDS[event.kind].synthesize(rng, sample_rate, event.seconds)
    fade = min(waveform.size, round(0.03 * sample_rate))
    waveform[waveform.size - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    return waveform


def from_far(waveform: np.ndarray, seed: int, sample_rate: int) -> np.ndarray:
    """waveform (T,) as a small room has it from afar, float32, longer by the room's reverberation; `mix` sets the loudness.

    Reverberation is noise that decays and loses its treble (Moorer 1979), `DIRECT_DB` louder than the direct sound: the
    ratio of the two is how distance is heard where the source's own level is not known (Zahorik 2002).
    """
    rng, count = default_rng((seed, PLACES)), round(REVERBERATION * sample_rate)
    room = effects.noise(rng, count, sample_rate, lambda f: (1 + (f / 4000) ** 2) ** -0.5)
    room *= np.exp(-6.9 * effects.times(sample_rate, REVERBERATION) / REVERBERATION)  # 60 dB down at its end
    room[0] = 0
    room /= np.linalg.norm(room)
    room[0] = 10 ** (DIRECT_DB / 20)
    size = 1 << (waveform.size + count - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(room, size), size)
    return heard[: waveform.size + count - 1].astype(np.float32)


def loudness(waveform: np.ndarray, sample_rate: int) -> float:
    """K-weighted level (dB; ITU-R BS.1770) of the active part: the 50 ms frames within 20 dB of the loudest."""
    frame = round(0.05 * sample_rate)
    frames = np.pad(waveform, (0, -waveform.size % frame)).reshape(-1, frame)
    # summed by numpy, not by BLAS, whose order of summation depends on the number of threads
    power = (np.abs(np.fft.rfft(frames)) ** 2 * k_weights(frame, sample_rate)).sum(1) * 2 / frame**2
    active = power[power >= 0.01 * power.max()]
    return float(10 * np.log10(active.mean() + 1e-12))


def k_weights(frame: int, sample_rate: int) -> np.ndarray:
    """(frame // 2 + 1,) power gains of BS.1770's shelf and high-pass, whose coefficients are given for 48 kHz."""
    z = np.exp(-2j * np.pi * np.minimum(np.fft.rfftfreq(frame, 1 / sample_rate), 23999) / 48000)
    shelf = 1.53512485958697 - 2.69169618940638 * z + 1.19839281085285 * z**2
    shelf /= 1 - 1.69065929318241 * z + 0.73248077421585 * z**2
    high_pass = (1 - z) ** 2 / (1 - 1.99004745483398 * z + 0.99007225036621 * z**2)
    return (np.abs(shelf * high_pass) ** 2).astype(np.float32)
