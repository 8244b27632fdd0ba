"""Latents that are decoded piece by piece: the sound of all at once, in the memory of one piece."""

import pytest
import torch
from torch import Tensor

from models.codec.decoding_stream import DecodingStream
from models.codec.interface import LatentCodec
from models.codec.oobleck import Oobleck
from tests.models.codec.test_mel import fitted
from tests.models.codec.test_oobleck import noise, sizes


def mel(channels: int = 1) -> LatentCodec:
    """In float64: Griffin-Lim lets rounding grow."""
    codec = fitted(griffin_lim_iterations=4, channels=channels)
    latents = torch.full((6,), 40)
    codec.accumulate_detail(noise(6, channels, 40 * codec.hop_length), latents)
    codec.fit_detail()
    return codec.double()


def stereo_mel() -> LatentCodec:
    return mel(channels=2)


def oobleck() -> LatentCodec:
    from models.codec.oobleck import build

    torch.manual_seed(0)
    return Oobleck(build(**sizes([2, 4])), chunk_frames=16)


def latents_of(codec: LatentCodec, frames: int) -> Tensor:
    values = 0.5 * noise(frames, codec.latent_dim)
    return values.double() if isinstance(codec, torch.nn.Module) and not isinstance(codec, Oobleck) else values


@pytest.mark.parametrize("make", [mel, stereo_mel, oobleck])
@pytest.mark.parametrize("piece", [1, 7, 40, 1000])
def test_pieces_are_the_sound_of_the_whole(make, piece: int):
    codec, frames = make(), 90
    latents = latents_of(codec, frames)
    stream, sounds = DecodingStream(codec), []
    for start in range(0, frames, piece):
        sounds.append(stream.push(latents[start : start + piece]))
        heard = sum(sound.shape[1] for sound in sounds)
        arrived = min(frames, start + piece)
        assert heard == max(0, arrived - codec.decoder_context.after) * codec.hop_length  # as early as it is certain
        assert stream.latents is not None
        assert stream.latents.shape[1] <= sum(codec.decoder_context)  # whatever came before
    sounds.append(stream.finish())
    torch.testing.assert_close(
        torch.cat(sounds, 1).double(), codec.decode(latents[None])[0].double(), atol=1e-5, rtol=0
    )


def test_a_sound_shorter_than_the_context_comes_at_its_end():
    codec = mel()
    latents = latents_of(codec, 3)
    stream = DecodingStream(codec)
    assert stream.push(latents).shape == (1, 0)
    torch.testing.assert_close(stream.finish(), codec.decode(latents[None])[0])
    assert DecodingStream(codec).finish().shape == (1, 0)
