"""The field's corpora, one file each: the files as their publishers ship them -> records. The registry is a list of names; nothing heavy here."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.published.records import About, Options, Record

NAMES = (
    "esc50",
    "fsdd",
    "gtzan",
    "clotho",
    "audiocaps",
    "audioset",
    "vggsound",
    "fsd50k",
    "wavcaps",
    "musiccaps",
    "fma",
    "vctk",
    "mmau",
)


class Corpus(NamedTuple):
    about: About
    records: Callable[[Path, Options], Iterator[Record]]


def corpus(name: str) -> Corpus:
    module = importlib.import_module(f"datamodules.corpora.published.{name}")
    return Corpus(module.ABOUT, module.records)


def listing(name: str) -> str:
    """What `stage prepare --list` prints of a corpus."""
    about = corpus(name).about
    rows = [f"{name}: {about.what}", f"    splits   {about.splits}", f"    from     {about.where}"]
    rows += [f"    ROOT/{line}" for line in about.layout]
    return "\n".join(rows)
