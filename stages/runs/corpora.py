"""The prepared corpora that a run reads: their receipts, and their recordings, whose files are what was prepared. No torch here."""

import glob
import gzip
import json
import logging
import zlib
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from conf.errors import UsageError
from conf.sections.common import DataConf
from datamodules.corpora import FOLDER, published
from datamodules.errors import DataError
from stages.runs import receipts

log = logging.getLogger(__name__)

MANIFEST = "cuts.jsonl.gz"
BLOCK = 4096  # cuts in memory at a time
WHOLE = 1e-3  # seconds by which a whole recording's cut may differ from it


def corpora(data: DataConf) -> dict[str, receipts.CorpusReceipt]:
    """Receipts of the prepared corpora. Raises UsageError for one that was not prepared."""
    root, prepared = Path(data.root), {}
    for name in data.corpora:
        receipt = receipts.read_corpus(root / name)
        if receipt is None:
            raise UsageError(f"there is no corpus {name!r}.\n{where_from(name, root)}")
        prepared[name] = receipt
    if not prepared:
        raise UsageError("data.corpora is empty: name at least one prepared corpus, as --data.corpora=[mine]")
    return prepared


def hashes(data: DataConf) -> dict[str, str]:
    """Name -> hash of the cuts, of the corpora that are prepared."""
    prepared = {name: receipts.read_corpus(Path(data.root) / name) for name in data.corpora}
    return {name: receipt["hash"] for name, receipt in prepared.items() if receipt}


class Recordings(NamedTuple):
    cuts: list[Any]
    roots: dict[str, Path]  # corpus -> absolute folder that its recordings' paths are relative to
    skipped: list[Any]  # datamodules.corpora.inspect.BadRecording


def recordings(stage: str, data: DataConf) -> Recordings:
    """The cuts of the corpora whose file is what was prepared. The others are refused by name, or left out."""
    from lhotse.serialization import deserialize_item

    skipped = check(stage, data)
    cuts = [deserialize_item(json.loads(line)) for line in lines(data, {bad.id for bad in skipped})]
    return Recordings(cuts, roots(data), [bad.recording for bad in skipped])


def roots(data: DataConf) -> dict[str, Path]:
    """Corpus -> absolute folder that its recordings' paths are relative to. Raises UsageError as `corpora` does."""
    return {name: Path(receipt["root"]) for name, receipt in corpora(data).items()}


def lines(data: DataConf, left_out: Container[str] = ()) -> Iterator[bytes]:
    """The cuts of the corpora as lines of JSON, one after the other, without those of the ids `left_out`."""
    for name in corpora(data):
        for line, cut in _cuts(data, name):
            if cut["id"] not in left_out:
                yield line


class Skipped(NamedTuple):
    """A recording that is left out."""

    id: str
    recording: Any  # datamodules.corpora.inspect.BadRecording


def check(stage: str, data: DataConf) -> list[Skipped]:
    """Compares each recording's file with what was prepared, some thousands of cuts at a time. Recordings whose file is
    another are refused by name, or returned and left out.

    A file whose size or header is not what it was is decoded again: rendered corpora keep no size, and a file of the same size may be another sound.
    """
    import numpy as np

    from datamodules.corpora.inspect import BadRecording, declared, inspect, refuse
    from datamodules.store.manifest import equal_names, name_hash, twice

    folders, total, suspect, names = roots(data), 0, [], []
    for name, root in folders.items():
        manifest = Path(data.root) / name / MANIFEST
        each = (cut for _, cut in _cuts(data, name))
        while block := list(islice(each, BLOCK)):
            total += len(block)
            _check_paths(block, name, manifest)
            names.append(np.array([name_hash(cut["id"]) for cut in block], np.uint64))
            paths = [root / _source(cut) for cut in block]
            for cut, path, header in zip(block, paths, declared(paths, data.num_workers), strict=True):
                if _changes(header, cut) or not _has_size(path, cut["custom"].get("size")):
                    suspect.append((cut, path))
    if same := equal_names(np.concatenate([np.empty(0, np.uint64), *names])):
        wanted = {int(position) for positions in same for position in positions}
        ids = [cut["id"] for number, cut in enumerate(_all_cuts(data)) if number in wanted]
        if len(set(ids)) < len(ids):
            raise twice(max(ids, key=ids.count))
    inspections = inspect([path for _, path in suspect], max(1, data.num_workers))
    reasons = [item.reason or _changes(item, cut) for (cut, _), item in zip(suspect, inspections, strict=True)]
    bad = [
        Skipped(cut["id"], BadRecording(str(path), reason))
        for (cut, path), reason in zip(suspect, reasons, strict=True)
        if reason
    ]
    refuse([one.recording for one in bad], total, data.on_bad)
    if bad:
        rows = [f"  {one.recording.path}: {one.recording.reason}" for one in bad]
        head = f"{stage}: {len(bad)} of {total} recordings are left out (data.on_bad=skip):"
        log.warning("\n".join([head, *rows]))
    return bad


