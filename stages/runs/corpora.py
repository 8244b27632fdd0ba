"""The prepared corpora that a run reads: their receipts, and their recordings, whose files are what was prepared. No torch here."""

import glob
import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from conf.errors import UsageError
from conf.sections.common import DataConf
from datamodules.corpora import FOLDER, published
from stages.runs import receipts

log = logging.getLogger(__name__)


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


class Recordings(NamedTuple):
    cuts: list[Any]
    roots: dict[str, Path]  # corpus -> absolute folder that its recordings' paths are relative to
    skipped: list[Any]  # datamodules.corpora.inspect.Bad


def recordings(stage: str, data: DataConf) -> Recordings:
    """The cuts of the corpora whose file is what was prepared. The others are refused by name, or left out.

    A file whose size or header is not what it was is decoded again: rendered corpora keep no size, and a file of the same size may be another sound.
    """
    from datamodules.corpora.inspect import BadRecording, declared, inspect, refuse
    from datamodules.cuts import read_cuts
    from datamodules.store.chunks import require_unique_ids

    roots = {name: Path(receipt["root"]) for name, receipt in corpora(data).items()}
    cuts = []
    for name in roots:
        path = Path(data.root) / name / "cuts.jsonl.gz"
        of_corpus = read_cuts(path, f"Prepare {name} again")
        _check_paths(of_corpus, name, path)
        cuts += of_corpus
    require_unique_ids(cuts)
    paths = {cut.id: roots[cut.custom["corpus"]] / cut.recording.sources[0].source for cut in cuts}
    headers = declared(list(paths.values()), data.num_workers)
    suspect = [
        cut
        for cut, header in zip(cuts, headers, strict=True)
        if _changes(header, cut) or not _has_size(paths[cut.id], cut.custom.get("size"))
    ]
    inspections = inspect([paths[cut.id] for cut in suspect], max(1, data.num_workers))
    reasons = {cut.id: item.reason or _changes(item, cut) for cut, item in zip(suspect, inspections, strict=True)}
    bad = {name: BadRecording(str(paths[name]), reason) for name, reason in reasons.items() if reason}
    refuse(list(bad.values()), len(cuts), data.on_bad)
    if bad:
        lines = [f"  {recording.path}: {recording.reason}" for recording in bad.values()]
        head = f"{stage}: {len(bad)} of {len(cuts)} recordings are left out (data.on_bad=skip):"
        log.warning("\n".join([head, *lines]))
    return Recordings([cut for cut in cuts if cut.id not in bad], roots, list(bad.values()))


def where_from(corpus: str, root: Path) -> str:
    """Of a corpus that is not under `root`: what it is, and the data root near by that has it, or where people get it and what makes it ready."""
    what, where = "recordings of your own", "your disk"
    flag = "" if root == Path("data") else f" --data.root={root}"
    how = FOLDER.format(f"{corpus}{flag}")
    if corpus in (*published.NAMES, "openaqa"):
        about = published.described(corpus)
        what, where, how = about.what, about.where, f"stage prepare {corpus} ROOT{flag}"
    elif corpus == "diagnostic":
        what, where = "scenes that this project renders", "this project"
        how = f"stage prepare diagnostic --preset demo{flag}"
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


def _check_paths(cuts: Sequence[Any], corpus: str, path: Path) -> None:
    """Raises UsageError for a recording that is not a file under the corpus' root, and for one of another corpus."""
    for cut in cuts:
        (source,) = cut.recording.sources
        path_inside = PurePosixPath(source.source)
        if source.type != "file" or path_inside.is_absolute() or ".." in path_inside.parts:
            raise UsageError(
                f"{path}: the recording of {cut.id} is the {source.type} {source.source!r}; a file under the corpus' root is allowed, "
                f"by its path relative to it. Prepare {corpus} again"
            )
        if cut.custom.get("corpus") != corpus:
            raise UsageError(f"{path}: {cut.id} is of the corpus {cut.custom.get('corpus')!r}. Prepare {corpus} again")


def _has_size(path: Path, size: int | None) -> bool:
    """size None: a corpus of the project's own, whose files it has made itself."""
    return path.is_file() and size in (None, path.stat().st_size)


def _changes(now: Any, cut: Any) -> str | None:
    """How a file (of inspect's AudioHeader or Inspection) differs from what was prepared; None where it does not."""
    from datamodules.corpora.inspect import DURATION_TOLERANCE

    if now is None:
        return "has no header"
    seconds = now.num_samples / now.sample_rate if now.sample_rate else 0.0
    if abs(seconds - cut.duration) > DURATION_TOLERANCE:
        return f"has changed since prepare: {seconds:.2f} s, was {cut.duration:.2f} s"
    if (now.sample_rate, now.num_channels) != (cut.sampling_rate, cut.num_channels):
        was = f"{cut.sampling_rate} Hz and {cut.num_channels} channels"
        return f"has changed since prepare: {now.sample_rate} Hz and {now.num_channels} channels, was {was}"
    return None
