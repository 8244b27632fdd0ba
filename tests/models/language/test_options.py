"""How layers are computed changes no number: checkpointing, attention, compile. Options of chat templates."""

import functools
import importlib.util
import shutil

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from conf import compose
from conf.errors import UsageError
from models.errors import RewrittenTurns, SharedPrefixUnsupported
from models.language.model import SoundLanguageModel
from models.language.prefix_mask import block_mask, branch_mask
from models.language.vocabulary import IGNORED, SOUND, Turn, Vocabulary
from stages.hub.weights import load_language_model
from tests.models.language.small_model import CONVERSATIONS, WEIGHTS, batch, build

QWEN3 = (  # the law of its template: an answer after the last question has a thought before it, an earlier one has none
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (  # of its template: a system message with the date of today, contents trimmed
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}<|im_start|>system\nToday Date: {{ date_string }}<|im_end|>"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
ASKED = [Turn("user", [[0, 3], "?"]), Turn("assistant", ["yes"])]


def gradients(model: SoundLanguageModel, data: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model.loss(*data, **WEIGHTS).loss
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


def build_vocabulary(template: str, **options: object) -> Vocabulary:
    _, tokenizer = load_language_model("random:tiny", None, "float32")
    tokenizer.chat_template = template
    return Vocabulary(tokenizer, 5, (0, 1), prompt_format="chat", system=None, template_options=options)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"attention": "eager"},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        pytest.param({"compile": True, "activation_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_loss_and_gradients_do_not_depend_on_how_layers_are_computed(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """compile: traced and differentiated as always, without the minute that code for it would take."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    attention, compiled = changes.pop("attention", None), changes.pop("compile", False)
    plain, other = build("random:tiny"), build("random:tiny", attention=attention, **changes)
    assert other.lm.config._attn_implementation == (attention or "sdpa")
    for model in (plain, other):
        model.train()
    if compiled:
        other.compile_layers()
    data = batch(plain)
    runs = 0
    if "activation_checkpointing" in changes:
        layer = other.lm.model.layers[0].mlp

        def count(*_: object) -> None:
            nonlocal runs
            runs += 1

        layer.register_forward_pre_hook(count)
    (loss, grads), (actual, others) = gradients(plain, data), gradients(other, data)
    torch.testing.assert_close(actual, loss)
    for one, two in zip(grads, others, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert runs == (2 if "activation_checkpointing" in changes else 0), "computed again in the backward pass"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_branches_are_apart_in_either_attention(attention: str):
    model = build("random:tiny", attention=attention)
    assert model.supports_shared_prefix
    ids, mask = torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 5).long()
    branches, positions = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 3, 2]])
    hidden = model._hidden(ids, mask, positions, branches)
    alone = model._hidden(ids[:, [0, 1, 4]], mask[:, :3])
    torch.testing.assert_close(hidden[:, 4], alone[:, 2])


def test_flex_attention_keeps_branches_apart_as_sdpa_does(monkeypatch: pytest.MonkeyPatch):
    """torch's own products in place of the kernel that would be compiled for them."""

    def products(query: Tensor, key: Tensor, value: Tensor, training: bool, **rest: object) -> Tensor:
        return flex_attention.flex_attention(query, key, value, **rest)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", products)
    plain, flex = build("random:tiny"), build("random:tiny", attention="flex_attention")
    assert flex.lm.config._attn_implementation == "flex_attention" and flex.supports_shared_prefix
    ids, mask = torch.tensor([[5, 6, 7, 8, 9]]), torch.ones(1, 5).long()
    branches, positions = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[0, 1, 2, 3, 2]])
    with torch.no_grad():
        expected, actual = (model._hidden(ids, mask, positions, branches) for model in (plain, flex))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_flex_attention_has_the_logits_of_sdpa():
    plain, flex = build("random:tiny"), build("random:tiny", attention="flex_attention")
    ids, mask, *_ = batch(plain)
    with torch.no_grad():
        torch.testing.assert_close(flex.logits(ids, mask), plain.logits(ids, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 2])
def test_the_blocks_of_flex_attention_see_what_the_mask_of_sdpa_lets_through(window: int | None):
    branches, mask = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 0]]), torch.tensor([[1] * 5, [1, 1, 1, 1, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 2], [0, 1, 2, 1, 0]])
    expected = branch_mask(branches, mask)
    if window:
        expected = expected & (positions[:, :, None] - positions[:, None, :] < window)[:, None]
    sees = block_mask(branches, mask, positions, window).mask_mod
    rows, places = torch.arange(2)[:, None, None, None], torch.arange(5)
    assert torch.equal(sees(rows, torch.tensor(0), places[:, None], places), expected)


