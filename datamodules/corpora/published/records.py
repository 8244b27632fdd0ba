"""What a published corpus yields, and what the parsers share: tables whose errors name the line, files by their id."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from datamodules.containers import CONTAINERS
from datamodules.corpora.tables import CsvLine, csv_lines
from datamodules.errors import DataError

SOUNDS = (  # of libsndfile, and of torchcodec
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".bwf", ".avr", ".voc", ".nist", ".sph", ".iff", ".svx", ".wve", *CONTAINERS,
)  # fmt: skip
NOTHING: Mapping[str, str | list[str]] = MappingProxyType({})


class About(NamedTuple):
    what: str
    layout: tuple[str, ...]  # under ROOT
    where: str  # people get it, and its licence
    splits: str
    question: str = "What sound is this?"  # asked about its labels
    known_bad: tuple[str, ...] = ()  # file stems that are shipped broken


class QuestionAnswer(NamedTuple):
    kind: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()  # what else the publisher says of it: its id, its difficulty, ...


class Record(NamedTuple):
    """One row of the publisher's about a recording; several records of one path are joined."""

    path: str  # relative to ROOT
    clip: str  # the publisher's id of the clip
    split: str  # train, validation, test
    where: str  # file and line, for errors
    # "youtube:ID", "freesound:ID": equal in all corpora that hold parts of it; empty: the clip of this corpus
    origin: str = ""
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    questions: tuple[QuestionAnswer, ...] = ()
    metadata: Mapping[str, str | list[str]] = NOTHING


class TableRow(NamedTuple):
    where: str
    values: dict[str, str]


def first(root: Path, names: Sequence[str], about: About) -> Path:
    """The first of these paths that exists. Raises DataError that says what is missing and where people get it."""
    for name in names:
        if (root / name).exists():
            return root / name
    raise DataError(
        f"{root}: no {' or '.join(names)}. It is part of the download: {about.where}. "
        f"`stage prepare --list` says what lies where"
    )


def table(
    path: Path,
    columns: Sequence[str],
    header: bool = True,
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    comment: str | None = None,
    as_written: Sequence[str] = (),
) -> Iterator[TableRow]:
    """The rows of a CSV. columns: those that it must have; without a header they are all of its columns. as_written:
    those whose blanks at both ends are kept, as file names.

    Raises DataError for a column or a field that is missing, with the line.
    """
    lines = csv_lines(path, encoding, delimiter, blanks=comment is not None)
    named = [name.strip() for name in next(lines, CsvLine(1, [])).fields] if header else list(columns)
    if lacking := [name for name in columns if name not in named]:
        raise DataError(f"{path}: no column {lacking[0]!r}. It has {', '.join(named) or 'none'}")
    for line, fields in lines:
        if not fields or (comment and fields[0].startswith(comment)):
            continue
        if len(fields) != len(named):
            raise DataError(f"{path}, line {line}: {len(fields)} fields, {len(named)} are expected")
        values = zip(named, fields, strict=True)
        yield TableRow(
            f"{path}, line {line}", {name: text if name in as_written else text.strip() for name, text in values}
        )


class Files:
    """The sound files under a folder by their stem, for corpora whose audio everybody fetches and names alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.several: dict[str, list[str]] = {}  # path that was taken -> the clip's other files

    @cached_property
    def by_stem(self) -> Mapping[str, list[str]]:
        """Stem -> paths relative to the root."""
        paths: dict[str, list[str]] = defaultdict(list)
        for folder, folders, names in os.walk(self.root, followlinks=True):
            folders.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SOUNDS:
                    paths[stem].append(os.path.relpath(os.path.join(folder, name), self.root))
        return paths

    def find(self, stems: Sequence[str], folders: Sequence[str] = (), strict: bool = False) -> str:
        """Path relative to the root of the first of these stems that exists; files in a folder whose name begins with
        one of `folders` come first.

        strict: only files in such folders. Without any, the path that was expected; strict, "".
        """
        paths = [path for stem in dict.fromkeys(stems) for path in self.by_stem.get(stem, [])]
        paths.sort(key=lambda path: path.lower().endswith(CONTAINERS))  # a sound before the video that it is of
        preferred = [path for path in paths if _is_in(path, folders)]
        taken = preferred or ([] if strict else paths)
        if len(taken) > 1:
            self.several[taken[0]] = taken[1:]
        return taken[0] if taken else "" if strict else f"{stems[0]}.wav"


def _is_in(path: str, folders: Sequence[str]) -> bool:
    return any(part.lower().startswith(name.lower()) for part in path.split(os.sep)[:-1] for name in folders)


class Options(NamedTuple):
    files: Files
    fold: int  # of the corpora with folds: the one that is tested on


def youtube(clip: str, start: float, end: float | None = None) -> list[str]:
    """File stems under which the usual downloaders keep a part of a video; start and end in seconds."""
    whole, milliseconds = int(start), round(start * 1000)
    stems = [clip, f"Y{clip}", f"{clip}_{whole:06d}", f"{clip}_{whole}", f"{clip}_{milliseconds}"]
    if end is not None:
        stems += [
            f"{clip}_{whole}_{int(end)}",
            f"{clip}_{milliseconds}_{round(end * 1000)}",
            f"{clip}_{start:.3f}_{end:.3f}",
            f"{clip}_{whole}-{int(end)}",
            f"{clip}_{float(start)}-{float(end)}",  # audioset-download
        ]
    return stems
