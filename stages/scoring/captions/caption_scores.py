"""All caption scores that a task names, over the same tokens, of the corpus and of every clip."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from stages.scoring.captions import coco
from stages.scoring.captions.coco import CaptionScore
from stages.scoring.captions.torchmetrics_scores import torchmetrics_scores


class Tools(NamedTuple):
    """What the scores need that is no Python: None where no metric asks for it."""

    package: Path | None = None  # the folder of pycocoevalcap
    encoders: Mapping[str, Any] = MappingProxyType({})  # name -> SentenceEmbedding
    checker: Any = None  # FENSE's: (FluencyChecker, tokenize)


def caption_scores(
    names: Sequence[str],
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    tools: Tools,
    times: Tensor | None = None,
) -> dict[str, CaptionScore]:
    """One caption a clip -> key -> CaptionScore.

    `items` is empty where the corpus' score is no mean over clips: BLEU and METEOR, which have `resamples` instead.

    times (samples, clips): how often each clip comes in a resample, for an interval.
    """
    scores: dict[str, CaptionScore] = {}
    words: coco.Tokens | None = None
    if {"bleu", "rouge_l", "cider_d", "meteor", "spice", "spider"} & set(names):
        assert tools.package is not None
        words = coco.tokens(tools.package, captions, references)
    for name in names:
        if name.startswith("torchmetrics_"):
            scores[name] = CaptionScore(torchmetrics_scores(captions, references)[name], [])
        elif name.startswith("similarity[") or name == "fense":
            scores |= _similar(name, captions, references, tools)
        elif words is not None and tools.package is not None:
            scores |= _coco(name, words, tools.package, scores, times)
    return scores


def _coco(
    name: str, words: coco.Tokens, package: Path, before: dict[str, CaptionScore], times: Tensor | None
) -> dict[str, CaptionScore]:
    if name == "bleu":
        return {key: one._replace(items=[]) for key, one in coco.bleu(words, times).items()}
    if name == "meteor":
        return {name: coco.meteor(package, words, times)._replace(items=[])}
    if name in ("cider_d", "rouge_l"):
        return {name: {"cider_d": coco.cider_d, "rouge_l": coco.rouge_l}[name](words)}
    from stages.scoring.captions.spice import spice

    graphs = before.get("spice") or spice(package, words)
    if name == "spice":
        return {name: graphs}
    cider = before.get("cider_d") or coco.cider_d(words)
    items = [(a + b) / 2 for a, b in zip(cider.items, graphs.items, strict=True)]
    return {name: CaptionScore((cider.corpus + graphs.corpus) / 2, items)}


def _similar(
    name: str, captions: Sequence[str], references: Sequence[Sequence[str]], tools: Tools
) -> dict[str, CaptionScore]:
    from models.metrics.sentence_embedding import similarity

    if name == "fense":
        from stages.scoring.captions.fense import fense

        embed = tools.encoders["sentence-transformers/paraphrase-TinyBERT-L6-v2"]
        return {name: fense(similarity(embed, captions, references).items, captions, *tools.checker)}
    result = similarity(tools.encoders[name.removeprefix("similarity[").removesuffix("]")], captions, references)
    return {name: CaptionScore(result.matched, result.items), f"{name}, shuffled": CaptionScore(result.shuffled, [])}
