"""VAEs: frames stand for their samples, fits do not depend on batches, round trips stay near, and refusals teach."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from conf import compose, plain
from conf.sections.codec import LatentsConf
from models.codec.mel import MelCodec

RATE, HOP, MEL_HOP = 8000, 256, 64
SETTINGS: dict[str, Any] = {
    "sample_rate": RATE, "hop_length": HOP, "fft_size": 256, "mel_hop": MEL_HOP, "mel_bands": 16, "latent_dim": 16,
    "min_hz": 0.0, "max_hz": 4000.0, "log_floor": 1e-5, "griffin_lim_iterations": 32,
}  # fmt: skip


def sounds(samples: int, count: int) -> Tensor:
    """Noise whose level changes with the latent frames, (count, 1, samples)."""
    generator = torch.Generator().manual_seed(0)
    levels = 0.02 + 0.3 * torch.rand(count, 1, math.ceil(samples / HOP), generator=generator)
    noise = torch.randn(count, 1, levels.shape[-1] * HOP, generator=generator)
    return (levels.repeat_interleave(HOP, -1) * noise)[..., :samples]


def panned(samples: int, count: int) -> Tensor:
    """Of `sounds`, each as far left or right as its number says, but the first; (count, 2, samples)."""
    angles = torch.linspace(0.1, 1.4, count)[:, None, None]
    return torch.cat([angles.cos(), angles.sin()], 1) * sounds(samples, count)


def fitted(**changes: float) -> MelCodec:
    codec = MelCodec(**(SETTINGS | changes))
    waveform = sounds(40 * HOP, 6) if codec.channels == 1 else panned(40 * HOP, 6)
    codec.accumulate(waveform, torch.full((6,), 40))
    codec.fit()
    return codec


@pytest.mark.parametrize("sample", [1, 62, 66, 1000, 2046, 2050, 12 * HOP - 2])
def test_an_impulse_is_in_its_own_frame(sample: int):
    """With every component kept, spectra come back whole: the mel frame with most energy holds the impulse."""
    codec = fitted(latent_dim=64)
    waveform = torch.zeros(1, 1, 12 * HOP)
    waveform[0, 0, sample] = 1.0
    energy = codec.magnitudes(codec.encode(waveform).mean)[0, 0].sum(-1)
    assert len(energy) == 12 * HOP // MEL_HOP
    assert energy.argmax() == sample // MEL_HOP


@pytest.mark.parametrize("sample", [1000, 1500, 2048])
def test_an_impulse_comes_back_where_it_was(sample: int):
    """The energy's centre, to a mel frame; Griffin-Lim knows no phase."""
    codec = fitted(latent_dim=64)
    waveform = torch.zeros(1, 1, 12 * HOP)
    waveform[0, 0, sample] = 1.0
    power = codec.decode(codec.encode(waveform).mean)[0, 0].square()
    centre = (power * torch.arange(12 * HOP)).sum() / power.sum()
    assert centre.item() == pytest.approx(sample, abs=MEL_HOP)


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 10 * HOP])
def test_mel_shapes(samples: int):
    """F = ceil(T / hop); zeros on the right of the last frame."""
    codec = fitted(griffin_lim_iterations=1)
    waveform = sounds(samples, 2)
    actual = codec.encode(waveform)
    frames = math.ceil(samples / HOP)
    assert actual.mean.shape == (2, frames, 16) and actual.mean.dtype == torch.float32
    assert actual.std.shape == actual.mean.shape and not actual.std.any()
    padded = torch.nn.functional.pad(waveform, (0, frames * HOP - samples))
    assert torch.equal(codec.encode(padded).mean, actual.mean)
    assert codec.decode(actual.mean).shape == (2, 1, frames * HOP)


