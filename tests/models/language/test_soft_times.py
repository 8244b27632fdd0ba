"""Times in answers: their weight, and targets that are softened over neighbours, are the plain formula."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.language import chunked_cross_entropy
from models.language.model import SoundLanguageModel
from models.language.soft_times import SoftTimes
from models.language.vocabulary import LabelKind, Turn
from tests.models.language.small_model import SOURCES, WEIGHTS, batch, build

CONVERSATIONS = [
    [Turn("user", [[0, 4], "When after <|0.50|>?"]), Turn("assistant", ["At <|0.00|> to <|0.30|>."])],
    [Turn("user", [[2, 2], "When?"]), Turn("assistant", ["<|1.00|>"])],
]


def model_with_times(source: str) -> SoundLanguageModel:
    return build(source, max_seconds=1.0)


def softened(model: SoundLanguageModel, width: float) -> SoftTimes:
    return SoftTimes(model.vocabulary.first_time_id, model.vocabulary.num_times, width)


def distributions(model: SoundLanguageModel, ids: Tensor, kinds: Tensor, width: float | None) -> Tensor:
    """(B, S, V): of each position, all ids alike but a time's neighbours."""
    first, count = model.vocabulary.first_time_id, model.vocabulary.num_times
    target = F.one_hot(ids, model.vocabulary.size).double()
    for b, s in (kinds == LabelKind.TIME).nonzero().tolist() if width else []:
        steps = torch.arange(count, dtype=torch.float64) - (int(ids[b, s]) - first)
        density = torch.exp(-((steps / width) ** 2) / 2) * (steps.abs() <= 3 * width + 1e-9)
        target[b, s] = 0
        target[b, s, first:] = density / density.sum()
    return target


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("weight", "width"), [(1.0, None), (4.0, None), (1.0, 1.0), (3.0, 2.0)])
def test_loss_and_gradients_equal_the_plain_formula(
    source: str, weight: float, width: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_cross_entropy, "CHUNK", 3)
    model = model_with_times(source).double()
    ids, mask, _, kinds = data = batch(model, CONVERSATIONS)
    soft = None if width is None else softened(model, width)
    actual = model.loss(*data, **WEIGHTS, time_weight=weight, soft_times=soft)
    log_p = model.logits(ids, mask)[:, :-1].log_softmax(-1)
    log_z = model.logits(ids, mask)[:, :-1].logsumexp(-1)
    table = {LabelKind.PROMPT: 0.0, LabelKind.TEXT: 1.0, LabelKind.TIME: weight}
    weights = torch.tensor([[table[LabelKind(kind)] for kind in row] for row in kinds.tolist()])[:, 1:] * mask[:, 1:]
    entropy = -(distributions(model, ids, kinds, width)[:, 1:] * log_p).sum(-1)
    expected = (weights * (entropy + WEIGHTS["z_loss_weight"] * log_z**2)).sum() / weights.sum()
    torch.testing.assert_close(actual.loss, expected, rtol=1e-6, atol=1e-8)
    times = entropy[(kinds == LabelKind.TIME)[:, 1:]]
    torch.testing.assert_close(actual.time_loss, times.mean(), rtol=1e-6, atol=1e-8)
    assert actual.time_tokens == len(times) == 3 and actual.text_tokens == int((kinds[:, 1:] > 0).sum())
    parameters = [p for p in model.parameters() if p.requires_grad]
    for a, b in zip(
        torch.autograd.grad(actual.loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_target_is_a_normal_distribution_over_the_times_that_there_are() -> None:
    soft = SoftTimes(100, 11, 1.0)
    targets = torch.tensor([100, 105, 110, 7, 105])
    ids, shares = soft(targets, torch.tensor([True, True, True, False, False]))
    torch.testing.assert_close(shares.sum(1), torch.ones(5))
    # the normal density at 0, 1, 2 and 3 standard deviations
    density = torch.tensor([0.398942, 0.241971, 0.053991, 0.004432])
    whole = torch.cat([density.flip(0), density[1:]])
    torch.testing.assert_close(shares[1], whole / whole.sum(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(shares[0], shares[2].flip(0), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(shares[0][3:], density / density.sum(), rtol=1e-4, atol=1e-6)
    assert not shares[0][:3].any(), "there is no time before 0"
    assert ((ids >= 100) & (ids <= 110))[:3].all()
    for row in (3, 4):
        assert shares[row].tolist() == [0, 0, 0, 1, 0, 0, 0] and ids[row].unique().tolist() == [int(targets[row])]


def test_without_times_a_batch_is_what_it_was() -> None:
    model = model_with_times("random:tiny")
    plain = batch(model, [[Turn("user", [[0, 4], "What?"]), Turn("assistant", ["A bell."])]])
    one = model.loss(*plain, **WEIGHTS).loss
    other = model.loss(*plain, **WEIGHTS, time_weight=9.0, soft_times=softened(model, 2.0)).loss
    assert torch.equal(one, other)
