"""FSD50K (Fonseca et al. 2020, arXiv:2010.00475): 51,197 Freesound clips with labels of a vocabulary of 200."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table
from datamodules.errors import DataError

PUBLISHED_SPLITS = {"train": "train", "val": "validation"}
ABOUT = About(
    "51,197 Freesound clips, 200 labels",
    (
        "FSD50K.ground_truth/dev.csv, eval.csv, vocabulary.csv",
        "FSD50K.dev_audio/64760.wav",
        "FSD50K.eval_audio/37199.wav",
    ),
    "zenodo.org/records/4060432 (data set CC BY 4.0; audio: each clip's own)",
    "the publisher's: dev is train and validation, eval is test",
    "What sounds are heard?",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    folder = first(root, ["FSD50K.ground_truth"], ABOUT)
    paths = [first(folder, [name], ABOUT) for name in ("vocabulary.csv", "dev.csv", "eval.csv")]
    vocabulary = {line.values["label"] for line in table(paths[0], ["index", "label", "mid"], header=False)}
    for path, audio in zip(paths[1:], ("FSD50K.dev_audio", "FSD50K.eval_audio"), strict=True):
        columns = ["fname", "labels", "mids", *(["split"] if path.name == "dev.csv" else [])]
        for where, row in table(path, columns):
            labels = row["labels"].split(",")
            if unknown := [label for label in labels if label not in vocabulary]:
                raise DataError(f"{where}: the label {unknown[0]!r} is not in {paths[0]}")
            if "split" in columns and row["split"] not in PUBLISHED_SPLITS:
                raise DataError(f"{where}: split {row['split']!r}; {' and '.join(PUBLISHED_SPLITS)} are allowed")
            yield Record(
                f"{audio}/{row['fname']}.wav",
                row["fname"],
                PUBLISHED_SPLITS[row["split"]] if "split" in columns else "test",
                where,
                f"freesound:{row['fname']}",
                labels=tuple(label.replace("_", " ") for label in labels),
            )
