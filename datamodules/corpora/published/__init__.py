"""The field's corpora, one file each: the files as their publishers ship them -> records. The registry is a list of
names; nothing heavy here.
"""

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
    "mmar",
    "mmsu",
    "mmau-pro",
)

OPENAQA = About(  # datamodules/corpora/openaqa.py
    "5.6 M questions and answers about sounds of AudioSet, AudioCaps, VGGSound, FSD50K, Clotho, WavCaps, "
    "which are prepared before it",
    (".: ROOT is the file, openaqa_5.6M.json or any other list or JSONL of LTU's records",),
    "github.com/YuanGongND/ltu (no licence given; the audio from each corpus' own site)",
    "train; validation is held out of it, and is what its corpora validate on",
)


class Corpus(NamedTuple):
    about: About
    records: Callable[[Path, Options], Iterator[Record]]


def corpus(name: str) -> Corpus:
    module = importlib.import_module(f"datamodules.corpora.published.{name.replace('-', '_')}")
    return Corpus(module.ABOUT, module.records)


def described(name: str) -> About:
    return OPENAQA if name == "openaqa" else corpus(name).about


def listing(name: str) -> str:
    """What `stage prepare --list` prints about a corpus."""
    about = described(name)
    rows = [f"{name}: {about.what}", f"    splits   {about.splits}", f"    from     {about.where}"]
    rows += [f"    ROOT/{line}" for line in about.layout]
    return "\n".join(rows)
