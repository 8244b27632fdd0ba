"""Twenty-four sound effects by parametric synthesis, another one at every take.

Recipes after Farnell, Designing Sound (2010): what a thing does in time (strikes, strokes, swells) times what it
resonates at. Every synthesizer is (rng, sample_rate, seconds) -> mono (T,) float32, T = round(seconds * sample_rate),
audible within the first 0.1 s, any level (scene.py sets the loudness). All are recognisable from 0.8 s on.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from datamodules.diagnostic.phrases import Phrases

Response = Callable[[np.ndarray], np.ndarray]  # frequencies (Hz) -> gains


class Effect(NamedTuple):
    synthesize: Callable[[Generator, int, float], np.ndarray]
    seconds: tuple[float, float]  # shortest and longest natural length
    phrases: Phrases


# ---- helpers


def times(sample_rate: int, seconds: float) -> np.ndarray:
    """(T,) seconds."""
    return np.arange(round(seconds * sample_rate), dtype=np.float32) / np.float32(sample_rate)


def noise(rng: Generator, count: int, sample_rate: int, response: Response) -> np.ndarray:
    """Gaussian noise (count,) of unit variance whose magnitude spectrum follows `response`."""
    size = max(512, 1 << (count - 1).bit_length()) if count < 16384 else -(-count // 8192) * 8192
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate).astype(np.float32)
    draws = rng.standard_normal((2, frequencies.size), dtype=np.float32)
    spectrum = (draws[0] + 1j * draws[1]) * response(frequencies).astype(np.float32)
    waveform = np.fft.irfft(spectrum, size)[:count]
    return waveform / (waveform.std() + np.float32(1e-9))


def band(low: float, high: float, slope: float = 4.0) -> Response:
    """Flat from low to high Hz, falling by 6 * slope dB an octave outside."""
    return lambda f: (1 + (low / np.maximum(f, 1)) ** (2 * slope)) ** -0.5 * (1 + (f / high) ** (2 * slope)) ** -0.5


def tone(frequency: np.ndarray | float, t: np.ndarray, harmonics: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """Sum of harmonics (amplitudes 1st, 2nd, ...) of a frequency that may glide; none above 18 kHz or Nyquist."""
    step = t[1] - t[0]
    frequency = np.broadcast_to(np.asarray(frequency, dtype=np.float64), t.shape)
    phase = 2 * np.pi * np.cumsum(frequency) * step
    limit = min(18000.0, 0.48 / step)
    top = float(frequency.max())
    fundamental = np.exp(1j * phase).astype(np.complex64)
    power, total = np.ones_like(fundamental), np.zeros_like(t)
    for k, amplitude in enumerate(harmonics, 1):
        if k * top > limit:
            break
        power *= fundamental
        if amplitude:
            total += np.float32(amplitude) * power.imag
    return total


def strike(rng: Generator, t: np.ndarray, frequencies: np.ndarray, decays: np.ndarray) -> np.ndarray:
    """A struck body: modes (Hz) with their decay times (s), each with a random phase."""
    total = np.zeros_like(t)
    for frequency, decay in zip(frequencies, decays, strict=True):
        n = min(t.size, int(8 * decay / (t[1] - t[0])) + 1)
        total[:n] += np.sin(2 * np.pi * frequency * t[:n] + rng.uniform(0, 6.28)) * np.exp(-t[:n] / decay)
    return total


def add_at(total: np.ndarray, grain: np.ndarray, start: int) -> None:
    """Add a grain at a sample; what reaches past the end is cut."""
    stop = min(total.size, start + grain.size)
    if start < stop:
        total[start:stop] += grain[: stop - start]


def beats(rng: Generator, seconds: float, period: float, jitter: float) -> np.ndarray:
    """Onsets (s) from 0, about `period` apart, each interval varied by the share `jitter`."""
    intervals = period * (1 + jitter * rng.uniform(-1, 1, int(seconds / (period * (1 - jitter))) + 2))
    onsets = np.concatenate([[0.0], np.cumsum(intervals)])
    return onsets[onsets < seconds - 0.02]


def hump(t: np.ndarray, attack: float, release: float) -> np.ndarray:
    """1 with a linear rise and fall (s) at the ends."""
    return np.minimum(1, np.minimum(t / attack, np.maximum(t[-1] - t, 0) / release))


def slow(rng: Generator, t: np.ndarray, rate: float, low: float, high: float) -> np.ndarray:
    """A random smooth curve between low and high with about `rate` turning points a second."""
    knots = rng.uniform(low, high, int(t[-1] * rate) + 3)
    return np.interp(t * rate + rng.uniform(0, 1), np.arange(knots.size), knots).astype(np.float32)


# ---- things that are struck


def bell(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, pitch = times(sample_rate, seconds), rng.uniform(350, 800)
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.51, 2.66, 3.01, 4.17, 5.43])  # hum, prime, tierce, quint, nominal, ...
    ratios *= 1 + 0.01 * rng.standard_normal(10)
    return strike(rng, t, pitch * ratios, rng.uniform(0.7, 1.3) / (0.6 + 0.5 * ratios))


def knock(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    total, modes = np.zeros_like(t), np.array([1, 1.7, 2.9, 4.3]) * rng.uniform(130, 230)
    for onset in beats(rng, min(seconds, rng.uniform(0.6, 1.1)), rng.uniform(0.18, 0.26), 0.08):
        rap = times(sample_rate, 0.15)
        grain = strike(rng, rap, modes, np.array([0.03, 0.02, 0.012, 0.008]))
        grain += 0.4 * noise(rng, rap.size, sample_rate, band(300, 1500)) * np.exp(-rap / 0.004)
        add_at(total, grain * rng.uniform(0.7, 1), round(onset * sample_rate))
    return total


def clock(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, pitch = np.zeros_like(times(sample_rate, seconds)), rng.uniform(2200, 3400)
    for k, onset in enumerate(beats(rng, seconds, rng.uniform(0.22, 0.34), 0.01)):
        tick = times(sample_rate, 0.05)
        grain = strike(rng, tick, pitch * (1.0, 0.8)[k % 2] * np.array([1, 1.58, 2.3]), np.array([0.006, 0.004, 0.003]))
        add_at(total, grain * (1, 0.8)[k % 2], round(onset * sample_rate))
    return total


def footsteps(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, floor = np.zeros_like(times(sample_rate, seconds)), rng.uniform(900, 1800)
    for onset in beats(rng, seconds, rng.uniform(0.36, 0.5), 0.05):
        step = times(sample_rate, 0.22)
        heel = np.sin(2 * np.pi * rng.uniform(70, 100) * step) * np.exp(-step / 0.025)
        scrape = noise(rng, step.size, sample_rate, band(floor, 4 * floor, 2)) * step * 30 * np.exp(-step / 0.035)
        add_at(total, (heel + 0.5 * scrape) * rng.uniform(0.7, 1), round(onset * sample_rate))
    return total


def telephone(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    total, pitch = np.zeros_like(t), rng.uniform(1000, 1350)
    hammer, ring = rng.uniform(0.038, 0.048), rng.uniform(0.5, 0.8)  # two gongs in turn; rings and pauses
    for k, onset in enumerate(np.arange(0, seconds, hammer)):
        if onset % (ring + 0.25) < ring:
            gong = pitch * (1, 1.26)[k % 2] * np.array([1, 2.71, 5.1])
            grain = strike(rng, times(sample_rate, 0.3), gong, np.array([0.07, 0.05, 0.03]))
            add_at(total, grain, round(onset * sample_rate))
    return total


def gunshot(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    crack = noise(rng, t.size, sample_rate, band(100, 9000, 1)) * np.exp(-t / rng.uniform(0.02, 0.04))
    tail = noise(rng, t.size, sample_rate, band(150, 1500, 1)) * np.exp(-t / rng.uniform(0.15, 0.3))
    return crack + 0.15 * tail


# ---- animals


def dog(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, pitch, length = np.zeros_like(times(sample_rate, seconds)), rng.uniform(280, 520), rng.uniform(0.13, 0.2)
    for onset in beats(rng, seconds, rng.uniform(0.38, 0.55), 0.15):
        t = times(sample_rate, length)
        x = t / length
        voice = tone(pitch * (0.8 + 0.6 * np.sin(np.pi * x**0.7)), t, (0.5, 1, 0.9, 0.6, 0.35, 0.2, 0.1, 0.05))
        rough = 0.5 * noise(rng, t.size, sample_rate, band(600, 2500, 2))
        add_at(total, (voice + rough) * np.sin(np.pi * x**0.5) ** 2 * rng.uniform(0.8, 1), round(onset * sample_rate))
    return total


def cat(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, pitch = np.zeros_like(times(sample_rate, seconds)), rng.uniform(450, 650)
    for onset in beats(rng, seconds, rng.uniform(0.9, 1.3), 0.1):
        length = min(rng.uniform(0.6, 0.8), seconds - onset)
        if length < 0.3:
            break
        t = times(sample_rate, length)
        x = t / length
        glide = pitch * (1 + 0.45 * np.sin(np.pi * x**0.6)) * (1 + 0.01 * np.sin(2 * np.pi * 6 * t))
        mouth = np.sin(np.pi * np.clip(x * 1.1, 0, 1)) ** 2  # closed, open, closed: the higher harmonics come and go
        voice = tone(glide, t, (1, 0.6)) + mouth * tone(glide, t, (0, 0.5, 1, 0.9, 0.6, 0.4, 0.2))
        add_at(total, voice * hump(t, 0.04, 0.2), round(onset * sample_rate))
    return total


def bird(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, pitch = np.zeros_like(times(sample_rate, seconds)), rng.uniform(2800, 4200)
    length, rise, wobble = rng.uniform(0.05, 0.1), rng.uniform(-0.35, 0.45), rng.uniform(0, 0.12)
    for onset in beats(rng, seconds, rng.uniform(0.13, 0.22), 0.25):
        t = times(sample_rate, length * rng.uniform(0.8, 1.3))
        x = t / t[-1]
        glide = pitch * rng.uniform(0.9, 1.15) * (1 + rise * x + wobble * np.sin(2 * np.pi * 30 * t))
        add_at(total, tone(glide, t, (1, 0.08)) * np.sin(np.pi * x) ** 2, round(onset * sample_rate))
    return total


def cricket(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, pitch = times(sample_rate, seconds), rng.uniform(4300, 5400)
    wing, chirp, share = rng.uniform(28, 40), rng.uniform(2.5, 4), rng.uniform(0.5, 0.65)
    pulses = np.maximum(0, np.sin(2 * np.pi * wing * t)) ** 2
    return tone(pitch, t, (1, 0.1, 0.15)) * pulses * ((t * chirp) % 1 < share)


# ---- weather and nature


def rain(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    total = noise(rng, t.size, sample_rate, band(rng.uniform(900, 1800), 12000, 1.5)) * hump(t, 0.04, 0.1)
    drop = times(sample_rate, 0.02)
    for start in rng.integers(0, t.size, int(seconds * rng.uniform(25, 60))):
        splash = np.sin(2 * np.pi * rng.uniform(3000, 8000) * drop) * np.exp(-drop / 0.003)
        add_at(total, splash * rng.uniform(1, 3), start)
    return total


def wind(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, centre = times(sample_rate, seconds), rng.uniform(350, 550)
    layers = [noise(rng, t.size, sample_rate, band(c * 0.88, c * 1.12, 3)) for c in centre * np.array([0.7, 1.0, 1.45])]
    howl = slow(rng, t, 1.5, 0, 2)  # the gust moves between three resonances
    total = sum(layer * np.maximum(0, 1 - np.abs(howl - k)) for k, layer in enumerate(layers))
    total += 0.15 * noise(rng, t.size, sample_rate, band(100, 700, 1))
    return total * slow(rng, t, 2, 0.5, 1) * hump(t, 0.08, 0.15)


def thunder(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    rumble = noise(rng, t.size, sample_rate, band(35, rng.uniform(90, 150), 1.5)) * slow(rng, t, 6, 0.3, 1)
    crack = noise(rng, t.size, sample_rate, band(80, 700, 1)) * np.exp(-t / 0.12) * slow(rng, t, 25, 0.2, 1)
    return (rumble * np.exp(-t / rng.uniform(0.9, 1.8)) + 0.9 * crack) * hump(t, 0.01, 0.2)


def waves(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, period = times(sample_rate, seconds), rng.uniform(1.4, 2.2)
    x = (t / period) % 1
    surge = np.minimum(x / 0.12, 1) * np.exp(-3.2 * np.maximum(x - 0.12, 0))
    body = noise(rng, t.size, sample_rate, band(120, rng.uniform(500, 800), 1.5))
    foam = noise(rng, t.size, sample_rate, band(900, 4000, 1))
    return body * (0.12 + surge) + 0.45 * foam * surge**2


def fire(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    total = 0.15 * noise(rng, t.size, sample_rate, band(60, 350, 1)) * slow(rng, t, 8, 0.5, 1) * hump(t, 0.03, 0.1)
    snap = times(sample_rate, 0.012)
    starts = np.append(rng.integers(0, t.size, int(seconds * rng.uniform(18, 30))), [0])
    for start in starts:
        grain = noise(rng, snap.size, sample_rate, band(rng.uniform(800, 3000), 9000, 2))
        grain *= np.exp(-snap / rng.uniform(0.0005, 0.002)) * rng.uniform(0.2, 1.2) ** 2
        add_at(total, grain, int(start))
    return total


def dripping(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, pitch = np.zeros_like(times(sample_rate, seconds)), rng.uniform(550, 950)
    for onset in beats(rng, seconds, rng.uniform(0.2, 0.35), 0.4):
        t = times(sample_rate, 0.12)
        plop = tone(pitch * rng.uniform(0.85, 1.25) * (1 + 9 * t), t) * np.exp(-t / 0.022) * np.minimum(1, t / 0.002)
        add_at(total, plop * rng.uniform(0.5, 1), round(onset * sample_rate))
    return total


# ---- machines and signals


def engine(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    speed = rng.uniform(38, 62) * (1 + 0.02 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * t)) * slow(rng, t, 1, 0.93, 1.07)
    harmonics = tuple(rng.uniform(0.5, 1, 16) / (1 + (np.arange(1, 17) / 7) ** 2))
    return (tone(speed, t, harmonics) + 0.25 * noise(rng, t.size, sample_rate, band(80, 900, 1))) * hump(t, 0.05, 0.1)


def helicopter(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, rotor = times(sample_rate, seconds), rng.uniform(10, 14)
    blade = np.exp(-7 * ((t * rotor) % 1)) + 0.03
    body = noise(rng, t.size, sample_rate, band(60, rng.uniform(300, 500), 1.2))
    body += 0.06 * tone(rng.uniform(600, 900), t, (1, 0.5, 0.3))  # the turbine
    return body * blade * hump(t, 0.03, 0.1)


def saw(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, rate, teeth = times(sample_rate, seconds), rng.uniform(2.2, 3.2), rng.uniform(75, 120)
    stroke = (t * rate) % 1
    swell = np.maximum(0, np.sin(np.pi * np.minimum(stroke / 0.8, 1))) ** 0.7
    bright = (np.floor(t * rate) % 2).astype(np.float32)  # the push bites harder than the pull
    push = noise(rng, t.size, sample_rate, band(2500, 7000, 2))
    pull = noise(rng, t.size, sample_rate, band(1300, 4000, 2))
    bite = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * teeth * t))
    return ((1 - bright) * push + 0.7 * bright * pull) * swell * bite


def siren(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t = times(sample_rate, seconds)
    low, span, rate = rng.uniform(550, 700), rng.uniform(1.7, 2.2), rng.uniform(0.8, 1.5)
    sweep = 0.5 - 0.5 * np.cos(2 * np.pi * (rate * t + rng.uniform(0, 1)))
    return tone(low * span**sweep, t, (1, 0.5, 0.35, 0.2, 0.12, 0.06)) * hump(t, 0.02, 0.05)


def alarm(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, beep = times(sample_rate, seconds), rng.uniform(0.09, 0.15)
    on = (t % (beep * rng.uniform(1.7, 2.1))) < beep
    return tone(rng.uniform(1900, 2600), t, (1, 0, 0.5, 0, 0.3, 0, 0.2)) * on


def horn(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, pitch = times(sample_rate, seconds), rng.uniform(330, 430)
    harmonics = (0.7, 1, 0.9, 0.8, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
    return (tone(pitch, t, harmonics) + tone(pitch * rng.uniform(1.19, 1.27), t, harmonics)) * hump(t, 0.02, 0.05)


def whistle(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    t, pitch = times(sample_rate, seconds), rng.uniform(1100, 1700)
    steps = pitch * 2 ** (slow(rng, t, 3, -4, 5) / 12) * (1 + 0.008 * np.sin(2 * np.pi * 5.5 * t))
    breath = 0.04 * noise(rng, t.size, sample_rate, band(1000, 5000, 1))
    return (tone(steps, t, (1, 0.03)) + breath) * slow(rng, t, 4, 0.7, 1) * hump(t, 0.04, 0.08)


def applause(rng: Generator, sample_rate: int, seconds: float) -> np.ndarray:
    total, hand = np.zeros_like(times(sample_rate, seconds)), times(sample_rate, 0.03)
    pitches, envelope = rng.uniform(700, 2000, 24), np.exp(-hand / 0.006)
    claps = [noise(rng, hand.size, sample_rate, band(c * 0.7, c * 1.5, 2)) * envelope for c in pitches]
    starts = rng.integers(0, total.size, int(seconds * rng.uniform(90, 150)))
    starts[:4] = rng.integers(0, sample_rate // 20, 4)  # it begins at once
    for start in starts:
        add_at(total, claps[rng.integers(24)] * np.float32(rng.uniform(0.2, 1)), int(start))
    return total


def _phrases(table: str) -> dict[str, Phrases]:
    """A line a kind: name | noun | clauses | nominals."""
    rows = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return {name: Phrases(noun, tuple(c.split(" / ")), tuple(n.split(" / "))) for name, noun, c, n in rows}


PHRASES = _phrases("""
    bell | a bell | a bell rings / a bell tolls | a bell ringing / the toll of a bell
    door knock | a door knock | someone knocks on a door / a hand raps on wood | knocking on a door
    clock | a clock | a clock ticks / a clock goes tick tock | a clock ticking / the ticking of a clock
    footsteps | the sound of footsteps | someone walks / footsteps go by | footsteps / a person walking
    telephone | a telephone | a telephone rings / an old phone rings | a telephone ringing
    gunshot | a gunshot | a gun is fired / a shot rings out | a gunshot / a gun firing
    dog | a dog | a dog barks / a dog is barking | a dog barking / the barking of a dog
    cat | a cat | a cat meows / a cat is meowing | a cat meowing / the meow of a cat
    bird | a bird | a bird sings / a bird chirps | a bird singing / birdsong
    cricket | a cricket | a cricket chirps / an insect chirps | a cricket chirping / an insect chirping
    rain | rain | rain falls / it rains | rain falling / rainfall
    wind | wind | the wind blows / wind howls | wind blowing / howling wind
    thunder | thunder | thunder rolls / thunder rumbles | rolling thunder / a rumble of thunder
    waves | the sound of waves | waves break on a beach / waves crash | waves breaking / ocean waves
    fire | a fire | a fire crackles / a fire burns | a crackling fire / fire crackling
    dripping water | dripping water | water drips / drops of water fall | dripping water / water dripping
    engine | an engine | an engine runs / an engine hums | an engine running / a running motor
    helicopter | a helicopter | a helicopter flies / a helicopter hovers | a helicopter flying
    saw | a saw | someone saws wood / a saw cuts wood | a saw cutting wood / sawing
    siren | a siren | a siren wails / a siren sounds | a siren wailing / a wailing siren
    alarm | an alarm | an alarm beeps / an alarm goes off | an alarm beeping / a beeping alarm
    car horn | a car horn | a car honks / a car horn sounds | a car honking / a car horn
    whistle | a whistle | someone whistles / a person whistles | whistling / someone whistling
    applause | applause | people clap / an audience applauds | applause / people clapping
