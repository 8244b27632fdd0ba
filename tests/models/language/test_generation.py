"""Sampling, guidance and grammars: each compared with the formula, step by step, without cache or batch."""

import pytest
import torch
from torch import Tensor

from models.language.generation import Guidance, GumbelNoise, Sampling, SoundOnly, generate, pad_left
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Turn
from tests.models.language.small_model import SOURCES, build
from tests.other_luck import handed

ASKED = ["Make rain", "Make the sound of a very long train that passes", "A dog"]


def prompts(model: SoundLanguageModel, texts: list[str]) -> tuple[Tensor, Tensor]:
    vocabulary = model.vocabulary
    return pad_left(
        [vocabulary.render([Turn("user", [text])], generate=True).input_ids for text in texts], vocabulary.pad_id
    )


def ask(
    model: SoundLanguageModel,
    texts: list[str],
    allow: str = "audio",
    sampling: Sampling | None = None,
    weight: float = 1.0,
    plain: str = "",
    room: int = 14,
) -> list[list[int]]:
    guidance = None if weight == 1 else Guidance(weight, *prompts(model, [plain] * len(texts)))
    return generate(model.lm, model.vocabulary, *prompts(model, texts), room, allow, sampling, guidance)


@pytest.fixture(scope="module", params=SOURCES)
def model(request: pytest.FixtureRequest) -> SoundLanguageModel:
    return build(request.param).eval()


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("plain", ["", "a wish that is longer than any of the ones that are asked here"])
def test_guidance_is_the_formula_step_by_step(model: SoundLanguageModel, weight: float, plain: str):
    """Two sequences a row, no cache, no padding, over the whole vocabulary; then the grammar."""
    vocabulary = model.vocabulary
    actual = ask(model, ASKED, weight=weight, plain=plain)
    for text, answer in zip(ASKED, actual, strict=True):
        conditional, unconditional = (
            [*prompts(model, [one])[0][0].tolist(), vocabulary.start_id] for one in (text, plain)
        )
        for position, token in enumerate(answer[1:], 1):
            logits = [
                model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0, -1]
                for ids in (conditional, unconditional)
            ]
            a, b = (one.detach().log_softmax(-1) for one in logits)
            scores = b + weight * (a - b)
            block, index = divmod(position - 1, 2)
            first = vocabulary.first_code_id + vocabulary.levels[index] * vocabulary.codebook_size
            allowed = list(range(first, first + vocabulary.codebook_size)) if index or 14 - position - 1 >= 2 else []
            allowed += [vocabulary.end_id] if block and not index else []
            assert token == max(allowed, key=lambda one: float(scores[one]))
            conditional.append(token)
            unconditional.append(token)
    assert all(len(vocabulary.codes(answer)) >= 2 for answer in actual)


def test_guidance_is_that_of_transformers(model: SoundLanguageModel):
    """The numbers of their processor, from a second pass for one prompt, without a grammar: over all ids."""
    vocabulary = model.vocabulary
    ids, mask = prompts(model, ASKED[:1])
    other, other_mask = prompts(model, [""])
    expected = model.lm.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=vocabulary.stop_ids,
        pad_token_id=vocabulary.pad_id, guidance_scale=2.5, negative_prompt_ids=other,
        negative_prompt_attention_mask=other_mask, suppress_tokens=list(vocabulary.new_ids),
    )  # fmt: skip
    answer = [token for token in expected[0, ids.shape[1] :].tolist() if token not in vocabulary.stop_ids]
    assert ask(model, ASKED[:1], "text", weight=2.5, room=12)[0] == answer


def test_weight_one_is_the_plain_model_and_weight_counts(model: SoundLanguageModel):
    plain = ask(model, ASKED)
    guidance = Guidance(1.0, *prompts(model, [""] * 3))
    assert generate(model.lm, model.vocabulary, *prompts(model, ASKED), 14, "audio", None, guidance) == plain
    assert ask(model, ASKED, weight=0.0) == [ask(model, [""])[0]] * 3, "at weight 0 the prompts have no effect"
    assert len({str(ask(model, ASKED, weight=weight)) for weight in (0.0, 1.0, 8.0)}) > 1


