"""A merge for generation keeps the logits, is measured, and leaves no trace."""

from pathlib import Path

import pytest
import torch
from torch import nn

from models.language import merging
from models.language.lora import LoraLinear, without_lora
from models.language.merging import merge_where_it_agrees, merged_for_generation, unmerge
from models.language.model import SoundLanguageModel
from stages.hub import language_model, trained_model
from tests.models.language.test_model import SOURCES, WEIGHTS, batch, build

IDS = torch.tensor([[5, 6, 7, 8], [9, 260, 262, 265]])  # text, and new rows


def logits(model: SoundLanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.lm(input_ids=IDS).logits


def layers(model: nn.Module) -> list[LoraLinear]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLinear)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", SOURCES)
def test_merged_logits_agree_and_an_unmerged_model_is_as_before(source: str, dtype: str):
    model = build(source, dtype=dtype)
    before, state = logits(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = merge_where_it_agrees(model.lm, IDS)
    assert result.agrees and result.adapter > 0 and all(layer.merged is not None for layer in layers(model))
    assert float((logits(model) - before).abs().max()) == pytest.approx(result.merged, abs=1e-6)
    if dtype == "float32":
        torch.testing.assert_close(logits(model), before)
    assert model.state_dict().keys() == state.keys()
    unmerge(model.lm)
    assert torch.equal(logits(model), before)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_one_table_of_all_ids_embeds_them_as_two_did():
    embedding = build("random:tiny", dtype="bfloat16").lm.get_input_embeddings()
    before = embedding(IDS)
    embedding.merge()
    assert torch.equal(embedding(IDS), before)


@pytest.mark.parametrize("limits", [(0.0, 0.0), (1.0, 0.0)])
def test_a_merge_that_loses_digits_is_undone(limits: tuple[float, float], monkeypatch: pytest.MonkeyPatch):
    """Bfloat16 has 8 bits: 256 + 0.5 is 256, and all that LoRA adds to such weights is lost."""
    model = build("random:tiny", dtype="bfloat16")
    for layer in layers(model):
        layer.base_layer.weight.data.fill_(256)
        nn.init.constant_(layer.lora_A["default"].weight, 0.25)
        nn.init.constant_(layer.lora_B["default"].weight, 0.25)  # rank 4, scale 2: it adds 0.5
        layer.merge()
        assert torch.equal(layer.merged, layer.base_layer.weight)
        layer.merged = None
    lora = layers(model)[0]
    lora.merge()
    x = torch.ones(1, lora.base_layer.in_features, dtype=torch.bfloat16)
    with without_lora(lora):
        base = lora(x)
    assert torch.equal(lora(x), base)
    lora.merged = None

    trained = build("random:tiny", dtype="bfloat16")
    before = logits(trained)
    monkeypatch.setattr(merging, "SHARE", limits[0])
    monkeypatch.setattr(merging, "ROUNDING", dict.fromkeys(merging.ROUNDING, limits[1]))
    result = merge_where_it_agrees(trained.lm, IDS)
    assert result.merged > 0 and result.agrees == (result.merged <= limits[0] * result.adapter)
    assert result.agrees or torch.equal(logits(trained), before)
    assert all((layer.merged is not None) == result.agrees for layer in layers(trained))


def test_training_goes_on_to_the_bit_after_generation_with_a_merged_model():
    model = build("random:tiny")
    before = model.loss(*batch(model), **WEIGHTS).loss
    with merged_for_generation(model.lm, IDS) as result:
        assert result.agrees
        merged = model.generate(IDS[:1], torch.ones_like(IDS[:1]), 4, "audio")
    after = model.loss(*batch(model), **WEIGHTS).loss
    assert torch.equal(after, before) and len(merged) == 1
    after.backward()
    assert all(layer.lora_A["default"].weight.grad is not None for layer in layers(model))


def test_without_lora_a_merged_model_is_the_llm_as_it_came():
    model = build("random:tiny")
    with without_lora(model.lm):
        before = logits(model)
    for layer in layers(model):
        layer.merge()
    with without_lora(model.lm):
        assert torch.equal(logits(model), before)


def test_a_model_that_is_asked_on_a_gpu_is_merged(whole: Path, monkeypatch: pytest.MonkeyPatch):
    """The CPU takes the GPU's place."""
    plain = trained_model.load(whole / "openaqa", torch.device("cpu"))
    monkeypatch.setattr(language_model, "MERGED_ON", ("cpu",))
    merged = trained_model.load(whole / "openaqa", torch.device("cpu"))
    assert [{layer.merged is None for layer in layers(model.lm)} for model in (plain, merged)] == [{True}, {False}]