def test_a_sine_of_full_scale_has_one_at_its_bin():
    """1000 Hz is bin 32 of 31.25 Hz each; a band is the mean of its bins; 20 dB quieter is ln 10 less."""
    codec = fitted(latent_dim=64)
    time = torch.arange(12 * HOP) / RATE
    loud, soft = (a * (2 * math.pi * 1000 * time)[None, None].sin() for a in (1.0, 0.1))
    mean_loud, mean_soft = codec._log_mel(loud)[0, 5], codec._log_mel(soft)[0, 5]
    band = mean_loud.argmax()
    torch.testing.assert_close(mean_loud[band] - mean_soft[band], torch.tensor(math.log(10)), atol=1e-3, rtol=0)
    share = codec.filters[32] + (codec.filters[31] + codec.filters[33]) / 2  # a Hann window's three lines
    assert mean_loud[band].exp().item() == pytest.approx(share.max().item(), rel=0.02)


def test_one_fit_equals_many_batches():
    """Whatever the batches, their order, and the padding of their clips."""
    whole, parts = MelCodec(**SETTINGS), MelCodec(**SETTINGS)
    waveform = sounds(40 * HOP, 6)
    whole.accumulate(waveform, torch.full((6,), 40))
    for clip in (4, 1, 0, 5, 3, 2):
        parts.accumulate(waveform[clip : clip + 1], torch.tensor([40]))
    whole.fit()
    parts.fit()
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    new = sounds(10 * HOP, 3)
    torch.testing.assert_close(parts.encode(new).mean, whole.encode(new).mean, atol=1e-3, rtol=1e-3)


def test_fit_ignores_frames_beyond_num_frames():
    waveform, lengths = sounds(40 * HOP, 3), [40, 30, 20]
    batched, alone = MelCodec(**SETTINGS), MelCodec(**SETTINGS)
    padded = waveform * (torch.arange(40 * HOP) < HOP * torch.tensor(lengths).view(3, 1, 1))
    padded[2, 0, 25 * HOP :] = 0.5  # loud, where no valid frame's window reaches
    batched.accumulate(padded, torch.tensor(lengths))
    for clip, frames in enumerate(lengths):
        alone.accumulate(waveform[clip : clip + 1, :, : frames * HOP], torch.tensor([frames]))
    batched.fit()
    alone.fit()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(batched.state_dict()[name], value, atol=1e-4, rtol=1e-4)


def test_fit_is_reproducible_and_its_state_travels():
    one, other = fitted(), fitted()
    assert not [name for name, x in one.state_dict().items() if not torch.equal(x, other.state_dict()[name])]
    loaded = MelCodec(**SETTINGS)
    loaded.load_state_dict(one.state_dict())
    waveform = sounds(10 * HOP, 2)
    assert torch.equal(loaded.encode(waveform).mean, one.encode(waveform).mean)
    latents = one.encode(waveform).mean
    assert torch.equal(loaded.decode(latents), one.decode(latents))


def test_latents_of_the_corpus_have_mean_0_and_deviation_1_in_every_channel():
    latents = fitted().encode(sounds(40 * HOP, 6)).mean.flatten(0, 1)
    torch.testing.assert_close(latents.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(0, unbiased=False), torch.ones(16), atol=1e-3, rtol=0)


def test_distances_between_latents_are_distances_between_spectra():
    """Exactly so, but for one factor, where every component is kept; never more with fewer."""
    waveform = sounds(10 * HOP, 2)
    for latent_dim in (64, 16):
        codec = fitted(latent_dim=latent_dim)
        torch.testing.assert_close(codec.components @ codec.components.T, torch.eye(latent_dim), atol=1e-5, rtol=0)
        latents, spectra = codec.encode(waveform).mean.flatten(0, 1), codec._log_mel(waveform).flatten(0, 1)
        apart, exact = torch.cdist(latents, latents) * codec.scale, torch.cdist(spectra, spectra)
        if latent_dim == 64:
            torch.testing.assert_close(apart, exact, atol=0.05, rtol=1e-3)
        assert (apart <= exact + 0.05).all()


