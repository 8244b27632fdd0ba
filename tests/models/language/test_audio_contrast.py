"""Audio-aware decoding: the formula, from one forward pass of each conversation with its sounds and one without."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from models.language.generation import TextOnly, audio_contrast, generate, pad_left
from models.language.likelihood import answer_scores
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Turn, without_sound
from tests.models.language.small_model import SOURCES, build

ASKED = [
    [Turn("user", [[0, 4, 2, 0], "\nWhat is it?"])],
    [Turn("user", ["Is it loud?"])],
    [Turn("user", [[1, 1], "\n", [3, 0, 2, 2], "\nWhich?"]), Turn("assistant", ["This"]), Turn("user", ["Why?"])],
]
ROOM = 9


@pytest.fixture(scope="module", params=SOURCES)
def model(request: pytest.FixtureRequest) -> SoundLanguageModel:
    return build(request.param).eval()


def answers(model: SoundLanguageModel, conversations: Sequence[Sequence[Turn]], strength: float) -> list[list[int]]:
    vocabulary = model.vocabulary
    prompts = [vocabulary.render(turns, generate=True).input_ids for turns in conversations]
    guidance = audio_contrast(vocabulary, conversations, strength)
    padded = pad_left(prompts, vocabulary.pad_id)
    return generate(model.lm, vocabulary, *padded, ROOM, "text", None, guidance)


def contrasted(model: SoundLanguageModel, turns: Sequence[Turn], answer: list[int], strength: float) -> Tensor:
    """(1 + a) log p(. | sound) - a log p(. | no sound) of the id that follows the answer so far: (V) float64."""
    with_sound, without = (
        model.vocabulary.render(asked, generate=True).input_ids + answer for asked in (turns, without_sound(turns))
    )
    p, q = (
        model.logits(torch.tensor([ids]), torch.ones(1, len(ids)).long())[0, -1:].detach().double()
        for ids in (with_sound, without)
    )
    p, q = (TextOnly(model.vocabulary)(p[:, :0], part).log_softmax(-1)[0] for part in (p, q))
    return torch.where(p.isinf(), -torch.inf, (1 + strength) * p - strength * q)


def test_the_same_texts_are_left_without_the_sounds():
    assert without_sound(ASKED[0]) == [Turn("user", ["What is it?"])]
    assert without_sound(ASKED[1]) == ASKED[1]
    assert without_sound(ASKED[2]) == [Turn("user", ["Which?"]), *ASKED[2][1:]]


@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_an_answer_is_the_formula_s_step_by_step_in_a_batch_and_alone(model: SoundLanguageModel, strength: float):
    together = answers(model, ASKED, strength)
    assert together != answers(model, ASKED, 0.0), "nothing was contrasted"
    for turns, answer in zip(ASKED, together, strict=True):
        assert answers(model, [turns], strength) == [answer]
        for position in range(min(len(answer) + 1, ROOM)):
            best = int(contrasted(model, turns, answer[:position], strength).argmax())
            assert best == answer[position] if position < len(answer) else best in model.vocabulary.stop_ids


def test_without_a_sound_or_a_strength_nothing_is_contrasted(model: SoundLanguageModel):
    assert audio_contrast(model.vocabulary, ASKED, 0.0) is None
    assert audio_contrast(model.vocabulary, ASKED[1:2], 2.0) is None
    assert answers(model, ASKED[1:2], 2.0) == answers(model, ASKED[1:2], 0.0)


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_the_score_of_an_answer_is_the_formula_s(model: SoundLanguageModel, strength: float):
    texts, vocabulary = ["A bell.", "no"], model.vocabulary
    for turns in ASKED:
        expected = []
        prompt = vocabulary.render(turns, generate=True).input_ids
        for text in texts:
            ids = vocabulary.render([*turns, Turn("assistant", [text])]).input_ids
            end = next(n for n in range(len(prompt), len(ids)) if ids[n] in vocabulary.stop_ids)
            answer = ids[len(prompt) : end + 1]
            scores = [contrasted(model, turns, answer[:n], strength)[token] for n, token in enumerate(answer)]
            expected.append(float(sum(scores)))
        actual = answer_scores(model.lm, vocabulary, turns, texts, strength)
        assert actual == pytest.approx(expected, abs=1e-3)
