"""AudioCaps (Kim et al. 2019): AudioSet clips of 10 s with a caption, in validation and test with five."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table, youtube

PUBLISHED_SPLITS = {"train": "train", "val": "validation", "test": "test"}
ABOUT = About(
    "51 k AudioSet clips of 10 s with captions",
    (
        "dataset/train.csv, val.csv, test.csv (or beside each other in ROOT)",
        "any folder: <youtube_id>.wav, Y<youtube_id>.wav, <youtube_id>_<start>.wav or <audiocap_id>.wav",
    ),
    "github.com/cdjkim/audiocaps (captions: for academic use; the audio is YouTube's)",
    "the publisher's",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    files = options.files
    for part, split in PUBLISHED_SPLITS.items():
        path = first(root, [f"{folder}{part}.csv" for folder in ("dataset/", "", "dataset2.0/")], ABOUT)
        lines, numbers = list(table(path, ["audiocap_id", "youtube_id", "start_time", "caption"])), defaultdict(list)
        for _, row in lines:
            numbers[row["youtube_id"]].append(row["audiocap_id"])  # each caption of a clip has its own
        for where, row in lines:
            clip = row["youtube_id"]
            start = float(row["start_time"])
            stems = [*youtube(clip, start, start + 10), *numbers[clip]]
            yield Record(
                files.find(stems, [part]),
                clip,
                split,
                where,
                f"youtube:{clip}",
                captions=(row["caption"],),
                metadata={"start_seconds": row["start_time"], "audiocap_id": row["audiocap_id"]},
            )