def test_explained_variance_is_what_the_components_keep():
    """By the error of projecting and back."""
    codec, waveform = fitted(), sounds(40 * HOP, 6)
    assert MelCodec(**SETTINGS).explained_variance.isnan()
    spectra = codec._log_mel(waveform).flatten(0, 1).double()
    back = codec.encode(waveform).mean.flatten(0, 1).double() * codec.scale @ codec.components.double() + codec.mean
    lost = (spectra - back).square().sum() / (spectra - spectra.mean(0)).square().sum()
    assert codec.explained_variance.item() == pytest.approx(1 - lost.item(), abs=1e-4)
    assert fitted(latent_dim=64).explained_variance.item() == pytest.approx(1, abs=1e-5)


def test_decode_then_encode_stays_near():
    """Some 0.12 to 0.16, and nearer than the same sound half a mel frame early or late."""
    codec = fitted()
    latents = codec.encode(sounds(20 * HOP, 3)).mean
    sound = codec.decode(latents)
    error, early, late = (
        (codec.encode(sound.roll(shift, -1)).mean - latents).norm() / latents.norm()
        for shift in (0, -MEL_HOP // 2, MEL_HOP // 2)
    )
    assert error < 0.25 and error < min(early, late)
    assert torch.equal(sound, codec.decode(latents))


def test_silence_between_sounds_is_silent():
    """Magnitudes at the floor are not decoded as noise of that level, whose root mean square would be 8e-5."""
    codec, waveform = MelCodec(**SETTINGS | {"latent_dim": 64}), sounds(24 * HOP, 6)
    waveform[..., 8 * HOP : 16 * HOP] = 0
    codec.accumulate(waveform, torch.full((6,), 24))
    codec.fit()
    decoded = codec.decode(codec.encode(waveform).mean)[:, 0, 10 * HOP : 14 * HOP]
    assert decoded.square().mean().sqrt() < 2e-5


def test_silence_of_the_demos_codec_is_silent():
    """At 44.1 kHz and with all that is fitted: what the regression gives back a little above the floor would be hiss of some 1e-5."""
    conf = compose("latents", ["demo"]).conf
    assert isinstance(conf, LatentsConf)
    codec = MelCodec(**plain(conf.codec.mel))
    hop, count = codec.hop_length, 8
    waveform = torch.zeros(count, 1, 40 * hop)
    noise = torch.randn(count, 20 * hop, generator=torch.Generator().manual_seed(0))
    levels = 0.1 * 10 ** -(torch.arange(count) / 4)  # down to -55 dB
    waveform[:, 0, : 20 * hop] = levels[:, None] * noise
    frames = torch.full((count,), 40)
    codec.accumulate(waveform, frames)
    codec.fit()
    codec.accumulate_detail(waveform, frames)
    codec.fit_detail()
    decoded = codec.decode(codec.encode(waveform).mean)[:, 0]
    assert decoded[:, 24 * hop : 38 * hop].square().mean().sqrt() < 1e-6
    assert (decoded[:, 4 * hop : 16 * hop].square().mean(1).sqrt() > 0.7 * levels).all()


def test_the_spectrum_is_nearer_than_by_the_pseudo_inverse():
    """Which is what a codec without the regression decodes by; its latents are the same."""
    codec, waveform = fitted(latent_dim=64), sounds(40 * HOP, 6)
    latents, true = codec.encode(waveform).mean, codec._spectrum(waveform)
    errors = []
    for fit in (True, False):
        codec.linear_spectrum.fitted.fill_(fit)
        assert torch.equal(codec.encode(waveform).mean, latents)
        magnitudes = codec.magnitudes(latents) / (codec.window.sum() / 2)
        errors.append((magnitudes.clamp(min=1e-5).log() - true.clamp(min=1e-5).log()).square().mean())
    assert errors[0] < errors[1]


def test_what_the_components_lose_is_learned_and_changes_no_latent():
    """On tones, whose harmonics follow from each other; nearer to their log-mel frames, as the codec has them."""
    codec = MelCodec(**SETTINGS)
    pitches = torch.linspace(150, 900, 40 * HOP) + torch.linspace(0, 400, 6)[:, None]
    phases = (2 * math.pi * pitches / RATE).cumsum(1)
    waveform = 0.2 * sum(((number * phases).sin() / number for number in (1, 2, 3)), torch.zeros(1))[:, None]
    codec.accumulate(waveform, torch.full((6,), 40))
    codec.fit()
    latents, true = codec.encode(waveform).mean, codec._log_mel(waveform)
    codec.accumulate_detail(waveform[:4], torch.full((4,), 40))
    codec.accumulate_detail(waveform[4:], torch.tensor([40, 30]))
    codec.fit_detail()
    assert torch.equal(codec.encode(waveform).mean, latents)
    spectra = codec._components_to_spectra(latents)
    decoded = (spectra, spectra + codec.lost_detail(latents))
    errors = [(x - true)[:, 1:-1].square().mean() for x in decoded]  # the ends begin and break off
    assert errors[1] < 0.95 * errors[0]


def test_a_pass_over_clips_without_inner_frames_learns_nothing():
    codec = fitted()
    latents = codec.encode(sounds(4 * HOP, 1)).mean
    before = codec.decode(latents)
    codec.accumulate_detail(sounds(2 * HOP, 3), torch.tensor([2, 1, 2]))
    codec.fit_detail()
    assert not codec.lost_detail.fitted and torch.equal(codec.decode(latents), before)


def test_a_batch_equals_its_items():
    codec, waveform = fitted(), sounds(10 * HOP, 3)
    latents = codec.encode(waveform).mean
    spectra = codec.magnitudes(latents)
    sound = griffin_lim_in_double(spectra)
    for clip in range(3):
        one = slice(clip, clip + 1)
        torch.testing.assert_close(codec.encode(waveform[one]).mean, latents[one], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(codec.magnitudes(latents[one]), spectra[one], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(griffin_lim_in_double(spectra[one]), sound[one], atol=1e-6, rtol=0)


def griffin_lim_in_double(spectra: torch.Tensor) -> torch.Tensor:
    """The inverse of magnitudes in float64: Griffin-Lim turns the rounding of float32 into sound that is heard."""
    return fitted().double().griffin_lim(spectra.double())


def decoded_level(codec: MelCodec, waveform: Tensor) -> Tensor:
    """(B, 2) dB, of what comes back."""
    return 10 * codec.decode(codec.encode(waveform).mean).square().mean(-1).log10()


def test_stereo_of_one_sound_is_decoded_equal_in_both_channels():
    """Though the corpus lies to one side, for its mirror image counts as well; and as the mono codec decodes it."""
    codec = MelCodec(**SETTINGS, channels=2)
    codec.accumulate(panned(40 * HOP, 6)[:2], torch.full((2,), 40))
    codec.fit()
    waveform = sounds(10 * HOP, 2)
    left, right = codec.magnitudes(codec.encode(waveform.expand(-1, 2, -1)).mean).unbind(1)
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)
    whole, mono = fitted(channels=2, latent_dim=128), fitted(latent_dim=64)
    for one in (whole, mono):
        one.linear_spectrum.fitted.fill_(False)  # which is fitted on other levels
    stereo = whole.magnitudes(whole.encode(waveform.expand(-1, 2, -1)).mean)
    torch.testing.assert_close(
        stereo, mono.magnitudes(mono.encode(waveform).mean).expand_as(stereo), atol=1e-2, rtol=1e-2
    )


def test_mirrored_sound_is_decoded_mirrored():
    codec, waveform = fitted(channels=2), panned(10 * HOP, 6)
    spectra, mirrored = (codec.magnitudes(codec.encode(sound).mean) for sound in (waveform, waveform.flip(1)))
    torch.testing.assert_close(mirrored.flip(1), spectra, atol=1e-4, rtol=1e-3)
    left, right = decoded_level(codec, waveform).T
    torch.testing.assert_close(decoded_level(codec, waveform.flip(1)).T, torch.stack([right, left]), atol=0.1, rtol=0)


def test_the_side_of_a_sound_comes_back():
    """A sound that is so many decibels louder on the left is so when it is decoded, with what the components lose, too."""
    codec, waveform = fitted(channels=2), panned(40 * HOP, 6)
    difference = 10 * (waveform.square().mean(-1).log10() @ torch.tensor([1.0, -1.0]))
    assert difference[0] > 15 and difference[-1] < -15
    for _ in range(2):
        left, right = decoded_level(codec, waveform).T
        torch.testing.assert_close(left - right, difference, atol=1.5, rtol=0)
        codec.accumulate_detail(waveform, torch.full((6,), 40))
        codec.fit_detail()
    assert codec.lost_detail.fitted


def test_every_component_of_stereo_is_alike_in_both_channels_or_opposite():
    """Before they are mixed: the scores of a sound and of its mirror image differ in sign alone."""
    codec, waveform = fitted(channels=2, latent_dim=32), panned(10 * HOP, 4)
    components = _unmixed(codec)
    left, right = components.unflatten(1, (2, -1)).unbind(1)
    signs = (left * right).sum(1).sign()
    torch.testing.assert_close(left, signs[:, None] * right, atol=1e-4, rtol=0)
    assert 0 < (signs > 0).sum() < 32
    scores, mirrored = ((codec._log_mel(sound) - codec.mean) @ components.T for sound in (waveform, waveform.flip(1)))
    torch.testing.assert_close(mirrored, signs * scores, atol=1e-2, rtol=1e-3)


def _unmixed(codec: MelCodec) -> Tensor:
    from models.codec.mel import _hadamard

    return (_hadamard(codec.latent_dim).mT @ codec.components.double()).float()


def test_autocast_changes_no_mel_latent():
    codec, waveform = fitted(), sounds(10 * HOP, 2)
    exact = codec.encode(waveform).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = codec.encode(waveform).mean
    torch.testing.assert_close(rough.float(), exact, atol=1e-4, rtol=1e-4)


def test_before_fit_encode_and_decode_are_refused():
    codec = MelCodec(**SETTINGS)
    with pytest.raises(ValueError, match=r"not fitted: accumulate.* and call fit\(\), or load"):
        codec.encode(sounds(HOP, 1))
    with pytest.raises(ValueError, match="not fitted"):
        codec.decode(torch.zeros(1, 3, 16))
    codec.accumulate(sounds(16 * HOP, 1), torch.tensor([16]))
    with pytest.raises(ValueError, match="16 latent frames were accumulated; 16 components need at least 17"):
        codec.fit()
    silent = MelCodec(**SETTINGS)
    silent.accumulate(torch.zeros(1, 1, 40 * HOP), torch.tensor([40]))
    with pytest.raises(ValueError, match="silence"):
        silent.fit()


@pytest.mark.parametrize("channels, shape", [(1, (1, HOP)), (1, (1, 2, HOP)), (1, (1, 1, 0)), (2, (1, 1, HOP))])
def test_a_waveform_of_another_shape_is_refused(channels: int, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=rf"\(B, {channels}, T\) with T >= 1 is allowed"):
        fitted(channels=channels).encode(torch.zeros(shape))


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@pytest.mark.parametrize(
    "changes, text",
    [
        ({"hop_length": 100}, "hop_length must be a multiple of"),
        ({"fft_size": 127}, "at least twice mel_hop"),
        ({"latent_dim": 48}, "latent_dim 48: a power of 2 up to"),
        ({"latent_dim": 128}, "= 64 is allowed"),
        ({"max_hz": 5000.0}, r"within 0 to sample_rate / 2 = 4000"),
        ({"mel_bands": 256}, "256 mel_bands are too many"),
        ({"channels": 3}, "channels 3: 1, mono, and 2, stereo"),
        ({"channels": 2, "latent_dim": 256}, "= 128 is allowed"),
    ],
)
def test_mel_settings_refused(changes: dict[str, float], text: str):
    with pytest.raises(ValueError, match=text):
        MelCodec(**(SETTINGS | changes))
