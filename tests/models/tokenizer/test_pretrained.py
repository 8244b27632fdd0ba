"""Others' tokenizers give what `transformers` gives, frame after frame."""

import math

import pytest
import torch
from torch import Tensor
from transformers import DacFeatureExtractor, EncodecConfig, EncodecFeatureExtractor, EncodecModel

from models.errors import ModelError
from models.tokenizer.pretrained import PretrainedTokenizer
from tests.models.tokenizer.tiny_pretrained import RATES, tiny

KINDS = list(RATES)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(kind: str) -> PretrainedTokenizer:
    return PretrainedTokenizer(tiny(kind), RATES[kind][2])


def noise(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def by_transformers(kind: str, model: object, sound: Tensor) -> Tensor:
    """sound (T) through the feature extractor and `encode` of transformers, as their documentation does it: (Q, F)."""
    rate, hop, count = RATES[kind]
    if kind in ("mimi", "encodec"):
        extractor = EncodecFeatureExtractor(feature_size=1, sampling_rate=rate)
    else:
        extractor = DacFeatureExtractor(feature_size=1, sampling_rate=rate, hop_length=hop)
    inputs = extractor(raw_audio=sound.numpy(), sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        if kind == "mimi":
            return model.encode(inputs["input_values"], inputs["padding_mask"], num_quantizers=count).audio_codes[0]
        if kind == "encodec":
            bandwidth = count * math.log2(64) * rate / hop / 1000
            return model.encode(inputs["input_values"], inputs["padding_mask"], bandwidth).audio_codes[0, 0]
        if kind == "dac":
            return model.encode(inputs["input_values"], n_quantizers=count).audio_codes[0]
        return model.encode(inputs["input_values"]).audio_codes[0]


def test_the_rate_is_that_of_the_published_model(kind: str, tokenizer: PretrainedTokenizer):
    published = {"mimi": 12.5, "encodec": 75, "dac": 44100 / 512, "xcodec": 50}
    rate, hop, codebooks = RATES[kind]
    assert (tokenizer.sample_rate, tokenizer.hop_length, tokenizer.channels) == (rate, hop, 1)
    assert tokenizer.frame_rate == published[kind] and tokenizer.levels == tuple(range(codebooks))
    assert tokenizer.bitrate == pytest.approx(published[kind] * codebooks * 6)
    assert tokenizer.vectors.shape[:2] == (codebooks, 64)


@pytest.mark.parametrize("samples", ["one", "less than a frame", "a part of a frame more", "whole frames"])
def test_codes_are_those_of_transformers_own_encode(kind: str, tokenizer: PretrainedTokenizer, samples: str):
    hop = tokenizer.hop_length
    length = {
        "one": 1,
        "less than a frame": hop // 3,
        "a part of a frame more": 5 * hop + hop // 7,
        "whole frames": 4 * hop,
    }
    sound = noise(length[samples])
    expected = by_transformers(kind, tokenizer.model, sound)
    codes = tokenizer.encode(sound[None, None])
    assert expected.shape == (len(tokenizer.levels), -(-length[samples] // hop))
    assert codes[0].tolist() == expected.T.flatten().tolist()


def test_windows_of_any_lengths_have_the_codes_that_each_has_alone(tokenizer: PretrainedTokenizer):
    """Padding a sound to the length of another would change its last frames, or all of them."""
    hop = tokenizer.hop_length
    windows = [noise(1, length) for length in (3 * hop, 2 * hop + 5, 3 * hop, hop // 2)]
    windows[2] = windows[2].flip(1)
    together = tokenizer.encode_windows(windows)
    assert together == [tokenizer.encode(window[None])[0].tolist() for window in windows]
    assert together[0] != together[2] and [len(one) // len(tokenizer.levels) for one in together] == [3, 3, 3, 1]


def test_decoding_is_that_of_transformers_and_as_long_as_the_codes(kind: str, tokenizer: PretrainedTokenizer):
    count, model = len(tokenizer.levels), tokenizer.model
    codes = torch.randint(64, (2, count, 5), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        if kind == "encodec":
            expected = model.decode(codes[None], [None]).audio_values
        else:
            expected = model.decode(audio_codes=codes).audio_values
    sound = tokenizer.decode(codes.transpose(1, 2).flatten(1))
    assert sound.shape == (2, 1, 5 * tokenizer.hop_length)
    assert torch.equal(sound.flatten(), expected.view(2, -1)[:, : sound.shape[2]].flatten())
    assert sound[0].std() > 0 and not torch.equal(sound[0], sound[1])


def test_fewer_codebooks_are_the_first_ones(kind: str, tokenizer: PretrainedTokenizer):
    fewer = PretrainedTokenizer(tokenizer.model, 3)
    sound = noise(1, 1, 4 * tokenizer.hop_length)
    all_of_them = tokenizer.encode(sound).unflatten(1, (-1, RATES[kind][2]))
    assert fewer.encode(sound).unflatten(1, (-1, 3)).equal(all_of_them[..., :3])
    assert fewer.decode(fewer.encode(sound)).shape == sound.shape
    assert PretrainedTokenizer(tokenizer.model, None).num_codebooks == {"mimi": 10, "encodec": 16}.get(
        kind, RATES[kind][2]
    )


def test_what_no_token_carries_and_what_is_not_there_is_refused(kind: str, tokenizer: PretrainedTokenizer):
    with pytest.raises(ModelError, match="17 codebooks; 1 to "):
        PretrainedTokenizer(tokenizer.model, 17)
    with pytest.raises(ModelError, match=r"a multiple of .* is allowed"):
        tokenizer.decode(torch.zeros(1, len(tokenizer.levels) + 1, dtype=torch.long))
    with pytest.raises(ModelError, match=r"from 64 to 64; a multiple of .*, from 0 to 63"):
        tokenizer.decode(torch.full((1, len(tokenizer.levels)), 64))
    with pytest.raises(ModelError, match=r"\(B, 1, T\)"):
        tokenizer.encode(torch.zeros(1, 2, 5000))
    if kind == "encodec":
        stereo = EncodecModel(
            EncodecConfig(num_filters=2, normalize=True, chunk_length_s=1.0, overlap=0.01, audio_channels=2)
        )
        with pytest.raises(ModelError, match="keeps a loudness"):
            PretrainedTokenizer(stereo, 8)
