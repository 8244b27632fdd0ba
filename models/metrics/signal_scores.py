"""SI-SDR, PESQ and STOI of decoded sound, by torchmetrics. What cannot be scored is counted with its reason.

SI-SDR (Le Roux et al. 2019, arXiv:1811.02508) ignores a flipped sign and takes a delay of one sample for noise: align
first. PESQ (ITU-T P.862.2) and STOI (Taal et al. 2011) are of speech.
"""

from collections import Counter
from typing import NamedTuple

import torch
import torchaudio.functional as AF
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from models.errors import ModelError

SILENCE = 1e-8  # mean square
NAMES = ("si_sdr", "pesq", "stoi")
# of shorter sounds, PESQ raises, and STOI has fewer than its 30 frames and gives 1e-5
SHORTEST_SECONDS = {"si_sdr": 0.0, "pesq": 0.25, "stoi": 0.5}


class SignalScores(NamedTuple):
    """Mean of one score over many sounds."""

    mean: float  # over the scored sounds; NaN where there are none
    scored: int
    excluded: dict[str, int]  # reason -> sounds


class SignalScore:
    """One of NAMES over many sounds: `update` with each, then `compute`."""

    def __init__(self, name: str, sample_rate: int) -> None:
        """sample_rate in Hz. Raises ModelError for another name."""
        if name not in NAMES:
            raise ModelError(f"no signal metric {name!r}; {', '.join(NAMES)} are allowed")
        self.name, self.sample_rate = name, sample_rate
        self.scores: list[float] = []
        self.excluded: Counter[str] = Counter()

    def update(self, decoded: Tensor, waveform: Tensor) -> None:
        """decoded, waveform (C, T) of one length; channels are averaged. SI-SDR subtracts the mean over time first.

        Raises ModelError for two lengths: cutting one would hide a delay.
        """
        if decoded.shape[-1] != waveform.shape[-1]:
            raise ModelError(
                f"{self.name}: {decoded.shape[-1]} samples against {waveform.shape[-1]}; give both the same length"
            )
        made, true = decoded.mean(0).double(), waveform.mean(0).double()
        reason = self._unfit(made, true)
        if reason is None:
            try:
                score = self._score(made, true)
                if score == score and abs(score) != float("inf"):
                    self.scores.append(score)
                    return
                reason = "no finite score"
            except Exception as error:
                # the C code behind PESQ raises NoUtterancesError, BufferTooShortError, ...
                if type(error).__module__.split(".")[0] not in ("pesq", "cypesq"):
                    raise
                reason = type(error).__name__
        self.excluded[reason] += 1

    def compute(self) -> SignalScores:
        """Of all sounds so far."""
        mean = sum(self.scores) / len(self.scores) if self.scores else float("nan")
        return SignalScores(mean, len(self.scores), dict(self.excluded))

    def _unfit(self, made: Tensor, true: Tensor) -> str | None:
        """Why these sounds (T) have no score; None where they have one."""
        seconds = len(true) / self.sample_rate
        if not made.isfinite().all() or not true.isfinite().all():
            return "not finite"
        if true.square().mean() < SILENCE:
            return "silent reference"
        if made.square().mean() < SILENCE:
            return "silent"
        shortest = SHORTEST_SECONDS[self.name]
        return f"shorter than {shortest} s" if seconds < shortest else None

    def _score(self, made: Tensor, true: Tensor) -> float:
        if self.name == "si_sdr":
            return float(scale_invariant_signal_distortion_ratio(made, true, zero_mean=True))
        if self.name == "pesq":
            from torchmetrics.functional.audio import perceptual_evaluation_speech_quality

            made, true = (AF.resample(sound.float(), self.sample_rate, 16000) for sound in (made, true))
            return float(perceptual_evaluation_speech_quality(made, true, 16000, "wb"))
        from torchmetrics.functional.audio import short_time_objective_intelligibility

        return float(short_time_objective_intelligibility(made.float(), true.float(), self.sample_rate))


class SignalMetric(Metric):
    """The mean of a SignalScore over ranks, and how many sounds it could not score."""

    total: Tensor  # ()
    scored: Tensor  # ()
    excluded: Tensor  # ()

    higher_is_better = True
    full_state_update = False

    def __init__(self, name: str, sample_rate: int) -> None:
        """name: one of NAMES; sample_rate in Hz."""
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        # refuses another name
        SignalScore(name, sample_rate)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("scored", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("excluded", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, decoded: Tensor, waveform: Tensor) -> None:
        """decoded, waveform (B, C, T)."""
        score = SignalScore(self.name, self.sample_rate)
        for made, true in zip(decoded.cpu(), waveform.cpu(), strict=True):
            score.update(made, true)
        self.total += sum(score.scores)
        self.scored += len(score.scores)
        self.excluded += sum(score.excluded.values())

    def compute(self) -> dict[str, Tensor]:
        """The mean, NaN where nothing could be scored, and the number of those left out."""
        return {self.name: self.total / self.scored, f"{self.name}_excluded": self.excluded}
