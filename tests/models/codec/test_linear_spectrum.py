"""Mel bands to the spectrum: bands are kept, the fit does not depend on batches, and a rule that it can express is learned."""

import pytest
import torch
from torch import Tensor

from models.codec.linear_spectrum import LinearSpectrum
from models.mel_spectrum import mel_filterbank

BANDS, BINS = 12, 129


def untrained() -> LinearSpectrum:
    return LinearSpectrum(mel_filterbank(2 * (BINS - 1), BANDS, 8000))


def bands(frames: int, seed: int = 0) -> Tensor:
    """Log-mel (frames, BANDS) between 1e-4 and 1."""
    return -9 * torch.rand(frames, BANDS, generator=torch.Generator().manual_seed(seed))


def tilted(model: LinearSpectrum, log_mel: Tensor) -> Tensor:
    """Log magnitudes (frames, BINS): the level of a bin's band, and a third of how far the next band is above it."""
    following = torch.cat([log_mel[:, 1:], log_mel[:, -1:]], 1)
    return (log_mel + (following - log_mel) / 3)[:, model.band]


def test_bands_of_the_magnitudes_are_those_that_were_given():
    model = untrained()
    for fitted in (False, True):
        if fitted:
            model.accumulate(bands(400), tilted(model, bands(400)))
            model.fit()
        log_mel = bands(20, seed=1).view(4, 5, BANDS) / 10
        magnitudes = model(log_mel)
        assert magnitudes.shape == (4, 5, BINS) and (magnitudes >= 0).all()
        torch.testing.assert_close((magnitudes @ model.filters).log(), log_mel, atol=0.1, rtol=0)


def test_a_rule_of_neighbouring_bands_is_learned():
    model = untrained()
    log_mel = bands(2000)
    model.accumulate(log_mel, tilted(model, log_mel))
    model.fit()
    new = bands(50, seed=1)
    predicted = model._relative(new).log() + new[:, model.band]
    torch.testing.assert_close(predicted, tilted(model, new), atol=0.1, rtol=0)


def test_batches_and_their_order_change_nothing():
    whole, parts = untrained(), untrained()
    log_mel = bands(300)
    targets = tilted(whole, log_mel) + bands(300, seed=2)[:, whole.band] / 10
    whole.accumulate(log_mel, targets)
    for part in (slice(200, 300), slice(0, 70), slice(70, 200)):
        parts.accumulate(log_mel[part], targets[part])
    whole.fit()
    parts.fit()
    torch.testing.assert_close(parts.weights, whole.weights, atol=1e-5, rtol=1e-5)
    assert whole.fitted and not untrained().fitted


@pytest.mark.parametrize("min_hz, max_hz", [(0.0, 4000.0), (300.0, 3000.0)])
def test_every_bin_belongs_to_one_band(min_hz: float, max_hz: float):
    model = LinearSpectrum(mel_filterbank(2 * (BINS - 1), BANDS, 8000, min_hz, max_hz))
    positions = model.band * model.weights.shape[2] + model.column
    assert len(positions.unique()) == BINS and model.column.max() < model.weights.shape[2]
    assert (model.band.diff() >= 0).all() and model.band[0] == 0 and model.band[-1] == BANDS - 1
