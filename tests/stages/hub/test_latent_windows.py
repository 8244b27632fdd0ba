"""Long sound without seams: windows go on from what is before them, whole, piece by piece, and in batches alike."""

import pytest
import torch
from torch import Tensor, nn

from datamodules.windows import WindowRule
from models.tokenizer.tokenizer import LatentTokenizer
from stages.hub.latent_windows import LatentWindows, decode_next
from tests.models.tokenizer import small_tokenizer

RULE = WindowRule(32, 8)
SAMPLING = {"num_steps": 16, "solver": "euler", "guidance": 1.0}
CPU = torch.device("cpu")


class SmoothSound(nn.Module):
    """The exact velocity of Gaussian latents whose frames f and g have correlation 0.9^|f - g|, whatever the codes."""

    condition_dim = 16

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        frames = torch.arange(RULE.longest, dtype=dtype)
        self.covariance = 0.9 ** (frames[:, None] - frames).abs()

    def condition(self, embeddings: Tensor, token_of_frame: Tensor, phase: Tensor) -> Tensor:
        return embeddings[:, token_of_frame]

    def forward(self, x_t: Tensor, t: Tensor, condition: Tensor, mask: Tensor | None, r: None = None) -> Tensor:
        velocities = []
        for b in range(len(x_t)):
            length = len(x_t[b]) if mask is None else int(mask[b].sum())
            identity = torch.eye(length, dtype=self.covariance.dtype)
            data, noise, time = self.covariance[:length, :length], identity, t[b].double()
            of_path = time.square() * data + (1 - time).square() * noise
            v = (time * data - (1 - time) * noise) @ torch.linalg.solve(of_path, x_t[b, :length].double())
            velocities.append(nn.functional.pad(v, (0, 0, 0, len(x_t[b]) - length)))
        return torch.stack(velocities).float()


def smooth_tokenizer() -> LatentTokenizer:
    model = small_tokenizer.tokenizer(rate="native")
    model.decoder = SmoothSound()  # type: ignore[assignment]
    model.set_latent_statistics(torch.zeros(4), torch.ones(4))
    return model


def added(model: LatentTokenizer, frames: int, seed: int = 0, overlap: int | None = None) -> LatentWindows:
    """A sound of so many frames, with random codes; all of them have come."""
    sound = LatentWindows(model, RULE, CPU, seed, overlap)
    codes = torch.randint(0, 64, (frames,), generator=torch.Generator().manual_seed(frames)).tolist()
    for length in RULE.lengths(frames):
        sound.add(codes[:length], length)
        codes = codes[length:]
    sound.end()
    return sound


def all_of(sound: LatentWindows, **sampling: object) -> Tensor:
    parts = []
    while sound.next_window():
        parts += decode_next([sound], SAMPLING | sampling)
    return torch.cat(parts)


def test_no_seam_is_left_where_a_window_ends():
    """Mean square of the step from one frame to the next, around where a window ends: everywhere about as elsewhere;
    without shared frames many times that. And the sound is no quieter there.
    """
    model, frames = smooth_tokenizer(), 32 + 24 * 20

    def around(overlap: int | None, step: int) -> tuple[float, float]:
        latents = torch.cat([all_of(added(model, frames, seed, overlap)) for seed in range(4)], 1)
        ends = torch.arange(32, frames - 32, step)[:, None] + torch.arange(-12, 12)
        steps, power = latents.diff(dim=0).square().mean(1), latents.square().mean(1)
        return float(steps[ends - 1].mean(0).max() / steps.median()), float(power[ends].mean(0).min() / power.median())

    seam, _ = around(0, 32)
    smooth, power = around(None, 24)
    assert seam > 6 and smooth < 2 and power > 0.7


@pytest.mark.parametrize("overlap", [None, 0])
@pytest.mark.parametrize("frames", [1, 31, 39, 40, 41, 64, 100, 333])
def test_each_frame_is_given_once_and_no_window_is_longer_than_those_of_the_training(frames: int, overlap: int | None):
    sound = added(small_tokenizer.tokenizer(rate="native"), frames, overlap=overlap)
    given, lengths = 0, []
    while window := sound.next_window():
        lengths.append(len(window))
        assert len(window) <= RULE.longest and window.start <= given <= window.stop
        (new,) = decode_next([sound], SAMPLING | {"num_steps": 1})
        assert len(sound.condition) <= frames and len(sound.latents) <= 8
        given += len(new)
    assert given == frames
    if overlap == 0:
        assert lengths == RULE.lengths(frames)
    assert all(length >= sound.overlap + RULE.shortest for length in lengths[1:])


def test_what_is_held_is_what_the_window_before_made():
    """The frames that are given do not depend on the windows that follow, and those of the next one on them."""
    model = smooth_tokenizer()
    first, longer = added(model, 63), added(model, 63)
    given = decode_next([first], SAMPLING)[0]
    assert torch.equal(decode_next([longer], SAMPLING)[0], given) and len(given) == 32 - 4
    longer.latents = longer.latents + 1
    apart = decode_next([longer], SAMPLING)[0] - decode_next([first], SAMPLING)[0]
    assert apart[0].mean() > 0.3 and apart[-1].abs().max() < 0.3  # near them, and no longer far away


def test_a_sound_of_one_window_is_what_decode_gives():
    model = small_tokenizer.tokenizer(rate="native")
    sound = added(model, 39)
    codes, counts = torch.randint(0, 64, (1, 39), generator=torch.Generator().manual_seed(39)), torch.tensor([39])
    expected = model.decode(codes, counts, counts, noise=sound.noise[None], **SAMPLING)  # type: ignore[arg-type]
    torch.testing.assert_close(all_of(sound), expected[0])


@pytest.mark.parametrize("objective", ["flow", "mse"])
def test_a_batch_gives_what_its_sounds_give_one_by_one(objective: str):
    model = small_tokenizer.tokenizer(objective, rate="native")
    lengths = (100, 7, 64)
    together: list[list[Tensor]] = [[] for _ in lengths]
    sounds = [added(model, frames, seed) for seed, frames in enumerate(lengths)]
    while any(sound.next_window() for sound in sounds):
        for parts, new in zip(together, decode_next(sounds, SAMPLING), strict=True):
            parts.append(new)
    for seed, (frames, parts) in enumerate(zip(lengths, together, strict=True)):
        torch.testing.assert_close(torch.cat(parts), all_of(added(model, frames, seed)), atol=2e-3, rtol=1e-3)


def test_a_window_is_ready_as_soon_as_what_follows_cannot_change_it():
    model, codes = small_tokenizer.tokenizer(rate="native"), [3] * 32
    sound = LatentWindows(model, RULE, CPU, seed=0)
    sound.add(codes, 32)
    assert sound.next_window() is None  # it may be a window that takes in a rest
    sound.add(codes[:31], 31)
    assert sound.next_window() == range(32)
    first = decode_next([sound], SAMPLING)[0]
    assert sound.next_window() is None and len(sound.latents) == 8
    sound.end()
    assert sound.next_window() == range(24, 63)
    torch.testing.assert_close(torch.cat([first, *decode_next([sound], SAMPLING)]), _whole(model, codes))


def _whole(model: LatentTokenizer, codes: list[int]) -> Tensor:
    sound = LatentWindows(model, RULE, CPU, seed=0)
    sound.add(codes, 32)
    sound.add(codes[:31], 31)
    sound.end()
    return all_of(sound)
