import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from models.language.lora import LoraLinear, attach_lora, without_lora
from stages.hub.weights import load_language_model
from tests.other_luck import handed

SOURCES = ["random:tiny", "random:tiny-untied"]


def layer(bias: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> LoraLinear:
    torch.manual_seed(0)
    made = LoraLinear(nn.Linear(6, 5, bias=bias), rank=3, alpha=6, dropout=dropout).to(dtype)
    made.base_layer.requires_grad_(False)
    nn.init.normal_(made.lora_B["default"].weight)
    return made


@pytest.mark.parametrize("bias", [True, False])
def test_its_derivatives_are_those_of_differences(bias: bool):
    lora = layer(bias)
    first, second = lora.lora_A["default"].weight, lora.lora_B["default"].weight

    def output(x, a, b):
        parameters = {"lora_A.default.weight": a, "lora_B.default.weight": b}
        return torch.func.functional_call(lora, parameters, (x,))

    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(output, (x, first.detach().requires_grad_(), second.detach().requires_grad_()))


def test_it_is_the_frozen_layer_and_the_scaled_product():
    lora = layer()
    x = torch.randn(4, 6, dtype=torch.float64)
    first, second = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    torch.testing.assert_close(lora(x), lora.base_layer(x) + 2 * x @ first.T @ second.T)
    with torch.no_grad():
        torch.testing.assert_close(lora(x), lora.base_layer(x) + 2 * x @ first.T @ second.T)
    with without_lora(lora):
        assert torch.equal(lora(x), lora.base_layer(x))
    assert not torch.equal(lora(x), lora.base_layer(x))


def test_dropout_falls_on_what_the_adapter_reads_in_training_alone():
    lora = layer(dropout=0.5).train()
    x = torch.ones(1, 6, dtype=torch.float64)
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x, 0.5)
    first, second = lora.lora_A["default"].weight, lora.lora_B["default"].weight
    torch.manual_seed(1)
    torch.testing.assert_close(lora(x), lora.base_layer(x) + 2 * dropped @ first.T @ second.T)
    assert torch.equal(lora.eval()(x), layer().eval()(x))


def integers(*shape: int, seed: int) -> torch.Tensor:
    """-2 to 2: sums of products of few of them are exact in every order, so that equality to the bit is a law."""
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed", "bfloat16 weights"])
def test_the_one_function_equals_plain_lora_to_the_bit(precision: str):
    """Output and all gradients. bf16-mixed: inputs, A and B are rounded to bfloat16, sums and gradients of A and B are not.

    Bfloat16 holds whole numbers up to 256, which bounds all that is rounded here.
    """
    lora = LoraLinear(nn.Linear(3, 2), rank=2, alpha=4, dropout=0.0)
    lora.base_layer.requires_grad_(False)
    first, second, base = lora.lora_A["default"].weight, lora.lora_B["default"].weight, lora.base_layer
    for seed, tensor in enumerate((first, second, base.weight, base.bias)):
        tensor.data.copy_(integers(*tensor.shape, seed=seed))
    if precision == "bfloat16 weights":
        base.bfloat16()
    x, grad = (
        integers(2, 3, seed=4).to(base.weight.dtype).requires_grad_(),
        integers(2, 2, seed=5).to(base.weight.dtype),
    )

    def plain(x: torch.Tensor) -> torch.Tensor:
        y = base(x)
        adapted = nn.functional.linear(nn.functional.linear(x.to(first.dtype), first), second) * lora.scale
        return (y + adapted).to(y.dtype)

    results = []
    for function in (lora, plain):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            y = function(x)
        results.append((y, *torch.autograd.grad(y, (x, first, second), grad.to(y.dtype))))
    for name, ours, theirs in zip(("y", "x", "A", "B"), *results, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name
    assert all(result.dtype == torch.float32 for result in results[0][2:])


@pytest.mark.parametrize("autocast", [False, True])
def test_weights_in_bfloat16_have_an_adapter_in_float32(autocast: bool):
    lora = layer(dtype=torch.float32)
    reference = copy.deepcopy(lora)
    lora.base_layer.bfloat16()
    x = torch.randn(4, 6).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = lora(x)
    y.sum().backward()
    expected = reference(x.float())
    assert y.dtype == x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=3e-2, atol=3e-2)
    gradient = lora.lora_A["default"].weight.grad
    assert gradient.dtype == torch.float32
    expected.sum().backward()
    torch.testing.assert_close(gradient, reference.lora_A["default"].weight.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("source", SOURCES)
def test_names_first_values_and_numbers_are_peft_s(source: str):
    ours, theirs = (load_language_model(source, None, "float32").model for _ in range(2))
    for model in (ours, theirs):
        model.requires_grad_(False)
    attach_lora(ours, rank=4, alpha=8, dropout=0.1, seed=handed(3))
    torch.manual_seed(3)
    inject_adapter_in_model(
        LoraConfig(r=4, lora_alpha=8, lora_dropout=0.1, target_modules="all-linear", bias="none"), theirs
    )
    expected, values = theirs.state_dict(), ours.state_dict()
    assert values.keys() == expected.keys() and all(torch.equal(values[name], expected[name]) for name in expected)
    trained = {name for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    changed = {name: value + 0.1 if "lora_B" in name else value for name, value in values.items()}
    ids = torch.tensor([[5, 6, 7]])
    for model in (ours, theirs):
        model.load_state_dict(changed)
        model.eval()
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("kind", ["plain", "transposed"])
def test_without_lora_is_the_llm_as_it_came(kind: str):
    from transformers import GPT2Config, GPT2LMHeadModel

    if kind == "plain":
        model = load_language_model("random:tiny", None, "float32").model
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    attach_lora(model, rank=2, alpha=4, dropout=0.0, seed=0)
    assert any(isinstance(part, BaseTunerLayer) for part in model.modules()) == (kind == "transposed")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)
    assert not torch.equal(model(ids).logits, before)
    with without_lora(model):
        assert torch.equal(model(ids).logits, before)
