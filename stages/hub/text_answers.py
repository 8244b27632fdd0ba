"""Answers of a trained LLM to conversations about sounds, as `stage ask` and `stage serve` ask for them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from conf.sections.evaluation import AskConf
from models.language.generation import Sampling, audio_contrast, generate, pad_left
from models.language.vocabulary import Turn
from stages.hub.text_to_sound import check_context
from stages.hub.trained_model import TrainedModel


class TextAnswer(NamedTuple):
    text: str
    num_tokens: int
    num_prompt_tokens: int
    is_cut: bool  # at the most tokens that it may have, or by who watched it


class Answering(NamedTuple):
    """A conversation, and how it is answered beside others of one batch."""

    turns: Sequence[Turn]
    seed: int
    max_new_tokens: int
    goes_on: Callable[[str], bool] | None = None  # called with the text so far after every token; False ends it


def check_prompt(model: TrainedModel, turns: Sequence[Turn], max_new_tokens: int, cure: str) -> int:
    """Tokens of the prompt. Raises UsageError where it and the answer are too long, ModelError for turns of no template."""
    length = len(model.vocabulary.render(turns, generate=True).input_ids)
    check_context(model, length, max_new_tokens, cure)
    return length


def text_answers(model: TrainedModel, asked: Sequence[Answering], settings: AskConf) -> list[TextAnswer]:
    """One batch. settings: how tokens are drawn; seed and length are those of each conversation."""
    vocabulary = model.vocabulary
    prompts = [one.input_ids for one in vocabulary.render_all([one.turns for one in asked], generate=True)]
    sampling = Sampling(settings.temperature, 1.0, [one.seed for one in asked]) if settings.temperature else None
    guidance = audio_contrast(vocabulary, [one.turns for one in asked], settings.audio_contrast)
    most = max(one.max_new_tokens for one in asked)
    ended = [False] * len(asked)

    def text_so_far(row: list[int]) -> str:
        return vocabulary.decode([token for token in row if token not in vocabulary.stop_ids])

    def watch(written: Tensor) -> list[bool]:
        for number, (one, row) in enumerate(zip(asked, written.tolist(), strict=True)):
            if not ended[number]:
                ended[number] = row[-1] in vocabulary.stop_ids or len(row) >= one.max_new_tokens
                if one.goes_on is not None and not one.goes_on(text_so_far(row)):
                    ended[number] = True
        return ended

    padded = pad_left(prompts, vocabulary.pad_id)
    answers = generate(model.lm, vocabulary, *padded, most, "text", sampling, guidance, watch)
    return [
        TextAnswer(vocabulary.decode(answer), len(answer), len(prompt), len(answer) >= one.max_new_tokens)
        for answer, prompt, one in zip(answers, prompts, asked, strict=True)
    ]
