"""The shared block: a slow reference, causality by gradient, positions that only differ, padding that changes nothing;
and the diffusion transformer made of it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.transformer import Block, RMSNorm, Transformer, attention, rotary, rotate

WIDTH, HEADS = 16, 2


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter drawn: what starts at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return module


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dit() -> DiffusionTransformer:
    model = DiffusionTransformer(latent_dim=3, condition_dim=8, width=WIDTH, depth=2, heads=HEADS)
    randomised(model, 0)
    return model


def slow_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def slow_block(block: Block, x: Tensor, visible: Tensor) -> Tensor:
    """One clip x (F, D), position by position, head by head, in float64; visible (F, F): who sees whom."""
    block, x = block.double(), x.double()
    frames, head_dim = len(x), WIDTH // HEADS
    frequencies = [1e4 ** (-2 * pair / head_dim) for pair in range(head_dim // 2)]

    def turn(vector: Tensor, position: int) -> Tensor:
        half = head_dim // 2
        numbers = torch.complex(vector[:half], vector[half:])
        turned = numbers * torch.exp(1j * position * torch.tensor(frequencies, dtype=torch.float64))
        return torch.cat([turned.real, turned.imag])

    query, key, value = (block.qkv.weight @ slow_norm(x, block.attention_norm.weight).T).T.chunk(3, -1)
    attended = torch.zeros(frames, WIDTH, dtype=torch.float64)
    for head in range(HEADS):
        part = slice(head * head_dim, (head + 1) * head_dim)
        for f in range(frames):
            one = turn(slow_norm(query[f, part], block.query_norm.weight), f)
            seen = [g for g in range(frames) if visible[f, g]]
            keys = torch.stack([turn(slow_norm(key[g, part], block.key_norm.weight), g) for g in seen])
            attended[f, part] = (keys @ one / head_dim**0.5).softmax(0) @ value[seen, part]
    x = x + attended @ block.out.weight.T
    gate, up = (slow_norm(x, block.feedforward_norm.weight) @ block.gate_and_up.weight.T).chunk(2, -1)
    return x + (gate * gate.sigmoid() * up) @ block.down.weight.T


@pytest.mark.parametrize("causal", [True, False])
def test_block_equals_a_slow_reference(causal: bool):
    block = Block(WIDTH, HEADS, causal=causal, modulated=False)
    randomised(block, 0)
    x = noise(1, 6, WIDTH)
    with torch.no_grad():
        actual = block(x, rotary(torch.arange(6), WIDTH // HEADS), None, None)[0].double()
        expected = slow_block(block, x[0], torch.ones(6, 6).tril() if causal else torch.ones(6, 6))
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_causal_frame_has_no_gradient_from_later_frames():
    stack = randomised(Transformer(WIDTH, 2, HEADS, causal=True, modulated=False), 0)
    x = noise(1, 7, WIDTH).requires_grad_()
    out = stack(x, torch.arange(7), None, None)
    for f in range(7):
        (gradient,) = torch.autograd.grad(out[0, f].sum(), x, retain_graph=True)
        reach = gradient[0].abs().sum(-1) > 0
        assert reach.tolist() == [g <= f for g in range(7)]


def test_positions_count_by_their_difference():
    """Queries and keys after rotation, and so the whole stack."""
    query, key = noise(8), noise(8, seed=1)
    products = [
        rotate(query, rotary(torch.tensor([p]), 8)) @ rotate(key, rotary(torch.tensor([p + 3]), 8)).T
        for p in (0, 5, 400)
    ]
    torch.testing.assert_close(torch.cat(products), products[0].expand(3, 1), atol=1e-4, rtol=1e-4)
    stack = randomised(Transformer(WIDTH, 2, HEADS, causal=False, modulated=False), 0)
    x = noise(2, 5, WIDTH)
    frames = torch.arange(5)
    torch.testing.assert_close(stack(x, frames, None, None), stack(x, frames + 50, None, None), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(stack(x, frames, None, None), stack(x, 2 * frames, None, None), atol=1e-2)


def test_rotation_keeps_length_and_by_hand():
    """head_dim 2 has one pair, turned by the position in radians."""
    cos, sin = torch.tensor(3.0).cos(), torch.tensor(3.0).sin()
    turned = rotate(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), rotary(torch.tensor([3, 3]), 2))
    torch.testing.assert_close(turned, torch.tensor([[cos, sin], [-sin, cos]]))


def test_norm_by_hand_and_in_half_precision():
    norm = RMSNorm(2)
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0]) / 12.5**0.5)
    x = torch.tensor([300.0, 400.0], dtype=torch.float16)  # whose squares are no float16
    torch.testing.assert_close(norm(x), torch.tensor([3.0, 4.0]).div(12.5**0.5).half())


def test_a_fresh_modulated_stack_is_the_identity():
    stack = Transformer(WIDTH, 3, HEADS, causal=False, modulated=True)
    x = noise(2, 5, WIDTH)
    assert torch.equal(stack(x, torch.arange(5), None, torch.zeros(2, 6 * WIDTH)), x)


def test_a_stack_keeps_the_size_of_what_flows_through():
    torch.manual_seed(0)
    stack = Transformer(64, 12, 4, causal=True, modulated=False)
    out = stack(noise(4, 32, 64), torch.arange(32), None, None)
    assert 0.8 < out.std() < 2


def test_a_width_without_whole_pairs_is_refused():
    with pytest.raises(ValueError, match="width 18 is no multiple of 2 x heads = 4"):
        Transformer(18, 1, 2, causal=True, modulated=False)


def test_dit_sees_all_frames_from_all_frames():
    model, x = dit(), noise(1, 6, 3).requires_grad_()
    condition = noise(1, 6, 8, seed=1).requires_grad_()
    out = model(x, torch.tensor([0.3]), condition, None)
    for f in range(6):
        for gradient in torch.autograd.grad(out[0, f].sum(), (x, condition), retain_graph=True):
            assert (gradient[0].abs().sum(-1) > 0).all()


def test_dit_padding_changes_nothing_and_a_batch_equals_its_items():
    model = dit()
    x, condition, t = noise(2, 6, 3), noise(2, 6, 8, seed=1), torch.tensor([0.2, 0.7])
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    with torch.no_grad():
        both = model(x, t, condition, mask)
        other = model(torch.where(mask[..., None], x, 50.0), t, torch.where(mask[..., None], condition, -50.0), mask)
        first, second = model(x[:1], t[:1], condition[:1], None), model(x[1:, :4], t[1:], condition[1:, :4], None)
    torch.testing.assert_close(other[mask], both[mask], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[:1], first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both[1:, :4], second, atol=1e-4, rtol=1e-4)


def test_dit_times():
    """r = None is r = t; t and r both matter."""
    model, x, condition = dit(), noise(2, 4, 3), noise(2, 4, 8, seed=1)
    t, later = torch.tensor([0.1, 0.6]), torch.tensor([0.4, 0.9])
    with torch.no_grad():
        now = model(x, t, condition, None)
        assert torch.equal(now, model(x, t, condition, None, r=t))
        assert not torch.allclose(now, model(x, t, condition, None, r=later), atol=1e-2)
        assert not torch.allclose(now, model(x, later, condition, None), atol=1e-2)


def test_dit_begins_with_no_velocity():
    model = DiffusionTransformer(latent_dim=3, condition_dim=8, width=WIDTH, depth=2, heads=HEADS)
    assert not model(noise(1, 4, 3), torch.tensor([0.5]), noise(1, 4, 8), None).any()


def test_condition_repeats_tokens_and_adds_the_phase():
    model = dit()
    embeddings, owner, phase = noise(1, 2, 8), torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 0.5, 0.0, 0.5])
    with torch.no_grad():
        condition_of_frames = model.condition(embeddings, owner, phase)[0]
        phase_features = condition_of_frames - embeddings[0, owner]
        harmonics = torch.arange(1, 9) * torch.pi * 0.5
        by_hand = model.phase.weight @ torch.cat([harmonics.cos(), harmonics.sin()])
    torch.testing.assert_close(
        phase_features[0], model.phase.weight[:, :8].sum(1).detach(), atol=1e-5, rtol=1e-5
    )  # cos 0 = 1
    torch.testing.assert_close(phase_features[1], by_hand, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(phase_features[:2], phase_features[2:], atol=1e-5, rtol=1e-5)


def test_without_tokens_replaces_the_condition_of_dropped_clips():
    model, condition = dit(), noise(2, 4, 8)
    conditions = model.without_tokens(condition, torch.tensor([True, False]))
    assert torch.equal(conditions[0], model.no_tokens.expand(4, 8)) and torch.equal(conditions[1], condition[1])


def test_prior_reads_each_frame_alone():
    model, condition = dit(), noise(1, 5, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(model.prior(condition)[0, 2].sum(), condition)
    assert (gradient[0].abs().sum(-1) > 0).tolist() == [False, False, True, False, False]


def test_dit_under_autocast_is_near_and_float32():
    model, x, condition = dit(), noise(2, 4, 3), noise(2, 4, 8, seed=1)
    with torch.no_grad():
        exact = model(x, torch.tensor([0.1, 0.6]), condition, None)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(x, torch.tensor([0.1, 0.6]), condition, None)
    assert rough.dtype == torch.float32
    assert F.cosine_similarity(rough.flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(("causal", "masked"), [(True, False), (False, True), (False, False)])
def test_attention_in_bfloat16_is_pytorch_s_in_float64(causal: bool, masked: bool):
    inputs = [noise(2, 3, 7, 4, seed=seed).bfloat16().requires_grad_() for seed in range(3)]
    exact = [one.detach().double().requires_grad_() for one in inputs]
    key_mask = torch.arange(7).lt(torch.tensor([[7], [4]]))[:, None, None, :] if masked else None
    weights = noise(2, 3, 7, 4, seed=3)
    actual = attention(*inputs, key_mask, causal)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=key_mask, is_causal=causal)
    torch.testing.assert_close(actual.double(), expected, rtol=0.03, atol=0.03)
    (actual.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(inputs, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=0.05, atol=0.05)
    with torch.no_grad():
        torch.testing.assert_close(attention(*inputs, key_mask, causal), actual, rtol=0.03, atol=0.03)
