"""AudioCaps (Kim et al. 2019): AudioSet clips of 10 s with a caption, in validation and test with five."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Files, Options, Record, first, table, youtube

SPLITS = {"train": "train", "val": "validation", "test": "test"}
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
    files = Files(root)
    for part, split in SPLITS.items():
        path = first(root, [f"{place}{part}.csv" for place in ("dataset/", "", "dataset2.0/")], ABOUT)
        for where, row in table(path, ["audiocap_id", "youtube_id", "start_time", "caption"]):
            clip = row["youtube_id"]
            stems = [*youtube(clip, float(row["start_time"])), row["audiocap_id"]]
            yield Record(
                files.find(stems, [part]),
                clip,
                split,
                where,
                f"youtube:{clip}",
                captions=(row["caption"],),
                metadata={"start_seconds": row["start_time"], "audiocap_id": row["audiocap_id"]},
            )
