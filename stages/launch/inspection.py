"""How `stage prepare` inspects: with a line of progress, and in shards, one process each, that a last run joins. No torch here."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from callbacks.progress import ProgressLine
from conf.errors import UsageError
from conf.sections.corpora import CorpusConf
from datamodules.corpora.inspection_record import Inspector, Shard

log = logging.getLogger(__name__)


@contextmanager
def inspector(name: str, configuration: CorpusConf, shard: Shard | None = None) -> Iterator[Inspector]:
    """Decodes what no earlier run has, says how much that is, and shows how far it is, its rate and the time left."""
    lines: list[ProgressLine] = []

    def show(done: int, total: int) -> None:
        if not lines:
            if done:
                log.info("%-14s %d of %d recordings were inspected before", name, done, total)
            lines.append(ProgressLine(name, total, "recordings", visible=done < total, every_tenth=False))
            lines[0].start(done)
        else:
            lines[0].update(done)

    data = configuration.data
    try:
        yield Inspector(max(data.num_workers, 1), Path(data.root) / name, shard, show)
    finally:
        for line in lines:
            line.stop()


def parse_shard(text: str) -> Shard:
    """ "3/32": the fourth of 32. Raises UsageError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise UsageError(f"--shard={text}: I/N with I from 0 to N - 1 is allowed, as --shard=0/32 to --shard=31/32")
    return Shard(int(match[1]), int(match[2]))
