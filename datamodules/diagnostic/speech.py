"""Single spoken words by eSpeak NG (espeakng-loader carries its library and voices), called through ctypes.

eSpeak NG is one global state a process: what it says depends on what it said before (flutter, phases, random
numbers). Here the library is loaded, speaks one word from a set random seed and is unloaded, 4 ms in all; so a word is
a pure function of its parameters.
"""

import ctypes
import os
import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from datamodules.diagnostic.phrases import Phrases
from datamodules.errors import DataError

WORDS = ("seven", "zero", "eight", "red", "yellow", "purple", "blue", "tiger", "elephant", "monkey", "fish", "chicken")
ACCENTS = ("en-us", "en-gb-x-rp")
SPEED = (135, 190)  # words a minute; at 135 the longest word takes 0.71 s
SAMPLE_RATE = 22050  # Hz, eSpeak NG's own
SYNCHRONOUS, RATE, PITCH, PITCH_RANGE, UTF8 = 2, 1, 3, 4, 1  # of speak_lib.h
_LOCK = threading.Lock()


class Voice(NamedTuple):
    variants: tuple[str, ...]  # eSpeak NG's voice variants
    pitch: tuple[int, int]  # 0 to 99, lowest and highest
    phrases: Phrases
    held_out: tuple[str, ...]  # variants that no ordinary scene has
    seconds: tuple[float, float] = (0.8, 0.8)  # every word fits


def _voice(name: str, variants: tuple[str, ...], pitch: tuple[int, int], held_out: tuple[str, ...]) -> Voice:
    clauses = (f'a {name} says "{{word}}"', f'a {name}\'s voice says "{{word}}"')
    phrases = Phrases(f"a {name} speaking", clauses, (f'a {name} saying "{{word}}"',))
    return Voice(variants, pitch, phrases, held_out)


VOICES: dict[str, Voice] = {
    "man": _voice("man", ("m1", "m2", "m3", "m7"), (25, 55), ("m4", "m6", "m8")),
    "woman": _voice("woman", ("f1", "f2", "f3", "f4"), (45, 80), ("f5", "belinda", "linda")),
}


def say(
    rng: Generator, sample_rate: int, seconds: float, voice: str, word: str, variant: str | None = None
) -> np.ndarray:
    """A word in a random variant, accent, pitch and speed -> mono (T,) float32, T = round(seconds * sample_rate).

    variant: of eSpeak NG, in place of one of the voice's. Silence before the word is cut, silence after it fills up to `seconds`.
    """
    choice = VOICES[voice]
    accent, drawn = rng.choice(ACCENTS), rng.choice(choice.variants)
    name = f"{accent}+{variant or drawn}"
    speed, pitch, pitch_range = (int(rng.integers(*limits)) for limits in (SPEED, choice.pitch, (30, 70)))
    samples = speak(word, name, speed, pitch, pitch_range)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    samples = samples[loud[0] : loud[-1] + 1]
    spoken = resample(samples, round(samples.size * sample_rate / SAMPLE_RATE))
    waveform = np.zeros(round(seconds * sample_rate), np.float32)
    waveform[: spoken.size] = spoken[: waveform.size]
    return waveform


def speak(text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int) -> np.ndarray:
    """-> mono (T,) float32 at 22,050 Hz: equal arguments, equal samples, whatever was said before, in every process."""
    import _ctypes

    import espeakng_loader

    path, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    parts: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def receive(samples: Any, count: int, events: int) -> int:
        if samples and count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0

    with _LOCK:
        if _is_loaded(path):
            raise RuntimeError(f"{path} is already loaded in this process: words would depend on what was said before.")
        library = ctypes.CDLL(path)
        try:
            rate = library.espeak_Initialize(SYNCHRONOUS, 0, os.fsencode(data), 0)
            if rate != SAMPLE_RATE:
                raise RuntimeError(f"eSpeak NG started with {rate}, not {SAMPLE_RATE} Hz; its data: {data}")
            library.espeak_SetSynthCallback(receive)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise DataError(
                    f"eSpeak NG has no voice {voice!r}; a voice is a language, '+' and a variant: 'en-us+f2'."
                )
            for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (PITCH_RANGE, pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            encoded = text.encode() + b"\0"
            library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 1, 0, UTF8, None, None)
            library.espeak_Synchronize()
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
    return np.concatenate(parts)


def resample(waveform: np.ndarray, count: int) -> np.ndarray:
    """(T,) -> (count,), band-limited, by its Fourier transform (ends are silent, so wrapping around is harmless)."""
    return np.fft.irfft(np.fft.rfft(waveform), count).astype(np.float32) * np.float32(count / waveform.size)


def _is_loaded(path: str) -> bool:
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)._handle
    except OSError:
        return False
    import _ctypes

    _ctypes.dlclose(handle)
    return True
