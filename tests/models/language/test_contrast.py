"""The contrast is the plain formula, its gradient too; the reference is what it was, whatever is learned meanwhile."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.language.contrast import CaptionContrast, contrast, with_weights
from models.language.loss_plan import Contrast, LossPlan, LossWeights, plan_loss
from models.language.model import SoundLanguageModel
from models.language.vocabulary import LabelKind, Turn
from tests.models.language.small_model import batch, build

BETA, NEGATIVE, WEIGHT = 0.7, 0.3, 2.5
WEIGHTS = LossWeights(audio_weight=1.0, text_weight=1.0, prompt_weight=0.0, z_loss_weight=1e-2)
SOUNDS = ([1, 0, 3, 3], [2, 4])


def made(caption: str, sound: list[int]) -> list[Turn]:
    return [Turn("user", [f"Make {caption}"]), Turn("assistant", [sound])]


# two sounds under their captions, a question, a sound without a caption; then the first two under each other's caption
CONVERSATIONS = [
    made("a bell.", SOUNDS[0]),
    made("rain, then a dog.", SOUNDS[1]),
    [Turn("user", [[0, 0], "?"]), Turn("assistant", ["No"])],
    made("", [3, 1]),
    made("rain, then a dog.", SOUNDS[0]),
    made("a bell.", SOUNDS[1]),
]
SIGNS = torch.tensor([1, 1, 0, 1, -1, -1])


def plan(model: SoundLanguageModel, weight: float = WEIGHT) -> LossPlan:
    ids, mask, labels, kinds = batch(model, CONVERSATIONS)
    contrast = Contrast.of_sounds(SIGNS, kinds, weight, CaptionContrast(BETA, NEGATIVE))
    return plan_loss(ids, mask, labels, kinds, None, None, WEIGHTS, contrast)


def plain_contrast(model: SoundLanguageModel, reference: Tensor) -> Tensor:
    """reference (B) log p_ref of the sound of each row -> the sum of all terms."""
    ratios = log_p(model) - reference
    own, other = ratios[SIGNS > 0], ratios[SIGNS < 0]
    return -F.logsigmoid(BETA * own).sum() - NEGATIVE * F.logsigmoid(-BETA * other).sum()


def log_p(model: SoundLanguageModel) -> Tensor:
    """(B) of the sound of each row, from all logits."""
    ids, mask, labels, kinds = batch(model, CONVERSATIONS)
    each = model.logits(ids, mask).log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    return (each * ((kinds == LabelKind.AUDIO) & (labels >= 0))[:, 1:]).sum(1)


@pytest.mark.parametrize("source", ["random:tiny", "random:tiny-untied"])
def test_loss_and_gradients_equal_the_plain_formula(source: str):
    model = build(source, levels=(0,)).double()
    model.keep_reference()
    reference = log_p(model).detach()
    generator = torch.Generator().manual_seed(1)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    actual = model.planned_loss(plan(model))
    ids, mask, labels, kinds = (part[:4] for part in batch(model, CONVERSATIONS))  # without the other captions
    entropy = model.planned_loss(plan_loss(ids, mask, labels, kinds, None, None, WEIGHTS))
    terms = plain_contrast(model, reference)
    expected = entropy.loss + WEIGHT * terms / entropy.weight
    torch.testing.assert_close(actual.loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual.contrast.mean, terms.detach() / 3, rtol=1e-10, atol=1e-10)
    for name in ("text_loss", "audio_loss", "z_loss", "weight", "text_tokens", "audio_tokens"):
        torch.testing.assert_close(getattr(actual, name), getattr(entropy, name))
    for a, b in zip(
        torch.autograd.grad(actual.loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # norms round their gradient to float32


def test_it_begins_at_the_logarithm_of_two_for_each_term():
    """Where the weights are the reference's: three sounds under their captions, two of them under another's too."""
    model = build("random:tiny", levels=(0,), dropout=0.5).train()
    model.keep_reference()
    model.eval()  # what is dropped is no ratio
    losses = model.planned_loss(plan(model))
    assert losses.contrast is not None and float(losses.contrast.mean) == pytest.approx(
        (3 + 2 * NEGATIVE) * math.log(2) / 3, rel=1e-4
    )
    without = model.planned_loss(plan(model, weight=0.0)).loss
    added = WEIGHT * 3 * losses.contrast.mean / losses.weight
    torch.testing.assert_close(losses.loss, without + added)


def test_slopes_are_derivatives():
    ratios = torch.tensor([0.3, -2.0, 40.0, -1.0, 60.0], dtype=torch.float64, requires_grad=True)
    signs = torch.tensor([1, 1, 1, -1, -1])
    losses, slopes = contrast(ratios, signs, BETA, NEGATIVE)
    (expected,) = torch.autograd.grad(losses.sum(), ratios)
    torch.testing.assert_close(slopes.detach(), expected)
    assert (slopes[:3] < 0).all() and (slopes[3:] > 0).all(), "own captions become more probable, others less"


def test_a_step_leaves_the_reference_and_the_weights_alone():
    model = build("random:tiny", levels=(0,), dropout=0.1)
    model.keep_reference()
    before = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05
    moved = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.train().planned_loss(plan(model)).loss.backward()
    assert model.training
    for name, parameter in model.lm.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(parameter, moved[name]) and torch.equal(model.reference[name], before[name])
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_autocast_computes_with_the_weights_that_are_there():
    """It keeps the parameters that it has cast, without a gradient where the pass had none."""
    model, x = torch.nn.Linear(2, 2, bias=False), torch.ones(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        own = model(x)
        with torch.no_grad(), with_weights(model, {"weight": torch.zeros(2, 2)}):
            assert not model(x).any()
        again = model(x)
        assert torch.equal(again, own) and again.any()
        again.sum().backward()
    assert model.weight.grad is not None and model.weight.grad.any()


def test_weights_come_back_after_an_error():
    model = torch.nn.Linear(2, 2)
    own, other = model.weight.detach().clone(), torch.zeros(2, 2)
    with pytest.raises(RuntimeError), with_weights(model, {"weight": other}):
        assert torch.equal(model.weight, other)
        raise RuntimeError
    assert torch.equal(model.weight, own)


def test_a_batch_without_a_sound_to_contrast_has_none():
    model = build("random:tiny", levels=(0,))
    ids, mask, labels, kinds = batch(model, CONVERSATIONS[2:3])
    contrast = Contrast.of_sounds(torch.zeros(1).long(), kinds, WEIGHT, CaptionContrast(BETA, NEGATIVE))
    planned = plan_loss(ids, mask, labels, kinds, None, None, WEIGHTS, contrast)
    assert planned.contrast is None and model.planned_loss(planned).contrast is None
