"""Oobleck: what was saved is what computes, chunks give what the whole gives, contexts are the true ones."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from models.codec.oobleck import Oobleck, build, copy_of, random_oobleck
from models.errors import ModelError


def oobleck(folder: Path, ratios: list[int]) -> Oobleck:
    torch.manual_seed(0)
    AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=ratios, channel_multiples=[1] * len(ratios), decoder_channels=8,
        decoder_input_channels=4, audio_channels=2, sampling_rate=16000,
    ).save_pretrained(folder)  # fmt: skip
    return Oobleck.from_pretrained(str(folder), None, None)


@pytest.mark.parametrize("ratios", [[2, 4], [3, 5]], ids=["even strides", "odd strides"])
def test_oobleck_reads_its_model(tmp_path: Path, ratios: list[int]):
    codec = oobleck(tmp_path, ratios)
    hop = math.prod(ratios)
    assert (codec.sample_rate, codec.hop_length, codec.channels, codec.latent_dim) == (16000, hop, 2, 4)
    assert not codec.model.training and not any(parameter.requires_grad for parameter in codec.parameters())
    for samples in (1, 20 * hop - 1, 20 * hop, 20 * hop + 1):
        waveform = torch.randn(2, 2, samples, generator=torch.Generator().manual_seed(0))
        actual = codec.encode(waveform)
        frames = math.ceil(samples / hop)
        assert actual.mean.shape == actual.std.shape == (2, frames, 4) and (actual.std > 0).all()
        padded = torch.nn.functional.pad(waveform, (0, frames * hop - samples))
        assert torch.equal(codec.encode(padded).mean, actual.mean)
        assert codec.decode(actual.mean).shape == (2, 2, frames * hop)


def test_oobleck_is_what_was_saved(tmp_path: Path):
    """Latents are the posterior's, frames before channels, in float32 under autocast too."""
    codec = oobleck(tmp_path, [2, 4])
    waveform = torch.randn(1, 2, 80, generator=torch.Generator().manual_seed(0))
    model = AutoencoderOobleck.from_pretrained(tmp_path)
    with torch.no_grad():
        posterior = model.encode(waveform).latent_dist
        sound = model.decode(posterior.mean).sample
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = codec.encode(waveform)
        decoded = codec.decode(actual.mean)
    assert torch.equal(actual.mean, posterior.mean.transpose(1, 2))
    assert torch.equal(actual.std, posterior.std.transpose(1, 2))
    assert torch.equal(decoded, sound)


def test_oobleck_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"Allowed: a folder with config.json and weights, or a hub id") as error:
        Oobleck.from_pretrained(str(tmp_path / "nowhere"), "vae", None)
    assert "nowhere" in str(error.value) and "hf auth login" in str(error.value) and "'vae'" in str(error.value)


def test_oobleck_refuses_mono(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(B, 2, T\)"):
        oobleck(tmp_path, [2, 4]).encode(torch.zeros(1, 1, 80))


def sizes(ratios: list[int], rate: int = 16000) -> dict[str, object]:
    return {
        "encoder_hidden_size": 8, "downsampling_ratios": ratios, "channel_multiples": [1] * len(ratios),
        "decoder_channels": 8, "decoder_input_channels": 4, "audio_channels": 2, "sampling_rate": rate,
    }  # fmt: skip


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratios", [[2, 4], [3, 5], [2, 4, 6]], ids=str)
@pytest.mark.parametrize("frames", [1, 16, 17, 150])
def test_chunks_give_what_the_whole_gives(ratios: list[int], frames: int):
    torch.manual_seed(0)
    model = build(**sizes(ratios))
    whole, chunked = Oobleck(model, chunk_frames=10_000), Oobleck(model, chunk_frames=16)
    waveform = noise(2, 2, frames * whole.hop_length - 1)
    actual, expected = chunked.encode(waveform), whole.encode(waveform)
    torch.testing.assert_close(actual.mean, expected.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(actual.std, expected.std, atol=1e-5, rtol=0)
    torch.testing.assert_close(chunked.decode(expected.mean), whole.decode(expected.mean), atol=1e-5, rtol=0)


def test_no_chunk_is_longer_than_its_frames_and_contexts():
    """Memory is that of one chunk."""
    codec = Oobleck(build(**sizes([2, 4])), chunk_frames=16)
    lengths: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, seen in lengths.items():
        getattr(codec.model, name).register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0].shape[-1])
        )
    codec.decode(codec.encode(noise(1, 2, 1000 * codec.hop_length)).mean)
    assert len(lengths["encoder"]) == len(lengths["decoder"]) == 63
    assert max(lengths["encoder"]) == (16 + sum(codec.encoder_context)) * codec.hop_length
    assert max(lengths["decoder"]) == 16 + sum(codec.decoder_context)


