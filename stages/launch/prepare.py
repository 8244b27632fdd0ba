"""`stage prepare`: a corpus, from its files to Lhotse cuts and a receipt."""

import gzip
import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import conf
from conf.errors import UsageError
from conf.sections.corpora import CorpusConf, DiagnosticConf, FolderConf, FormatConf, PublishedConf, QuestionsConf
from datamodules.atomic_files import write_whole
from datamodules.corpora import published
from datamodules.corpora.inspection_record import Inspector, Shard
from stages.hub import weights
from stages.launch import corpus_contents, inspection, prepare_folder
from stages.runs import lock, receipts
from stages.runs.identity import fingerprint

log = logging.getLogger(__name__)
FORMAT_ROOTS = {
    "lhotse": "stage prepare lhotse cuts.jsonl.gz, or the folder of a Shar",
    "webdataset": "stage prepare webdataset 'shards-{000..099}.tar'",
    "huggingface": "stage prepare huggingface FOLDER_OR_ID",
}
LISTED = 100  # of the skipped recordings in a receipt


def prepare(corpus: str, configuration: CorpusConf) -> None:
    """Makes `data/<corpus>/{cuts.jsonl.gz, receipt.json}`; the receipt last. Raises UsageError, and leaves no receipt, where the input is bad."""
    name = require(corpus, configuration)
    with lock.claimed_corpus(Path(configuration.data.root) / name):
        # their sounds are rendered here, or decoded already
        if isinstance(configuration, DiagnosticConf | QuestionsConf):
            _prepare(corpus, name, configuration, Inspector(1))
        else:
            with inspection.inspector(name, configuration) as inspector:
                _prepare(corpus, name, configuration, inspector)


def inspect_shard(corpus: str, configuration: CorpusConf, shard: Shard) -> None:
    """Inspects one part of a corpus; the run without --shard takes over what all have recorded. Bad recordings are counted:
    that run names them.
    """
    name = require(corpus, configuration)
    paths = recording_paths(corpus, name, configuration)
    claimed = lock.claimed_corpus(Path(configuration.data.root) / name, f"-{shard.number}-of-{shard.total}")
    with claimed, inspection.inspector(name, configuration, shard) as decode:
        inspections = decode.inspect(paths)
    bad = sum(item.reason is not None for item in inspections)
    print(
        f"{name:<14} shard {shard.number}/{shard.total}: {len(inspections)} of {len(paths)} recordings are inspected"
        + (f", {bad} cannot be used" if bad else "")
        + ". The same command without --shard joins them"
    )


def require(corpus: str, configuration: CorpusConf) -> str:
    """The corpus' name. Raises UsageError for what `prepare` needs and was not given."""
    if isinstance(configuration, FolderConf):
        prepare_folder.require(configuration)
    elif isinstance(configuration, PublishedConf | QuestionsConf):
        _check_root(corpus, configuration)
    elif isinstance(configuration, FormatConf) and configuration.root is None:
        raise UsageError(
            f"prepare {corpus}: ROOT is not given: {FORMAT_ROOTS[corpus]}. `stage show format` has all keys"
        )
    return _name(corpus, configuration)


def recording_paths(corpus: str, name: str, configuration: CorpusConf) -> list[Path]:
    """The recordings that a corpus names: what shards inspect. Raises UsageError where none is decoded."""
    if isinstance(configuration, FolderConf | FormatConf):
        from datamodules.corpora import folder

        return folder.recording_paths(*prepare_folder.table(corpus, configuration))
    if isinstance(configuration, PublishedConf):
        from datamodules.corpora.published import prepare as published_corpus

        split, fold = configuration.split, configuration.fold
        return published_corpus.recording_paths(corpus, _root(configuration), name, split, fold)
    raise UsageError(f"prepare {corpus} decodes no recordings of a table, so it has no shards: leave --shard out")


