"""The mel codec in stereo: through latents, tokenizer and reconstruct to sound of two channels."""

from pathlib import Path

import torch

from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import receipts


def test_a_stereo_chain_codes_and_decodes_both_channels(stage, tones: Path) -> None:
    assert stage("run", "latents", "--experiment=stereo", "--codec.mel.channels=2") == 0
    assert stage("run", "tokenizer", "--experiment=stereo") == 0
    assert stage("run", "reconstruct", "--experiment=stereo", "--sound=true") == 0
    latents, reconstruct = (receipts.read(tones / "runs/stereo" / name) for name in ("latents", "reconstruct"))
    assert latents is not None and latents["facts"]["channels"] == 2 and reconstruct is not None
    assert any(row["mel"] > 0 for row in reconstruct["metrics"]["rows"] if row.get("mel") is not None)
    tokenizer = SoundTokenizer.from_pretrained(tones / "runs/stereo/tokenizer")
    waveform = 0.1 * torch.randn(2, 44100, generator=torch.Generator().manual_seed(0))
    codes = tokenizer.encode([waveform, waveform[:1]], 44100)  # mono is heard in both channels
    sounds = tokenizer.decode(codes)
    assert [len(sound) for sound in sounds] == [2, 2] and all(sound.isfinite().all() for sound in sounds)
