"""A tokenizer of every kind of quantiser is built from a configuration, saved, and loaded again as it was."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import LlamaForCausalLM

import conf
from conf.sections.tokenizer import TokenizerConf
from models.codec.mel import MelCodec
from models.quantizer import Kind
from stages.hub import artifacts
from tests.conftest import save_llm_of_words

FACTS = {"latent_dim": 4, "frame_rate": 20.0}
WORDS = ["river", "cold", "stone", "far", "bell"]


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    """A folder with a small LLM of five whole words."""
    return save_llm_of_words(tmp_path / "llm", WORDS)


def configuration(*overrides: str) -> TokenizerConf:
    return conf.compose("tokenizer", ["smoke"], overrides=list(overrides)).conf


def lexical(llm: Path) -> list[str]:
    return ["quantizer.kind=lexical", f"quantizer.words_from={llm}", f"quantizer.words={len(WORDS)}"]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_tokenizer_comes_back(kind: str, llm: Path, tmp_path: Path):
    few = ["quantizer.words=2", "quantizer.strides=[2,1]"] if kind == "lexical_residual" else []
    values = configuration(*(lexical(llm) if kind.startswith("lexical") else []), f"quantizer.kind={kind}", *few)
    torch.manual_seed(0)
    tokenizer = artifacts.build_tokenizer(values, FACTS).eval()
    artifacts.save_tokenizer(tmp_path / "artifact", values, FACTS, tokenizer)
    for file in llm.iterdir():
        file.unlink()  # no LLM any more
    loaded = artifacts.load_tokenizer(tmp_path / "artifact")
    latents, num_frames = torch.randn(3, 50, 4), torch.tensor([50, 31, 1])
    codes, again = tokenizer.encode(latents, num_frames), loaded.encode(latents, num_frames)
    assert torch.equal(codes.codes, again.codes) and codes.codes.shape[1] == int(codes.num_codes.max())
    assert codes.num_codes.tolist() == tokenizer.quantizer.num_codes(tokenizer.grid.num_tokens(num_frames)).tolist()
    decoded = loaded.decode(*again, num_frames, 1, "euler", 1.0, torch.randn(3, 50, 4))
    assert decoded.shape == latents.shape and decoded.isfinite().all()
    assert loaded.bitrate == pytest.approx(loaded.quantizer.bits_per_token * float(loaded.grid.token_rate))


def test_the_rate_asked_for_is_the_rate_of_all_levels():
    """4 bits x 1.75 codes a token: 28 bits a second are 4 tokens a second."""
    values = configuration("quantizer.kind=residual", "rate.token_rate=null", "rate.bitrate=28")
    tokenizer = artifacts.build_tokenizer(values, FACTS)
    assert tokenizer.grid.token_rate == 4 and tokenizer.bitrate == pytest.approx(28)


def test_a_lexicon_is_the_llms_own_rows(llm: Path):
    lexicon = artifacts.load_lexicon(str(llm), 4)
    rows = LlamaForCausalLM.from_pretrained(llm).get_input_embeddings().weight
    assert lexicon.words == WORDS[:4] and torch.equal(lexicon.embeddings, rows[1:5])


def test_more_words_than_there_are_is_refused(llm: Path):
    with pytest.raises(ValueError, match=r"has 5 whole words of one token; 6 are asked for. Type --quantizer.words=5"):
        artifacts.load_lexicon(str(llm), 6)
    with pytest.raises(ValueError, match=r"has 5 whole words of one token; 6 are asked for. Type --quantizer.words=2"):
        artifacts.load_lexicon(str(llm), 3, levels=2)
    with pytest.raises(ValueError, match=r"has 0 whole words .* Choose an LLM whose tokens are words"):
        artifacts.load_lexicon("random:tiny", 2)


def test_a_codec_that_was_fitted_before_it_learned_to_decode_opens_with_the_same_latents(tmp_path: Path):
    config = conf.compose("latents", ["smoke"]).conf.codec
    codec = MelCodec(**conf.plain(config.mel))
    waveform = torch.randn(2, 1, 70 * codec.hop_length, generator=torch.Generator().manual_seed(0)) / 10
    codec.accumulate(waveform, torch.tensor([70, 70]))
    codec.fit()
    codec.accumulate_detail(waveform, torch.tensor([70, 70]))
    codec.fit_detail()
    state = codec.state_dict()
    old = {name: value for name, value in state.items() if not name.startswith(("linear_spectrum.", "lost_detail."))}
    for folder, saved in (("old", old), ("new", state)):
        artifacts.save(tmp_path / folder, conf.plain(config), saved)
    opened = {name: artifacts.load_codec(tmp_path / name) for name in ("old", "new")}
    latents = codec.encode(waveform).mean
    for one in opened.values():
        assert torch.equal(one.encode(waveform).mean, latents)
    assert torch.equal(opened["new"].decode(latents[:1, :4]), codec.decode(latents[:1, :4]))
    decoded = opened["old"].decode(latents[:1, :4])
    assert decoded.shape == (1, 1, 4 * codec.hop_length) and decoded.isfinite().all()
    artifacts.save(tmp_path / "damaged", conf.plain(config), {name: old[name] for name in old if name != "mean"})
    with pytest.raises(RuntimeError, match="mean"):
        artifacts.load_codec(tmp_path / "damaged")
