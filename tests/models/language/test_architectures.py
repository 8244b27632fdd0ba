"""Every family of causal LMs that transformers builds, small and random: loss, training, answers."""

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

from datamodules.language.packing import Encoded, collate, pack
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Turn, Vocabulary
from stages.hub.weights import load_language_model

WEIGHTS = {"audio_weight": 1.0, "text_weight": 1.0, "prompt_weight": 1.0, "z_loss_weight": 0.0}
COMMON = {
    "vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "num_local_experts": 4}
OLD = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 512}
FAMILIES = {  # name -> class, config, LoRA adapters a layer
    "llama": ("Llama", {"tie_word_embeddings": False}, 7),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}, 7),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, 7),
    "qwen3": ("Qwen3", {"head_dim": 8}, 7),
    "mistral": ("Mistral", {"sliding_window": 24, "head_dim": 8}, 7),
    "gemma2": ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 0.3, **MIXED}, 7),
    "gemma3": ("Gemma3", {"head_dim": 8, **MIXED}, 7),
    "phi3": ("Phi3", {"sliding_window": 24}, 4),  # q, k and v are one matrix; so are gate and up
    "gpt2": ("GPT2", OLD, 4),  # its matrices are transposed (Conv1D), its positions are learned
    "gpt-neox": ("GPTNeoX", {"tie_word_embeddings": False}, 4),
    "smollm3": ("SmolLM3", {}, 7),
    "granite": ("Granite", {"logits_scaling": 8.0, "embedding_multiplier": 3.0}, 7),
    "cohere": ("Cohere", {"logit_scale": 0.2, "pad_token_id": 0}, 7),
    "mixtral": ("Mixtral", {**EXPERTS, "head_dim": 8}, 7),  # attention, router, and the experts' two stacked matrices
    "qwen3-moe": ("Qwen3Moe", {**EXPERTS, "head_dim": 8}, 7),
}


def plain(family: str) -> PreTrainedModel:
    name, changes, _ = FAMILIES[family]
    config = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**(COMMON | changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


def build(family: str, **changes: object) -> SoundLanguageModel:
    _, tokenizer = load_language_model("random:tiny", None, "float32")
    words = Vocabulary(tokenizer, 5, (0,), prompt_format="chat", system=None)
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "initialization": "mean", "codebook": None, "seed": 0} | changes
    return SoundLanguageModel(plain(family), words, **settings)


