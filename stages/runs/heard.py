"""Whether an LLM was trained on what it is asked about: another cache of its tokenizer may hold the questions."""

import logging
from pathlib import Path

import numpy as np

from conf.errors import UsageError
from conf.sections.common import StageConf
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from stages.runs import graph
from stages.runs.receipts import FinishedRun, lineage

log = logging.getLogger(__name__)


def refuse_heard(stage: str, conf: StageConf, language: FinishedRun, cache: FinishedRun, test: CachedCuts) -> None:
    """Raises UsageError where a recording of `test` is, to the bit, one that the LLM was trained on.

    With the LLM's own cache, whose splits share none, nothing is looked for. Warns where that cache is gone.
    """
    trained_on = lineage(language.receipt["stage"], language.receipt).get("cache")
    if trained_on is None or trained_on == cache.receipt["artifact_hash"]:
        return
    homes = graph.experiments(conf, "cache", trained_on)
    if not homes:
        text = "%s: the cache that %s was trained on is gone: whether it has heard these recordings is not known"
        log.warning(text, stage, language.folder)
        return
    train = chunks.read(Path(conf.runs) / homes[0] / "cache" / "chunks").of_split("train")
    heard = np.isin(test.rows["sound"][test.selected], train.rows["sound"][train.selected])
    if heard.any():
        first = test[int(heard.argmax())].id
        raise UsageError(
            f"{stage}: {int(heard.sum())} of {len(test)} recordings of the split 'test' are among those that {language.folder} was "
            f"trained on, as {first}: it would be asked what it was told. Take them out of the test split, or train without them"
        )