@pytest.mark.parametrize("ratios", [[2, 4], [3, 5], [2, 2, 4]], ids=str)
def test_contexts_are_what_gradients_reach(ratios: list[int]):
    """By autograd: the frames that a frame depends on, no more and no fewer."""
    torch.manual_seed(0)
    model = build(**sizes(ratios)).double()
    codec = Oobleck(model)
    hop, frames, middle = codec.hop_length, 121, 60
    waveform = noise(1, 2, frames * hop).double().requires_grad_()
    model.encoder(waveform)[..., middle].sum().backward()
    assert waveform.grad is not None
    touched = (waveform.grad.abs().sum((0, 1)) > 0).nonzero().flatten() // hop
    assert (middle - touched.min(), touched.max() - middle) == codec.encoder_context
    latents = noise(1, 4, frames).double().requires_grad_()
    model.decoder(latents)[..., middle * hop : (middle + 1) * hop].abs().sum().backward()
    assert latents.grad is not None
    touched = (latents.grad.abs().sum((0, 1)) > 0).nonzero().flatten()
    assert (middle - touched.min(), touched.max() - middle) == codec.decoder_context


def test_stable_audios_contexts():
    """Its strides decide, not its width: 7 or 8 frames for a latent, about 10 latents for a frame of sound."""
    sizes_ = sizes([2, 4, 4, 8, 8], rate=44100)
    codec = Oobleck(build(**sizes_))
    assert codec.hop_length == 2048
    assert max(codec.encoder_context) <= 8 and max(codec.decoder_context) <= 12, (
        codec.encoder_context,
        codec.decoder_context,
    )


def test_diffusers_own_tiling_is_another_encoder():
    """Why `enable_tiling` is not used: 26 s are no whole number of frames here, nor at 44.1 kHz and 2048."""
    torch.manual_seed(0)
    model = build(**sizes([2, 4], rate=1050))
    waveform = noise(1, 2, 70 * 1050 // 8 * 8)
    whole = Oobleck(model, chunk_frames=100_000).encode(waveform).mean
    torch.testing.assert_close(Oobleck(model, chunk_frames=256).encode(waveform).mean, whole, atol=1e-5, rtol=0)
    model.enable_tiling()
    with torch.no_grad():
        tiled = model.encode(waveform).latent_dist.mean.transpose(1, 2)
    shorter = min(tiled.shape[1], whole.shape[1])
    assert tiled.shape[1] != whole.shape[1] or (tiled[:, :shorter] - whole[:, :shorter]).abs().max() > 0.01
    assert (26 * 44100) % 2048


def test_halves_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"decoder_input_channels 4 is allowed"):
        build(**sizes([2, 4]) | {"decoder_input_channels": 8})


def test_an_encoder_and_a_decoder_that_do_not_fit_together_are_refused():
    model = AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[2], channel_multiples=[1], decoder_channels=8,
        decoder_input_channels=3, audio_channels=1, sampling_rate=8000,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"ends with 8 channels.* takes latents of 3, so 6 are allowed"):
        Oobleck(model)


def test_a_random_oobleck_has_stable_audios_geometry_and_latents_of_unit_variance():
    codec, again = Oobleck(random_oobleck()), Oobleck(random_oobleck())
    assert all(torch.equal(a, b) for a, b in zip(codec.parameters(), again.parameters(), strict=True))
    assert (codec.sample_rate, codec.hop_length, codec.channels, codec.latent_dim) == (44100, 2048, 2, 64)
    true = AutoencoderOobleck(128, [2, 4, 4, 8, 8], [1] * 5, 8, 64, 2, 44100)  # channels reach no further
    assert Oobleck(true).encoder_context == codec.encoder_context
    assert Oobleck(true).decoder_context == codec.decoder_context
    noise = 0.02 * torch.randn(1, 2, 100 * 2048, generator=torch.Generator().manual_seed(1))
    latents = codec.encode(noise)
    assert latents.mean.shape == (1, 100, 64)
    assert latents.mean.mean().abs() < 0.1 and 0.8 < latents.mean.std() < 1.2
    torch.testing.assert_close(latents.std, torch.full_like(latents.std, 0.1), rtol=0.01, atol=0)
    assert not codec.encode(torch.zeros(1, 2, 4096)).mean.any()


def test_a_copy_has_weights_of_its_own():
    model = AutoencoderOobleck(8, [2, 4], [1, 1], 8, 4, 2, 16000)
    copied, waveform = copy_of(model), torch.randn(1, 2, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.encode(waveform).latent_dist.mean
        for parameter in copied.parameters():
            parameter += 1
        assert torch.equal(model.encode(waveform).latent_dist.mean, before)
        assert not torch.equal(copied.encode(waveform).latent_dist.mean, before)