def _prepare(corpus: str, name: str, configuration: CorpusConf, inspector: Inspector) -> None:
    started = time.monotonic()
    folder = Path(configuration.data.root) / name
    replaced = _earlier(folder) if corpus != "diagnostic" else None
    root = ""
    if isinstance(configuration, DiagnosticConf):
        report = _render(configuration)
    elif isinstance(configuration, QuestionsConf):
        root, report = _read_openaqa(name, configuration)
    elif isinstance(configuration, FolderConf | FormatConf):
        table = prepare_folder.table(corpus, configuration)
        report = prepare_folder.read(name, configuration, table, inspector)
        root = str(table.root.resolve() if isinstance(configuration, FolderConf) else table.root)
        _warn_of_contaminated(name, folder, report["contaminated"], configuration.contamination)
    elif isinstance(configuration, PublishedConf):
        root, report = str(_root(configuration).resolve()), _read_published(corpus, name, configuration, inspector)
    receipt = {
        "corpus": name,
        "root": root or str(folder.resolve()),
        "conf": conf.plain(configuration),
        "conf_hash": fingerprint(configuration),
        "hash": _hash_cuts(folder / "cuts.jsonl.gz"),
        **report,
        "contents": corpus_contents.count(folder / "cuts.jsonl.gz"),
    }
    write_whole(folder / "receipt.json", json.dumps(receipt, indent=1))
    counts = ", ".join(f"{count} {split}" for split, count in report["splits"].items() if count)
    sound, took = f"{report['seconds'] / 60:.1f} min of sound", f"{time.monotonic() - started:.0f} s"
    print(f"{name:<14} {report['recordings']} recordings ({counts}), {sound}, {took}: {folder}")
    # of the others their publishers say what is in them
    for line in (
        prepare_folder.closing(report, configuration) if isinstance(configuration, FolderConf | FormatConf) else ()
    ):
        print(f"{name:<14} {line}")
    if replaced is not None:
        print(f"{name:<14} it replaces one of {replaced}")


def _name(corpus: str, configuration: CorpusConf) -> str:
    if isinstance(configuration, FolderConf):
        return configuration.name or _root(configuration).resolve().name
    if isinstance(configuration, FormatConf):
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(str(configuration.root)).name.split(".")[0]).strip("-")
        return configuration.name or plain or corpus
    if isinstance(configuration, PublishedConf | QuestionsConf):
        return configuration.name or corpus
    if isinstance(configuration, DiagnosticConf) and configuration.axis:
        return f"{corpus}-{configuration.axis}"
    return corpus


def _root(configuration: FolderConf | PublishedConf | QuestionsConf) -> Path:
    assert configuration.root is not None, "checked before"
    return Path(configuration.root)


def _earlier(folder: Path) -> str | None:
    """What the corpus that is replaced was; None where no receipt can be read."""
    try:
        receipt = receipts.read_corpus(folder)
    except ValueError:
        return None
    return f"{receipt['recordings']} recordings, prepared from {receipt['root']}" if receipt else None


def _check_root(corpus: str, configuration: PublishedConf | QuestionsConf) -> None:
    if configuration.root is None:
        raise UsageError(
            f"prepare {corpus}: ROOT is not given: stage prepare {corpus} ROOT. What lies in it:\n{published.listing(corpus)}"
        )


def _render(configuration: DiagnosticConf) -> dict[str, Any]:
    from callbacks.progress import ProgressLine
    from datamodules.diagnostic.render import render

    name = _name("diagnostic", configuration)
    folder = Path(configuration.data.root) / name
    (folder / "receipt.json").unlink(missing_ok=True)
    line: ProgressLine | None = None

    def progress(done: int, total: int) -> None:
        nonlocal line
        if line is None:
            line = ProgressLine(name, total, "scenes")
            line.start()
        line.update(done)

    seconds = render(
        folder,
        train_scenes=configuration.train_scenes, validation_scenes=configuration.validation_scenes,
        test_scenes=configuration.test_scenes, scene_seconds=configuration.scene_seconds,
        sample_rate=configuration.sample_rate, seed=configuration.seed, kinds=configuration.kinds,
        noise_floor_share=configuration.noise_floor_share, extras=configuration.extras, axis=configuration.axis,
        sound_font=Path(weights.resolve("timgm6mb")), workers=max(configuration.data.num_workers, 1), progress=progress,
    )  # fmt: skip
    if line is not None:
        line.stop()
    splits = {split: len(lengths) for split, lengths in seconds.items()}
    return {
        "recordings": sum(splits.values()),
        "seconds": sum(sum(lengths) for lengths in seconds.values()),
        "splits": splits,
        "skipped": [],
    }


