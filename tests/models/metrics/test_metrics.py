"""Scores worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from models.metrics.codebook import CodebookUse
from models.metrics.reconstruction import LatentError, MelDistance, MultiResolutionStftDistance
from models.metrics.text_perplexity import perplexity
from stages.scoring.answers import BestGuess, Interval, bootstrap, is_right, normalise, resampled
from stages.scoring.captions import caption_scores


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 2.0, 30.0])


def test_the_mean_latent_has_error_1_and_the_latent_itself_0():
    """std is of the latents themselves, by channel: whatever their scale."""
    x, num_frames = latents(4, 50, 3), torch.full((4,), 50)
    metric = LatentError(x.flatten(0, 1).std(0, unbiased=False))
    metric.update(x.mean((0, 1)).expand_as(x), x, num_frames)
    assert metric.compute().item() == pytest.approx(1, abs=1e-5)
    metric.reset()
    metric.update(x, x, num_frames)
    assert metric.compute() == 0


def test_latent_error_by_hand():
    """Channel errors 1 / 2 and 3 / 1 deviations: (1/4 + 9) / 2."""
    metric = LatentError(torch.tensor([2.0, 1.0]))
    metric.update(torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 1, 2), torch.tensor([1]))
    assert metric.compute().item() == pytest.approx((0.25 + 9) / 2)


def test_latent_error_ignores_padding_and_batching():
    x, num_frames = latents(3, 20, 3), torch.tensor([20, 11, 0])
    decoded = x + latents(3, 20, 3).flip(1)
    dirty = torch.where(torch.arange(20)[None, :, None] < num_frames[:, None, None], decoded, 1e6)
    whole, parts = LatentError(torch.ones(3)), LatentError(torch.ones(3))
    whole.update(dirty, x, num_frames)
    for clip in range(2):
        frames = int(num_frames[clip])
        parts.update(decoded[clip : clip + 1, :frames], x[clip : clip + 1, :frames], num_frames[clip : clip + 1])
    assert whole.compute().item() == pytest.approx(parts.compute().item(), rel=1e-12)


def test_codebook_use_by_hand():
    """Shares 1/2, 1/4, 1/4 of 8 codes: 1.5 bits, perplexity 2^1.5, three of eight used."""
    metric = CodebookUse(8)
    metric.update(torch.tensor([[0, 0, 5]]), torch.tensor([[True, True, True]]))
    metric.update(torch.tensor([[6, 0, 7]]), torch.tensor([[True, False, False]]))
    actual = {name: value.item() for name, value in metric.compute().items()}
    assert actual == pytest.approx({"codebook_perplexity": 2**1.5, "codebook_used": 3 / 8, "codebook_bits": 1.5})


def test_codebook_use_is_a_mean_over_levels():
    """Strides 2 and 1. Level 0: codes 3, 3 (0 bits); level 1: 0, 1, 2, 3 (2 bits), in two clips, one shorter."""
    metric = CodebookUse(4, (0, 1, 1))
    clips = torch.tensor([[3, 0, 1, 3, 2, 3], [0, 1, 1, 0, 0, 0]])
    metric.update(clips, torch.tensor([[True] * 6, [False] * 6]))
    actual = {name: value.item() for name, value in metric.compute().items()}
    assert actual == pytest.approx({"codebook_perplexity": (1 + 4) / 2, "codebook_used": 5 / 8, "codebook_bits": 1.0})
    flat = CodebookUse(4, (0, 1, 1))
    flat.update(clips[0], torch.ones(6, dtype=torch.bool))
    assert torch.equal(flat.counts, metric.counts)


def test_codebook_use_at_its_ends():
    one, all_codes = CodebookUse(16), CodebookUse(16)
    one.update(torch.full((2, 9), 3), torch.ones(2, 9, dtype=torch.bool))
    all_codes.update(torch.arange(16)[None], torch.ones(1, 16, dtype=torch.bool))
    assert one.compute()["codebook_perplexity"].item() == pytest.approx(1)
    assert all_codes.compute()["codebook_perplexity"].item() == pytest.approx(16)
    assert all_codes.compute()["codebook_used"] == 1


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("A dog.", "dog"),
        ("the  Dog  barks!", "dog barks"),
        ("an", ""),
        ("theatre", "theatre"),
        ("dog, the cat", "dog the cat"),  # an article within stays
        ("twenty-one", "twenty one"),
        ("Ünder", "ünder"),
        ("  ", ""),
    ],
)
def test_normalise(answer: str, expected: str):
    assert normalise(answer) == expected
    assert normalise("THE " + expected.upper()) == expected


def test_is_right():
    assert is_right("The dog.", "dog") and is_right("a Dog", "an dog")
    assert not is_right("dogs", "dog") and not is_right("dog cat", "dog")
    assert not is_right("", "dog") and not is_right("...", "") and not is_right("", "")


def test_bootstrap_draws_whole_clips():
    """Three right questions on one clip, one wrong on another: draws of two clips give 0, 3/4, 1 and nothing between.
    Drawn by question, fewer than 1 % of the means would be 0, and the interval would begin at 1/4 or above.
    """
    actual = bootstrap([True, True, True, False], ["a", "a", "a", "b"], 2000, 0)
    assert actual == Interval(0.75, 0.0, 1.0, 4)
    assert bootstrap([True, False, True, False], ["a"] * 4, 100, 0) == Interval(0.5, 0.5, 0.5, 4)


def test_bootstrap_interval():
    """Contains the mean, is the binomial's where clips have one question each, narrows with the root of their number,
    and depends on the seed alone.
    """
    right = [number % 4 != 0 for number in range(400)]
    clips = [str(number) for number in range(400)]
    actual, fewer = bootstrap(right, clips, 4000, 0), bootstrap(right[:100], clips[:100], 4000, 0)
    deviation = math.sqrt(0.75 * 0.25 / 400)
    assert actual.low < actual.value == 0.75 < actual.high and actual.count == 400
    assert actual.value - actual.low == pytest.approx(1.96 * deviation, rel=0.1)
    assert actual.high - actual.value == pytest.approx(1.96 * deviation, rel=0.1)
    assert (fewer.high - fewer.low) / (actual.high - actual.low) == pytest.approx(2, rel=0.15)
    assert bootstrap(right, clips, 4000, 0) == actual != bootstrap(right, clips, 4000, 1)


def test_where_all_clips_agree_the_interval_is_wilsons():
    """By hand: z squared is 3.8415, and of n clips it reaches 3.8415 / (n + 3.8415) away: 4 clips 49.0 %, 2 clips 65.8 %."""
    wrong = bootstrap([False] * 4, list("abcd"), 100, 0)
    assert wrong[:2] == (0.0, 0.0) and wrong.high == pytest.approx(0.4899, abs=1e-4) and wrong.count == 4
    right = bootstrap([True] * 4, list("aabb"), 100, 0)
    assert right.value == right.high == 1.0 and right.low == pytest.approx(1 - 0.6576, abs=1e-4), "two clips, not four"
    assert resampled([0.0] * 4, list("abcd"), 100, 0) == Interval(0.0, 0.0, 0.0, 4), "a score may have no upper end"


def test_bootstrap_takes_questions_in_any_order():
    one = bootstrap([True, False, True, True], ["a", "a", "b", "b"], 500, 0)
    assert bootstrap([True, True, False, True], ["a", "b", "a", "b"], 500, 0) == one


def test_bootstrap_of_nothing_is_no_number():
    actual = bootstrap([], [], 100, 0)
    assert actual.count == 0 and all(math.isnan(x) for x in actual[:3])


TRAIN = [
    *[("count", "How many dogs?", "two")] * 3,
    *[("count", "How many cats?", "Three.")] * 4,
    ("order", "Which is first, the dog or the rain?", "the dog"),
    ("order", "Which is first, the rain or the bell?", "rain"),
    ("order", "Which is first, the bell or the rain?", "bell"),
    ("order", "Which is first, the rain or the dog?", "dog"),
    ("scene", "Where is it?", "outside"),
    ("scene", "Where is it?", "outside"),
    ("scene", "What place is it?", "a street"),
]


def test_best_guess_by_hand():
    guess = BestGuess(TRAIN)
    assert guess.ways == {"count": "words", "order": "first", "scene": "words"}
    assert guess.guess("count", "how many DOGS") == "two"  # the words' answer, though the kind's is three
    assert guess.guess("count", "How many horses?") == "three"
    assert guess.guess("order", "Which is first, the bell or the dog?") == "bell"
    assert guess.guess("when", "How many dogs?") == ""  # another kind's words
    assert not is_right(guess.guess("when", "How many dogs?"), "two")
    assert (guess.chance("count"), guess.chance("order"), guess.chance("scene")) == (0.5, 0.5, 0.5)
    assert math.isnan(guess.chance("when"))


def test_remembered_questions_do_not_make_a_good_guess():
    """Every question is new: its own words are no way to answer another's."""
    guess = BestGuess(
        [("open", f"What about {number}?", "no" if number % 3 else f"it is {number}") for number in range(30)]
    )
    assert guess.guess("open", "What about 31?") == "no"


