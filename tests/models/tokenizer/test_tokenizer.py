"""Sound tokenizer: tokens of a prefix stay, padding changes nothing, rates and sizes are the paper's."""

import math
from typing import Any

import pytest
import torch

from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.grid import TokenGrid
from models.tokenizer.tokenizer import Codes, LatentTokenizer
from tests.models.tokenizer.small_tokenizer import (
    GRIDS,
    LATENT,
    OOBLECK,
    PAPER,
    book,
    clips,
    decode,
    loss,
    noise,
    seeded,
    tokenizer,
)


def test_bitrate():
    assert tokenizer(rate="native").bitrate == pytest.approx(6 * OOBLECK)  # log2 64
    assert math.log2(8196) * float(TokenGrid(OOBLECK, PAPER).token_rate) == pytest.approx(230, rel=2e-6)


@pytest.mark.parametrize("rate", GRIDS)
def test_a_token_knows_the_frames_up_to_its_last_and_no_others(rate: str):
    model = tokenizer(rate=rate)
    latents, num_frames = clips(16, 16, 11)
    tokens = model.encoder(latents.requires_grad_(), num_frames, model.grid)
    for clip, length in enumerate(num_frames.tolist()):
        for n in range(model.grid.num_tokens(length)):
            (gradient,) = torch.autograd.grad(tokens[clip, n].sum(), latents, retain_graph=True)
            known = min(model.grid.last_frame(n) + 1, length)
            assert (gradient[clip].abs().sum(-1) > 0).tolist() == [f < known for f in range(16)]
            assert not gradient[1 - clip].any()


