"""How many windows of how many frames clips have, by the rule of the base preset and by the one that rounded down.

    python -m tests.benchmarks.windows [--seconds 1 5 10 10.01 30] [--rates 16000 22050 32000 44100 48000]

A row a length and rate of the clips, for both codecs: the mel codec of the base preset, and Oobleck as Stable Audio
Open publishes it (44.1 kHz, hop 2048). A clip has ceil(seconds * rate) samples before it is resampled.
"""

import argparse
import math
from collections import Counter
from collections.abc import Sequence

from conf import compose
from conf.sections.codec import LatentsConf
from datamodules.audio import resampled_length
from datamodules.windows import WindowRule

SECONDS, RATES = (1, 5, 10, 10.01, 30), (16000, 22050, 32000, 44100, 48000)
OOBLECK = (44100, 2048)  # Hz, samples a frame


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=SECONDS)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES)
    given = parser.parse_args(arguments)
    conf = compose("latents").conf
    assert isinstance(conf, LatentsConf)
    mel = conf.codec.mel
    print(f"| clip, s | rate, Hz | mel {mel.sample_rate} / {mel.hop_length} | Oobleck {OOBLECK[0]} / {OOBLECK[1]} |")
    print("|---|---|---|---|")
    for seconds in given.seconds:
        for rate in given.rates:
            cells = [
                _cell(seconds, rate, conf.window_seconds, *codec)
                for codec in ((mel.sample_rate, mel.hop_length), OOBLECK)
            ]
            print(f"| {seconds:g} | {rate} | {' | '.join(cells)} |")


def clip_frames(seconds: float, rate: int, sample_rate: int, hop_length: int) -> int:
    """Latent frames of a clip of `seconds` at `rate` Hz in a codec of sample_rate Hz."""
    return -(-resampled_length(math.ceil(seconds * rate - 1e-6), rate, sample_rate) // hop_length)


def _cell(seconds: float, rate: int, window_seconds: float, sample_rate: int, hop_length: int) -> str:
    frames = clip_frames(seconds, rate, sample_rate, hop_length)
    rounded_down = WindowRule(max(1, round(window_seconds * sample_rate / hop_length)))
    now = WindowRule.from_seconds(window_seconds, sample_rate, hop_length)
    return f"{_lengths(now.lengths(frames))} (before: {_lengths(rounded_down.lengths(frames))})"


def _lengths(lengths: Sequence[int]) -> str:
    return " + ".join(f"{count} x {length}" for length, count in Counter(lengths).items())


if __name__ == "__main__":
    main()
