"""The loss is the plain formula, a batch equals its items, and LoRA and the new rows alone train."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.language.packing import Encoded, collate, pack
from models.language import chunked_cross_entropy
from models.language.chunked_cross_entropy import LogitTransform
from models.language.model import SoundLanguageModel
from models.language.vocabulary import IGNORED, LabelKind, Turn
from stages.hub.weights import load_language_model
from tests.models.language.small_model import CONVERSATIONS, SOURCES, WEIGHTS, batch, build, plain_loss


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("prompt_weight", "chunk", "transform"),
    [
        (0.0, 512, LogitTransform(1.0, None)),
        (0.5, 512, LogitTransform(1.0, None)),
        (0.5, 7, LogitTransform(1.0, None)),
        (0.5, 7, LogitTransform(3.0, None)),
        (0.0, 7, LogitTransform(1.0, 0.3)),
        (0.0, 7, LogitTransform(0.5, 0.7)),
    ],
)
def test_loss_and_gradients_equal_the_plain_formula(
    source: str, prompt_weight: float, chunk: int, transform: LogitTransform, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(chunked_cross_entropy, "CHUNK", chunk)
    model = build(source).double()
    model.logit_transform = transform
    data = batch(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    actual = model.loss(*data, **(WEIGHTS | {"prompt_weight": prompt_weight}))
    expected = plain_loss(model, *data, prompt_weight)
    torch.testing.assert_close(actual.loss, expected, rtol=1e-10, atol=1e-10)
    for a, b in zip(
        torch.autograd.grad(actual.loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_each_kind_is_reported():
    model = build("random:tiny")
    actual = model.loss(*batch(model), **WEIGHTS)
    ids, mask, labels, kinds = batch(model)
    entropy = F.cross_entropy(model.logits(ids, mask)[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    kinds = torch.where(labels == IGNORED, LabelKind.PROMPT, kinds)[:, 1:].flatten()
    torch.testing.assert_close(actual.text_loss, entropy[kinds == LabelKind.TEXT].mean())
    torch.testing.assert_close(actual.audio_loss, entropy[kinds == LabelKind.AUDIO].mean())
    assert (actual.text_tokens, actual.audio_tokens) == (
        (kinds == LabelKind.TEXT).sum(),
        (kinds == LabelKind.AUDIO).sum(),
    )
    assert model.loss(*batch(model, CONVERSATIONS[:1]), **WEIGHTS).audio_loss.isnan()


def test_padding_and_the_rest_of_the_batch_change_nothing():
    model = build("random:tiny")
    alone = [model.loss(*batch(model, [conversation]), **WEIGHTS) for conversation in CONVERSATIONS]
    together = model.loss(*batch(model, extra=9), **WEIGHTS)
    assert together.text_tokens == sum(loss.text_tokens for loss in alone)
    total = sum(loss.audio_loss.nan_to_num() * loss.audio_tokens for loss in alone)
    torch.testing.assert_close(together.audio_loss, total / together.audio_tokens)
    ids, mask, labels, kinds = batch(model, extra=9)
    other = model.loss(torch.where(mask == 0, 7, ids), mask, labels, kinds, **WEIGHTS)
    assert torch.equal(other.loss, together.loss)


def test_a_batch_without_an_answer_is_refused():
    model = build("random:tiny")
    ids, mask, labels, kinds = batch(model)
    with pytest.raises(ValueError, match="no position"):
        model.loss(ids, mask, torch.full_like(labels, IGNORED), torch.zeros_like(kinds), **WEIGHTS)


@pytest.mark.parametrize("source", SOURCES)
def test_only_lora_and_the_new_rows_train(source: str):
    model = build(source)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    state = model.trainable_state()
    rows = [name for name in state if name.endswith("new_rows")]
    assert len(rows) == (1 if source == "random:tiny" else 2)
    assert len(state) == len(rows) + 2 * 2 * 7  # A and B, two layers, seven linear layers each; none at the head
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    before = {name: tensor.clone() for name, tensor in state.items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.loss(*batch(model), **WEIGHTS).loss.backward()
    optimizer.step()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in model.trainable_state().items())
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("source", SOURCES)
def test_before_training_text_has_the_llm_s_own_logits(source: str):
    base, tokenizer = load_language_model(source, None, "float32")
    model = build(source, trained=False)
    ids = torch.randint(0, len(tokenizer), (2, 9), generator=torch.Generator().manual_seed(1))
    logits = model.logits(ids, torch.ones_like(ids))
    size = model.vocabulary.text_size
    assert logits.shape == (2, 9, model.vocabulary.size)
    assert base.get_input_embeddings().num_embeddings > size  # rows that no token owns are no ids of ours
    torch.testing.assert_close(logits[..., :size], base(ids).logits[..., :size])


@pytest.mark.parametrize("allow", ["text", "audio"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_batch_of_answers_equals_answers_one_by_one(source: str, allow: str):
    model = build(source)
    prompts = [model.vocabulary.render(conversation[:1], generate=True).input_ids for conversation in CONVERSATIONS]
    width = max(map(len, prompts)) + 3
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    together = model.generate(ids, mask, 12, allow)
    alone = [
        model.generate(torch.tensor([prompt]), torch.ones(1, len(prompt)).long(), 12, allow)[0] for prompt in prompts
    ]
    assert together == alone
    for prompt, answer in zip(prompts, together, strict=True):
        if allow == "text":
            assert answer == slow_answer(model, prompt, 12)
        else:
            assert len(answer) <= 12 and len(model.vocabulary.codes(answer)) >= 2  # well formed, or `codes` raises


def slow_answer(model: SoundLanguageModel, prompt: list[int], max_new_tokens: int) -> list[int]:
    """No cache, no batch: the best text id at a time."""
    vocabulary, ids = model.vocabulary, list(prompt)
    for _ in range(max_new_tokens):
        logits = model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0, -1]
        best = int(logits[: vocabulary.text_size].argmax())
        if best in vocabulary.stop_ids:
            break
        ids.append(best)
    return ids[len(prompt) :]


def test_an_answer_ends_at_its_end_of_turn_and_a_sound_at_its_marker():
    model = build("random:tiny")
    vocabulary = model.vocabulary
    prompt = torch.tensor([vocabulary.render(CONVERSATIONS[1][:1], generate=True).input_ids])
    rows = model.lm.get_output_embeddings()
    for allow, token in (("text", vocabulary.stop_ids[0]), ("audio", vocabulary.end_id)):

        def push(layer: nn.Module, inputs: tuple[Tensor], out: Tensor, token: int = token) -> Tensor:
            return out + 1e4 * F.one_hot(torch.tensor(token), out.shape[-1])

        hook = rows.register_forward_hook(push)
        answer = model.generate(prompt, torch.ones_like(prompt), 20, allow)[0]
        hook.remove()
        assert answer == [] if allow == "text" else len(vocabulary.codes(answer)) == 2  # the shortest sound is one step
    with pytest.raises(ValueError, match="the shortest sound"):
        model.generate(prompt, torch.ones_like(prompt), 3, "audio")


@pytest.mark.parametrize("room", [5, 7, 8, 12])
def test_a_sound_of_strides_2_and_1_is_whole_blocks(room: int):
    """One code of level 0, then two of level 1; `codes` raises for anything else."""
    model = build("random:tiny", levels=(0, 1, 1))
    prompt = torch.tensor([model.vocabulary.render(CONVERSATIONS[1][:1], generate=True).input_ids])
    actual = model.generate(prompt, torch.ones_like(prompt), room, "audio")[0]
    assert len(actual) <= room and len(model.vocabulary.codes(actual)) >= 3
    with pytest.raises(ValueError, match="the shortest sound with its markers has 5"):
        model.generate(prompt, torch.ones_like(prompt), 4, "audio")


@pytest.mark.parametrize("source", SOURCES)
def test_state_comes_back_and_is_refused_by_name(source: str):
    model, other = build(source), build(source, seed=1)
    data = batch(model)
    assert not torch.equal(model.logits(*data[:2]), other.logits(*data[:2]))
    state = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    other.load_trainable_state(state)
    assert torch.equal(model.logits(*data[:2]), other.logits(*data[:2]))
    name = next(name for name in state if "new_rows" in name)
    kept = {key: tensor.clone() for key, tensor in other.trainable_state().items()}
    for broken, message in (
        ({key: value for key, value in state.items() if key != name}, f"missing {name}"),
        (state | {"new": torch.zeros(1)}, "unexpected new"),
        (state | {name: torch.zeros(3, 3)}, r"is \(3, 3\), here"),
    ):
        with pytest.raises(ValueError, match=message):
            other.load_trainable_state({key: value + 1 for key, value in broken.items()})
    assert all(torch.equal(tensor, kept[key]) for key, tensor in other.trainable_state().items())


def test_a_seed_gives_the_same_model_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, three = (build("random:tiny", seed=seed, trained=False).trainable_state() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.new_rows"], three["model.embed_tokens.new_rows"])


def test_half_precision_weights_train_in_float32():
    model = build("random:tiny", dtype="bfloat16")
    assert all(p.dtype == (torch.float32 if p.requires_grad else torch.bfloat16) for p in model.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = model.loss(*batch(model), **WEIGHTS)
    low.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(low.loss, build("random:tiny").loss(*batch(model), **WEIGHTS).loss, rtol=0.05, atol=0.0)


def test_conversations_that_share_a_sound_have_the_loss_and_gradients_of_conversations_apart():
    """Two levels of attention are exact: what is shared once weighs as if it stood before each."""
    model = build("random:tiny").double()
    questions = [("What is it?", "a bell"), ("Is there a dog?", "no"), ("Is there rain?", "yes")]
    conversations = [
        Encoded(*model.vocabulary.render([Turn("user", [[0, 4, 2, 0], f"\n{question}"]), Turn("assistant", [answer])]))
        for question, answer in questions
    ]
    lone = Encoded(*model.vocabulary.render(CONVERSATIONS[1]))
    actual = []
    for sequences in (
        [pack(conversations), pack([lone])],
        [pack([conversation]) for conversation in (*conversations, lone)],
    ):
        data = collate([(str(n), sequence) for n, sequence in enumerate(sequences)], model.vocabulary.pad_id)
        model.zero_grad()
        losses = model.loss(*data[1:7], **WEIGHTS)
        losses.loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        actual.append((losses, gradients))
    (together, gradients), (apart, others) = actual
    assert together.text_tokens == apart.text_tokens and together.audio_tokens == apart.audio_tokens
    assert together.loss.item() == pytest.approx(apart.loss.item(), rel=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert len(pack(conversations).input_ids) < sum(len(conversation.input_ids) for conversation in conversations)


@pytest.mark.parametrize("source", SOURCES)
def test_frozen_matrices_in_bfloat16_are_what_autocast_makes_of_them(source: str):
    """Loss, gradients and answers, to the bit."""

    def outputs(model: SoundLanguageModel) -> tuple[Tensor, tuple[Tensor, ...], list[list[int]]]:
        parameters = [p for p in model.parameters() if p.requires_grad]
        ids, mask, *_ = batch(model, CONVERSATIONS[:1])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(*batch(model), **WEIGHTS).loss
            answers = model.generate(ids, mask, 8, allow="text")
        return loss, torch.autograd.grad(loss, parameters), answers

    wide, in_bf16 = build(source), build(source)
    in_bf16.cast_frozen_linears_to_bf16()
    (loss, gradients, answers), actual = outputs(wide), outputs(in_bf16)
    assert torch.equal(loss, actual[0]) and answers == actual[2]
    assert all(torch.equal(one, other) for one, other in zip(gradients, actual[1], strict=True))
    frozen = [module.weight for module in in_bf16.lm.base_model.modules() if isinstance(module, nn.Linear)]
    assert {weight.dtype for weight in frozen if not weight.requires_grad} == {torch.bfloat16}
