"""Captions to codes, as `stage generate` and the stage `generation` ask a trained LLM for them.

Several sounds may be drawn for each that is kept: an LLM that hears says under which one the caption is most probable.
"""

import zlib
from collections.abc import Sequence

from conf.errors import UsageError
from conf.sections.evaluation import DrawConf, GenerationConf, guidance_of
from datamodules.language.conversations import sound_request
from models.language.generation import Guidance, PaddedPrompts, Sampling, Watch, generate, pad_left
from models.language.likelihood import text_scores
from models.language.vocabulary import Turn
from stages.hub.trained_model import TrainedModel

ROWS = 64  # sounds in one pass; with guidance the LLM computes twice as many
WORDS_MAX = 64  # tokens before a sound, of an LLM that was taught to write its labels first; then the sound begins


def text_to_sound(
    model: TrainedModel,
    captions: Sequence[str],
    max_codes: int,
    seeds: Sequence[int],
    settings: DrawConf | GenerationConf,
    ear: TrainedModel | None = None,
    watch: Watch | None = None,
    seconds: Sequence[float] | None = None,
) -> list[list[int]]:
    """Captions to codes, `max_codes` at most, each drawn from its own seed; an empty caption asks for any sound.
    settings: temperature, top_p, top_k, guidance, best_of. ear: the LLM that chooses; None: `model`. watch: of `generate`;
    it ends no sound alone. seconds: how long each shall be, for an LLM that was taught with lengths; None: as long as the
    settings allow.

    The prompt is the first of the wordings that the LLM was trained with. Where it was taught so, it first writes the sound's
    labels, the most probable words, by the caption alone; guidance subtracts a prompt without them.
    """
    groups = candidates(model, captions, max_codes, seeds, settings, watch, seconds)
    return [
        _most_probable(ear or model, caption, group) if caption and len(group) > 1 else group[0]
        for caption, group in zip(captions, groups, strict=True)
    ]


def candidates(
    model: TrainedModel,
    captions: Sequence[str],
    max_codes: int,
    seeds: Sequence[int],
    settings: DrawConf | GenerationConf,
    watch: Watch | None = None,
    seconds: Sequence[float] | None = None,
) -> list[list[list[int]]]:
    """The `best_of` sounds that are drawn for each caption, as `text_to_sound` draws them."""
    count = settings.best_of
    lengths = [settings.seconds_max] * len(captions) if seconds is None else seconds
    requests = [(text, length) for text, length in zip(captions, lengths, strict=True) for _ in range(count)]
    drawn_from = [candidate_seed(seed, number) for seed in seeds for number in range(count)]
    sounds: list[list[int]] = []
    for start in range(0, len(requests), ROWS):
        part = slice(start, start + ROWS)
        sounds += _drawn(model, requests[part], max_codes, drawn_from[part], settings, watch)
    return [sounds[start : start + count] for start in range(0, len(sounds), count)]


def candidate_seed(seed: int, number: int) -> int:
    """Of the number-th sound, from 0, that is drawn for a seed; the first one is the seed's own."""
    return zlib.crc32(f"{seed} {number}".encode()) if number else seed


def caption_scores(model: TrainedModel, caption: str, sounds: Sequence[Sequence[int]]) -> list[float]:
    """Log-probability in nats of a caption given each sound."""
    request = model.prompts.sound_to_text[0]
    turns = [[Turn("user", [sound, f"\n{request}"]), Turn("assistant", [caption])] for sound in sounds]
    return text_scores(model.lm, model.vocabulary, turns)


def _most_probable(model: TrainedModel, caption: str, sounds: Sequence[list[int]]) -> list[int]:
    scores = caption_scores(model, caption, sounds)
    return sounds[scores.index(max(scores))]


def _drawn(
    model: TrainedModel,
    requests: Sequence[tuple[str, float]],  # caption, seconds
    max_codes: int,
    seeds: Sequence[int],
    settings: DrawConf | GenerationConf,
    watch: Watch | None,
) -> list[list[int]]:
    vocabulary, wording = model.vocabulary, model.prompts.text_to_sound[0]

    def prompts(requests: Sequence[tuple[str, float]]) -> PaddedPrompts:
        turns = [[Turn("user", [sound_request(wording, caption, length)])] for caption, length in requests]
        rendered = [one.input_ids for one in vocabulary.render_all(turns, generate=True)]
        if model.prompts.labels_before_sound:
            rendered = _with_words(model, rendered, [caption for caption, _ in requests])
        return pad_left(rendered, vocabulary.pad_id)

    ids, mask = prompts(requests)
    max_tokens = max_codes + 2  # and the marks around the sound
    check_context(model, ids.shape[1], max_tokens, "type a smaller --seconds_max")
    sampling, guidance = None, None
    if settings.temperature > 0:
        sampling = Sampling(settings.temperature, settings.top_p, seeds, settings.top_k)
    if (weight := guidance_of(settings, model.prompts)) != 1:
        guidance = Guidance(weight, *prompts([("", length) for _, length in requests]))
    answers = generate(model.lm, vocabulary, ids, mask, max_tokens, "audio", sampling, guidance, watch)
    return [vocabulary.codes(answer) for answer in answers]


def _with_words(model: TrainedModel, prompts: Sequence[list[int]], captions: Sequence[str]) -> list[list[int]]:
    """Each prompt with the words that the LLM writes before the sound; none where the caption is empty, as in training."""
    asked = dict.fromkeys(tuple(prompt) for prompt, caption in zip(prompts, captions, strict=True) if caption)
    if not asked:
        return list(prompts)
    ids, mask = pad_left(list(asked), model.vocabulary.pad_id)
    check_context(model, ids.shape[1], WORDS_MAX, "type a shorter caption")
    written = generate(model.lm, model.vocabulary, ids, mask, WORDS_MAX, "words")
    words = dict(zip(asked, written, strict=True))
    return [prompt + words.get(tuple(prompt), []) for prompt in prompts]


def check_context(model: TrainedModel, prompt: int, answer: int, cure: str) -> None:
    if model.context is not None and prompt + answer > model.context:
        raise UsageError(
            f"too long: {prompt} tokens and an answer of up to {answer} are more than the LLM's {model.context}; {cure}"
        )
