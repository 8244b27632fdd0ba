"""Another's tokenizer behind the interface of ours: windows, long sound, saving, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from conf.errors import UsageError
from datamodules.windows import WindowRule
from models.tokenizer.pretrained import PretrainedTokenizer
from stages.hub import pretrained_tokenizer
from stages.hub.sound_tokenizer import MANIFEST, SoundTokenizer
from stages.hub.weights import load_sound_tokenizer
from tests.models.tokenizer.tiny_pretrained import RATES, tiny

WINDOW = 40  # frames


@pytest.fixture(scope="module", params=list(RATES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp(kind)
    one = PretrainedTokenizer(tiny(kind), RATES[kind][2])
    facts = {
        "token_rate": one.frame_rate,
        "bitrate": one.bitrate,
        "codebook_size": one.codebook_size,
        "levels": list(one.levels),
        **WindowRule(WINDOW, WINDOW // 4).facts(),
    }
    pretrained_tokenizer.save(
        folder / "tokenizer", one, {"source": kind, "revision": None, "codebooks": one.num_codebooks}
    )
    (folder / MANIFEST).write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> SoundTokenizer:
    return SoundTokenizer.from_pretrained(folder)


def noise(tokenizer: SoundTokenizer, frames: float) -> Tensor:
    samples = int(frames * tokenizer.hop_length)
    return 0.3 * torch.randn(1, samples, generator=torch.Generator().manual_seed(int(10 * frames)))


def test_a_sound_of_one_window_has_the_codes_of_the_model_alone(tokenizer: SoundTokenizer):
    sound = noise(tokenizer, 7.3)
    (codes,) = tokenizer.encode([sound], tokenizer.sample_rate)
    assert codes == tokenizer.tokenizer.encode(sound[None])[0].tolist() and len(codes) == 8 * len(
        tokenizer.facts["levels"]
    )


def test_another_rate_and_stereo_become_the_models(tokenizer: SoundTokenizer):
    sound = torch.cat([noise(tokenizer, 9), noise(tokenizer, 9)])
    assert tokenizer.encode([sound], tokenizer.sample_rate) == tokenizer.encode([sound[:1]], tokenizer.sample_rate)
    twice = tokenizer.encode([sound], tokenizer.sample_rate * 2)
    assert len(twice[0]) == 5 * len(tokenizer.facts["levels"])  # half as long, and a half frame


def test_a_long_sound_is_coded_by_windows_and_a_prefix_keeps_its_codes(tokenizer: SoundTokenizer):
    sound, rate = noise(tokenizer, 2.6 * WINDOW), tokenizer.sample_rate
    codes, first = tokenizer.encode([sound, sound[:, : WINDOW * tokenizer.hop_length]], rate)
    assert len(codes) == tokenizer.num_codes(sound.shape[1] / rate)
    assert codes[: len(first)] == first
    assert codes == [
        code for window in sound.split(WINDOW * tokenizer.hop_length, 1) for code in tokenizer.encode([window], rate)[0]
    ]


def test_a_long_sound_is_decoded_without_a_seam(kind: str, tokenizer: SoundTokenizer, monkeypatch: pytest.MonkeyPatch):
    """Parts with what is around them are the whole decoded at once; without it they differ at their borders."""
    count, hop = len(tokenizer.facts["levels"]), tokenizer.hop_length
    codes = torch.randint(64, (1, 3 * WINDOW * count), generator=torch.Generator().manual_seed(0))
    whole = tokenizer.tokenizer.decode(codes)[0]
    joined = tokenizer.decode(codes.tolist())[0]
    monkeypatch.setattr(pretrained_tokenizer, "CONTEXT_SECONDS", 0.0)
    bare = tokenizer.decode(codes.tolist())[0]
    assert joined.shape == bare.shape == whole.shape
    error = [float((sound - whole).square().mean() / whole.square().mean()) for sound in (joined, bare)]
    assert error[0] < 1e-8 < 1e-6 < error[1]
    assert bare[:, : WINDOW * hop // 2].allclose(whole[:, : WINDOW * hop // 2], atol=1e-5)


def test_a_saved_one_and_a_copy_of_it_are_the_same(folder: Path, tokenizer: SoundTokenizer, tmp_path: Path):
    tokenizer.save_pretrained(tmp_path / "copy")
    copy, sound = SoundTokenizer.from_pretrained(tmp_path / "copy"), noise(tokenizer, 5)
    assert copy.hash == tokenizer.hash
    codes = copy.encode([sound], tokenizer.sample_rate)
    assert codes == tokenizer.encode([sound], tokenizer.sample_rate)
    assert copy.decode(codes, [777])[0].equal(tokenizer.decode(codes)[0][:, :777])
    assert copy.decode(codes, num_steps=1, guidance=2.0, temperature=0.5)[0].equal(copy.decode(codes)[0])
    least, most = copy.num_samples(len(codes[0]))
    assert least <= sound.shape[1] <= most == 5 * tokenizer.hop_length
    with pytest.raises(UsageError, match="use encode"):
        copy.stream()
    with pytest.raises(UsageError, match="codes of length 0"):
        copy.decode([[]])


def test_what_is_no_sound_tokenizer_is_refused(tmp_path: Path):
    LlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path / "llama")
    with pytest.raises(UsageError, match=r"of the kind llama.* mimi, encodec, dac, xcodec are allowed"):
        load_sound_tokenizer(str(tmp_path / "llama"), None)
    with pytest.raises(UsageError, match="does not exist"):
        load_sound_tokenizer(str(tmp_path / "nothing here"), None)
    tiny("dac").save_pretrained(tmp_path / "dac")
    weights = tmp_path / "dac/model.safetensors"
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    name = next(iter(state))
    save_file({key: value for key, value in state.items() if key != name}, weights, {"format": "pt"})
    with pytest.raises(UsageError, match=f"has no {name}.*random"):
        load_sound_tokenizer(str(tmp_path / "dac"), None)