def trained(model: SoundLanguageModel) -> SoundLanguageModel:
    """LoRA's second matrices are not zero, as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def sequence(model: SoundLanguageModel, *turns: Turn) -> Encoded:
    return Encoded(*model.vocabulary.render(turns))


def batch(model: SoundLanguageModel, sequences: list[list[Encoded]]) -> tuple[Tensor, ...]:
    return tuple(
        collate([(str(n), pack(conversations)) for n, conversations in enumerate(sequences)], model.vocabulary.pad_id)[
            1:7
        ]
    )


CONVERSATION = (Turn("user", [[0, 4, 2, 0, 1, 3], "What?"]), Turn("assistant", ["A bell, and then a dog."]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_on_text_is_that_of_the_plain_model(family: str):
    model, reference = build(family), plain(family)
    encoded = sequence(model, Turn("user", ["What is it?"]), Turn("assistant", ["A bell, and then a dog."]))
    ids, mask, labels, kinds, *_ = batch(model, [[encoded]])
    expected = reference(input_ids=ids).logits[0, :-1, : model.vocabulary.text_size]
    new = model.logits(ids, mask)[0, :-1, model.vocabulary.text_size :]
    entropy = F.cross_entropy(torch.cat([expected, new], 1), ids[0, 1:])
    torch.testing.assert_close(model.loss(ids, mask, labels, kinds, **WEIGHTS).loss, entropy)
    if expected.shape[1] == reference.config.vocab_size:
        assert reference(input_ids=ids, labels=ids).loss < entropy  # only the new ids stand between them


@pytest.mark.parametrize("family", FAMILIES)
def test_new_rows_equal_those_of_a_model_that_was_resized(family: str):
    """The usual way, in the plain model: one matrix of V rows; sounds go in and come out."""
    model, resized = build(family), plain(family)
    words, state = model.vocabulary, model.trainable_state()
    resized.resize_token_embeddings(words.size, mean_resizing=False)
    rows = [tensor for name, tensor in state.items() if name.endswith("new_rows")]
    tied = resized.get_output_embeddings().weight is resized.get_input_embeddings().weight
    assert len(rows) == (1 if tied else 2)
    with torch.no_grad():
        resized.get_input_embeddings().weight[words.text_size :] = rows[0]
        resized.get_output_embeddings().weight[words.text_size :] = rows[-1]
    ids, mask, *_ = batch(model, [[sequence(model, *CONVERSATION)]])
    torch.testing.assert_close(model.logits(ids, mask), resized(input_ids=ids).logits)
    expected = F.cross_entropy(resized(input_ids=ids).logits[0, :-1], ids[0, 1:])
    torch.testing.assert_close(model.loss(*batch(model, [[sequence(model, *CONVERSATION)]]), **WEIGHTS).loss, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_trains_gets_a_gradient_and_a_step_along_it_lowers_the_loss(family: str):
    """By the step's length times the squared norm of the gradient, as a small step does."""
    model = build(family)
    state = model.trainable_state()
    adapters = FAMILIES[family][2]
    assert sum("lora_A" in name for name in state) == 2 * adapters
    data = batch(model, [[sequence(model, *CONVERSATION)]])
    with torch.no_grad():  # LoRA starts with a second matrix of zeros, where the first one has no gradient
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    first = model.loss(*data, **WEIGHTS).loss
    first.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in parameters)
    squared_norm = sum(float(parameter.grad.double().square().sum()) for parameter in parameters)
    expected = 1e-3 * first.item()
    with torch.no_grad():
        for parameter in parameters:
            parameter -= expected / squared_norm * parameter.grad
        lowered = first.item() - model.loss(*data, **WEIGHTS).loss.item()
    assert lowered == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_the_rest_of_the_batch_and_a_shared_prefix_change_nothing(family: str):
    """Longer than the window of the models that have one."""
    model = trained(build(family))
    heard = Turn("user", [[0, 4, 2, 0, 1, 3], "\nWhat do you hear in this recording of some sound?"])
    asked = [
        sequence(model, heard, Turn("assistant", [answer])) for answer in ("A bell rings for long.", "No", "Say b")
    ]
    alone = [model.loss(*batch(model, [[conversation]]), **WEIGHTS | {"prompt_weight": 0.0}) for conversation in asked]
    total = sum(loss.text_loss * loss.text_tokens for loss in alone)
    for sequences in ([[conversation] for conversation in asked], [asked], [asked, asked[1:2]]):
        actual = model.loss(*batch(model, sequences), **WEIGHTS | {"prompt_weight": 0.0})
        more = alone[1] if len(sequences) == 2 else None
        expected = total + (more.text_loss * more.text_tokens if more else 0)
        torch.testing.assert_close(actual.text_loss * actual.text_tokens, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("allow", ["text", "audio"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_answers_equals_answers_one_by_one(family: str, allow: str):
    model = trained(build(family))
    words = model.vocabulary
    prompts = [
        words.render([Turn("user", [[0, 4, 2][:count], text])], generate=True).input_ids
        for count, text in ((3, "?"), (1, "What is it, then?"))
    ]
    width = max(map(len, prompts)) + 2
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    together = model.generate(ids, mask, 8, allow)
    alone = [
        model.generate(torch.tensor([prompt]), torch.ones(1, len(prompt)).long(), 8, allow)[0] for prompt in prompts
    ]
    assert together == alone
    if allow == "text":
        ids = torch.tensor([prompts[1]])
        for token in alone[1]:
            logits = model.logits(ids, torch.ones_like(ids))[0, -1, : words.text_size]
            assert token == logits.argmax()
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
    else:
        assert all(len(words.codes(answer)) >= 1 for answer in together)
