"""The code of models/README.md runs, block by block."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[2] / "models/README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def demo(whole_of_all_workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the tokenizer of the smoke chain is runs/demo/tokenizer."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(whole_of_all_workers / "runs/whole")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_a_page():
    assert len(README.read_text().splitlines()) <= 175 and len(BLOCKS) == 2


def test_the_trained_tokenizer(demo: Path):
    names: dict = {}
    exec(BLOCKS[0], names)
    tokenizer, codes = names["tokenizer"], names["codes"]
    assert [sound.shape[0] for sound in names["sounds"]] == [tokenizer.channels] and len(codes[0]) > 0
    second = names["sounds"][0][:, : tokenizer.sample_rate]
    assert names["early"] + names["late"] == tokenizer.encode([second], tokenizer.sample_rate)[0]
    assert type(tokenizer).from_pretrained(demo / "my-tokenizer").encode([names["waveform"]], 48_000) == codes


def test_the_tokenizer_by_hand():
    names: dict = {}
    exec(BLOCKS[1], names)
    assert names["losses"].loss.isfinite() and names["sound"].shape == (4, 1, 32 * 1024)
    model, coded = names["model"], names["coded"]
    assert coded.num_codes.tolist() == [model.num_codes(count) for count in (32, 32, 32, 20)]
    assert torch.all(names["decoded"][3, 20:] == 0), "the last clip has 20 frames"
