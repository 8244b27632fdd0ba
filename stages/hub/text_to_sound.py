"""Captions to codes, as `stage generate` and the stage `generation` ask a trained LLM for them."""

from collections.abc import Sequence

from conf.errors import UsageError
from conf.sections.evaluation import GenerateConf, GenerationConf
from datamodules.language.conversations import without_caption
from models.language.generation import Guidance, PaddedPrompts, Sampling, generate, pad_left
from models.language.vocabulary import Turn
from stages.hub.trained_model import TrainedModel


def text_to_sound(
    model: TrainedModel,
    captions: Sequence[str],
    max_codes: int,
    seeds: Sequence[int],
    settings: GenerateConf | GenerationConf,
) -> list[list[int]]:
    """Captions to codes, `max_codes` at most, each drawn from its own seed; an empty caption asks for any sound.
    settings: temperature, top_p, guidance.

    The prompt is the first of the wordings that the LLM was trained with.
    """
    vocabulary, wording = model.vocabulary, model.prompts.text_to_sound[0]

    def prompts(texts: Sequence[str]) -> PaddedPrompts:
        rendered = [vocabulary.render([Turn("user", [text])], generate=True) for text in texts]
        return pad_left([one.input_ids for one in rendered], vocabulary.pad_id)

    ids, mask = prompts([wording.format(caption=text) if text else without_caption(wording) for text in captions])
    max_tokens = max_codes + 2  # and the marks around the sound
    check_context(model, ids.shape[1], max_tokens, "type a smaller --seconds_max")
    sampling, guidance = None, None
    if settings.temperature > 0:
        sampling = Sampling(settings.temperature, settings.top_p, seeds)
    if settings.guidance != 1:
        guidance = Guidance(settings.guidance, *prompts([without_caption(wording)] * len(captions)))
    answers = generate(model.lm, vocabulary, ids, mask, max_tokens, "audio", sampling, guidance)
    return [vocabulary.codes(answer) for answer in answers]


def check_context(model: TrainedModel, prompt: int, answer: int, cure: str) -> None:
    if model.context is not None and prompt + answer > model.context:
        raise UsageError(
            f"too long: {prompt} tokens and an answer of up to {answer} are more than the LLM's {model.context}; {cure}"
        )
