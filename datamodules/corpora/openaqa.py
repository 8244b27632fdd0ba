"""OpenAQA (Gong et al. 2023, arXiv:2305.10790): 5.6 M questions about sounds of other corpora, joined to those that are
prepared.

A record is {"instruction", "output", "audio_id"} and, not always, "input", "dataset", "task". audio_id is a path on
its authors' machine: its stem is looked up among the clips of the prepared corpora that hold the dataset, never the
path. All that grows with the records is in SQLite on the disk.
"""

import json
import os
import re
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ijson

from datamodules.corpora import writer
from datamodules.corpora.contamination import (
    Shared,
    Tested,
    manifest_rows,
    prepared_corpora,
    refuse_shared,
    tested,
    write_jsonl,
)
from datamodules.corpora.inspect import Inspection
from datamodules.cuts import SPLITS
from datamodules.errors import DataError
from datamodules.hashing import digest

PREFIX = re.compile(r"Close[d]?-ended question:\s*")
CAPTION = re.compile(r"Audio caption\s*:\s*", re.IGNORECASE)
YOUTUBE = re.compile(r"[\w-]{11}")  # a video's id: not a character of it may change
LABELS = re.compile(r"Label\(s\)\s*:\s*")
REQUIRED, OPTIONAL = ("instruction", "output", "audio_id"), ("input", "dataset", "task")
BATCH = 10_000
TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536; PRAGMA temp_store = FILE;
CREATE TABLE audio (id INTEGER PRIMARY KEY, cut TEXT);
CREATE TABLE clip (place TEXT, key TEXT, audio INTEGER, PRIMARY KEY (place, key, audio)) WITHOUT ROWID;
CREATE TABLE record (audio INTEGER, dataset TEXT, kind TEXT, question TEXT, answer TEXT);
CREATE TABLE missing
    (dataset TEXT, audio_id TEXT, reason TEXT, records INTEGER, PRIMARY KEY (dataset, audio_id)) WITHOUT ROWID;
