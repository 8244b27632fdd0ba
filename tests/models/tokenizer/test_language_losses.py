"""Losses that make sound tokens easy for an LLM: by hand, and where their gradient goes."""

import math

import torch
from torch.nn import functional as F

from models.tokenizer.consistency_loss import consistency_loss, draw_view
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.grid import TokenGrid
from models.tokenizer.prediction_loss import PredictionLoss
from models.tokenizer.semantic_loss import SemanticLoss


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_semantic_loss_is_the_cross_entropy_of_a_sounds_own_text():
    """By hand: the projection is the identity, and what is padding, or another sound's, does not count."""
    loss = SemanticLoss(3, 3, temperature=0.5)
    loss.project.weight.data = torch.eye(3)
    quantized = torch.tensor([[[2.0, 0, 0], [0, 2.0, 0], [9.0, 9, 9]], [[0, 0, 1.0], [0, 0, 0], [0, 0, 0]]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    texts = torch.tensor([[3.0, 0, 0], [0, 0, 1.0]])
    memory = torch.tensor([[0, 0, 5.0], [5.0, 0, 0]])
    # the second text of the memory is the first sound's own; the second sound has no text
    value = loss(quantized, mask, texts, torch.tensor([7, -1]), memory, torch.tensor([4, 7]))
    own, other = 2 * math.cos(math.pi / 4), 0.0
    assert math.isclose(value.item(), math.log(math.exp(own) + math.exp(other)) - own, rel_tol=1e-5)
    assert loss(quantized, mask, texts, torch.tensor([-1, -1]), memory, torch.tensor([4, 7])) == 0


def test_the_semantic_loss_moves_tokens_towards_their_text():
    loss = SemanticLoss(4, 5, temperature=0.2)
    quantized = torch.randn(3, 6, 4, generator=seeded()).requires_grad_()
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    texts, memory = torch.randn(3, 5, generator=seeded(1)), torch.randn(8, 5, generator=seeded(2))
    arguments = (mask, texts, torch.arange(3), memory, torch.arange(8) + 3)
    loss(quantized, *arguments).backward()
    assert quantized.grad is not None and (quantized.grad[~mask] == 0).all() and (quantized.grad[mask] != 0).any()
    with torch.no_grad():
        assert loss(quantized - 0.1 * quantized.grad, *arguments) < loss(quantized, *arguments)


def test_before_training_every_next_code_is_as_likely():
    loss = PredictionLoss(8, 16, (0,), 1, width=8, depth=1, heads=2)
    codes = torch.randint(16, (2, 5), generator=seeded())
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    assert math.isclose(loss(torch.randn(2, 5, 8), codes, mask).item(), math.log(16), rel_tol=1e-5)


def test_the_prediction_sees_the_past_alone_and_padding_changes_nothing():
    loss = PredictionLoss(8, 16, (0,), 1, width=8, depth=2, heads=2)
    torch.nn.init.normal_(loss.heads.weight, generator=seeded())
    quantized = torch.randn(2, 6, 8, generator=seeded()).requires_grad_()
    codes = torch.randint(16, (2, 6), generator=seeded())
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    value = loss(quantized, codes, mask)
    value.backward()
    used = (quantized.grad != 0).any(-1)  # the last valid token is asked for and not read
    assert used.tolist() == [[True] * 5 + [False], [True, True] + [False] * 4]
    with torch.no_grad():
        other = torch.where(mask[..., None], quantized, 100.0)
        assert torch.isclose(loss(other, codes.masked_fill(~mask, 3), mask), value)


def test_codes_of_coarse_levels_stand_for_several_tokens():
    """By hand: strides 4, 2, 1, a block of seven codes."""
    loss = PredictionLoss(8, 16, (0, 1, 1, 2, 2, 2, 2), 4, width=8, depth=1, heads=2)
    codes, begins = loss.by_token(torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), 3)  # the fourth token is padding
    assert codes.tolist() == [[[1, 2, 4], [1, 2, 5], [1, 3, 6]]]
    assert begins.tolist() == [[True, True, True], [False, False, True], [False, True, True]]


def test_a_code_that_follows_from_the_one_before_is_learnt():
    torch.manual_seed(0)
    loss = PredictionLoss(8, 4, (0,), 1, width=16, depth=1, heads=2)
    codes = (torch.arange(8) + torch.tensor([[0], [1], [2], [3]])) % 4
    quantized, mask = F.one_hot(codes, 8).float(), torch.ones(4, 8, dtype=torch.bool)
    optimizer = torch.optim.Adam(loss.parameters(), 3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(quantized, codes, mask)
        value.backward()
        optimizer.step()
    assert value < 0.5 * math.log(4)


def test_a_view_begins_with_a_block_and_its_tokens_are_the_wholes_in_number():
    grid = TokenGrid(21.5, 17.7)
    latents, num_frames = torch.randn(3, 60, 4, generator=seeded()), torch.tensor([60, 40, 5])
    firsts = set()
    for seed in range(30):
        view = draw_view(latents, num_frames, grid, 2, 0.0, seeded(seed))
        firsts.add(view.first_token)
        begin = grid.first_frame(view.first_token)
        assert view.first_token % 2 == 0
        assert torch.equal(view.latents, latents[:, begin:]) and view.num_frames.tolist() == [
            60 - begin, max(1, 40 - begin), max(1, 5 - begin),
        ]  # fmt: skip
    assert 0 in firsts and len(firsts) > 5 and max(firsts) <= grid.num_tokens(60) / 2
    noisy = draw_view(latents, num_frames, grid, 2, 0.1, seeded())
    clean = draw_view(latents, num_frames, grid, 2, 0.0, seeded())
    assert 0.08 < (noisy.latents - clean.latents).std() < 0.12


def test_tokens_of_a_part_stand_for_the_frames_that_they_stand_for_in_the_whole():
    """At a rate that is no fraction of the frames': an encoder that sees one frame gives a part the whole's tokens."""
    grid, encoder = TokenGrid(21.533, 5.4), CausalEncoder(4, 8, 1, 2)
    encoder.frames = lambda latents: latents.repeat(1, 1, 2)  # type: ignore[method-assign]
    latents, num_frames = torch.randn(2, 30, 4, generator=seeded()), torch.tensor([30, 17])
    with torch.no_grad():
        whole = encoder(latents, num_frames, grid)
        for first in (1, 2, 3):
            begin = grid.first_frame(first)
            part = encoder(latents[:, begin:], num_frames - begin, grid, first)
            assert part.allclose(whole[:, first:], atol=1e-6)


def test_the_same_view_has_no_loss_and_the_loss_has_no_scale():
    grid, encoder = TokenGrid(10, 5), CausalEncoder(4, 8, 1, 2)
    latents, num_frames = torch.randn(2, 12, 4, generator=seeded()), torch.tensor([12, 7])
    mask = torch.arange(6) < grid.num_tokens(num_frames)[:, None]
    with torch.no_grad():
        tokens = encoder(latents, num_frames, grid)
        assert consistency_loss(tokens, mask, tokens, 0) == 0
        late = encoder(latents[:, 4:], (num_frames - 4).clamp(min=1), grid, 2)
        value = consistency_loss(tokens, mask, late, 2)
        assert value > 0
        assert torch.isclose(consistency_loss(10 * tokens, mask, 10 * late, 2), value)
        other = torch.where(mask[:, 2:, None], late, 1e3)
        assert torch.isclose(consistency_loss(tokens, mask, other, 2), value)