@pytest.mark.parametrize(
    ("installed", "capability", "dtype", "message"),
    [
        (False, (9, 0), "bfloat16", "pip install flash-attn"),
        (True, None, "bfloat16", "needs a GPU of Ampere or later"),
        (True, (7, 5), "bfloat16", "needs a GPU of Ampere or later"),
        (True, (9, 0), "float32", "computes in bfloat16, model.dtype is float32"),
    ],
)
def test_flash_attention_is_refused_where_it_cannot_compute(
    installed: bool, capability: tuple[int, int] | None, dtype: str, message: str, monkeypatch: pytest.MonkeyPatch
):
    find = importlib.util.find_spec
    spec = find("torch") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: spec if name == "flash_attn" else find(name, *a))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    with pytest.raises(UsageError, match=f"{message}.*--model.attention=sdpa"):
        load_language_model("random:tiny", None, dtype, "flash_attention_2")


@pytest.mark.parametrize(("words", "message"), [
    (["model.dtype=float32", "batching.questions_together=1"], "flash_attention_2 computes in bfloat16"),
    (["batching.questions_together=4"], "1 is allowed with model.attention=flash_attention_2"),
])  # fmt: skip
def test_a_configuration_that_flash_attention_cannot_compute_is_refused(words: list[str], message: str):
    with pytest.raises(UsageError, match=message):
        compose("openaqa", overrides=["model.attention=flash_attention_2", *words])


def test_a_model_that_keeps_no_branches_apart_refuses_them_alone():
    model = build("random:tiny")
    model.supports_shared_prefix = False
    data = batch(model)
    model.loss(*data, **WEIGHTS)
    branches = torch.ones_like(data[0])
    with pytest.raises(SharedPrefixUnsupported, match="does not keep conversations of one sequence apart"):
        model.loss(*data, positions=branches, branches=branches, **WEIGHTS)


def test_mean_of_parts_equals_the_big_batch_where_the_parts_weigh_the_same_alone():
    """Each part is normalised by itself, so the stages sum over weights (stages/engine/accumulation.py)."""
    model = build("random:tiny").double()

    def mean(parts: list[list[list[Turn]]]) -> list[Tensor]:
        each = [gradients(model, batch(model, part))[1] for part in parts]
        return [sum(grads) / len(parts) for grads in zip(*each, strict=True)]

    even = [[CONVERSATIONS[0]], [[Turn("user", [[1, 1], "Who?"]), CONVERSATIONS[0][1]]]]
    for parts, same in ((even, True), ([[CONVERSATIONS[0]], [CONVERSATIONS[1]]], False)):
        whole = gradients(model, batch(model, [conversation for part in parts for conversation in part]))[1]
        actual = mean(parts)
        assert (
            all(torch.allclose(one, two, rtol=1e-6, atol=1e-12) for one, two in zip(whole, actual, strict=True)) == same
        )


def test_a_template_that_thinks_takes_the_option_not_to():
    """enable_thinking=false: only the answer is labelled, and the prompt of generation begins the training sequence."""
    plain, thinking = build_vocabulary(QWEN3, enable_thinking=False), build_vocabulary(QWEN3)
    row, asked = plain.render(ASKED), plain.render(ASKED[:1], generate=True)
    assert row.input_ids[: len(asked.input_ids)] == asked.input_ids
    labelled = [label for label in row.labels if label != IGNORED]
    assert plain.tokenizer.decode(labelled) == "yes<|im_end|>"
    labelled = [label for label in thinking.render(ASKED).labels if label != IGNORED]
    assert thinking.tokenizer.decode(labelled).startswith("<think>")
    with pytest.raises(RewrittenTurns, match=r"rewrites earlier turns \(one for thoughts"):
        plain.render(ASKED + ASKED)


def test_the_date_of_today_is_in_no_prompt():
    row = build_vocabulary(LLAMA3, date_string="26 Jul 2024").render(ASKED)
    text = build_vocabulary(LLAMA3).tokenizer.decode([token for token in row.input_ids if token < 259])
    assert "Today Date: 26 Jul 2024" in text
    assert build_vocabulary(LLAMA3).render(ASKED).input_ids != row.input_ids  # without it the prompt is of today


def test_a_tokenizer_that_has_the_token_for_a_sound_is_refused():
    _, tokenizer = load_language_model("random:tiny", None, "float32")
    tokenizer.add_tokens([SOUND])
    with pytest.raises(ValueError, match="which stands for a sound here"):
        Vocabulary(tokenizer, 5, (0, 1), prompt_format="chat", system=None)
