"""GTZAN (Tzanetakis and Cook 2002): 1,000 pieces of 30 s in ten genres. The lists without its faults are Kereliuk's
(2015, arXiv:1507.04761).
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.errors import DataError

LISTS = {"train": "train_filtered.txt", "validation": "valid_filtered.txt", "test": "test_filtered.txt"}
SPOKEN = {"hiphop": "hip-hop"}
ABOUT = About(
    "1,000 pieces of 30 s, ten genres (the paper's Table III)",
    (
        "genres_original/jazz/jazz.00000.wav, or genres/jazz/jazz.00000.au",
        "train_filtered.txt, valid_filtered.txt, test_filtered.txt (if you want these splits)",
    ),
    "marsyas.info/downloads/datasets.html (no licence given); the lists: github.com/jongpillee/music_dataset_split",
    "all test, as in the paper; the fault-filtered lists where all three lie in ROOT (what they leave out is left out)",
    "What is the genre of this music?",
    ("jazz.00054",),
)


def records(root: Path, options: Options) -> Iterator[Record]:
    folder = first(root, ["genres_original", "Data/genres_original", "genres"], ABOUT)
    lists = [name for name in LISTS.values() if (root / name).is_file()]
    if lists and len(lists) < len(LISTS):
        raise DataError(
            f"{root}: {', '.join(lists)} without the other lists; all of {', '.join(LISTS.values())} or none"
        )
    if lists:
        for split, name in LISTS.items():
            for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
                if line.strip():
                    stem = Path(line.strip()).with_suffix("")
                    paths = [folder / f"{stem}{suffix}" for suffix in (".wav", ".au")]
                    path = next((path for path in paths if path.is_file()), paths[0])
                    yield _record(root, path, split, f"{root / name}, line {number}")
        return
    for genre in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted([*genre.glob("[!.]*.wav"), *genre.glob("[!.]*.au")]):
            yield _record(root, path, "test", str(path))


def _record(root: Path, path: Path, split: str, where: str) -> Record:
    genre = path.parent.name
    return Record(str(path.relative_to(root)), path.stem, split, where, labels=(SPOKEN.get(genre, genre),))
