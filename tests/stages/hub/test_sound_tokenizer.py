"""A trained tokenizer by hand: what it encodes is what the cache holds; batches, streams and saved copies agree."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from datamodules.store import chunks
from stages.hub.sound_tokenizer import SoundTokenizer


@pytest.fixture(scope="session")
def run(whole: Path) -> Path:
    return whole


@pytest.fixture(scope="session")
def tokenizer(run: Path) -> SoundTokenizer:
    return SoundTokenizer.from_pretrained(run / "tokenizer")


def sound(seconds: float, rate: int = 44100, channels: int = 1, seed: int = 0) -> Tensor:
    times = torch.arange(int(seconds * rate)) / rate
    tone = 0.2 * torch.sin(2 * torch.pi * 300 * (1 + seed) * times) * (1 + torch.sin(2 * torch.pi * times))
    noise = torch.randn(channels, len(times), generator=torch.Generator().manual_seed(seed))
    return tone + 0.05 * noise


def test_it_encodes_to_what_the_cache_holds(run: Path, tokenizer: SoundTokenizer, tones: Path):
    for cut in chunks.read(run / "cache/chunks")[:6]:
        path = next((tones / "recordings").glob(Path(cut.recording.sources[0].source).name))
        waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert tokenizer.encode([torch.from_numpy(waveform.T)], rate) == [list(cut.custom["codes"])]


def test_the_cache_holds_them_in_every_precision(stage, run: Path):
    """bf16-mixed is the base's; `encode` knows no trainer."""
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer")]
    assert stage("run", "cache", "--experiment=half-precision", "--trainer.precision=bf16-mixed", *parents) == 0
    half = chunks.read(run.parent / "half-precision/cache/chunks")
    expected = chunks.read(run / "cache/chunks")
    assert [cut.custom["codes"] for cut in half] == [cut.custom["codes"] for cut in expected]


def test_codes_are_of_the_latents_that_a_cache_can_hold(tokenizer: SoundTokenizer, monkeypatch: pytest.MonkeyPatch):
    """Of float16's values: others fall to another code where two are nearly as near."""
    seen: list[Tensor] = []
    encode = tokenizer.tokenizer.encode

    def noted(latents: Tensor, num_frames: Tensor) -> Any:
        seen.append(latents)
        return encode(latents, num_frames)

    monkeypatch.setattr(tokenizer.tokenizer, "encode", noted)
    tokenizer.encode([sound(1.0)], 44100)
    stream = tokenizer.stream()
    stream.push(sound(1.0))
    stream.finish()
    assert len(seen) >= 2 and all(torch.equal(latents, latents.half().float()) for latents in seen)


def test_an_array_is_as_good_as_a_tensor(tokenizer: SoundTokenizer):
    wave = sound(1.0)
    codes = tokenizer.encode([wave, wave.numpy(), wave.double().numpy()], 44100)
    assert codes[0] == codes[1] == codes[2] and all(type(code) is int for code in codes[1])
    with pytest.raises(ValueError, match=r"sound 0 is torch\.int16; a tensor or array of floats"):
        tokenizer.encode([(3e4 * wave).short().numpy()], 44100)
    with pytest.raises(ValueError, match="sound 1 is list; a tensor or array of floats"):
        tokenizer.encode([wave, wave.tolist()], 44100)  # type: ignore[list-item]


def test_the_temperature_is_the_configurations_or_the_callers(
    tokenizer: SoundTokenizer, monkeypatch: pytest.MonkeyPatch
):
    """A tokenizer of before the key decodes as it was trained, at 1."""
    codes = tokenizer.encode([sound(2.0)], 44100)
    called = {at: tokenizer.decode(codes, temperature=at)[0] for at in (0.0, 0.5, 1.0)}
    sampling = tokenizer.facts["sampling"]
    for at, decoded in called.items():
        monkeypatch.setitem(tokenizer.facts, "sampling", sampling | {"temperature": at})
        assert torch.equal(tokenizer.decode(codes)[0], decoded)
    monkeypatch.setitem(tokenizer.facts, "sampling", {k: v for k, v in sampling.items() if k != "temperature"})
    assert torch.equal(tokenizer.decode(codes)[0], called[1.0])
    assert not torch.allclose(called[0.5], called[1.0])
    same = (tokenizer.decode(codes, temperature=0.0, seed=seed)[0] for seed in (1, 2))
    assert torch.equal(*same)


