"""`stage prepare`: what it takes to make a corpus ready."""

from dataclasses import dataclass
from typing import Literal

from conf.laws import about
from conf.sections.common import DataConf

CONTAMINATION = (
    "training recordings that are also in the test split of a prepared corpus: drop leaves them out, keep keeps them, "
    "error refuses"
)
SURROUND = (
    "recordings of 3 to 5.1 channels: mix takes them down to stereo by ITU-R BS.775, refuse takes them for bad ones"
)


@dataclass
class CorpusConf:
    """What every corpus has."""

    data: DataConf = about("where the prepared corpus goes, and how recordings are read")


@dataclass
class FolderConf(CorpusConf):
    """`stage prepare folder ROOT`: recordings of your own."""

    root: str | None = about("folder of the recordings; the argument ROOT", path=True)
    metadata: str | None = about(
        "the CSV, TSV or JSONL that says what is heard: a column path (relative to ROOT), "
        "and any of caption, label, question, "
        "answer, split, source; several rows of one path are several captions or questions",
        path=True,
    )
    name: str | None = about("of the corpus, for --data.corpora; null: the folder's")
    split_by: str | None = about(
        "a column whose values decide the split, as --split_by=fold --test=4; null: the column split"
    )
    test: list[str] = about("values of split_by that are the test split, as 4 or [4,5]")
    validation: list[str] = about("values of split_by that are the validation split")
    validation_fraction: float = about(
        "where no recording is for validation: share of the sources not called train that "
        "is held out for it; 0 for none",
        0.0,
        0.9,
    )
    label_question: str = about("asked about a row that has a label and no question")
    contamination: Literal["drop", "keep", "error"] = about(CONTAMINATION)
    surround: Literal["mix", "refuse"] = about(SURROUND)


@dataclass
class FormatConf(CorpusConf):
    """`stage prepare lhotse|webdataset|huggingface ROOT`: recordings in a format of the field, read in place."""

    root: str | None = about(
        "Lhotse's manifest or Shar folder; the pattern of the tars, as 'shards-{000..099}.tar'; the folder of parquet, "
        "or an id of the hub: the argument ROOT",
        path=True,
    )
    name: str | None = about("of the corpus, for --data.corpora; null: what ROOT is called")
    audio: str = about("huggingface: the column of the sound")
    caption: str | None = about("field that is the caption; null: the one called caption, or a supervision's text")
    label: str | None = about("field that is the label; null: the one called label")
    question: str | None = about("field that is the question; null: the one called question")
    answer: str | None = about("field that is its answer; null: the one called answer")
    split: str | None = about("field that is the split; null: the one called split, or what a parquet's name says")
    source: str | None = about("field that says which recordings belong together; null: the one called source")
    split_by: str | None = about("a field whose values decide the split, as --split_by=fold --test=4; null: the split")
    test: list[str] = about("values of split_by that are the test split, as 4 or [4,5]")
    validation: list[str] = about("values of split_by that are the validation split")
    validation_fraction: float = about(
        "where no recording is for validation: share of the sources not called train that is held out for it; 0: none",
        0.0,
        0.9,
    )
    label_question: str = about("asked about a row that has a label and no question")
    contamination: Literal["drop", "keep", "error"] = about(CONTAMINATION)
    surround: Literal["mix", "refuse"] = about(SURROUND)


@dataclass
class DiagnosticConf(CorpusConf):
    """`stage prepare diagnostic`: scenes that the project renders from a seed."""

    train_scenes: int = about("scenes of the training split")
    validation_scenes: int = about("scenes of the validation split")
    test_scenes: int = about("scenes of the test split")
    scene_seconds: list[float] = about("length of a scene, s; of several each scene has the next in turn, as [10,30]")
    sample_rate: int = about("Hz")
    seed: int = about("of all scenes")
    kinds: list[str] = about("kinds of sound, of those in datamodules/diagnostic; []: all")
    extras: list[Literal["layers", "repeats", "levels", "moments", "grounding", "unanswerable", "place", "apart"]] = (
        about(
            "what scenes and questions have beyond the first version: a sound that goes on below others, one that is struck up to "
            "five times, quieter events, questions about moments, questions that the sound does not answer, sounds that are far "
            "and questions of place, pairs of kinds that are never heard together; []: none"
        )
    )
    axis: (
        Literal["combinations", "wordings", "voices", "programs", "length", "level", "exchanged", "moved", "louder"]
        | None
    ) = about(
        "a test split alone, the corpus diagnostic-AXIS, of what no ordinary scene has, or of minimal pairs; null: the corpus"
    )
    noise_floor_share: float = about(
        "share of the scenes with noise of -60 to -50 dBFS below their events; the others are digitally silent there",
        0.0,
        1.0,
    )


@dataclass
class PublishedConf(CorpusConf):
    """`stage prepare NAME ROOT`: a published corpus, as its publisher ships it."""

    root: str | None = about("folder of the corpus; the argument ROOT", path=True)
    name: str | None = about("of the prepared corpus; null: the published one's")
    split: Literal["train", "validation", "test"] | None = about(
        "put all recordings into this split; null: the publisher's splits"
    )
    fold: int = about("the fold that is the test split, where the publisher has folds (ESC-50: 1 to 5)")
    validation_fraction: float = about(
        "share of the training sources held out for validation, where the publisher has no such split", 0.0, 0.9
    )
    label_question: str | None = about("asked about labels; null: the corpus has its question")
    contamination: Literal["drop", "keep", "error"] = about(CONTAMINATION)
    surround: Literal["mix", "refuse"] = about(SURROUND)


@dataclass
class QuestionsConf(CorpusConf):
    """`stage prepare openaqa FILE`: LTU's questions and answers about the sounds of prepared corpora."""

    root: str | None = about("the .json or .jsonl of records; the argument ROOT", path=True)
    name: str = about("of the prepared corpus")
    tasks: list[str] = about("values of OpenAQA's column `task` to take, as [cla_label, temporal_order]; []: all")
    datasets: list[str] = about("values of OpenAQA's column `dataset` to take, as [as_strong_train]; []: all")
    closed_prefix: Literal["keep", "strip"] = about('what becomes of "Closed-ended question: " before a question')
    corpora: dict[str, list[str]] = about(
        "beginning of a dataset's name -> prepared corpora that its sounds are looked up in, in this order"
    )
    validation_fraction: float = about("share of the recordings held out for validation", 0.0, 0.9)
    contamination: Literal["drop", "keep", "error"] = about(CONTAMINATION)