"""


class DatasetCounts(NamedTuple):
    """The records of a dataset: how many have their sound in a prepared corpus."""

    records: int
    found: int
    missing: int
    duplicated: int  # found in more than one corpus; the first counts


class Question(NamedTuple):
    dataset: str
    kind: str
    question: str
    answer: str


class PreparedOpenAQA(NamedTuple):
    report: writer.Report
    root: Path  # that the recordings' paths are relative to
    datasets: dict[str, DatasetCounts]
    filtered: int  # records of other tasks or datasets
    repeated: int  # records that repeat another one
    missing: int  # recordings
    contaminated: int  # recordings


def prepare_openaqa(
    file: Path,
    out: Path,
    *,
    name: str,
    tasks: Sequence[str],
    datasets: Sequence[str],
    closed_prefix: str,
    corpora: Mapping[str, Sequence[str]],
    validation_fraction: float,
    contamination: str,
    on_bad: str,
) -> PreparedOpenAQA:
    """Writes out/cuts.jsonl.gz, a cut for each recording with all questions about it, or nothing; and
    out/missing.jsonl, out/contaminated.jsonl.

    corpora: the beginning of a dataset's name -> where its sounds are: corpora beside `out`, or CORPUS/SUBSET of one.
    "Audio caption: " answers become captions. A recording is for validation where it is so in its own corpus, or by
    `validation_fraction` and the hash of its origin. Raises DataError for records that are none, and where a sound is
    missing unless on_bad is skip.
    """
    writer.check_name(name)
    if not file.is_file():
        raise DataError(
            f"{file}: no such file. It is one of LTU's, as openaqa_5.6M.json: a JSON list, or JSONL "
            "(github.com/YuanGongND/ltu)"
        )
    places = list(dict.fromkeys(place for group in corpora.values() for place in group))
    prepared = prepared_corpora(out.parent, out)
    roots = {
        corpus: Path(receipt["root"])
        for corpus, receipt in prepared.items()
        if corpus in {place.split("/")[0] for place in places}
    }
    if not roots:
        raise DataError(
            f"{out.parent} holds none of {', '.join(places)}: OpenAQA's sounds are theirs. "
            "`stage prepare --list` says where they come from"
        )
    tests = tested(out.parent, out)
    out.mkdir(parents=True, exist_ok=True)
    part = out / f".part-{os.getpid()}.sqlite"
    part.unlink(missing_ok=True)
    db = sqlite3.connect(part, isolation_level=None)
    try:
        db.executescript(TABLES)
        root = Path(os.path.commonpath(roots.values()))
        _index(db, out.parent, roots, root)
        datasets_read, filtered = _read(db, file, tasks, datasets, closed_prefix, corpora)
        missing = _list_missing(db, out / "missing.jsonl")
        counts = ", ".join(
            f"{dataset or 'no dataset'} {item.missing} of {item.records}"
            for dataset, item in datasets_read.items()
            if item.missing
        )
        if not sum(item.found for item in datasets_read.values()):
            raise DataError(
                f"{file}: no sound of its records is in {', '.join(roots)} ({counts or 'all were filtered out'})"
            )
        if missing and on_bad == "error":
            raise DataError(
                f"{missing} recordings are in no prepared corpus, of the records of {counts}. "
                f"All of them: {out / 'missing.jsonl'}\n"
                "Prepare their corpora, or go on without them: --data.on_bad=skip"
            )
        report, repeated, shared = _write(db, out, name, tests, validation_fraction, contamination)
    except sqlite3.OperationalError as error:
        raise DataError(
            f"{part}: {error}. All records of {file} lie there until it is done, some {file.stat().st_size >> 20} MiB, and "
            f"are sorted in {tempfile.gettempdir()}: make room, and type the same command"
        ) from error
    finally:
        db.close()
        part.unlink(missing_ok=True)
    write_jsonl(out / "contaminated.jsonl", (row._asdict() for row in shared))
    return PreparedOpenAQA(report, root, datasets_read, filtered, repeated, missing, len(shared))


def records(file: Path) -> Iterator[dict[str, str]]:
    """The records of a JSON list or of JSONL, one at a time. Raises DataError that names the one that is none."""
    with file.open("rb") as stream:
        begin = stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
        if begin not in (b"[", b"{"):
            raise DataError(
                f"{file}: a JSON list of records, or one record a line, is expected, here it begins with {begin!r}"
            )
        stream.seek(3 if stream.seek(0) or stream.read(3) == b"\xef\xbb\xbf" else 0)
        number = 0
        try:
            for number, record in enumerate(
                ijson.items(stream, "item" if begin == b"[" else "", multiple_values=begin == b"{"), 1
            ):
                _check(record, f"{file}, record {number}")
                yield record
        except ijson.JSONError as error:
            raise DataError(f"{file}: no JSON after record {number}: {str(error).strip().splitlines()[0]}") from None


def _check(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{where}: an object with {', '.join(REQUIRED)} is expected, here {str(record)[:60]!r}")
    for key in REQUIRED:
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise DataError(
                f"{where}: {key!r} is a text that is not empty, here {record.get(key)!r}; "
                f"the record has {', '.join(record)}"
            )
    for key in OPTIONAL:
        if not isinstance(record.get(key) or "", str):
            raise DataError(f"{where}: {key!r} is a text, here {record[key]!r}")


def _index(db: sqlite3.Connection, folder: Path, roots: Mapping[str, Path], common: Path) -> None:
    """Every recording of the corpora under its clip's id and its file's stem, in its corpus and in its subset."""
    number = 0
    for corpus, root in roots.items():
        audios, clips = [], []
        for cut in manifest_rows(folder / corpus / "cuts.jsonl.gz"):
            number += 1
            recording, custom = cut["recording"], cut["custom"]
            path = (root / recording["sources"][0]["source"]).relative_to(common).as_posix()
            fields = {
                "id": cut["id"],
                "path": path,
                "rate": recording["sampling_rate"],
                "samples": recording["num_samples"],
                "channels": len(recording["channel_ids"]),
                "size": custom.get("size"),
                "sha256": custom.get("sha256"),
                "split": custom["split"],
                "origin": custom.get("origin") or custom["source"],
                "labels": custom["labels"],
            }
            audios.append((number, json.dumps(fields)))
            subset = custom.get("metadata", {}).get("subset")
            for place in (corpus, f"{corpus}/{subset}") if subset else (corpus,):
                clips += [(place, key, number) for key in _keys({custom.get("clip", ""), PurePosixPath(path).stem})]
            if len(audios) >= BATCH:
                _insert(db, "audio", audios)
                _insert(db, "clip", clips)
        _insert(db, "audio", audios)
        _insert(db, "clip", clips)


def _read(
    db: sqlite3.Connection,
    file: Path,
    tasks: Sequence[str],
    datasets: Sequence[str],
    closed_prefix: str,
    corpora: Mapping[str, Sequence[str]],
) -> tuple[dict[str, DatasetCounts], int]:
    """The records into the database -> counts of each dataset, and how many are of other tasks or datasets."""
    everywhere = list(dict.fromkeys(place for group in corpora.values() for place in group))
    count: dict[str, Counter[str]] = {}
    filtered, rows, missing = 0, [], []
    for record in records(file):
        dataset, task = record.get("dataset") or "", record.get("task") or "question"
        if (tasks and task not in tasks) or (datasets and dataset not in datasets):
            filtered += 1
            continue
        counted = count.setdefault(dataset, Counter())
        counted["records"] += 1
        places = next(
            (group for begin, group in corpora.items() if dataset.startswith(begin)), [] if dataset else everywhere
        )
        audios, reason = _lookup(db, record["audio_id"], places)
        if not dataset and len(audios) > 1:
            audios, reason = [], "several sounds have its name, and it names no dataset"
        counted["duplicated"] += len(audios) > 1
        if audios:
            counted["found"] += 1
            question = record["instruction"].strip()
            question = PREFIX.sub("", question, count=1) if closed_prefix == "strip" else question
            addition = (record.get("input") or "").strip()
            question = f"{question}\n{addition}" if addition else question
            rows.append((audios[0], dataset, task, question, record["output"].strip()))
        else:
            counted["missing"] += 1
            missing.append((dataset, record["audio_id"], reason))
        if len(rows) >= BATCH:
            _insert(db, "record", rows)
        if len(missing) >= BATCH:
            _insert_missing(db, missing)
    _insert(db, "record", rows)
    _insert_missing(db, missing)
    return {
        dataset: DatasetCounts(*(item[field] for field in DatasetCounts._fields)) for dataset, item in count.items()
    }, filtered


def _lookup(db: sqlite3.Connection, audio_id: str, places: Sequence[str]) -> tuple[list[int], str]:
    """Recordings under the stem of a path, in the order of the places; or why there is none."""
    if not places:
        return [], "no corpora are named for its dataset, as --corpora.DATASET=[audioset]"
    stem = os.path.splitext(audio_id.replace("\\", "/").rpartition("/")[2])[0]
    keys = (stem, stem[1:]) if len(stem) == 12 and stem[0] == "Y" else (stem,)  # Y before a video's id of 11 characters
    matches = _matches(db, places, keys)
    if not matches and not YOUTUBE.fullmatch(stem):
        matches = _matches(db, places, (_without_blanks(stem),))
    if len(matches) > 1:
        matches.sort(key=lambda row: (places.index(row[0]), row[1]))
    return list(dict.fromkeys(audio for _, audio in matches)), f"not in {', '.join(places)}"


def _matches(db: sqlite3.Connection, places: Sequence[str], keys: Sequence[str]) -> list[tuple[str, int]]:
    marks = ",".join("?" * len(places)), ",".join("?" * len(keys))
    query = f"SELECT place, audio FROM clip WHERE place IN ({marks[0]}) AND key IN ({marks[1]})"
    return db.execute(query, (*places, *keys)).fetchall()


def _keys(stems: set[str]) -> set[str]:
    """What a recording is looked up by: its stems, and for those with blanks, as Clotho's, how others write them."""
    return {key for stem in stems for key in (stem, _without_blanks(stem) if " " in stem else "") if key}


