"""Token grid: every frame has a token and every token its frames, at the rates that were asked for."""

import math
from fractions import Fraction

import pytest
import torch

from models.tokenizer.grid import TokenGrid

OOBLECK = 44100 / 2048  # Hz, latent frames of Stable Audio Open
PAPER = TokenGrid.rate(OOBLECK, None, 230.0, math.log2(8196))
GRIDS = {"native": OOBLECK, "stride 2": OOBLECK / 2, "0.23 kbps": PAPER, "5.4 Hz": 5.4, "stride 7": OOBLECK / 7}


@pytest.mark.parametrize("rate", GRIDS)
def test_every_frame_has_a_token_and_every_token_its_frames(rate: str):
    """Against a slow count with fractions, as integers and as tensors."""
    grid = TokenGrid(OOBLECK, GRIDS[rate])
    owner = [math.floor(Fraction(frame) / grid.step) for frame in range(3000)]
    assert grid.token_of_frame(torch.arange(3000)).tolist() == owner
    for frames in (*range(1, 60), 215, 216, 2999):
        tokens = grid.num_tokens(frames)
        assert tokens == owner[frames - 1] + 1 == grid.num_tokens(torch.tensor([frames])).item()
        assert grid.num_frames(tokens) >= frames > grid.num_frames(tokens - 1)
        assert grid.num_tokens(grid.num_frames(tokens)) == tokens  # what decode's error advises is accepted
        assert grid.num_complete_tokens(frames) == sum(grid.last_frame(n) < frames for n in range(tokens))
    for token in range(owner[-1]):
        inside = range(grid.first_frame(token), grid.last_frame(token) + 1)
        assert len(inside) and all(owner[frame] == token for frame in inside)
        assert token == 0 or inside[0] == grid.last_frame(token - 1) + 1
    phase = [Fraction(frame) / grid.step % 1 for frame in range(100)]
    torch.testing.assert_close(grid.phase(torch.arange(100)), torch.tensor([float(x) for x in phase]))


def test_nothing_has_no_tokens():
    assert TokenGrid(OOBLECK, PAPER).num_tokens(0) == TokenGrid(OOBLECK, PAPER).num_complete_tokens(0) == 0


def test_rates_by_hand():
    """One token a frame; every second one; and the paper's 0.23 kbps: 17.69 tokens a second, 177 in 10 s."""
    native, half = TokenGrid(OOBLECK, OOBLECK), TokenGrid(OOBLECK, TokenGrid.rate(OOBLECK, 2, None, 13.0))
    assert (native.step, half.step) == (1, 2)
    assert [native.num_tokens(5), half.num_tokens(5), half.num_tokens(4)] == [5, 3, 2]
    assert float(half.token_rate) == OOBLECK / 2
    paper = TokenGrid(OOBLECK, PAPER)
    assert float(paper.token_rate) == pytest.approx(17.69, abs=0.005)
    assert paper.num_tokens(math.ceil(10 * OOBLECK)) == 177  # 216 frames, the last of them 215 = 176.6 tokens on
    assert TokenGrid.rate(20.0, None, 60.0, 12.0) == 5.0  # 12 bits a token


@pytest.mark.parametrize("rate", GRIDS)
def test_a_grid_holds_its_rate(rate: str):
    assert float(TokenGrid(OOBLECK, GRIDS[rate]).token_rate) == pytest.approx(GRIDS[rate], rel=2e-6)


def test_rates_refused():
    with pytest.raises(ValueError, match=r"token_rate 22 Hz; above 0 and up to the frame rate, 21.5332 Hz"):
        TokenGrid(OOBLECK, 22.0)
    with pytest.raises(ValueError, match="token_rate 0 Hz"):
        TokenGrid(OOBLECK, 0.0)
    with pytest.raises(ValueError, match="bitrate 130 is above one token a frame, 120 bits a second"):
        TokenGrid.rate(20.0, None, 130.0, 6.0)
    for stride, bitrate in ((None, None), (2, 230.0)):
        with pytest.raises(ValueError, match="exactly one"):
            TokenGrid.rate(20.0, stride, bitrate, 6.0)