@pytest.mark.parametrize("rate", GRIDS)
def test_a_token_is_read_from_its_last_frame_and_its_mean(rate: str):
    """Against a loop over tokens."""
    model = tokenizer(rate=rate)
    latents, num_frames = clips(16, 16, 11)
    frames, tokens = model.encoder.frames(latents), model.encoder(latents, num_frames, model.grid)
    for clip, length in enumerate(num_frames.tolist()):
        for n in range(model.grid.num_tokens(length)):
            token_frames = frames[clip, model.grid.first_frame(n) : min(model.grid.last_frame(n) + 1, length)]
            expected = model.encoder.pool.weight @ torch.cat([token_frames[-1], token_frames.mean(0)])
            torch.testing.assert_close(tokens[clip, n], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rate", GRIDS)
def test_tokens_of_a_prefix_do_not_depend_on_what_follows(rate: str):
    model = tokenizer(rate=rate)
    latents, num_frames = clips(30, 30)
    whole = model.encode(latents, num_frames).codes[0]
    assert len(whole.unique()) > 1
    for frames in range(1, 30):
        prefix = model.encode(latents[:, :frames], torch.tensor([frames])).codes[0]
        complete = model.grid.num_complete_tokens(frames)
        assert len(prefix) - complete in (0, 1)
        assert torch.equal(prefix[:complete], whole[:complete])


@pytest.mark.parametrize("rate", GRIDS)
def test_encode_padding_changes_nothing_and_a_batch_equals_its_items(rate: str):
    model = tokenizer(rate=rate)
    latents, num_frames = clips(24, 24, 13, 1)
    actual = model.encode(latents, num_frames)
    valid = torch.arange(24) < num_frames[:, None]
    for other in (torch.where(valid[..., None], latents, math.nan), torch.where(valid[..., None], latents, 1e4)):
        assert torch.equal(model.encode(other, num_frames).codes, actual.codes)
    longer = model.encode(torch.nn.functional.pad(latents, (0, 0, 0, 9)), num_frames).codes
    assert (
        torch.equal(longer[:, : actual.codes.shape[1]], actual.codes) and not longer[:, actual.codes.shape[1] :].any()
    )
    for clip, (frames, tokens) in enumerate(zip(num_frames.tolist(), actual.num_codes.tolist(), strict=True)):
        alone = model.encode(latents[clip : clip + 1, :frames], num_frames[clip : clip + 1])
        assert alone.num_codes.item() == tokens == model.grid.num_tokens(frames)
        assert torch.equal(alone.codes[0], actual.codes[clip, :tokens])
        assert not actual.codes[clip, tokens:].any()


def test_codes_do_not_depend_on_autocast():
    """The paper's geometry, 64 channels, 216 frames, 8196 codes of 16 dimensions; bfloat16 would move one in fifty."""
    torch.manual_seed(0)
    model = LatentTokenizer(
        encoder=CausalEncoder(64, width=64, depth=3, heads=2),
        quantizer=book(8196, 16, 64, 8196),
        decoder=DiffusionTransformer(64, condition_dim=64, width=16, depth=1, heads=2),
        grid=TokenGrid(OOBLECK, PAPER),
        objective="flow", logit_normal_share=0.0, token_dropout=0.5, prior_weight=0.5,
    ).eval()  # fmt: skip
    latents, num_frames = torch.randn(8, 216, 64, generator=seeded()), torch.tensor([216] * 6 + [54, 215])
    expected = model.encode(latents, num_frames)
    with torch.autocast("cpu", torch.bfloat16):
        codes = model.encode(latents, num_frames)
    assert torch.equal(codes.codes, expected.codes)


def test_the_encoders_residual_stream_is_float32_under_autocast():
    encoder = tokenizer().encoder
    seen: list[torch.dtype] = []
    for block in encoder.transformer.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        frames = encoder.frames(clips(30, 30)[0])
    assert set(seen) == {torch.float32} and frames.dtype == torch.float32


def test_codes_do_not_depend_on_the_scale_of_the_latents():
    """Latents a x + b with statistics a m + b, a s have the codes of x; and are decoded to a x + b."""
    model = tokenizer("mse")
    latents, num_frames = clips(24, 24, 13)
    actual = model.encode(latents, num_frames)
    decoded = decode(model, actual, num_frames)
    a, b = torch.tensor([2.0, 0.5, 4.0, 8.0]), torch.tensor([0.0, 3.0, -1.0, 2.0])
    model.set_latent_statistics(a * model.latent_mean + b, a * model.latent_std)
    assert torch.equal(model.encode(a * latents + b, num_frames).codes, actual.codes)
    valid = torch.arange(24) < num_frames[:, None]
    torch.testing.assert_close(decode(model, actual, num_frames)[valid], (a * decoded + b)[valid], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rate", GRIDS)
@pytest.mark.parametrize("objective", ["flow", "mse"])
def test_decode_padding_changes_nothing(objective: str, rate: str):
    model = tokenizer(objective, rate)
    latents, num_frames = clips(24, 24, 13, 1)
    actual = model.encode(latents, num_frames)
    decoded = decode(model, actual, num_frames)
    assert decoded.shape == (3, 24, LATENT) and decoded.isfinite().all()
    assert not decoded[torch.arange(24) >= num_frames[:, None]].any()
    padding = torch.arange(actual.codes.shape[1] + 3) >= actual.num_codes[:, None]
    garbage = torch.nn.functional.pad(actual.codes, (0, 3)).masked_fill(padding, 9999)
    assert torch.equal(decode(model, Codes(garbage, actual.num_codes), num_frames), decoded)


@pytest.mark.parametrize("objective", ["flow", "mse"])
def test_decode_a_batch_equals_its_items(objective: str):
    model = tokenizer(objective)
    latents, num_frames = clips(24, 24, 13, 1)
    actual = model.encode(latents, num_frames)
    drawn = noise(num_frames)
    decoded = model.decode(*actual, num_frames, 3, "heun", 1.5, drawn)
    mask = torch.arange(24) < num_frames[:, None]
    x_t, t = latents, torch.tensor([0.1, 0.5, 0.9])
    condition = model._condition(model.quantizer.decode(actual.codes), 24)
    with torch.no_grad():
        velocity = model.guided_velocity(condition, mask, 1.5)(x_t, t, t)
        for i, frames in enumerate(num_frames.tolist()):
            one = slice(i, i + 1)
            alone = Codes(actual.codes[one, : actual.num_codes[i]], actual.num_codes[one])
            single = model.decode(*alone, num_frames[one], 3, "heun", 1.5, drawn[one])
            torch.testing.assert_close(single[0], decoded[i, :frames], atol=1e-4, rtol=1e-4)
            alone_velocity = model.guided_velocity(condition[one, :frames], mask[one, :frames], 1.5)
            single = alone_velocity(x_t[one, :frames], t[one], t[one])
            torch.testing.assert_close(single[0], velocity[i, :frames], atol=1e-4, rtol=1e-4)


def test_guidance_is_a_line_through_conditional_and_unconditional():
    model = tokenizer()
    latents, num_frames = clips(12, 12, 7)
    mask = torch.arange(12) < num_frames[:, None]
    condition = model._condition(model.quantizer.decode(model.encode(latents, num_frames).codes), 12)
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad():
        unconditional, conditional, guided = (
            model.guided_velocity(condition, mask, guidance)(latents, t, t) for guidance in (0.0, 1.0, 3.0)
        )
        nothing = model.decoder.no_tokens.expand_as(condition)
        torch.testing.assert_close(unconditional, model.decoder(latents, t, nothing, mask), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guided, unconditional + 3 * (conditional - unconditional), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(conditional, unconditional, atol=1e-2)


@pytest.mark.parametrize("num_steps, num_known", [(1, 0), (4, 0), (4, 7)])
def test_temperature_scales_the_noise(num_steps: int, num_known: int):
    """Of known frames, too: they leave their scaled noise for their values."""
    model, (latents, num_frames) = tokenizer(), clips(24, 24, 13)
    condition = model.condition(*model.encode(latents, num_frames), num_frames)
    known = {"known": latents, "num_known": torch.tensor([num_known, num_known])} if num_known else {}
    arguments: dict[str, Any] = {"num_steps": num_steps, "solver": "euler", "guidance": 1.0, **known}
    drawn = noise(num_frames)
    half = model.sample(condition, num_frames, noise=drawn, temperature=0.5, **arguments)
    assert torch.equal(half, model.sample(condition, num_frames, noise=drawn / 2, **arguments))
    assert not torch.allclose(half, model.sample(condition, num_frames, noise=drawn, **arguments), atol=1e-2)
    assert torch.equal(half[:, :num_known], latents[:, :num_known])


def test_sampling_depends_on_the_noise_alone():
    model, (latents, num_frames) = tokenizer(), clips(24, 24, 13)
    actual = model.encode(latents, num_frames)
    once, again, other = (decode(model, actual, num_frames, seed) for seed in (5, 5, 6))
    assert torch.equal(once, again) and not torch.allclose(once, other, atol=1e-2)
    assert torch.equal(loss(model, latents, num_frames, 5).loss, loss(model, latents, num_frames, 5).loss)
    assert not torch.equal(loss(model, latents, num_frames, 5).loss, loss(model, latents, num_frames, 6).loss)


def test_the_token_gap_is_what_a_wrong_clip_costs():
    """Against two regressions by hand; nothing where the decoder is deaf, or there is no other clip."""
    model = tokenizer("mse")
    latents, num_frames = clips(24, 24, 13, 20)
    gap = model.token_gap(latents, num_frames, model.encode(latents, num_frames), 0.5, noise(num_frames))
    actual, both = model.encode(latents, num_frames), torch.minimum(num_frames, num_frames.roll(1))
    errors = []
    for order in (torch.arange(3), torch.arange(3).roll(1)):
        codes = Codes(actual.codes[order], torch.full((3,), actual.codes.shape[1]))
        difference = (model.decode(*codes, num_frames, 1, "euler", 1.0, noise(num_frames)) - latents) / model.latent_std
        mask = torch.arange(24) < both[:, None]
        errors.append(difference[mask].square().mean())
    torch.testing.assert_close(gap, errors[1] - errors[0], atol=1e-4, rtol=1e-4)
    deaf = tokenizer("flow")
    torch.nn.init.zeros_(deaf.decoder.output.weight)
    codes = deaf.encode(latents, num_frames)
    assert deaf.token_gap(latents, num_frames, codes, 0.5, noise(num_frames)) == 0
    one = Codes(codes.codes[:1], codes.num_codes[:1])
    assert deaf.token_gap(latents[:1], num_frames[:1], one, 0.5, noise(num_frames[:1])).isnan()


def test_refusals():
    model, (latents, num_frames) = tokenizer(rate="stride 2"), clips(24, 24)
    drawn = noise(num_frames)
    with pytest.raises(ValueError, match=r"num_frames \[24\] need \[12\] codes; \[11\] came"):
        model.decode(torch.zeros(1, 12, dtype=torch.long), torch.tensor([11]), num_frames, 1, "euler", 1.0, drawn)
    with pytest.raises(ValueError, match=r"came, in codes of shape \(1, 11\)"):
        model.decode(torch.zeros(1, 11, dtype=torch.long), torch.tensor([12]), num_frames, 1, "euler", 1.0, drawn)
    with pytest.raises(ValueError, match=r"noise of shape \(1, 23, 4\); \(1, 24, 4\), or more frames, is allowed"):
        model.decode(*model.encode(latents, num_frames), num_frames, 1, "euler", 1.0, drawn[:, 1:])
    for wrong in (0, 25):
        with pytest.raises(ValueError, match=rf"num_frames \[{wrong}\]; 1 to F = 24"):
            model.encode(latents, torch.tensor([wrong]))
    with pytest.raises(ValueError, match=r"\(B, F, 4\) is allowed"):
        model.encode(latents.transpose(1, 2), num_frames)
    for std in (0.0, math.nan):
        with pytest.raises(ValueError, match="every standard deviation above 0"):
            model.set_latent_statistics(torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, std]))
    encoder, decoder, grid = model.encoder, model.decoder, model.grid
    with pytest.raises(ValueError, match=r"encoder.width 16, quantizer.dim 8 and decoder.condition_dim 16"):
        LatentTokenizer(encoder, book(8, 4, 8, 8), decoder, grid, "flow", 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="objective 'l1'; flow and mse"):
        LatentTokenizer(encoder, book(8, 4, 16, 8), decoder, grid, "l1", 0.0, 0.0, 0.0)  # type: ignore[arg-type]


def test_the_papers_size():
    with torch.device("meta"):
        model = LatentTokenizer(
            encoder=CausalEncoder(64, width=768, depth=8, heads=12),
            quantizer=book(8196, 16, 768, 163840),
            decoder=DiffusionTransformer(64, condition_dim=768, width=768, depth=12, heads=12),
            grid=TokenGrid(OOBLECK, PAPER),
            objective="flow",
            logit_normal_share=0.0,
            token_dropout=0.1,
            prior_weight=0.5,
        )
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count:,} parameters")
    assert count == pytest.approx(147e6, rel=0.03)
