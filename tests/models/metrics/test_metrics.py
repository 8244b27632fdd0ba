"""Scores worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from models.metrics.codebook_use import CodebookUse
from models.metrics.reconstruction import LatentError, MelDistance, MultiResolutionStftDistance
from models.metrics.text_perplexity import perplexity


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0, 30.0])


def test_the_mean_latent_has_error_1_and_the_latent_itself_0():
    """std is of the latents themselves, by channel: whatever their scale."""
    x, num_frames = latents(4, 50, 3), torch.full((4,), 50)
    metric = LatentError(x.flatten(0, 1).std(0, unbiased=False))
    metric.update(x.mean((0, 1)).expand_as(x), x, num_frames)
    assert metric.compute().item() == pytest.approx(1, abs=1e-5)
    metric.reset()
    metric.update(x, x, num_frames)
    assert metric.compute() == 0


def test_latent_error_by_hand():
    """Channel errors 1 / 2 and 3 / 1 deviations: (1/4 + 9) / 2."""
    metric = LatentError(torch.tensor([2.0, 1.0]))
    metric.update(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx((0.25 + 9) / 2)


def test_latent_error_ignores_padding_and_batching():
    x, num_frames = latents(3, 20, 3), torch.tensor([20, 11, 0])
    decoded = x + latents(3, 20, 3).flip(1)
    dirty = torch.where(torch.arange(20)[None, :, None] < num_frames[:, None, None], decoded, 1e6)
    whole, parts = LatentError(torch.ones(3)), LatentError(torch.ones(3))
    whole.update(dirty, x, num_frames)
    for clip in range(2):
        frames = int(num_frames[clip])
        parts.update(decoded[clip : clip + 1, :frames], x[clip : clip + 1, :frames], num_frames[clip : clip + 1])
    assert whole.compute().item() == pytest.approx(parts.compute().item(), rel=1e-12)


def test_codebook_use_by_hand():
    """Shares 1/2, 1/4, 1/4 of 8 codes: 1.5 bits, perplexity 2^1.5, three of eight used."""
    metric = CodebookUse(8)
    metric.update(torch.tensor([[0, 0, 5]]), torch.tensor([[True, True, True]]))
    metric.update(torch.tensor([[6, 0, 7]]), torch.tensor([[True, False, False]]))
    actual = {name: value.item() for name, value in metric.compute().items()}
    assert actual == pytest.approx({"codebook_perplexity": 2**1.5, "codebook_used": 3 / 8, "codebook_bits": 1.5})


def test_codebook_use_is_a_mean_over_levels():
    """Strides 2 and 1. Level 0: codes 3, 3 (0 bits); level 1: 0, 1, 2, 3 (2 bits), in two clips, one shorter."""
    metric = CodebookUse(4, (0, 1, 1))
    clips = torch.tensor([[3, 0, 1, 3, 2, 3], [0, 1, 1, 0, 0, 0]])
    metric.update(clips, torch.tensor([[True] * 6, [False] * 6]))
    actual = {name: value.item() for name, value in metric.compute().items()}
    assert actual == pytest.approx({"codebook_perplexity": (1 + 4) / 2, "codebook_used": 5 / 8, "codebook_bits": 1.0})
    flat = CodebookUse(4, (0, 1, 1))
    flat.update(clips[0], torch.ones(6, dtype=torch.bool))
    assert torch.equal(flat.counts, metric.counts)


def test_codebook_use_at_its_ends():
    one, all_codes = CodebookUse(16), CodebookUse(16)
    one.update(torch.full((2, 9), 3), torch.ones(2, 9, dtype=torch.bool))
    all_codes.update(torch.arange(16)[None], torch.ones(1, 16, dtype=torch.bool))
    assert one.compute()["codebook_perplexity"].item() == pytest.approx(1)
    assert all_codes.compute()["codebook_perplexity"].item() == pytest.approx(16)
    assert all_codes.compute()["codebook_used"] == 1


def tone(level: float, samples: int = 8000) -> Tensor:
    return level * (2 * math.pi * 1000 / 8000 * torch.arange(samples)).sin()[None, None]


def test_mel_distance_of_a_sound_twenty_decibels_quieter():
    """Log base 10 of magnitudes: 1 for noise, whose every band is above the floor; 0 for the sound itself."""
    noise = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    metric = MelDistance(8000)
    metric.update(noise, noise)
    assert metric.compute() == 0
    metric.reset()
    metric.update(noise / 10, noise)
    assert metric.compute().item() == pytest.approx(1.0, abs=1e-4)
    metric.reset()
    metric.update(torch.zeros(1, 1, 8000), torch.full((1, 1, 8000), 1e-7))
    assert metric.compute() == 0, "both are silence"


def test_mel_distance_knows_the_full_scale():
    """A sine of full scale has magnitude 1 at its bin, and a band is the mean of its bins."""
    metric = MelDistance(8000)
    spectrum = metric._log_mel(tone(1.0))[0, 15]
    assert -1 < spectrum.max() < 0, "its band is a mean over bins of which a few are it"


def test_stft_distance_of_half_the_level():
    """Convergence 1/2 and log10 2 at every window, whatever the level; each clip by itself."""
    noise = torch.randn(3, 2, 8000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.1, 0.01]).view(
        3, 1, 1
    )
    metric = MultiResolutionStftDistance()
    metric.update(noise / 2, noise)
    assert metric.compute().item() == pytest.approx(0.5 + math.log10(2), abs=1e-3)
    metric.reset()
    metric.update(torch.zeros(1, 1, 8000), torch.zeros(1, 1, 8000))
    assert metric.compute() == 0


@pytest.mark.parametrize("metric", [MelDistance(8000), MultiResolutionStftDistance()], ids=["mel", "stft"])
def test_a_batch_of_sounds_equals_its_clips(metric):
    made, true = (torch.randn(4, 1, 3000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    metric.update(made, true)
    together = metric.compute()
    metric.reset()
    for row in range(4):
        metric.update(made[row : row + 1], true[row : row + 1])
    torch.testing.assert_close(metric.compute(), together)


def test_perplexity_worked_by_hand():
    """Four ids, of which 3 is sound. After 0 the model says 1 with 1/2, 2 with 1/4, 3 with 1/4; after 1 all alike."""
    table = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.25] * 4, [0.25] * 4, [0.25] * 4]).log()
    is_text = torch.tensor([True, True, True, False])
    actual = perplexity(lambda ids: table[ids], torch.tensor([0, 1, 2]), is_text)
    assert actual.tokens == 2
    assert actual.whole == pytest.approx((2 * 4) ** 0.5)  # 1/2, then 1/4
    assert actual.text == pytest.approx((1.5 * 3) ** 0.5)  # 2/3, then 1/3
    for ids in ([0], [0, 3]):
        with pytest.raises(ValueError, match="two text ids or more"):
            perplexity(lambda ids: table[ids], torch.tensor(ids), is_text)
