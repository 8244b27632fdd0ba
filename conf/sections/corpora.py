"""What `stage prepare` takes."""

from dataclasses import dataclass
from typing import Literal

from conf.sections.common import Data


@dataclass
class CorpusConf:
    """What every corpus has."""

    data: Data


@dataclass
class FolderConf(CorpusConf):
    """`stage prepare folder`: anybody's own recordings."""

    root: str | None
    metadata: str | None
    name: str | None  # of the corpus; null takes the folder's
    split_by: str | None  # a column whose values decide the split
    test: list[str]
    validation: list[str]
    validation_fraction: float
    label_question: str


@dataclass
class DiagnosticConf(CorpusConf):
    """`stage prepare diagnostic`: scenes rendered from a seed."""

    train_scenes: int
    validation_scenes: int
    test_scenes: int
    scene_seconds: float
    sample_rate: int
    seed: int
    kinds: list[str]  # of sound, of those in datamodules/diagnostic; empty for all


@dataclass
class PublishedConf(CorpusConf):
    """`stage prepare NAME ROOT`: a corpus of the field, as its publisher ships it."""

    root: str | None
    name: str | None  # of the prepared corpus; null takes its own
    split: Literal["train", "validation", "test"] | None
    fold: int
    validation_fraction: float
    label_question: str | None
    contamination: Literal["drop", "keep", "error"]


@dataclass
class QuestionsConf(CorpusConf):
    """`stage prepare openaqa FILE`: LTU's records about sounds of corpora that are prepared."""

    root: str | None  # a .json or .jsonl
    name: str
    tasks: list[str]
    datasets: list[str]
    closed_prefix: Literal["keep", "strip"]
    corpora: dict[str, list[str]]  # beginning of a dataset's name -> prepared corpora
    validation_fraction: float
    contamination: Literal["drop", "keep", "error"]
