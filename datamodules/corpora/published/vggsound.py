"""VGGSound (Chen et al. 2020, arXiv:2004.14368): 10 s parts of 200 k videos, one of 309 labels each."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table, youtube
from datamodules.errors import DataError

ABOUT = About(
    "200 k clips of 10 s, 309 classes",
    (
        "vggsound.csv (no header: video, start, label, split)",
        "any folder: <video>_<start, six digits>.wav, or as AudioSet's",
    ),
    "robots.ox.ac.uk/~vgg/data/vggsound (CC BY 4.0; the audio is YouTube's)",
    "the publisher's; validation is held out of train",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    path, files = first(root, ["vggsound.csv", "data/vggsound.csv"], ABOUT), options.files
    for where, row in table(path, ["video", "start", "label", "split"], header=False):
        if row["split"] not in ("train", "test"):
            raise DataError(f"{where}: split {row['split']!r}; train and test are allowed")
        clip, start = row["video"], int(row["start"])
        name = f"{clip}_{start:06d}"
        yield Record(
            files.find([name, *youtube(clip, start, start + 10)]),
            name,
            row["split"],
            where,
            f"youtube:{clip}",
            labels=(row["label"],),
            metadata={"start_seconds": row["start"]},
        )