def _without_blanks(stem: str) -> str:
    """` A bell (loud)` -> `~A_bell_loud`: what copying a corpus to other file systems makes of a name, apart from ids."""
    return "~" + re.sub(r"\W+", "_", stem).strip("_")


def _insert(db: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Inserts the rows and empties the list."""
    if rows:
        db.execute("BEGIN")
        db.executemany(f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
        db.execute("COMMIT")
        rows.clear()


def _insert_missing(db: sqlite3.Connection, rows: list[tuple[str, str, str]]) -> None:
    db.execute("BEGIN")
    db.executemany("INSERT INTO missing VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET records = records + 1", rows)
    db.execute("COMMIT")
    rows.clear()


def _list_missing(db: sqlite3.Connection, path: Path) -> int:
    columns = ("dataset", "audio_id", "reason", "records")
    write_jsonl(path, (dict(zip(columns, row, strict=True)) for row in db.execute("SELECT * FROM missing")))
    return db.execute("SELECT count(*) FROM missing").fetchone()[0]


def _write(
    db: sqlite3.Connection, out: Path, name: str, tests: Tested, fraction: float, contamination: str
) -> tuple[writer.Report, int, list[Shared]]:
    """The cuts; how many records repeat another one; the recordings that are in a test split."""
    db.execute("CREATE INDEX by_audio ON record (audio)")
    every = db.execute(
        "SELECT r.audio, a.cut, r.dataset, r.kind, r.question, r.answer FROM record r JOIN audio a ON a.id = r.audio "
        "ORDER BY r.audio, r.rowid"
    )
    splits: Counter[str] = Counter()
    seconds, short, repeated, shared = 0.0, 0, 0, []
    with writer.cut_writer(out) as write_cut:
        for (_, text), group in groupby(every, key=lambda row: row[:2]):
            audio, rows = json.loads(text), [Question(*row[2:]) for row in group]
            if (test_of := tests.origins.get(audio["origin"]) or tests.contents.get(audio["sha256"])) is not None:
                shared.append(Shared(f"{name}-{audio['id']}", audio["origin"], test_of))
                if contamination == "drop":
                    continue
            once: dict[tuple[str, ...], Question] = {}
            for row in rows:
                once.setdefault(row[1:], row)
            repeated += len(rows) - len(once)
            is_held_out = int(digest(audio["origin"])[:8], 16) < fraction * 2**32
            split = "validation" if audio["split"] == "validation" or is_held_out else "train"
            item = Inspection(
                audio["path"],
                None,
                audio["samples"] / audio["rate"],
                audio["size"],
                audio["rate"],
                audio["samples"],
                audio["channels"],
                audio["sha256"],
            )
            write_cut(writer.make_cut(_annotated(audio, list(once.values()), name, split), item))
            splits[split] += 1
            seconds, short = seconds + item.seconds, short + (item.seconds < writer.SHORT)
        refuse_shared(shared, contamination)
        if not splits:
            raise DataError(
                f"{name}: all of its {len(shared)} recordings are in a test split; --contamination=keep trains on them"
            )
    report = writer.Report(splits.total(), seconds, {split: splits[split] for split in SPLITS}, [], short)
    return report, repeated, shared


def _annotated(
    audio: Mapping[str, Any], questions: Sequence[Question], name: str, split: str
) -> writer.AnnotatedRecording:
    labels: dict[str, None] = dict.fromkeys(audio["labels"])
    annotations: dict[str, writer.Annotation] = {}
    for number, (_, kind, question, answer) in enumerate(questions):
        if match := CAPTION.match(answer):
            caption = answer[match.end() :].strip()
            annotations[f"caption {caption}"] = writer.caption(caption)
            continue
        if (match := LABELS.match(answer)) and "->" not in answer:
            labels |= dict.fromkeys(part.strip() for part in answer[match.end() :].split(";") if part.strip())
        annotations[f"question {number}"] = writer.question(kind, question, answer)
    fields: dict[str, Any] = {
        "split": split,
        "corpus": name,
        "source": audio["origin"],
        "origin": audio["origin"],
        "labels": list(labels),
        "metadata": writer.merged({"dataset": question.dataset} for question in questions),
    }
    return writer.AnnotatedRecording(f"{name}-{audio['id']}", audio["path"], fields, list(annotations.values()))
