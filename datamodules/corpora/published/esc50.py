"""ESC-50 (Piczak 2015): 2,000 environmental clips of 5 s in 50 classes and five folds; ESC-10 is a part of it."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table
from datamodules.errors import DataError

ABOUT = About(
    "2,000 environmental clips of 5 s, 50 classes",
    ("meta/esc50.csv", "audio/1-100032-A-0.wav"),
    "github.com/karolpiczak/ESC-50 (CC BY-NC 3.0; its ESC-10 part CC BY 3.0)",
    "five folds of the publisher: --fold (5) is test, the others train; validation is held out of those",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    path = first(root, ["meta/esc50.csv", "esc50.csv"], ABOUT)
    lines = list(table(path, ["filename", "fold", "category", "src_file"]))
    folds = sorted({line.values["fold"] for line in lines})
    if str(options.fold) not in folds:
        raise DataError(f"--fold={options.fold}: {path} has the folds {', '.join(folds)}")
    for where, row in lines:
        name = row["filename"]
        yield Record(
            f"audio/{name}",
            Path(name).stem,
            "test" if row["fold"] == str(options.fold) else "train",
            where,
            f"freesound:{row['src_file']}",
            labels=(row["category"].replace("_", " "),),
            metadata={"fold": row["fold"], "esc10": row.get("esc10", "")},
        )
