"""What `stage prepare` takes."""

from dataclasses import dataclass

from conf.sections.common import Data


@dataclass
class FolderConf:
    """`stage prepare folder`: anybody's own recordings."""

    data: Data
    root: str
    metadata: str
    name: str | None  # of the corpus; null takes the folder's
    split_by: str | None  # a column whose values decide the split
    test: list[str]
    validation: list[str]
    validation_fraction: float
    label_question: str


@dataclass
class DiagnosticConf:
    """`stage prepare diagnostic`: scenes rendered from a seed."""

    data: Data
    train_scenes: int
    validation_scenes: int
    test_scenes: int
    scene_seconds: float
    sample_rate: int
    seed: int
    kinds: list[str]  # of sound, of those in datamodules/diagnostic; empty for all
