"""The discriminator and the losses of stage `vae`: worked out by hand, or against what they must not depend on."""

import pytest
import torch
from torch import Tensor

from models.codec.discriminator import (
    Discriminator,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from models.codec.oobleck import build
from models.codec.spectral_loss import SpectralLoss


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def judgement(*scores: float) -> Judgement:
    return Judgement([torch.full((2, 1, 3, 4), score) for score in scores], [])


def test_hinge_by_hand():
    """A real score above 1 and a decoded one below -1 cost nothing; two scales are averaged."""
    assert discriminator_loss(judgement(1.5), judgement(-2.0)) == 0
    assert discriminator_loss(judgement(0.25), judgement(0.5)) == 0.75 + 1.5
    assert discriminator_loss(judgement(0.25, 2.0), judgement(0.5, -1.0)) == (0.75 + 1.5) / 2
    assert adversarial_loss(judgement(0.5, -1.5)) == 0.5


def test_feature_matching_is_zero_for_the_same_sound_and_has_a_gradient_for_the_decoded_one_alone():
    torch.manual_seed(0)
    judge = Discriminator(2, [64, 32], 4)
    waveform = noise(2, 2, 512)
    assert feature_matching_loss(judge(waveform), judge(waveform)) == 0
    real, decoded = waveform.clone().requires_grad_(), noise(2, 2, 512, seed=1).requires_grad_()
    feature_matching_loss(judge(real), judge(decoded)).backward()
    assert real.grad is None and decoded.grad is not None and decoded.grad.any()


def test_every_scale_judges_every_stretch_of_sound():
    """Frames every quarter of a window; a batch equals its items."""
    torch.manual_seed(0)
    judge, waveform = Discriminator(1, [64, 32], 4), noise(3, 1, 512)
    actual = judge(waveform)
    assert [scores.shape[2] for scores in actual.scores] == [512 // 16 + 1, 512 // 8 + 1]
    assert [len(features) for features in actual.features] == [5, 5]
    one = judge(waveform[1:2])
    for scores, alone in zip(actual.scores, one.scores, strict=True):
        torch.testing.assert_close(scores[1:2], alone, atol=1e-5, rtol=1e-4)


def test_a_discriminator_learns_noise_from_a_tone():
    torch.manual_seed(0)
    judge = Discriminator(1, [64], 4)
    optimizer = torch.optim.Adam(judge.parameters(), lr=0.01)
    tone = (torch.arange(512) * 0.3).sin().expand(4, 1, 512)
    for seed in range(40):
        loss = discriminator_loss(judge(tone), judge(noise(4, 1, 512, seed=seed)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # 2 where it knows nothing
    assert judge(tone).scores[0].mean() > judge(noise(4, 1, 512, seed=99)).scores[0].mean()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("weighting", [False, True])
def test_the_spectral_loss_is_zero_for_the_same_sound_alone(channels: int, weighting: bool):
    loss = SpectralLoss(8000, channels, [128, 64], weighting)
    waveform = noise(2, channels, 1024)
    assert loss(waveform, waveform) == 0
    half = loss(waveform / 2, waveform)
    # convergence 1/2 and logarithm ln 2 at every resolution; stereo counts sum and difference, and left and right
    assert half.item() == pytest.approx(channels * (0.5 + 0.6931), rel=1e-2)


def test_swapped_sides_are_heard():
    """Left and right count, not only their sum."""
    waveform = noise(1, 2, 1024)
    assert SpectralLoss(8000, 2, [64], False)(waveform.flip(1), waveform) > 0.5


def test_diffusers_kl_is_twice_the_usual_one():
    """Summed over channels, averaged over clips and frames, without the half."""
    torch.manual_seed(0)
    model = build(
        encoder_hidden_size=8, downsampling_ratios=[2], channel_multiples=[1], decoder_channels=4,
        decoder_input_channels=4, audio_channels=1, sampling_rate=8000,
    )  # fmt: skip
    with torch.no_grad():
        posterior = model.encode(noise(2, 1, 64)).latent_dist
    usual = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(posterior.kl(), 2 * usual.sum(1).mean())
