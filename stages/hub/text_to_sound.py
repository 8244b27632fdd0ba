"""Captions to codes, as `stage generate` and the stage `generation` ask a trained LLM for them."""

from collections.abc import Sequence
from typing import Any

from conf.errors import UsageError
from conf.sections.evaluation import GenerateConf, GenerationConf
from datamodules.language.conversations import without_caption
from models.language.generation import Guidance, Sampling, generate, pad_left
from models.language.vocabulary import Turn
from stages.hub.locate import Trained


def text_to_sound(
    model: Trained,
    captions: Sequence[str],
    most: int,
    seeds: Sequence[int],
    settings: GenerateConf | GenerationConf,
) -> list[list[int]]:
    """Captions to codes, `most` at most, each drawn from its own seed; an empty caption asks for any sound. settings: temperature, top_p, guidance.

    The prompt is the first of the wordings that the LLM was trained with.
    """
    words, wording = model.vocabulary, model.prompts.text_to_sound[0]

    def prompts(texts: Sequence[str]) -> Any:
        rendered = [words.render([Turn("user", [text])], generate=True) for text in texts]
        return pad_left([one.input_ids for one in rendered], words.pad_id)

    ids, mask = prompts([wording.format(caption=text) if text else without_caption(wording) for text in captions])
    room = most + 2
    check_context(model, ids.shape[1], room, "type a smaller --seconds_max")
    sampling, guidance = None, None
    if settings.temperature > 0:
        sampling = Sampling(settings.temperature, settings.top_p, seeds)
    if settings.guidance != 1:
        guidance = Guidance(settings.guidance, *prompts([without_caption(wording)] * len(captions)))
    found = generate(model.lm, words, ids, mask, room, "audio", sampling, guidance)
    return [words.codes(answer) for answer in found]


def check_context(model: Trained, prompt: int, answer: int, cure: str) -> None:
    if model.context is not None and prompt + answer > model.context:
        raise UsageError(
            f"too long: {prompt} tokens and an answer of up to {answer} are more than the LLM's {model.context}; {cure}"
        )
