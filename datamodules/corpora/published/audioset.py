"""AudioSet (Gemmeke et al. 2017): 10 s parts of 2 M videos with several labels each; strong labels say when (Hershey
et al. 2021).
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, QuestionAnswer, Record, first, table, youtube
from datamodules.errors import DataError

PARTS = {"balanced_train_segments": "train", "unbalanced_train_segments": "train", "eval_segments": "test"}
STRONG = ("audioset_train_strong.tsv", "audioset_eval_strong.tsv")
ABOUT = About(
    "2 M clips of 10 s, 527 labels",
    (
        "balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv: those whose audio you have",
        "class_labels_indices.csv",
        "audioset_train_strong.tsv, audioset_eval_strong.tsv, mid_to_display_name.tsv (if you want the times)",
        "any folder: <YTID>.wav, Y<YTID>.wav, <YTID>_<start>.wav, <YTID>_<start>_<end>.wav (seconds or milliseconds)",
    ),
    "research.google.com/audioset/download.html and download_strong.html (labels CC BY 4.0; the audio is YouTube's)",
    "the publisher's: eval is test; validation is held out of train",
    "What sounds are heard?",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    first(root, [f"{part}.csv" for part in PARTS], ABOUT)
    labels = first(root, ["class_labels_indices.csv"], ABOUT)
    names = {
        line.values["mid"]: line.values["display_name"] for line in table(labels, ["index", "mid", "display_name"])
    }
    events, files = _events(root), options.files
    columns = ["YTID", "start_seconds", "end_seconds", "positive_labels"]
    for part, split in PARTS.items():
        if not (root / f"{part}.csv").is_file():
            continue
        for where, row in table(root / f"{part}.csv", columns, header=False, comment="#"):
            clip, start, end = row["YTID"], float(row["start_seconds"]), float(row["end_seconds"])
            mids = row["positive_labels"].split(",")
            if unknown := [mid for mid in mids if mid not in names]:
                raise DataError(f"{where}: {unknown[0]} is not in {labels}")
            times = "; ".join(events.get(f"{clip}_{round(start * 1000)}", []))
            yield Record(
                files.find(youtube(clip, start, end), [part, part.removesuffix("_segments")]),
                clip,
                split,
                where,
                f"youtube:{clip}",
                labels=tuple(names[mid] for mid in mids),
                questions=(QuestionAnswer("times", "When is which sound heard?", times),) if times else (),
                metadata={"start_seconds": row["start_seconds"]},
            )


def _events(root: Path) -> dict[str, list[str]]:
    """Segment's id -> its sounds with their times."""
    events: dict[str, list[str]] = defaultdict(list)
    available = [root / name for name in STRONG if (root / name).is_file()]
    if not available:
        return events
    path = first(root, ["mid_to_display_name.tsv"], ABOUT)
    names = {
        line.values["mid"]: line.values["name"] for line in table(path, ["mid", "name"], header=False, delimiter="\t")
    }
    for path in available:
        for where, row in table(
            path, ["segment_id", "start_time_seconds", "end_time_seconds", "label"], delimiter="\t"
        ):
            if row["label"] not in names:
                raise DataError(f"{where}: {row['label']} is not in mid_to_display_name.tsv")
            start, end = float(row["start_time_seconds"]), float(row["end_time_seconds"])
            events[row["segment_id"]].append(f"{names[row['label']]} from {start:.1f} to {end:.1f} s")
    return events
