"""Signal against signal, by torchmetrics, with its silent failures caught: what cannot be scored is counted with its reason, never averaged in.

SI-SDR (Le Roux et al. 2019, arXiv:1811.02508) does not see a flipped sign and sees a delay of one sample as noise: align first. PESQ (ITU-T P.862.2)
and STOI (Taal et al. 2011) are of speech.
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
PESQ_SECONDS, STOI_SECONDS = 0.25, 0.5  # below, PESQ raises; STOI has fewer than its 30 frames and says 1e-5


class Signals(NamedTuple):
    mean: float  # over the scored; NaN where there are none
    scored: int
    excluded: dict[str, int]  # reason -> sounds


class SignalScore:
    """One of NAMES over many sounds: `update` each, then `compute`."""

    def __init__(self, name: str, sample_rate: int) -> None:
        """Raises ModelError for another name."""
        if name not in NAMES:
            raise ModelError(f"no signal metric {name!r}; {', '.join(NAMES)} are allowed")
        self.name, self.sample_rate = name, sample_rate
        self.scores: list[float] = []
        self.excluded: Counter[str] = Counter()

    def update(self, decoded: Tensor, waveform: Tensor) -> None:
        """decoded, waveform (C, T) of one length; channels are averaged. A mean that is not 0 is taken away before SI-SDR.

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
            except Exception as error:  # of the C code behind PESQ: NoUtterancesError, BufferTooShortError, ...
                if type(error).__module__.split(".")[0] not in ("pesq", "cypesq"):
                    raise
                reason = type(error).__name__
        self.excluded[reason] += 1

    def compute(self) -> Signals:
        mean = sum(self.scores) / len(self.scores) if self.scores else float("nan")
        return Signals(mean, len(self.scores), dict(self.excluded))

    def _unfit(self, made: Tensor, true: Tensor) -> str | None:
        seconds = len(true) / self.sample_rate
        if not made.isfinite().all() or not true.isfinite().all():
            return "not finite"
        if true.square().mean() < SILENCE:
            return "silent reference"
        if made.square().mean() < SILENCE:
            return "silent"
        least = {"pesq": PESQ_SECONDS, "stoi": STOI_SECONDS}.get(self.name, 0.0)
        return f"shorter than {least} s" if seconds < least else None

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

    higher_is_better = True
    full_state_update = False

    def __init__(self, name: str, sample_rate: int) -> None:
        """name: one of NAMES; sample_rate in Hz."""
        super().__init__()
        self.name, self.sample_rate = name, sample_rate
        SignalScore(name, sample_rate)  # refuses another name
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
