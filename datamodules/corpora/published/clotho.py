"""Clotho 2.1 (Drossos et al. 2020, arXiv:1910.09387): Freesound recordings of 15 to 30 s with five captions each."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table

PUBLISHED_SPLITS = {"development": "train", "validation": "validation", "evaluation": "test"}
ABOUT = About(
    "5,929 recordings of 15 to 30 s, five captions each",
    (
        "clotho_captions_development.csv, ..._validation.csv, ..._evaluation.csv",
        "clotho_metadata_development.csv, ... (if there: the Freesound ids, by which contamination is found)",
        "development/Distorted AM Radio noise.wav, validation/..., evaluation/...",
    ),
    "zenodo.org/records/4783391 (captions: Tampere University's licence, not commercial; audio: each recording's own)",
    "the publisher's: development is train, evaluation is test",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    captions = [f"caption_{number}" for number in range(1, 6)]
    for part, split in PUBLISHED_SPLITS.items():
        path = first(root, [f"{place}clotho_captions_{part}.csv" for place in ("", "clotho_csv_files/")], ABOUT)
        folder = first(
            root, [part, f"clotho_audio_files/{part}", f"clotho_audio_{part}", f"clotho_audio_{part}/{part}"], ABOUT
        )
        about = path.with_name(f"clotho_metadata_{part}.csv")
        known = {}
        if about.is_file():  # written in Latin-1
            known = {
                line.values["file_name"]: line.values
                for line in table(about, ["file_name", "sound_id"], encoding="latin-1", as_written=["file_name"])
            }
        for where, row in table(path, ["file_name", *captions], as_written=["file_name"]):
            name = row["file_name"]
            sound = known.get(name, known.get(name.strip(), {})).get("sound_id", "")
            yield Record(
                str(folder.relative_to(root) / name),
                Path(name).stem,
                split,
                where,
                f"freesound:{sound}" if sound.isdigit() else "",
                captions=tuple(row[column] for column in captions if row[column]),
                metadata={"keywords": known.get(name, {}).get("keywords", "")},
            )