def test_a_sound_has_its_own_seed_in_a_batch(tokenizer: SoundTokenizer):
    codes = tokenizer.encode([sound(1.0), sound(2.0)], 44100)
    together = tokenizer.decode(codes, seed=[3, 4])
    for one, seed, waveform in zip(codes, (3, 4), together, strict=True):
        alone, other = (tokenizer.decode([one], seed=number)[0] for number in (seed, 7 - seed))
        assert (waveform - alone).norm() < 0.02 * alone.norm() < 0.2 * (waveform - other).norm()
    with pytest.raises(ValueError, match="1 seeds for 2 sounds"):
        tokenizer.decode(codes, seed=[3])


def test_a_batch_gives_what_its_sounds_give_one_by_one(tokenizer: SoundTokenizer):
    sounds = [
        sound(seconds, channels=channels, seed=n)
        for n, (seconds, channels) in enumerate([(0.3, 1), (7.2, 2), (11.0, 1), (2.5, 2)])
    ]
    together = tokenizer.encode(sounds, 44100, batch_size=3)
    assert together == [tokenizer.encode([one], 44100, batch_size=1)[0] for one in sounds]
    decoded = tokenizer.decode(together, [one.shape[1] for one in sounds], seed=3, batch_size=3)
    for codes, one, waveform in zip(together, sounds, decoded, strict=True):
        assert waveform.shape == (1, one.shape[1])
        alone = tokenizer.decode([codes], [one.shape[1]], seed=3)[0]
        assert (waveform - alone).norm() < 0.02 * alone.norm()  # Griffin-Lim lets rounding grow