def _all_cuts(data: DataConf) -> Iterator[dict[str, Any]]:
    return (cut for name in corpora(data) for _, cut in _cuts(data, name))


def _cuts(data: DataConf, corpus: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each cut of a prepared corpus, as its line and as what that says. Raises DataError where the file is damaged."""
    path = Path(data.root) / corpus / MANIFEST
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                cut = json.loads(line)
                if not {"id", "start", "duration", "recording", "custom"} <= set(cut):
                    raise ValueError("a line is no cut of a recording")
                yield line, cut
    except (EOFError, OSError, zlib.error, ValueError, TypeError) as error:
        raise DataError(f"{path} is cut off, damaged or no list of cuts ({error}). Prepare {corpus} again") from error


def where_from(corpus: str, root: Path) -> str:
    """Of a corpus that is not under `root`: what it is, and the data root near by that has it, or where people get it and what makes it ready."""
    what, where = "recordings of your own", "your disk"
    flag = "" if root == Path("data") else f" --data.root={root}"
    how = FOLDER.format(f"{corpus}{flag}")
    if corpus in (*published.NAMES, "openaqa"):
        about = published.described(corpus)
        what, where, how = about.what, about.where, f"stage prepare {corpus} ROOT{flag}"
    elif corpus == "diagnostic" or corpus.startswith("diagnostic-"):
        what, where = "scenes that this project renders", "this project"
        axis = f" --axis={corpus.partition('-')[2]}" if "-" in corpus else ""
        how = f"stage prepare diagnostic --preset demo{axis}{flag}"
    near = _near(corpus, root)
    then = [f"it is in {other}/:   --data.root={other}" for other in near] or [f"from   {where}", f"then   {how}"]
    return f"{corpus} (not in {root}/): {what}" + "".join(f"\n    {line}" for line in then)


def _near(corpus: str, root: Path) -> list[Path]:
    """Data roots above, in and beside `root`, and in data/, where the corpus was prepared."""
    roots: dict[Path, Path] = {}
    if not corpus or "/" in corpus:
        return []
    for base in dict.fromkeys((root.parent, root, Path("data"))):
        for pattern in ("", "*/"):
            for receipt in sorted(base.glob(f"{pattern}{glob.escape(corpus)}/receipt.json")):
                roots[receipt.resolve()] = receipt.parents[1]
    return list(roots.values())


def _check_paths(cuts: Sequence[dict[str, Any]], corpus: str, path: Path) -> None:
    """Raises UsageError for a recording that is not a file under the corpus' root, for one of another corpus, and for a cut that is a part of its
    recording: whole files are encoded.
    """
    for cut in cuts:
        (source,), recording = cut["recording"]["sources"], cut["recording"]
        path_inside = PurePosixPath(source["source"])
        if source["type"] != "file" or path_inside.is_absolute() or ".." in path_inside.parts:
            raise UsageError(
                f"{path}: the recording of {cut['id']} is the {source['type']} {source['source']!r}; a file under the corpus' root is allowed, "
                f"by its path relative to it. Prepare {corpus} again"
            )
        if cut["custom"].get("corpus") != corpus:
            raise UsageError(
                f"{path}: {cut['id']} is of the corpus {cut['custom'].get('corpus')!r}. Prepare {corpus} again"
            )
        if cut["start"] or abs(cut["duration"] - recording["duration"]) > WHOLE:
            raise UsageError(
                f"{path}: {cut['id']} is the part of {cut['duration']:.2f} s from {cut['start']:.2f} s on of a recording of "
                f"{recording['duration']:.2f} s; whole recordings are allowed. Save the parts as files, and prepare those"
            )


def _source(cut: dict[str, Any]) -> str:
    return cut["recording"]["sources"][0]["source"]


def _has_size(path: Path, size: int | None) -> bool:
    """size None: a corpus of the project's own, whose files it has made itself."""
    from datamodules import sound_files

    now = sound_files.size(path)
    return now is not None and size in (None, now)


def _changes(now: Any, cut: dict[str, Any]) -> str | None:
    """How a file (of inspect's AudioHeader or Inspection) differs from what was prepared; None where it does not."""
    from datamodules.corpora.inspect import DURATION_TOLERANCE

    if now is None:
        return "has no header"
    seconds = now.num_samples / now.sample_rate if now.sample_rate else 0.0
    recording = cut["recording"]
    if abs(seconds - cut["duration"]) > DURATION_TOLERANCE:
        return f"has changed since prepare: {seconds:.2f} s, was {cut['duration']:.2f} s"
    rate, channels = recording["sampling_rate"], sum(len(source["channels"]) for source in recording["sources"])
    if (now.sample_rate, now.num_channels) != (rate, channels):
        was = f"{rate} Hz and {channels} channels"
        return f"has changed since prepare: {now.sample_rate} Hz and {now.num_channels} channels, was {was}"
    return None
