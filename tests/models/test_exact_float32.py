import pytest
import torch
from diffusers import AutoencoderOobleck

from models.codec.oobleck import Oobleck
from models.exact_float32 import exact_float32


def test_tf32_is_off_inside_and_as_it_was_after():
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ValueError, match="inside"), exact_float32("cpu"):
        assert not torch.backends.cudnn.allow_tf32
        raise ValueError("inside")
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_vae_encodes_and_decodes_without_tf32_and_autocast():
    torch.manual_seed(0)
    model = AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=8,
        decoder_input_channels=4, audio_channels=1, sampling_rate=8000,
    )  # fmt: skip
    seen: list[tuple[bool, bool]] = []

    def note(*_: object) -> None:
        seen.append((torch.backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")))

    for convolution in (module for module in model.modules() if isinstance(module, torch.nn.Conv1d)):
        convolution.register_forward_hook(note)
    codec = Oobleck(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codec.decode(codec.encode(torch.randn(1, 1, 64)).mean)
    assert seen and set(seen) == {(False, False)}
