"""Whether an LLM was trained on what it is asked about: another cache of its tokenizer may hold the questions."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from conf.errors import UsageError
from conf.sections.evaluation import EvaluateConf, GenerationConf, language_stage
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from stages.runs import graph
from stages.runs.receipts import FinishedRun

log = logging.getLogger(__name__)


def refuse_contamination(
    stage: str, conf: EvaluateConf | GenerationConf, parents: Mapping[str, FinishedRun], test: CachedCuts
) -> None:
    """Raises UsageError where a recording of `test` is, to the bit, one that the LLM of `conf.after` was trained on.

    Nothing is looked for in the LLM's own cache, whose splits share no recording. Warns where that cache is gone.
    """
    language = parents[language_stage(conf.after)]
    trained_on = language.receipt["ancestors"]["cache"]
    if conf.after == "none" or trained_on == parents["cache"].receipt["artifact_hash"]:
        return
    homes = graph.experiments(conf, "cache", trained_on)
    if not homes:
        text = "%s: the cache that %s was trained on is gone: whether it has heard these recordings is not known"
        log.warning(text, stage, language.folder)
        return
    train = chunks.read(Path(conf.runs) / homes[0] / "cache" / "chunks").of_split("train")
    trained = np.isin(test.rows["sound"][test.selected], train.rows["sound"][train.selected])
    if trained.any():
        first = test[int(trained.argmax())].id
        raise UsageError(
            f"{stage}: {int(trained.sum())} of {len(test)} recordings of the split 'test' are among those that {language.folder} was "
            f"trained on, as {first}. Take them out of the test split, or train an LLM without them"
        )
