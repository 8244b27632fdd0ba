"""The loss of positions of kind DISTILLED: KL(base LLM || model), over the text ids."""

import pytest
import torch
from torch import Tensor

from models.language import chunked_cross_entropy
from models.language.chunked_cross_entropy import LogitTransform
from models.language.model import SoundLanguageModel
from models.language.vocabulary import LabelKind
from stages.hub.weights import load_language_model
from tests.models.language.small_model import CONVERSATIONS, SOURCES, WEIGHTS, batch, build, plain_loss

BATCH = tuple[Tensor, Tensor, Tensor, Tensor]


def mixed(model: SoundLanguageModel) -> tuple[BATCH, BATCH, BATCH]:
    """One batch of conversations and a text of kind DISTILLED; the conversations alone; the text alone."""
    ids, mask, labels, kinds = batch(model, extra=3)
    text = torch.tensor(model.vocabulary.render_text("It rains.").input_ids)
    row = torch.zeros_like(ids[:1])
    row[0, : len(text)] = text
    here = torch.arange(ids.shape[1])[None] < len(text)
    kept = (torch.arange(ids.shape[1])[None] > 0) & here
    alone = (row, here.long(), torch.where(here, row, -100), torch.where(kept, LabelKind.DISTILLED, LabelKind.PROMPT))
    both = tuple(torch.cat(pair) for pair in zip((ids, mask, labels, kinds), alone, strict=True))
    return both, (ids, mask, labels, kinds), alone


def divergence(model: SoundLanguageModel, source: str, alone: BATCH) -> tuple[Tensor, Tensor, int]:
    """Summed KL and z-loss by hand; the teacher is the LLM loaded anew. (), (), positions."""
    ids, mask, _, kinds = alone
    base = load_language_model(source, None, "float32").model.double()
    count = int((kinds == LabelKind.DISTILLED).sum())
    with torch.no_grad():
        expected = model.logit_transform(base(ids).logits)[0, :count, : model.vocabulary.text_size].log_softmax(-1)
    logits = model.logits(ids, mask)[0, :count]
    actual = logits.log_softmax(-1)[:, : expected.shape[1]]
    log_partition = logits.logsumexp(-1)
    return (expected.exp() * (expected - actual)).sum(), log_partition.square().sum(), count


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("chunk", "transform"),
    [(512, LogitTransform(1.0, None)), (7, LogitTransform(3.0, None)), (7, LogitTransform(0.5, 0.7))],
)
def test_loss_and_gradients_equal_the_plain_formula(source: str, chunk: int, transform: LogitTransform, monkeypatch):
    monkeypatch.setattr(chunked_cross_entropy, "CHUNK", chunk)
    model = build(source).double()
    model.logit_transform = transform
    both, conversations, alone = mixed(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    actual = model.loss(*both, **WEIGHTS)
    divergence_sum, squares, count = divergence(model, source, alone)
    weight = sum({1: 1.0, 2: 10.0}.get(int(kind), 0.0) for kind in conversations[3][:, 1:].flatten())
    expected = (
        plain_loss(model, *conversations, 0.0) * weight + divergence_sum + WEIGHTS["z_loss_weight"] * squares
    ) / (weight + count)
    torch.testing.assert_close(actual.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.distillation_loss, divergence_sum.detach() / count)
    assert actual.text_tokens == model.loss(*conversations, **WEIGHTS).text_tokens
    for a, b in zip(
        torch.autograd.grad(actual.loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_before_training_only_the_mass_of_the_new_rows_is_between_them():
    model = build("random:tiny", trained=False).double()
    alone = mixed(model)[2]
    actual = model.loss(*alone, **WEIGHTS).distillation_loss
    ids, mask, _, kinds = alone
    logits = model.logits(ids, mask)[0, : int((kinds == LabelKind.DISTILLED).sum())]
    outside = logits.logsumexp(-1) - logits[:, : model.vocabulary.text_size].logsumexp(-1)
    torch.testing.assert_close(actual, outside.mean().detach())
    assert build("random:tiny").double().loss(*alone, **WEIGHTS).distillation_loss > actual + 0.01


def test_the_pass_of_the_base_llm_leaves_no_trace_in_training():
    model = build("random:tiny").train()
    both, conversations, _ = mixed(model)
    before = [p for p in model.parameters() if p.requires_grad]
    plain = model.loss(*conversations, **WEIGHTS).loss
    model.loss(*both, **WEIGHTS)
    assert model.training
    assert [p for p in model.parameters() if p.requires_grad] == before
    torch.testing.assert_close(model.loss(*conversations, **WEIGHTS).loss, plain)


def test_a_few_steps_lower_the_divergence_of_a_changed_model():
    model = build("random:tiny")
    alone = mixed(model)[2]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = float(model.loss(*alone, **WEIGHTS).distillation_loss)
    for _ in range(30):
        optimizer.zero_grad()
        actual = model.loss(*alone, **(WEIGHTS | {"z_loss_weight": 0.0}))
        actual.loss.backward()
        optimizer.step()
    assert float(actual.distillation_loss) < 0.3 * first


def test_conversations_without_such_positions_have_no_distillation_loss():
    model = build("random:tiny")
    assert model.loss(*batch(model, CONVERSATIONS), **WEIGHTS).distillation_loss.isnan()
