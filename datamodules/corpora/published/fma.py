"""FMA (Defferrard et al. 2017, arXiv:1612.01840): 106,574 tracks of the Free Music Archive with genres.

FMA has no captions: one is made of what can be heard of the metadata, the genres. Titles and artists are kept as
metadata.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table
from datamodules.corpora.tables import csv_lines
from datamodules.errors import DataError

PUBLISHED_SPLITS = {"training": "train", "validation": "validation", "test": "test"}
SUBSETS = ("small", "medium", "large", "full")  # each holds the one before it
ABOUT = About(
    "106,574 tracks with genres (the paper's pretraining); captions are made of the genres",
    (
        "fma_metadata/tracks.csv, genres.csv",
        "fma_small/000/000002.mp3 (or fma_medium, fma_large, fma_full: the largest that is there)",
    ),
    "github.com/mdeff/fma (metadata CC BY 4.0; audio: each track's own)",
    "the publisher's",
    "What is the genre of this music?",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    folder = first(root, [f"fma_{subset}" for subset in reversed(SUBSETS)], ABOUT)
    wanted = SUBSETS[: SUBSETS.index(folder.name.removeprefix("fma_")) + 1]
    tracks, named = (first(root, [f"fma_metadata/{name}"], ABOUT) for name in ("tracks.csv", "genres.csv"))
    titles = {line.values["genre_id"]: line.values["title"] for line in table(named, ["genre_id", "title"])}
    lines = csv_lines(tracks)
    try:
        pairs = zip(next(lines).fields, next(lines).fields, strict=True)
        columns = {pair: number for number, pair in enumerate(pairs)}
        next(lines)  # the third header names the index alone
        split, subset, top, genres, title, artist = (
            columns[pair]
            for pair in (
                ("set", "split"),
                ("set", "subset"),
                ("track", "genre_top"),
                ("track", "genres"),
                ("track", "title"),
                ("artist", "name"),
            )
        )
    except (StopIteration, KeyError, ValueError) as error:
        raise DataError(f"{tracks}: its three header lines are not FMA's ({error})") from None
    for line, row in lines:
        where = f"{tracks}, line {line}"
        if len(row) <= max(columns.values()) or row[split] not in PUBLISHED_SPLITS or not row[0].isdigit():
            raise DataError(f"{where}: no track, or a split that is none of {', '.join(PUBLISHED_SPLITS)}")
        if row[subset] not in wanted:
            continue
        number = int(row[0])
        numbers = json.loads(row[genres] or "[]")
        if unknown := [genre for genre in numbers if str(genre) not in titles]:
            raise DataError(f"{where}: the genre {unknown[0]} is not in {named}")
        named_genres = list(
            dict.fromkeys([*([row[top]] if row[top] else []), *(titles[str(genre)] for genre in numbers)])
        )
        yield Record(
            f"{folder.name}/{number // 1000:03d}/{number:06d}.mp3",
            f"{number:06d}",
            PUBLISHED_SPLITS[row[split]],
            where,
            f"fma:{number}",
            captions=(f"A piece of music. Genre: {', '.join(named_genres)}.",) if named_genres else (),
            labels=(row[top],) if row[top] else (),
            metadata={"title": row[title], "artist": row[artist], "genres": named_genres},
        )