@pytest.mark.parametrize("samples", [1, 2048, 2049, 30000, 44100 * 60])
def test_any_length_comes_back_as_long(tokenizer: SoundTokenizer, samples: int):
    waveform = sound(samples / 44100 + 0.01)[:, :samples]
    codes = tokenizer.encode([waveform], 44100)
    assert tokenizer.decode(codes, [samples], num_steps=1)[0].shape == (1, samples)
    hop = tokenizer.codec.hop_length
    assert tokenizer.decode(codes, num_steps=1)[0].shape[1] >= -(-samples // hop) * hop
    expected = samples / 44100 * tokenizer.token_rate
    windows = tokenizer.rule.num_windows(-(-samples // hop))
    assert abs(len(codes[0]) - expected) <= 1 + windows  # a window rounds up, and holds a whole number of frames


@pytest.mark.parametrize("seconds", [12.4, 11.0])  # 11.0: its last window takes in a rest of 1 s
@pytest.mark.parametrize("piece", [700, 5000, 44100, 10**7])
def test_a_stream_gives_what_the_whole_gives_as_early_as_it_is_certain(
    tokenizer: SoundTokenizer, piece: int, seconds: float
):
    waveform = sound(seconds, seed=4)
    whole = tokenizer.encode([waveform], 44100)[0]
    stream, emitted, delays = tokenizer.stream(), [], []
    for start in range(0, waveform.shape[1], piece):
        emitted += stream.push(waveform[:, start : start + piece])
        heard = min(start + piece, waveform.shape[1]) / 44100
        delays.append(heard * tokenizer.token_rate - len(emitted))
        assert emitted == whole[: len(emitted)]
    assert emitted + stream.finish() == whole
    # at a window's end: whether what follows is a part of it
    frames = tokenizer.codec.encoder_context.after + 2 + tokenizer.rule.shortest
    lookahead = frames * tokenizer.codec.hop_length / 44100
    assert max(delays) <= 2 + lookahead * tokenizer.token_rate  # not only at the end
    assert stream.finish() == []  # and is as new
    assert stream.push(waveform[:, :5000]) + stream.finish() == tokenizer.encode([waveform[:, :5000]], 44100)[0]


def test_codes_imply_the_windows_that_they_are_of(tokenizer: SoundTokenizer):
    """For every length up to four windows: with its number of samples the very windows, without it a sound as long."""
    hop, rule = tokenizer.codec.hop_length, tokenizer.rule
    for frames in range(1, 4 * rule.frames):
        codes = list(range(tokenizer._codes_of(frames)))
        parts = tokenizer._parts(codes, frames * hop)
        assert [part.num_frames for part in parts] == rule.lengths(frames)
        assert [code for part in parts for code in part.codes] == codes
        fewest, most = tokenizer.num_samples(len(codes))
        assert fewest <= (frames - 1) * hop + 1 and frames * hop <= most
        assert sum(part.num_frames for part in tokenizer._parts(codes, None)) * hop == most
        assert tokenizer._codes_of(-(-fewest // hop)) == tokenizer._codes_of(most // hop) == len(codes)


def test_a_saved_copy_is_the_same_without_its_run(tokenizer: SoundTokenizer, run: Path, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "elsewhere")
    copy = SoundTokenizer.from_pretrained(tmp_path / "elsewhere")
    codes = tokenizer.encode([sound(3.0)], 44100)
    assert copy.encode([sound(3.0)], 44100) == codes
    assert torch.equal(copy.decode(codes)[0], tokenizer.decode(codes)[0])
    assert (copy.bitrate, copy.token_rate) == (tokenizer.bitrate, tokenizer.token_rate)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sound_that_is_not_finite_is_refused_with_its_sample(tokenizer: SoundTokenizer, value: float):
    wave = sound(1.0, channels=2)
    wave[1, 77] = value
    message = "1 of its samples are NaN or infinite, the first is sample 77 of channel 1"
    for given in (wave, wave.numpy()):
        with pytest.raises(ValueError, match=f"sound 1: {message}"):
            tokenizer.encode([sound(1.0), given], 44100)
    with pytest.raises(ValueError, match="waveform: 1 of its samples"):
        tokenizer.stream().push(wave[1:])


@pytest.mark.parametrize("rate", [0, -1, 44100.5, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused(tokenizer: SoundTokenizer, rate: float):
    with pytest.raises(ValueError, match=f"sample_rate {rate}; a whole number of Hz"):
        tokenizer.encode([sound(1.0)], rate)  # type: ignore[arg-type]


def test_a_rate_may_be_a_float_of_a_whole_number(tokenizer: SoundTokenizer):
    assert tokenizer.encode([sound(1.0)], 44100.0) == tokenizer.encode([sound(1.0)], np.int64(44100))  # type: ignore[arg-type]


def test_what_is_no_tokenizer_and_no_sound_is_refused(tokenizer: SoundTokenizer, run: Path, tmp_path: Path):
    with pytest.raises(
        ValueError, match="a run of the stage cache; one of tokenizer, or of decoder_finetuning, is allowed"
    ):
        SoundTokenizer.from_pretrained(run / "cache")
    with pytest.raises(ValueError, match=r"no sound_tokenizer.json"):
        SoundTokenizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"sound 1 has shape \(1, 0\)"):
        tokenizer.encode([sound(1.0), torch.zeros(1, 0)], 44100)
    with pytest.raises(ValueError, match="sound 0 has 7 channels"):
        tokenizer.encode([torch.zeros(7, 100)], 44100)
    with pytest.raises(ValueError, match="length 0"):
        tokenizer.decode([[1], []])
    size = tokenizer.codebook_size
    for codes in ([0, size], [-1, 0]):
        with pytest.raises(ValueError, match=f"sound 1: codes from {min(codes)} to {max(codes)}; 0 to {size - 1} are"):
            tokenizer.decode([[0], codes])
    with pytest.raises(ValueError, match=r"\(1, T\) at 44100 Hz is allowed"):
        tokenizer.stream().push(torch.zeros(2, 100))
