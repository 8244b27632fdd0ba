"""Losses of pairs of answers, and their gradients, are the plain formulas, whatever shares a sequence; what is known of the
reference is not computed again.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.language.packing import Encoded, LanguageBatch, Packed, collate, pack
from models.language.loss_plan import Contrast, LossPlan, LossWeights, plan_loss
from models.language.model import SoundLanguageModel
from models.language.preference import PreferenceLoss
from models.language.vocabulary import Turn
from tests.models.language.small_model import build

WEIGHTS = LossWeights(audio_weight=10.0, text_weight=1.0, prompt_weight=0.0, z_loss_weight=1e-2)
LOSSES = [PreferenceLoss("dpo", 0.3, 0.0), PreferenceLoss("ipo", 0.3, 0.0), PreferenceLoss("simpo", 2.0, 0.4)]
WEIGHT, CHOSEN = 1.7, 0.25
SOUNDS = [[0, 4, 2, 0, 1], [3, 3]]
ITEMS = [  # rows of pairs (sound, question, chosen, rejected); several on one sound share it
    [(SOUNDS[0], "A bell?", "yes", "no"), (SOUNDS[0], "How many?", "There are two of them.", "one")],
    [(SOUNDS[1], "Make it.", [1, 0, 2], [2, 2, 2])],
]
PAIRS = [pair for item in ITEMS for pair in item]


def conversation(sound: list[int], question: str, answer: str | list[int]) -> list[Turn]:
    return [Turn("user", [sound, f"\n{question}"]), Turn("assistant", [answer])]


def answers(model: SoundLanguageModel, items: list[list[tuple]]) -> LanguageBatch:
    rows = []
    for number, item in enumerate(items):
        turns = [conversation(*pair[:2], answer) for pair in item for answer in pair[2:]]
        rows.append((str(number), pack([Encoded(*one) for one in model.vocabulary.render_all(turns)])))
    return collate(rows, 0)


def plan(
    model: SoundLanguageModel,
    loss: PreferenceLoss,
    chosen: float = CHOSEN,
    reference: Tensor | None = None,
    question: bool = True,
) -> LossPlan:
    """With an ordinary question in the last row."""
    turns = model.vocabulary.render(conversation(SOUNDS[1], "What?", "Rain."))
    made = answers(model, ITEMS)
    rows = [(name, pack_of(made, row)) for row, name in enumerate(made.ids)]
    batch = collate([*rows, *([("question", pack([Encoded(*turns)]))] if question else [])], 0)
    is_pair = torch.tensor([name != "question" for name in batch.ids])[:, None]
    contrast = Contrast.of_pairs(is_pair, batch.branches, WEIGHT, loss, chosen, reference)
    return plan_loss(
        batch.input_ids, batch.attention_mask, batch.labels, batch.kinds, batch.positions, batch.branches, WEIGHTS, contrast
    )  # fmt: skip


def pack_of(batch: LanguageBatch, row: int) -> Packed:
    length = int(batch.attention_mask[row].sum())
    columns = (batch.input_ids, batch.labels, batch.kinds, batch.positions, batch.branches)
    return Packed(*(part[row, :length].tolist() for part in columns))


def log_p(model: SoundLanguageModel) -> tuple[Tensor, Tensor]:
    """(T) of each answer of PAIRS and how many tokens it has, each conversation alone, over all logits."""
    values, counts = [], []
    for sound, question, *pair in PAIRS:
        for answer in pair:
            one = model.vocabulary.render(conversation(sound, question, answer))
            ids = torch.tensor([one.input_ids])
            each = model.logits(ids, torch.ones_like(ids))[0, :-1].log_softmax(-1)
            labelled = [n for n, label in enumerate(one.labels) if label >= 0]
            values.append(sum(each[n - 1, one.input_ids[n]] for n in labelled))
            counts.append(len(labelled))
    return torch.stack(values), torch.tensor(counts)


def formula(loss: PreferenceLoss, p: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
    """The mean over the pairs, one after the other."""
    total = p.new_zeros(())
    for n in range(0, len(p), 2):
        gap = (p[n] - reference[n]) - (p[n + 1] - reference[n + 1])
        if loss.kind == "dpo":
            total = total - F.logsigmoid(loss.beta * gap)
        elif loss.kind == "ipo":
            total = total + (gap - 1 / (2 * loss.beta)) ** 2
        else:
            mean = p[n] / counts[n] - p[n + 1] / counts[n + 1]
            total = total - F.logsigmoid(loss.beta * mean - loss.margin)
    return total / (len(p) / 2)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.kind)
@pytest.mark.parametrize("source", ["random:tiny", "random:tiny-untied"])
def test_loss_and_gradients_equal_the_plain_formula_in_float64(loss: PreferenceLoss, source: str):
    """Beside an ordinary question and the cross-entropy of the chosen answers: a pair counts as WEIGHT tokens."""
    model = build(source, levels=(0,)).double()
    model.keep_reference()
    reference = log_p(model)[0].detach()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    actual = model.planned_loss(plan(model, loss))
    p, counts = log_p(model)
    terms = formula(loss, p, reference, counts)
    entropy = model.planned_loss(plan_without_pairs(model))
    expected = (entropy.loss * entropy.weight + WEIGHT * len(PAIRS) * terms) / (entropy.weight + WEIGHT * len(PAIRS))
    assert actual.contrast is not None
    torch.testing.assert_close(actual.contrast.log_p, p.detach(), rtol=1e-10, atol=1e-10)
    if loss.needs_reference:
        torch.testing.assert_close(actual.contrast.reference, reference, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.contrast.mean, terms.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.loss, expected, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(one, parameters) for one in (actual.loss, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # norms round their gradient to float32


def plan_without_pairs(model: SoundLanguageModel) -> LossPlan:
    """The chosen answers and the question, each in a sequence of its own, with the weights that they have beside pairs."""
    turns = [conversation(sound, question, chosen) for sound, question, chosen, _ in PAIRS]
    encoded = [
        Encoded(*one) for one in model.vocabulary.render_all([*turns, conversation(SOUNDS[1], "What?", "Rain.")])
    ]
    batch = collate([(str(n), pack([one])) for n, one in enumerate(encoded)], 0)
    weights = torch.tensor([CHOSEN] * len(PAIRS) + [1.0])[:, None].expand(batch.kinds.shape)
    contrast = Contrast(torch.zeros_like(batch.kinds), weights, 0.0, LOSSES[0])
    return plan_loss(batch.input_ids, batch.attention_mask, batch.labels, batch.kinds, None, None, WEIGHTS, contrast)


def test_without_a_weight_for_the_chosen_answers_pairs_alone_are_trained():
    model = build("random:tiny", levels=(0,)).eval()
    model.keep_reference()
    losses = model.planned_loss(plan(model, LOSSES[0], chosen=0.0, question=False))
    assert losses.text_tokens == losses.audio_tokens == 0 and losses.text_loss.isnan()
    assert float(losses.loss.detach()) == pytest.approx(math.log(2), rel=1e-5), (
        "as the reference: the mean over the pairs"
    )
    losses.loss.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.lm.named_parameters() if "lora_B" in n)


def test_what_is_known_of_the_reference_is_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    model = build("random:tiny", levels=(0,)).eval()
    model.keep_reference()
    reference = model.planned_loss(plan(model, LOSSES[0])).contrast.reference
    known = reference + torch.arange(len(reference))
    part = torch.where(torch.arange(len(known)) % 3 == 0, torch.nan, known)
    mixed = model.planned_loss(plan(model, LOSSES[0], reference=part)).contrast.reference
    assert torch.equal(mixed, torch.where(part.isnan(), reference, known))
    monkeypatch.setattr(SoundLanguageModel, "_hidden_of_rows", None)
    assert torch.equal(model.planned_loss(plan(model, LOSSES[0], reference=known)).contrast.reference, known)
    assert not model.planned_loss(plan(model, LOSSES[2])).contrast.reference.any(), "simpo needs none"