def test_best_guess_does_not_depend_on_the_order_of_reading():
    forward, backward = BestGuess(TRAIN), BestGuess(reversed(TRAIN))
    assert (forward.by_kind, forward.by_words, forward.answers) == (
        backward.by_kind,
        backward.by_words,
        backward.answers,
    )


def test_captions_by_hand():
    """ROUGE-L: the longest common run in order, `dog barks` of 3 and of 2 words: 2 x 2 / (3 + 2). BLEU-4 needs four."""
    same = caption_scores(["A dog barks at night twice."], [["dog barks at night twice"]])
    assert same == pytest.approx({"torchmetrics_bleu4": 1.0, "torchmetrics_rouge_l": 1.0})
    part = caption_scores(["the dog now barks"], [["a cat", "dog barks"]])
    assert part == pytest.approx({"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.8})
    none = caption_scores(["rain"], [["dog barks"]])
    assert none == {"torchmetrics_bleu4": 0.0, "torchmetrics_rouge_l": 0.0}
    assert all(math.isnan(score) for score in caption_scores([], []).values())


def tone(level: float, samples: int = 8000) -> Tensor:
    return level * (2 * math.pi * 1000 / 8000 * torch.arange(samples)).sin()[None, None]


def test_mel_distance_of_a_sound_twenty_decibels_quieter():
    """Log base 10 of magnitudes: 1 for noise, whose every band is above the floor; 0 for the sound itself."""
    noise = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    metric = MelDistance(8000)
    metric.update(noise, noise)
    assert metric.compute() == 0
    metric.reset()
    metric.update(noise / 10, noise)
    assert metric.compute().item() == pytest.approx(1.0, abs=1e-4)
    metric.reset()
    metric.update(torch.zeros(1, 1, 8000), torch.full((1, 1, 8000), 1e-7))
    assert metric.compute() == 0, "both are silence"


def test_mel_distance_knows_the_full_scale():
    """A sine of full scale has magnitude 1 at its bin, and a band is the mean of its bins."""
    metric = MelDistance(8000)
    spectrum = metric._log_mel(tone(1.0))[0, 15]
    assert -1 < spectrum.max() < 0, "its band is a mean over bins of which a few are it"


def test_stft_distance_of_half_the_level():
    """Convergence 1/2 and log10 2 at every window, whatever the level; each clip by itself."""
    noise = torch.randn(3, 2, 8000, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 0.1, 0.01]).view(
        3, 1, 1
    )
    metric = MultiResolutionStftDistance()
    metric.update(noise / 2, noise)
    assert metric.compute().item() == pytest.approx(0.5 + math.log10(2), abs=1e-3)
    metric.reset()
    metric.update(torch.zeros(1, 1, 8000), torch.zeros(1, 1, 8000))
    assert metric.compute() == 0


@pytest.mark.parametrize("metric", [MelDistance(8000), MultiResolutionStftDistance()], ids=["mel", "stft"])
def test_a_batch_of_sounds_equals_its_clips(metric):
    made, true = (torch.randn(4, 1, 3000, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    metric.update(made, true)
    together = metric.compute()
    metric.reset()
    for row in range(4):
        metric.update(made[row : row + 1], true[row : row + 1])
    torch.testing.assert_close(metric.compute(), together)


def test_perplexity_worked_by_hand():
    """Four ids, of which 3 is sound. After 0 the model says 1 with 1/2, 2 with 1/4, 3 with 1/4; after 1 all alike."""
    table = torch.tensor([[0.0, 0.5, 0.25, 0.25], [0.25] * 4, [0.25] * 4, [0.25] * 4]).log()
    is_text = torch.tensor([True, True, True, False])
    actual = perplexity(lambda ids: table[ids], torch.tensor([0, 1, 2]), is_text)
    assert actual.tokens == 2
    assert actual.whole == pytest.approx((2 * 4) ** 0.5)  # 1/2, then 1/4
    assert actual.text == pytest.approx((1.5 * 3) ** 0.5)  # 2/3, then 1/3
    for ids in ([0], [0, 3]):
        with pytest.raises(ValueError, match="two text ids or more"):
            perplexity(lambda ids: table[ids], torch.tensor(ids), is_text)
