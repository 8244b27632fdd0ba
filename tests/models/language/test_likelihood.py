"""Scores of candidates: those of a plain forward pass of each, whatever was read before and beside."""

import pytest
import torch

from models.errors import ModelError
from models.language.generation import TextOnly
from models.language.likelihood import greedy_choice, log_likelihoods, read_prefix, text_scores, token_log_likelihoods
from models.language.vocabulary import Turn
from models.metrics.probe import nearest_histogram
from stages.hub import weights
from tests.models.language.test_model import build

CANDIDATES = [[5, 6, 7], [5], [9, 5, 6, 7, 30], [8, 8]]


def plain(lm: torch.nn.Module, prompt: list[int], candidate: list[int]) -> float:
    """No cache, no company."""
    with torch.no_grad():
        log_p = lm(input_ids=torch.tensor([prompt + candidate])).logits[0].double().log_softmax(-1)
    return float(sum(log_p[len(prompt) - 1 + n, token] for n, token in enumerate(candidate)))


SMOLLM = pytest.param("smollm2-135m-instruct", marks=pytest.mark.assets)


@pytest.mark.parametrize("source", ["random:tiny", "random:tiny-untied", SMOLLM])
def test_scores_with_the_shared_cache_are_those_without(source: str):
    if not source.startswith("random") and not weights.cached_path(weights.parse(weights.ASSETS[source])).is_file():
        pytest.skip(f"{source} is not in the cache")
    lm = weights.load_language_model(source, None, "float32").model
    generator = torch.Generator().manual_seed(0)
    head, query, other = (torch.randint(3, 250, (count,), generator=generator).tolist() for count in (60, 12, 5))
    shared = read_prefix(lm, head)
    for part in (query, other, query):  # `shared` is not changed by what is read after it
        actual = log_likelihoods(lm, read_prefix(lm, part, shared), CANDIDATES)
        expected = [plain(lm, head + part, candidate) for candidate in CANDIDATES]
        assert actual == pytest.approx(expected, abs=1e-4)
        assert log_likelihoods(lm, read_prefix(lm, head + part), CANDIDATES) == pytest.approx(expected, abs=1e-4)
    assert log_likelihoods(lm, shared, [[5], [9]]) == pytest.approx(
        [plain(lm, head, [5]), plain(lm, head, [9])], abs=1e-4
    )


def test_the_greedy_choice_is_what_decoding_step_by_step_writes():
    lm = weights.load_language_model("random:tiny", None, "float32").model
    generator = torch.Generator().manual_seed(1)
    chosen = set()
    for _ in range(20):
        prompt = torch.randint(3, 250, (7,), generator=generator).tolist()
        candidates = [[5, 6, 7, 2], [5, 6, 2], [5, 9, 2], [9, 5, 2], [8, 2]]
        written: list[int] = []
        while written not in candidates:
            allowed = {one[len(written)] for one in candidates if one[: len(written)] == written}
            with torch.no_grad():
                logits = lm(input_ids=torch.tensor([prompt + written])).logits[0, -1]
            written.append(max(sorted(allowed), key=lambda token: float(logits[token])))
        values = token_log_likelihoods(lm, read_prefix(lm, prompt), candidates)
        chosen.add(greedy_choice(candidates, values))
        assert candidates[greedy_choice(candidates, values)] == written
    assert len(chosen) > 1


@pytest.mark.parametrize("sounds", [[[0, 4], [0, 4, 2, 2], [1, 0]], [[3, 3]], [[1, 1], [1, 1]]])
def test_the_scores_of_a_text_are_those_of_a_pass_over_each_conversation(sounds: list[list[int]]):
    """The softmax is over what a text may have; the sound itself is not scored."""
    model = build("random:tiny", levels=(0,)).eval()
    vocabulary = model.vocabulary
    asked = [[Turn("user", [sound, "\nWhat?"]), Turn("assistant", ["A bell."])] for sound in sounds]
    expected = []
    for turns in asked:
        prompt = vocabulary.render(turns[:-1], generate=True).input_ids
        ids, labels, _ = vocabulary.render(turns)
        end = next(n for n in range(len(prompt), len(ids)) if labels[n] in vocabulary.stop_ids)
        logits = model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0].detach()
        log_p = TextOnly(vocabulary)(torch.zeros(len(ids), 0), logits).double().log_softmax(-1)
        expected.append(float(sum(log_p[n - 1, ids[n]] for n in range(len(prompt), end + 1))))
    assert text_scores(model.lm, vocabulary, asked) == pytest.approx(expected, abs=1e-4)


def test_a_prompt_without_ids_is_named():
    with pytest.raises(ModelError, match="the prompt is empty"):
        read_prefix(weights.load_language_model("random:tiny", None, "float32").model, [])


def test_the_nearest_histogram_counts_codes_and_forgets_their_order():
    """(2, 1) against (1, 2): 4/5; against (4, 2): 1; against nothing in common: 0."""
    assert nearest_histogram([([1, 2, 2], "a"), ([2, 1, 1, 2, 1, 1], "b"), ([3], "c")], [1, 1, 2]) == "b"
    assert nearest_histogram([([3], "a"), ([4], "b")], [1]) == "a"