@pytest.mark.parametrize("allow", ["text", "audio"])
@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_a_row_draws_alone_what_it_draws_in_a_batch(model: SoundLanguageModel, allow: str, weight: float):
    seeds = [5, 6, 7]
    together = ask(model, ASKED, allow, Sampling(1.3, 0.9, seeds), weight)
    for text, seed, answer in zip(ASKED, seeds, together, strict=True):
        assert ask(model, [text], allow, Sampling(1.3, 0.9, [seed]), weight) == [answer]
    assert ask(model, ASKED, allow, Sampling(1.3, 0.9, seeds), weight) == together
    assert ask(model, ASKED, allow, Sampling(1.3, 0.9, [8, 9, 10]), weight) != together
    same = ask(model, [ASKED[0]] * 3, allow, Sampling(1.3, 0.9, [1, 1, 2]), weight)
    assert same[0] == same[1] != same[2]
    for answer in together:
        if allow == "text":
            assert all(token < model.vocabulary.text_size for token in answer)
        else:
            assert len(model.vocabulary.codes(answer)) >= 2  # well formed, or `codes` raises


def test_words_go_on_until_a_sound_begins():
    """The most probable of the text ids that are no end and of the start of a sound, step by step, while there is room."""
    model = build("random:tiny-untied").eval()
    vocabulary, head = model.vocabulary, model.lm.get_output_embeddings()
    third = ask(model, ASKED[:1], "words", room=9)[0][2]
    # where that id has the largest logit, which is above 0, the start of a sound has twice as much, and an end, which must
    # not come, three times
    head.new_rows.data[0] = 2 * head.text.weight[third]
    head.text.weight.data[vocabulary.stop_ids] = 3 * head.text.weight[third]
    for room in (1, 9):
        written = ask(model, ASKED, "words", room=room)
        assert len(written[0]) < 3 and max(map(len, written)) <= room
        for text, words in zip(ASKED, written, strict=True):
            ids = prompts(model, [text])[0][0].tolist()
            for count in range(len(words) + (len(words) < room)):
                logits = model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0, -1].detach()
                logits[vocabulary.stop_ids] = -torch.inf
                ids.append(int(logits[: vocabulary.start_id + 1].argmax()))
                assert ids[-1] == [*words, vocabulary.start_id][count]


def test_a_cold_model_is_greedy(model: SoundLanguageModel):
    """At 2^-40 the smallest difference of two scores is above any noise; a top_p of 1e-6 leaves one id, and so does a top_k of 1."""
    for sampling in (
        Sampling(2.0**-40, 1.0, [1, 2, 3]),
        Sampling(2.0, 1e-6, [1, 2, 3]),
        Sampling(2.0, 1.0, [1, 2, 3], top_k=1),
    ):
        assert ask(model, ASKED, sampling=sampling) == ask(model, ASKED)


def test_draws_have_the_probabilities_of_the_scores():
    """20,000 draws of four ids: each frequency within four standard deviations, and what is forbidden never."""
    scores = torch.tensor([0.0, 1.0, -1.0, -torch.inf]).repeat(20_000, 1)
    draws = GumbelNoise(range(20_000))(torch.zeros(20_000, 1), scores).argmax(-1)
    expected = scores[0].softmax(-1)
    frequencies = torch.bincount(draws, minlength=4) / len(draws)
    assert frequencies[3] == 0
    assert ((frequencies - expected).abs() <= 4 * (expected * (1 - expected) / len(draws)).sqrt()).all()


def test_noise_is_of_allowed_ids_alone(model: SoundLanguageModel):
    """A sound is drawn from its codebook and its end, whatever the vocabulary's size."""
    grammar = SoundOnly(model.vocabulary, 0, 50)
    draws, scores = GumbelNoise([handed(3)], grammar), torch.zeros(1, model.vocabulary.size)
    grammar(torch.zeros(1, 0), scores)
    assert torch.equal(draws(torch.zeros(1, 0), scores), scores)  # the start: nothing is drawn
    grammar(torch.zeros(1, 1), scores)
    noisy = draws(torch.zeros(1, 1), scores)
    size = model.vocabulary.codebook_size
    expected = -torch.empty(1 + size).exponential_(generator=torch.Generator().manual_seed(3)).log()
    first = model.vocabulary.first_code_id
    torch.testing.assert_close(noisy[0, first : first + size], expected[1:])
    assert not noisy[:, : model.vocabulary.end_id].any() and not noisy[:, first + size :].any()


def test_values_of_sampling_that_are_not_allowed_are_refused(model: SoundLanguageModel):
    for sampling, message in (
        (Sampling(0.0, 1.0, [1]), "temperature 0.0 and top_p 1.0; above 0"),
        (Sampling(1.0, 0.0, [1]), r"in \(0, 1\]"),
        (Sampling(1.0, 1.0, [1, 2]), "2 seeds for 1 prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(model, ASKED[:1], sampling=sampling)
    with pytest.raises(ValueError, match="1 prompts without a wish for 3"):
        generate(
            model.lm, model.vocabulary, *prompts(model, ASKED), 9, "audio", None, Guidance(2.0, *prompts(model, [""]))
        )
