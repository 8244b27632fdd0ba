"""What `stage clean` may remove of an experiment: earlier runs in `.old`, runs that stand for a checkpoint, and what killed processes left half-written.

No torch here. A run stays where something still needs it: a run that takes over its chunks, a run that reads it as a parent
by its path, or one that was made from its artifact, which no other run has.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stages import STAGES
from stages.runs import receipts
from stages.runs.identity import read_identity
from stages.runs.state import EARLIER, OLD, stored_conf

HALF_WRITTEN = (".artifact", "chunks/.tmp-*", ".part-*", "*/.part-*", ".error.txt.*")  # of a run folder


class Leftover(NamedTuple):
    path: Path
    stage: str
    about: str
    needed_by: str = ""  # "" where nothing needs it


class _Run(NamedTuple):
    """A run folder that is not in `.old`, as far as it needs others."""

    folder: Path
    artifact_hash: str | None
    parents: dict[str, str]  # stage -> hash of the artifact that it was made from
    paths: tuple[Path, ...]  # run folders that its configuration names as parents
    earlier: str | None  # the run in .old whose chunks it takes over, while it is not finished

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"


def leftovers(runs: Path, experiments: Iterable[str]) -> list[Leftover]:
    """Of these experiments; what needs them is looked for in all experiments of the folder `runs`."""
    current = list(_runs(runs))
    removable: list[Leftover] = []

    def add(folder: Path, stage: str, about: str) -> None:
        removable.append(Leftover(folder, stage, about, _needed_by(folder, stage, current)))

    for name in experiments:
        for folder in sorted((runs / name / OLD).glob("*-[0-9]*")):
            stage = folder.name.rpartition("-")[0]
            add(folder, stage, f"earlier run, {_about(folder)}")
        for stage in STAGES:
            for folder in sorted((runs / name).glob(f"{stage}.step-[0-9]*")):
                add(folder, stage, "made from a checkpoint, which --checkpoint makes again")
            parts = [path for pattern in HALF_WRITTEN for path in (runs / name / stage).glob(pattern)]
            parts += (runs / name).glob(f".{stage}.step-*")
            removable += [Leftover(path, stage, "half-written") for path in sorted(parts)]
    return removable


def freed(paths: Iterable[Path]) -> int:
    """Bytes that removing these files and folders frees: chunks that a later run shares are not among them."""
    sizes: dict[tuple[int, int], tuple[int, int]] = {}  # inode -> names that it has, bytes
    seen: Counter[tuple[int, int]] = Counter()
    for path in paths:
        for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
            if file.is_file() and not file.is_symlink():
                status = file.stat()
                sizes[status.st_dev, status.st_ino] = (status.st_nlink, status.st_size)
                seen[status.st_dev, status.st_ino] += 1
    return sum(size for inode, (names, size) in sizes.items() if seen[inode] >= names)


def _runs(runs: Path) -> Iterator[_Run]:
    patterns = [f"*/{stage}{step}" for stage in STAGES for step in ("", ".step-[0-9]*")]
    for folder in (path for pattern in patterns for path in runs.glob(pattern) if path.is_dir()):
        receipt = receipts.read(folder)
        identity = None if receipt else read_identity(folder)
        parents = receipt["parents"] if receipt else identity.parents if identity else {}
        conf = receipt["conf"] if receipt else stored_conf(folder) or {}
        named = tuple(Path(path).resolve() for path in conf.get("parents", {}).values())
        earlier = folder / EARLIER
        takes_over = earlier.read_text() if receipt is None and earlier.is_file() else None
        yield _Run(folder, receipt["artifact_hash"] if receipt else None, parents, named, takes_over)


def _needed_by(folder: Path, stage: str, current: list[_Run]) -> str:
    receipt = receipts.read(folder)
    artifact_hash = receipt["artifact_hash"] if receipt else None
    is_elsewhere = any(run.artifact_hash == artifact_hash for run in current if run.folder != folder)
    for run in current:
        if run.earlier == folder.name and run.folder.parent == folder.parents[1]:
            return f"{run.name} takes over its chunks"
        if folder.resolve() in run.paths:
            return f"{run.name} names it as a parent"
        if artifact_hash and run.parents.get(stage) == artifact_hash and not is_elsewhere:
            return f"{run.name} was made from it"
    return ""


def _about(folder: Path) -> str:
    receipt = folder / receipts.FILE
    file = receipt if receipt.is_file() else folder
    word = "finished" if receipt.is_file() else "not finished, begun"
    return f"{word} {time.strftime('%Y-%m-%d %H:%M', time.localtime(file.stat().st_mtime))}"
