"""Where in a clip an answer's attention lies, token by token of the answer."""

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from callbacks import pictures
from models.language.answer_attention import answer_attention
from models.language.vocabulary import Turn, Vocabulary
from stages.reports.embedded_audio import Drawing, drawing

MOST = 1024  # tokens of a conversation: 2 GB of weights in a 7B LLM
log = logging.getLogger(__name__)


def draw(
    lm: PreTrainedModel, vocabulary: Vocabulary, turns: Sequence[Turn], answer: str, token_rate: float
) -> Drawing | None:
    """A row each token of `answer` to `turns`, whose sounds have token_rate blocks of codes a second; the brightest point
    has the most attention. None where there is no text or no sound, and, with a line in the log, for more than MOST tokens
    and for an LLM that gives no weights.
    """
    prompt = vocabulary.render(turns, generate=True).input_ids
    whole = vocabulary.render([*turns, Turn("assistant", [answer])]).input_ids
    is_code = torch.tensor([vocabulary.first_code_id <= token < vocabulary.first_time_id for token in prompt])
    words = [vocabulary.decode([token]) for token in whole[len(prompt) :]]  # "" of an end of turn
    if not any(words) or not is_code.any():
        return None
    if len(whole) > MOST:
        log.warning("report.html: no attention of %r: %d tokens; up to %d are drawn", answer, len(whole), MOST)
        return None
    weights = answer_attention(lm, prompt, whole[len(prompt) :])
    if weights is None:
        log.warning("report.html: %s gives no weights of attention", type(lm).__name__)
        return None
    clip = weights[torch.tensor([bool(word) for word in words])][:, is_code]
    blocks = clip.unflatten(1, (-1, len(vocabulary.levels))).sum(-1)
    name = f"attention over the clip, {clip.sum(1).mean():.0%} of all"
    return drawing(name, pictures.attention(blocks, [word for word in words if word], blocks.shape[1] / token_rate))
