"""The rows of new ids: where they start, and what they equal."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.language.generation import TextOnly
from models.language.model import SoundLanguageModel
from models.language.new_tokens import new_rows
from models.language.vocabulary import Turn, Vocabulary
from stages.hub.weights import load_language_model
from tests.models.language.small_model import SOURCES, batch, build


@pytest.mark.parametrize("source", SOURCES)
def test_new_rows_equal_an_embedding_that_was_resized(source: str):
    """The slow way: one matrix of V rows for text and sound, in a plain model of transformers."""
    model = build(source, trained=False)
    resized, _ = load_language_model(source, None, "float32")
    vocabulary, state = model.vocabulary, model.trainable_state()
    resized.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    embedding, head = resized.get_input_embeddings(), resized.get_output_embeddings()
    with torch.no_grad():
        head.weight[vocabulary.text_size :] = state.get("lm_head.new_rows", state["model.embed_tokens.new_rows"])
        embedding.weight[vocabulary.text_size :] = state["model.embed_tokens.new_rows"]
    ids, mask, _, _ = batch(model)
    expected, actual = resized(ids, attention_mask=mask).logits, model.logits(ids, mask)
    torch.testing.assert_close(actual[mask == 1], expected[mask == 1])


def test_rows_start_where_they_should():
    model = build("random:tiny")
    vocabulary = model.vocabulary
    text = model.lm.get_input_embeddings().text.weight[: vocabulary.text_size].double() * torch.linspace(0.1, 9, 64) + 3
    text = torch.cat([text, torch.full((40, 64), 1e6)])  # rows that no token owns count for nothing
    many = copy.copy(vocabulary)
    many.codebook_size, many.size = 2000, vocabulary.first_code_id + 4000
    text_rows = text[: vocabulary.text_size]
    for initialization in ("mean", "codebook"):
        codebook = torch.randn(2, 2000, 8, generator=torch.Generator().manual_seed(2)) * 50 + 7
        rows = new_rows(text, many, initialization, codebook, 0.02, 0).double()
        assert rows.shape == (4002, 64)
        assert ((rows.mean(0) - text_rows.mean(0)).abs() < 0.2 * text_rows.std(0)).all()
        assert 0.9 < float((rows.std(0) / text_rows.std(0)).square().mean().sqrt()) < 1.1
    rows = new_rows(text, many, "random", None, 0.02, 0)
    assert abs(float(rows.std()) - 0.02) < 1e-3 and abs(float(rows.mean())) < 1e-3


def test_codes_that_are_near_start_as_near_rows():
    model = build("random:tiny")
    codebook = torch.randn(10, 6, generator=torch.Generator().manual_seed(3))
    weight = model.lm.get_input_embeddings().text.weight
    rows = new_rows(weight, model.vocabulary, "codebook", codebook, 0.02, 0)[2:]
    scale = weight[: model.vocabulary.text_size].std(0)
    standardised = (codebook - codebook.mean(0)) / codebook.std(0)
    actual, expected = torch.cdist(rows / scale, rows / scale), torch.cdist(standardised, standardised)
    torch.testing.assert_close(actual / actual.mean(), expected / expected.mean(), rtol=1e-3, atol=1e-4)
    for wrong in (None, codebook[:9], torch.zeros(3, 5, 6)):
        with pytest.raises(ValueError, match="vectors of 10 codes"):
            new_rows(weight, model.vocabulary, "codebook", wrong, 0.02, 0)


def test_models_of_another_build_are_refused():
    base, tokenizer = load_language_model("random:tiny", None, "float32")
    vocabulary = Vocabulary(tokenizer, 5, (0, 1), prompt_format="chat", system=None)
    settings = {"rank": 4, "alpha": 8, "dropout": 0.0, "initialization": "mean", "codebook": None, "seed": 0}
    small = copy.deepcopy(base)
    small.resize_token_embeddings(200)
    with pytest.raises(ValueError, match="200 rows in its embedding"):
        SoundLanguageModel(small, vocabulary, **settings)

    class Squared(type(base)):
        def forward(self, **inputs: object) -> object:
            actual = super().forward(**inputs)
            actual.logits = actual.logits.square()
            return actual

    squared = copy.deepcopy(base)
    squared.__class__ = Squared
    with pytest.raises(ValueError, match="Squared changes its logits after the head in a way that the loss does not"):
        SoundLanguageModel(squared, vocabulary, **settings)

    class Hashed(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids).square()

    class Factored(nn.Module):
        weight = base.get_input_embeddings().weight

    for embedding, message in ((Hashed(264, 64), "Hashed is more than a table"), (Factored(), "embeds with Factored")):
        strange = copy.deepcopy(base)
        strange.set_input_embeddings(embedding)
        with pytest.raises(ValueError, match=message):
            SoundLanguageModel(strange, vocabulary, **settings)


def test_times_start_near_their_neighbours_and_are_allowed_in_text_alone():
    """Rows of near times are alike (cosine above 0.75), of far ones not; their spread is that of the text rows."""
    model, tokenizer = load_language_model("random:tiny", None, "float32")
    vocabulary = Vocabulary(tokenizer, 5, (0, 1), "chat", None, max_seconds=10.0, step=0.1)
    weight = model.get_input_embeddings().weight.detach()
    for initialization in ("mean", "codebook", "random"):
        codebook = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
        rows = new_rows(weight, vocabulary, initialization, codebook, 0.02, 0)
        assert rows.shape == (vocabulary.size - vocabulary.text_size, weight.shape[1])
        times = rows[-vocabulary.num_times :]
        near = torch.nn.functional.cosine_similarity(times[:-1] - times.mean(0), times[1:] - times.mean(0)).mean()
        far = torch.nn.functional.cosine_similarity(times[:50] - times.mean(0), times[50:100] - times.mean(0)).mean()
        assert near > 0.75 and near > far + 0.5
        assert times.isfinite().all() and len(times.unique(dim=0)) == len(times)
    language = SoundLanguageModel(model, vocabulary, 2, 4, 0.0, "mean", None, 0)
    allowed = TextOnly(vocabulary)(torch.zeros(1, 1).long(), torch.zeros(1, vocabulary.size))[0] == 0
    assert allowed.nonzero().flatten().tolist() == [
        *range(vocabulary.text_size),
        *range(vocabulary.first_time_id, vocabulary.size),
    ]
    prompt = torch.tensor([vocabulary.render([Turn("user", ["Make it."])], generate=True).input_ids])
    (sound,) = language.generate(prompt, torch.ones_like(prompt), 12, allow="audio")
    assert vocabulary.codes(sound)