def _read_published(corpus: str, name: str, configuration: PublishedConf, inspector: Inspector) -> dict[str, Any]:
    from datamodules.corpora.published.prepare import prepare_published

    out = Path(configuration.data.root) / name
    done = prepare_published(
        corpus, _root(configuration), out, name=name, split=configuration.split, fold=configuration.fold,
        validation_fraction=configuration.validation_fraction, label_question=configuration.label_question,
        contamination=configuration.contamination, on_bad=configuration.data.on_bad, surround=configuration.surround,
        inspector=inspector,
    )  # fmt: skip
    report = done.report
    if report.skipped:
        log.warning("%s: %d recordings were left out, listed in %s", name, len(report.skipped), out / "missing.jsonl")
    if done.repeated:
        log.info("%s: %d rows repeat an earlier one; they count once", name, done.repeated)
    prepare_folder.warn_of_short(name, report.short)
    prepare_folder.warn_of_levels(name, report)
    for taken, others in list(done.several.items())[:1]:
        text = "%s: %d clips have several files; one is taken, as %s and not %s"
        log.info(text, name, len(done.several), taken, others[0])
    _warn_of_contaminated(name, out, len(done.contaminated), configuration.contamination)
    return prepare_folder.counts(report, report.skipped[:LISTED]) | {
        "missing": len(report.skipped),
        "repeated": done.repeated,
        "several": len(done.several),
        "contaminated": len(done.contaminated),
    }


def _read_openaqa(name: str, configuration: QuestionsConf) -> tuple[str, dict[str, Any]]:
    from datamodules.corpora import openaqa

    out = Path(configuration.data.root) / name
    keys = ("tasks", "datasets", "closed_prefix", "corpora", "validation_fraction", "contamination")
    done = openaqa.prepare_openaqa(
        _root(configuration), out, name=name, on_bad=configuration.data.on_bad,
        **{key: getattr(configuration, key) for key in keys},
    )  # fmt: skip
    print(f"{'dataset':<24} {'records':>9} {'found':>9} {'missing':>9} {'duplicated':>10}")
    for dataset, counts in done.datasets.items():
        print(
            f"{dataset or '(none)':<24} {counts.records:>9} {counts.found:>9} {counts.missing:>9} {counts.duplicated:>10}"
        )
    if done.missing:
        listed = out / "missing.jsonl"
        log.warning("%s: %d recordings are in no prepared corpus, listed in %s", name, done.missing, listed)
    if done.filtered:
        log.info("%s: %d records are of other tasks or datasets", name, done.filtered)
    if done.repeated:
        log.info("%s: %d records repeat an earlier one; they count once", name, done.repeated)
    _warn_of_contaminated(name, out, done.contaminated, configuration.contamination)
    return str(done.root.resolve()), prepare_folder.counts(done.report, []) | {
        "datasets": {dataset: counts._asdict() for dataset, counts in done.datasets.items()},
        "filtered": done.filtered,
        "missing": done.missing,
        "repeated": done.repeated,
        "contaminated": done.contaminated,
    }


def _warn_of_contaminated(name: str, out: Path, count: int, contamination: str) -> None:
    """Both ways: this corpus' training recordings in a test split, and others' in this one's."""
    from datamodules.corpora.contamination import count_trained

    if count:
        what = "left out" if contamination == "drop" else "kept"
        text = "%s: %d training recordings are in a test split and are %s, listed in %s"
        log.warning(text, name, count, what, out / "contaminated.jsonl")
    for other, number in count_trained(out).items():
        text = "%s: %d training recordings of %s are in this test split: prepare %s again, and they are left out"
        log.warning(text, name, number, other, other)


def _hash_cuts(path: Path) -> str:
    """sha256 of the cuts themselves: a gzip header holds the time of writing."""
    with gzip.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
