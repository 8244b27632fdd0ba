"""The loss of the sound tokenizer: padding changes nothing, a batch is its items, every parameter learns."""

import copy
import math

import pytest
import torch

from tests.models.tokenizer.small_tokenizer import (
    LATENT,
    clips,
    decode,
    loss,
    noise,
    seeded,
    tokenizer,
)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("objective", ["flow", "mse"])
def test_values_of_padding_change_no_training_loss(objective: str, training: bool):
    latents, num_frames = clips(24, 24, 13, 1)
    valid = torch.arange(24) < num_frames[:, None]
    clean, dirty = tokenizer(objective).train(training), tokenizer(objective).train(training)
    for step in range(4):
        one = loss(clean, latents, num_frames, step)
        other = loss(dirty, torch.where(valid[..., None], latents, math.nan), num_frames, step)
        assert one.loss.isfinite() and torch.equal(one.loss, other.loss)
        assert torch.equal(one.codes[one.code_mask], other.codes[one.code_mask])
    assert clean.quantizer.started == training
    assert not [name for name, x in clean.state_dict().items() if not torch.equal(x, dirty.state_dict()[name])]


@pytest.mark.parametrize("lengths", [(24, 24), (24, 13)])
def test_whether_there_is_padding_may_be_known_before(lengths: tuple[int, int]):
    model = tokenizer("flow")
    latents, num_frames = clips(24, *lengths)
    known = model.training_loss(latents, num_frames, seeded(), is_padded=lengths[0] > lengths[1])
    assert torch.equal(known.loss, loss(model, latents, num_frames).loss)


def test_training_loss_more_padding_changes_nothing():
    model = tokenizer("mse")
    latents, num_frames = clips(24, 24, 13, 1)
    one, other = (
        loss(model, latents, num_frames),
        loss(model, torch.nn.functional.pad(latents, (0, 0, 0, 9)), num_frames),
    )
    for name in ("loss", "reconstruction", "prior", "commitment"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)
    assert other.code_mask.sum(1).tolist() == model.grid.num_tokens(num_frames).tolist()


def test_training_loss_of_a_batch_is_its_items_weighted_by_their_lengths():
    model = tokenizer("mse")
    latents, num_frames = clips(24, 24, 13, 1)
    whole = loss(model, latents, num_frames)
    parts = [loss(model, latents[i : i + 1, :n], num_frames[i : i + 1]) for i, n in enumerate(num_frames.tolist())]
    frames, tokens = num_frames.float(), model.grid.num_tokens(num_frames).float()
    for name, weight in (("reconstruction", frames), ("prior", frames), ("commitment", tokens)):
        mean = (torch.stack([getattr(part, name) for part in parts]) * weight).sum() / weight.sum()
        torch.testing.assert_close(getattr(whole, name), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.loss, whole.reconstruction + 0.5 * whole.prior + whole.commitment)


def test_flow_loss_is_the_error_of_the_velocity():
    """A decoder that gives zeros misses data minus noise: 1 + 1 for latents of variance 1."""
    model = tokenizer()
    torch.nn.init.zeros_(model.decoder.output.weight)
    latents, num_frames = clips(400, *[400] * 8)
    assert loss(model, latents, num_frames).reconstruction.item() == pytest.approx(2, rel=0.05)
    assert loss(tokenizer("mse"), latents, num_frames).reconstruction.item() != pytest.approx(2, rel=0.05)


def test_training_loss_encodes_as_encode_does():
    model = tokenizer()
    latents, num_frames = clips(24, 24, 13, 1)
    trained, actual = loss(model, latents, num_frames), model.encode(latents, num_frames)
    assert torch.equal(trained.codes * trained.code_mask, actual.codes)
    assert trained.code_mask.sum(1).tolist() == actual.num_codes.tolist()


@pytest.mark.parametrize("objective", ["flow", "mse"])
@pytest.mark.parametrize("token_dropout", [0.0, 1.0])
def test_every_parameter_has_a_gradient(objective: str, token_dropout: float):
    """Whatever was dropped: distributed training waits for the gradient of each, from the first step on."""
    model = tokenizer(objective, token_dropout=token_dropout).train()
    for _ in range(4):
        model.zero_grad()
        loss(model, *clips(24, 24, 13)).loss.backward()
        assert not [name for name, x in model.named_parameters() if x.grad is None]
    assert model.quantizer.started
    silent = {name for name, x in model.named_parameters() if not x.grad.any()}
    assert silent == (set() if objective == "flow" and token_dropout else {"decoder.no_tokens"})


def test_token_dropout_hides_the_tokens():
    """With everything dropped the velocity does not know the tokens; the prior still does."""
    latents, num_frames = clips(24, 24, 13)
    one, other = tokenizer(token_dropout=1.0), tokenizer(token_dropout=1.0)
    with torch.no_grad():
        other.quantizer.codebook.copy_(other.quantizer.codebook.flip(0) * -1)
    assert torch.equal(loss(one, latents, num_frames).reconstruction, loss(other, latents, num_frames).reconstruction)
    assert not torch.equal(loss(one, latents, num_frames).prior, loss(other, latents, num_frames).prior)
    one.token_dropout = other.token_dropout = 0.0
    assert not torch.equal(
        loss(one, latents, num_frames).reconstruction, loss(other, latents, num_frames).reconstruction
    )


def test_the_mse_objective_draws_nothing():
    model, (latents, num_frames) = tokenizer("mse"), clips(24, 24, 13)
    actual = model.encode(latents, num_frames)
    assert torch.equal(
        decode(model, actual, num_frames, 5), model.decode(*actual, num_frames, 1, "euler", 1.0, noise(num_frames, 6))
    )
    assert torch.equal(loss(model, latents, num_frames, 5).loss, loss(model, latents, num_frames, 6).loss)
    generator = seeded()
    before = generator.get_state()
    model.training_loss(latents, num_frames, generator)
    assert torch.equal(generator.get_state(), before)


def test_only_training_changes_the_tokenizer():
    latents, num_frames = clips(24, 24, 13)
    for training in (False, True):
        model = tokenizer().train(training)
        before = copy.deepcopy(model.state_dict())
        decode(model, model.encode(latents, num_frames), num_frames)
        if not training:
            loss(model, latents, num_frames)
        assert not [name for name, x in model.state_dict().items() if not torch.equal(x, before[name])]
    loss(model, latents, num_frames)
    assert model.quantizer.step == 1


def test_a_few_steps_teach_latents_to_pass_through_the_tokens():
    """Two kinds of clip, distinguished by their tokens alone: the regression's error falls far below their variance."""
    model = tokenizer("mse").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    kinds = torch.tensor([1.0, -1.0]).repeat(4)[:, None, None].expand(8, 24, LATENT)
    latents, num_frames = kinds * model.latent_std + model.latent_mean, torch.full((8,), 24)
    for step in range(60):
        optimizer.zero_grad()
        loss(model, latents, num_frames, step).loss.backward()
        optimizer.step()
    assert loss(model.eval(), latents, num_frames).reconstruction < 0.05
