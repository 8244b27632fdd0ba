"""`stage prepare folder`: a table of recordings: what is asked of it first, and what was read of it. No torch here."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from conf.errors import UsageError
from conf.sections.corpora import FolderConf, FormatConf
from datamodules.corpora import FOLDER

if TYPE_CHECKING:
    from datamodules.corpora.folder import PreparedFolder
    from datamodules.corpora.inspect import BadRecording
    from datamodules.corpora.inspection_record import Inspector
    from datamodules.corpora.tables import MetadataRow
    from datamodules.corpora.writer import Report

log = logging.getLogger(__name__)
WITHOUT = {  # split -> what it means to have none of it
    "validation": "nothing is measured in training. Write validation in the column split of some, or leave it empty",
    "test": "nothing can be evaluated, and run all does not start. Write test in the column split of some, or --split_by=COLUMN --test=VALUE",
}


def require(configuration: FolderConf) -> None:
    for key, missing in (("root", "ROOT, the folder of the recordings"), ("metadata", "--metadata FILE.csv")):
        if getattr(configuration, key) is None:
            name = configuration.name or "mine"
            raise UsageError(f"prepare folder: {key} is not given: give {missing}, as\n  {FOLDER.format(name)}")


class Table(NamedTuple):
    """A table of recordings, or what a format of the field has in its place."""

    root: Path  # that their paths are relative to
    metadata: Path  # what messages name
    rows: "list[MetadataRow] | None"  # None: they are read from `metadata`


def table(kind: str, configuration: FolderConf | FormatConf) -> Table:
    """What says which recordings there are. kind: folder, or one of the formats."""
    from datamodules.corpora import formats

    given = configuration.root
    assert given is not None, "checked before"
    if isinstance(configuration, FolderConf):
        assert configuration.metadata is not None, "`require` has seen to it"
        return Table(Path(given), Path(configuration.metadata), None)
    columns = {
        column: getattr(configuration, column)
        for column in ("caption", "label", "question", "answer", "split", "source")
    }
    if kind == "lhotse":
        read_rows = formats.read_lhotse(Path(given), columns)
    elif kind == "webdataset":
        read_rows = formats.read_webdataset(given, columns)
    else:
        read_rows = formats.read_parquet(given, configuration.audio, columns)
    return Table(read_rows.root, Path(given), read_rows.rows)


def read(name: str, configuration: FolderConf | FormatConf, source: Table, inspector: "Inspector") -> dict[str, Any]:
    """Its part of the receipt."""
    from datamodules.corpora import folder

    out = Path(configuration.data.root) / name
    done = folder.prepare_folder(
        source.root, source.metadata, out, source.rows, name=name,
        split_by=configuration.split_by, test=configuration.test, validation=configuration.validation,
        validation_fraction=configuration.validation_fraction, label_question=configuration.label_question,
        contamination=configuration.contamination, surround=configuration.surround,
        on_bad=configuration.data.on_bad, inspector=inspector,
    )  # fmt: skip
    return summarize(name, out, done)


def summarize(name: str, out: Path, done: "PreparedFolder") -> dict[str, Any]:
    """Warns of what was left out -> what the receipt has of a table's recordings."""
    from datamodules.corpora.inspect import LISTED

    report = done.report
    if report.skipped:
        lines = [f"{name}: {len(report.skipped)} recordings were left out (--data.on_bad=skip):"]
        lines += [f"  {path}: {reason}" for path, reason in report.skipped[:LISTED]]
        if (more := len(report.skipped) - LISTED) > 0:
            lines.append(f"  and {more} more, listed in {out / 'missing.jsonl'}")
        log.warning("\n".join(lines))
    warn_of_short(name, report.short)
    warn_of_levels(name, report)
    if done.labels_joined:
        log.info(f"{name}: {done.labels_joined} recordings have several labels: one question each, all its answer")
    for labels in done.similar_labels[:LISTED]:
        log.warning(
            f"{name}: the labels {', '.join(map(repr, labels))} differ in case, blanks or the form of letters alone, and "
            "are different answers. Write one of them in all rows"
        )
    if done.answered_twice:
        log.warning(
            f"{name}: {len(done.answered_twice)} recordings have a question with several answers, the first "
            f"{done.answered_twice[0]}: each of them is taught, and scored"
        )
    if done.null_texts:
        log.warning(
            f"{name}: taken as texts: {', '.join(map(repr, done.null_texts))}. Leave the field empty where there is no "
            "caption, label or answer"
        )
    return counts(report, report.skipped) | {
        "found": done.texts,
        "translated": done.translated,
        "mistyped": done.mistyped,
        "unread": done.unread,
        "contaminated": len(report.contaminated),
    }


def counts(report: "Report", skipped: "Sequence[BadRecording]") -> dict[str, Any]:
    """What the receipts of all corpora of recordings have. skipped: those that are listed."""
    return {
        "recordings": report.recordings,
        "seconds": report.seconds,
        "splits": report.splits,
        "skipped": [[str(path), reason] for path, reason in skipped],
    }


def closing(report: dict[str, Any], configuration: FolderConf | FormatConf) -> Iterator[str]:
    """What was understood of the table, and what no recording is for. report: as `read` gives it."""
    yield "found " + ", ".join(f"{count} {column}s" for column, count in report["found"].items())
    if not any(report["found"].values()):
        yield "nothing is said about any recording: a tokenizer trains on them, an LLM does not"
        if report["unread"]:
            cure = "rename it" if isinstance(configuration, FolderConf) else "name it, as --caption=COLUMN"
            yield f"kept and not read: {', '.join(report['unread'])}; where one of them is a caption, a label or the like, {cure}"
    for column, known in report["mistyped"].items():
        yield f"column `{column}` is kept and not read; did you mean `{known}`?"
    if report["translated"]:
        yield "column split: " + ", ".join(f"{how}: {count}" for how, count in report["translated"].items())
    for split, meaning in WITHOUT.items():
        unasked = split == "validation" and not configuration.validation_fraction  # 0 was typed
        if not report["splits"][split] and not unasked:
            yield f"no recording is for {split}: {meaning}"


def warn_of_levels(name: str, report: "Report") -> None:
    if report.loud:
        log.warning(
            f"{name}: {len(report.loud)} recordings have a peak far above 1, the first {report.loud[0]}: floats of "
            "integers that were not scaled? Divide them by 32768, or write them as integers"
        )
    if report.cancelling:
        log.warning(
            f"{name}: {len(report.cancelling)} stereo recordings are silent in mono, the first {report.cancelling[0]}: "
            "their channels are of opposite phase, and a mono codec hears nothing. Invert one channel"
        )


def warn_of_short(name: str, count: int) -> None:
    from datamodules.corpora.writer import SHORT

    if count:
        log.warning(
            "%s: %d recordings are shorter than %s s: a token or two is all there is of each", name, count, SHORT
        )
