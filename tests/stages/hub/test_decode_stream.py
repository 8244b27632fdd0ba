"""A sound that is decoded in pieces: the sound of `decode`, in memory and a file that do not wait for its end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from torch import Tensor

from stages.hub import sound_files
from stages.hub.sound_tokenizer import SoundTokenizer


@pytest.fixture(scope="module")
def tokenizer(whole: Path) -> SoundTokenizer:
    return SoundTokenizer.from_pretrained(whole / "tokenizer")


def codes_of(tokenizer: SoundTokenizer, seconds: float) -> tuple[list[int], int]:
    """Codes of so long a sound, and its samples."""
    samples = int(seconds * tokenizer.sample_rate)
    count = tokenizer.num_codes(seconds)
    ids = torch.randint(0, tokenizer.codebook_size, (count,), generator=torch.Generator().manual_seed(0))
    return ids.tolist(), samples


@pytest.mark.parametrize("seconds", [0.4, 7.0, 21.3])
def test_pieces_are_the_sound_of_the_whole(tokenizer: SoundTokenizer, seconds: float):
    codes, samples = codes_of(tokenizer, seconds)
    whole = tokenizer.decode([codes], [samples], num_steps=1, seed=3)[0]
    pieces = list(tokenizer.decode_stream(codes, samples, num_steps=1, seed=3))
    assert len(pieces) > 1 and sum(piece.shape[1] for piece in pieces) == samples
    assert (torch.cat(pieces, 1) - whole).norm() < 0.02 * whole.norm()  # Griffin-Lim lets rounding grow
    with pytest.raises(ValueError, match="length 0"):
        list(tokenizer.decode_stream([]))


def test_memory_is_that_of_a_window_whatever_the_length(tokenizer: SoundTokenizer, monkeypatch: pytest.MonkeyPatch):
    decode, seen = tokenizer.codec.decode, list[int]()

    def noted(latents: Tensor, *rest: Any) -> Tensor:
        seen.append(latents.shape[1])
        return decode(latents, *rest)

    monkeypatch.setattr(tokenizer.codec, "decode", noted)
    bound = tokenizer.rule.longest + sum(tokenizer.codec.decoder_context)  # frames
    for seconds in (20.0, 60.0):
        seen.clear()
        codes, samples = codes_of(tokenizer, seconds)
        longest = max(piece.shape[1] for piece in tokenizer.decode_stream(codes, samples, num_steps=1))
        assert max(seen) <= bound < samples / tokenizer.hop_length / 2
        assert longest <= bound * tokenizer.hop_length


def test_the_file_grows_while_the_sound_is_decoded_and_is_whole_or_not_there(tmp_path: Path):
    target, sizes = tmp_path / "long.wav", list[int]()

    def pieces() -> Iterator[Tensor]:
        for level in (0.5, 2.0, 1.0):
            yield torch.full((2, 4000), level)
            (part,) = tmp_path.iterdir()
            assert part != target
            sizes.append(part.stat().st_size)

    assert sound_files.write(target, pieces(), 8000) == (1.5, ", turned down by 6.0 dB to full scale")
    assert sizes[0] > 4 * 8000 and sizes[1] - sizes[0] == sizes[2] - sizes[1] == 4 * 8000
    assert list(tmp_path.iterdir()) == [target]
    sound, rate = soundfile.read(target, always_2d=True)
    assert rate == 8000 and sound.shape == (12000, 2)
    expected = torch.tensor([0.25, 1.0, 0.5]).repeat_interleave(4000)
    torch.testing.assert_close(torch.from_numpy(sound[:, 1]).float(), expected, atol=1e-4, rtol=0)

    def broken() -> Iterator[Tensor]:
        yield torch.zeros(1, 10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sound_files.write(tmp_path / "broken.wav", broken(), 8000)
    assert list(tmp_path.iterdir()) == [target]