""")

KINDS: dict[str, Effect] = {
    "bell": Effect(bell, (1.2, 3), PHRASES["bell"]),
    "door knock": Effect(knock, (0.8, 1.2), PHRASES["door knock"]),
    "clock": Effect(clock, (1, 4), PHRASES["clock"]),
    "footsteps": Effect(footsteps, (1, 4), PHRASES["footsteps"]),
    "telephone": Effect(telephone, (0.9, 3), PHRASES["telephone"]),
    "gunshot": Effect(gunshot, (0.8, 1), PHRASES["gunshot"]),
    "dog": Effect(dog, (0.8, 2.5), PHRASES["dog"]),
    "cat": Effect(cat, (0.8, 2.5), PHRASES["cat"]),
    "bird": Effect(bird, (0.8, 3), PHRASES["bird"]),
    "cricket": Effect(cricket, (1, 4), PHRASES["cricket"]),
    "rain": Effect(rain, (1, 5), PHRASES["rain"]),
    "wind": Effect(wind, (1, 5), PHRASES["wind"]),
    "thunder": Effect(thunder, (1.2, 3), PHRASES["thunder"]),
    "waves": Effect(waves, (1.2, 5), PHRASES["waves"]),
    "fire": Effect(fire, (1, 5), PHRASES["fire"]),
    "dripping water": Effect(dripping, (1, 4), PHRASES["dripping water"]),
    "engine": Effect(engine, (1, 5), PHRASES["engine"]),
    "helicopter": Effect(helicopter, (1, 5), PHRASES["helicopter"]),
    "saw": Effect(saw, (1, 4), PHRASES["saw"]),
    "siren": Effect(siren, (1, 4), PHRASES["siren"]),
    "alarm": Effect(alarm, (0.8, 3), PHRASES["alarm"]),
    "car horn": Effect(horn, (0.8, 1.5), PHRASES["car horn"]),
    "whistle": Effect(whistle, (0.8, 2.5), PHRASES["whistle"]),
    "applause": Effect(applause, (1, 4), PHRASES["applause"]),
}
