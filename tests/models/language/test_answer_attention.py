"""Attention of an answer: of the positions that write it, over the prompt alone."""

import pytest
import torch

from models.language.answer_attention import answer_attention
from tests.models.language.small_model import CONVERSATIONS, SOURCES, build


@pytest.mark.parametrize("source", SOURCES)
def test_without_queries_every_id_before_is_attended_to_alike(source: str):
    model = build(source, trained=False)
    for name, module in model.lm.named_modules():
        if name.endswith("q_proj.base_layer") or name.endswith("q_proj.base"):
            module.weight.data.zero_()
    prompt = model.vocabulary.render(CONVERSATIONS[0][:1], generate=True).input_ids
    whole = model.vocabulary.render(CONVERSATIONS[0]).input_ids
    answer = whole[len(prompt) :]
    before = model.lm.config._attn_implementation
    weights = answer_attention(model.lm, prompt, answer)
    assert weights is not None and model.lm.config._attn_implementation == before
    expected = torch.stack([torch.full((len(prompt),), 1 / (len(prompt) + n)) for n in range(len(answer))])
    torch.testing.assert_close(weights, expected)
