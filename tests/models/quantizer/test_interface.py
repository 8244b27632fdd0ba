"""The laws of the one interface, over every kind of quantiser."""

import math

import pytest
import torch

from models.quantizer import (
    build,
)
from tests.models.quantizer.quantizers import (
    BLOCK,
    DIM,
    KINDS,
    LENGTH,
    LEVELS,
    SETTINGS,
    SIZE,
    assert_equal,
    batch,
    every_kind,
    learn,
    make,
    state,
    trained,
    valid_codes,
)  # fmt: skip


@every_kind
def test_the_interface(kind: str):
    model = trained(kind, 12).eval()
    block, levels = BLOCK.get(kind, 1), LEVELS.get(kind, (0,))
    size = 24 if kind == "fsq" else SIZE
    assert (model.dim, model.codebook_size, model.block, model.levels) == (DIM, size, block, levels)
    assert model.started and model.num_codebooks == len(set(levels)) == len(model.vectors)
    assert model.vectors.shape[:2] == (model.num_codebooks, size) and model.vectors.dtype == torch.float32
    latents, _ = batch(50)
    for length in (1, 2, 3, 4, 5, LENGTH):
        actual = model(latents[:, :length], None, update=True)
        count = math.ceil(length / block) * len(levels)
        assert model.num_codes(length) == count == model.num_codes(torch.tensor([length])).item()
        assert actual.quantized.shape == (4, length, DIM) and actual.loss.shape == ()
        assert actual.codes.shape == (4, count) and actual.codes.dtype == torch.long
        assert actual.codes.min() >= 0 and actual.codes.max() < size
        assert model.decode(actual.codes).shape == (4, count // len(levels) * block, DIM)
    assert model.num_codes(0) == 0 and model.decode(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, DIM)


@pytest.mark.parametrize(
    "kind, bits",
    [("vq", 3), ("simvq", 3), ("fsq", math.log2(24)), ("lexical", 3), ("residual 1 1", 6), ("residual 4 2 1", 5.25)],
)
def test_bits_a_token_by_hand(kind: str, bits: float):
    """Strides 4, 2, 1 of 8 codes: 3 / 4 + 3 / 2 + 3; and so many bits are in the codes of whole blocks."""
    model = make(kind)
    assert model.bits_per_token == pytest.approx(bits)
    assert model.num_codes(40) * math.log2(model.codebook_size) == pytest.approx(40 * bits)


@every_kind
@pytest.mark.parametrize("steps", [1, 10], ids=["filling", "following"])
def test_values_of_padding_change_nothing(kind: str, steps: int):
    clean, dirty = trained(kind, steps), trained(kind, steps)
    for step in range(steps, steps + 8):  # over a start and a revival
        latents, mask = batch(step)
        garbage = torch.where(mask[..., None], latents, math.nan)
        one, other = clean(latents, mask, update=True), dirty(garbage, mask, update=True)
        valid = valid_codes(clean, mask)
        assert torch.equal(one.codes[valid], other.codes[valid])
        assert torch.equal(one.quantized[mask], other.quantized[mask])
        assert torch.equal(one.loss, other.loss)
        for model, actual in ((clean, one), (dirty, other)):
            model.zero_grad()
            (actual.quantized[mask].square().sum() + actual.loss).backward()
        for left, right in zip(clean.parameters(), dirty.parameters(), strict=True):
            assert torch.equal(left.grad, right.grad)
    assert clean.started
    assert_equal(state(clean), state(dirty))


@every_kind
def test_a_clip_in_a_batch_has_the_codes_of_the_clip_alone(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(51)
    actual = model(latents, mask, update=True)
    for clip, length in enumerate(mask.sum(1).tolist()):
        alone = model(latents[clip : clip + 1, :length], None, update=True)
        assert torch.equal(alone.codes[0], actual.codes[clip, : model.num_codes(length)])
        torch.testing.assert_close(alone.quantized[0], actual.quantized[clip, :length])


@every_kind
def test_a_prefix_of_whole_blocks_keeps_its_codes(kind: str):
    model = trained(kind, 12).eval()
    latents, _ = batch(52)
    whole = model(latents, None, update=False).codes
    for length in range(model.block, LENGTH + 1, model.block):
        codes = model(latents[:, :length], None, update=False).codes
        assert torch.equal(codes, whole[:, : model.num_codes(length)])


@every_kind
@pytest.mark.parametrize("steps", [1, 10], ids=["filling", "following"])
@pytest.mark.parametrize("way", ["eval", "update"])
def test_eval_and_update_false_change_nothing_and_draw_nothing(kind: str, steps: int, way: str):
    model = trained(kind, steps)
    model.train(way != "eval")
    before, random = state(model), torch.get_rng_state()
    first = model(*batch(50), update=way == "eval")
    for step in range(60, 66):
        model(*batch(step), update=way == "eval")
    assert_equal(before, state(model))
    assert torch.equal(first.codes, model(*batch(50), update=False).codes)
    assert torch.equal(random, torch.get_rng_state())


@every_kind
def test_decode_gives_what_forward_gave(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(50)
    actual = model(latents, mask, update=True)
    torch.testing.assert_close(model.decode(actual.codes)[:, :LENGTH][mask], actual.quantized[mask])


@every_kind
def test_codes_that_are_not_in_the_book_are_refused(kind: str):
    model = make(kind)
    row = [0] * len(model.levels)
    for wrong in (model.codebook_size, -1):
        with pytest.raises(ValueError, match=f"0 to {model.codebook_size - 1} are allowed"):
            model.decode(torch.tensor([[*row[1:], wrong]]))
    if len(row) > 1:
        with pytest.raises(ValueError, match=f"a multiple of {len(row)} is allowed"):
            model.decode(torch.tensor([row[1:]]))


@every_kind
@pytest.mark.parametrize("cut", [1, 7, 12])
def test_a_resumed_run_equals_the_undisturbed_one(kind: str, cut: int):
    """The global random state differs in between, and the resumed one was built from another."""
    whole, early = trained(kind, 20), trained(kind, cut)
    torch.manual_seed(999)
    resumed = build(**(SETTINGS | KINDS[kind]))  # type: ignore[arg-type]
    torch.rand(7)
    resumed.load_state_dict(state(early))
    assert_equal(state(whole), state(learn(resumed, range(cut, 20))))


@every_kind
def test_autocast_equals_float32(kind: str):
    model = trained(kind, 12).eval()
    latents = torch.randn(32, 12, DIM, generator=torch.Generator().manual_seed(0))
    exact = model(latents, None, update=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(latents, None, update=False)
        decoded = model.decode(exact.codes)
    for one, other in zip(exact, rough, strict=True):
        assert torch.equal(one, other) and one.dtype == other.dtype
    assert torch.equal(decoded, model.decode(exact.codes))


@every_kind
def test_every_parameter_has_a_gradient_in_every_step(kind: str):
    """Distributed training waits for each: from the first step on, and for a batch of nothing but padding."""
    model = make(kind)
    for step in range(12):
        latents, mask = batch(step)
        mask &= step % 3 != 2
        actual = model(latents, mask, update=True)
        model.zero_grad()
        (actual.quantized.sum() + actual.loss).backward()
        assert not [name for name, x in model.named_parameters() if x.grad is None or not x.grad.isfinite().all()]


@every_kind
def test_latents_have_a_gradient_and_padding_has_none(kind: str):
    model = trained(kind, 12).eval()
    latents, mask = batch(50)
    latents.requires_grad_()
    actual = model(latents, mask, update=False)
    (gradient,) = torch.autograd.grad((actual.quantized * torch.randn(DIM)).sum() + actual.loss, latents)
    assert gradient[mask].abs().sum(-1).min() > 0
    assert not gradient[~mask].any()
