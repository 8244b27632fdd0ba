"""The cache format: chunks of whole recordings, written once, atomically, found again after a crash.

    <folder>/key.json              what made the cache (producer's hash, window rule); another key is refused
    <folder>/plan.json             [{"id", "cuts": [cut ids]}, ...]: every recording in exactly one chunk
    <folder>/<chunk>/cuts.jsonl    the chunk's cuts, in plan order
    <folder>/<chunk>/index.npz     where each cut's line and array are: datamodules/stored.py reads by it
    <folder>/<chunk>/codes.npy     codes: (sum of N) uint16, or int32 where one is above 65535
    <folder>/<chunk>/arrays.npy    latents: (sum of F, D) float16
    <folder>/<chunk>/std.npy       their posterior's standard deviation, of the same shape, where it is not all zero

A chunk is written as `.tmp-<chunk>-<pid>` and renamed when it is whole. Rank r of W takes every W-th pending chunk, so
a run may go on with another W.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.stored import Stored, write_cuts


class Chunk(NamedTuple):
    id: str
    cuts: list[Any]


def plan(cuts: Iterable[Any], recordings_per_chunk: int) -> list[Chunk]:
    """Cuts in their order, `recordings_per_chunk` to a chunk. Raises ValueError on an id that comes twice.

    The chunk's id is its number and a hash of what it holds, so that a changed corpus never meets an old chunk.
    """
    cuts = list(cuts)
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise ValueError(
                f"the cut id {cut.id!r} comes twice in the prepared corpora. "
                "Prepare one of them again with another --name"
            )
        seen.add(cut.id)
    chunks = []
    for number, start in enumerate(range(0, len(cuts), recordings_per_chunk)):
        held = cuts[start : start + recordings_per_chunk]
        content = json.dumps([_content(cut) for cut in held], sort_keys=True)
        chunks.append(Chunk(f"{number:06d}-{hashlib.sha256(content.encode()).hexdigest()[:12]}", held))
    return chunks


def open_cache(folder: Path, chunks: Sequence[Chunk], key: dict[str, Any]) -> None:
    """Writes the key and the plan, or holds the key against what is there. Raises ValueError that names what differs.

    Removes what dead processes left half-written, and chunks that are in no plan any more: their recordings changed
    and are made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = folder / "key.json"
    if stored.is_file():
        old = json.loads(stored.read_text())
        changed = [
            f"{name}: {old.get(name)} -> {key.get(name)}" for name in {**old, **key} if old.get(name) != key.get(name)
        ]
        if changed:
            raise ValueError(f"{folder} was made otherwise ({'; '.join(changed)}). Begin again with --restart")
    _write(stored, key)
    _write(folder / "plan.json", [{"id": chunk.id, "cuts": [cut.id for cut in chunk.cuts]} for chunk in chunks])
    for part in folder.glob(".tmp-*"):
        pid = int(part.name.rsplit("-", 1)[1])
        if pid == os.getpid() or not _alive(pid):  # in a container a new process often has a dead one's number
            shutil.rmtree(part, ignore_errors=True)
    planned = {chunk.id for chunk in chunks}
    for old in folder.iterdir():
        if old.is_dir() and not old.name.startswith(".") and old.name not in planned:
            shutil.rmtree(old)


def pending(folder: Path, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks without a finished folder, in plan order."""
    return [chunk for chunk in chunks if not (folder / chunk.id).is_dir()]


class ChunkWriter:
    """Collects one chunk's results and makes it appear whole."""

    def __init__(self, folder: Path, chunk: Chunk) -> None:
        self.folder, self.chunk = folder, chunk
        self.codes: dict[str, list[int]] = {}
        self.arrays: dict[str, list[np.ndarray]] = {}
        self.stds: dict[str, list[np.ndarray]] = {}

    def add_codes(self, cut_id: str, codes: Sequence[int]) -> None:
        """Appends the codes of a recording's next window."""
        self.codes.setdefault(cut_id, []).extend(codes)

    def add_array(self, cut_id: str, array: np.ndarray, std: np.ndarray | None = None) -> None:
        """Appends the latents (F, D) of a recording's next window, and their standard deviation, None where the codec has
        none; ValueError on values that float16 cannot hold.
        """
        for values, kept in ((array, self.arrays), (std, self.stds)):
            if values is None:
                continue
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise ValueError(
                    f"{cut_id}: latents are not finite or above {np.finfo(np.float16).max} and do not fit the cache's "
                    "float16"
                )
            kept.setdefault(cut_id, []).append(values.astype(np.float16))

    def finish(self) -> None:
        """Writes and renames. A chunk that another process finished in the meantime is left as it is."""
        part = self.folder / f".tmp-{self.chunk.id}-{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        offset, blocks, cuts = 0, [], []
        for cut in self.chunk.cuts:
            assert (cut.id in self.codes) != (cut.id in self.arrays), f"{cut.id} has no result"
            block = np.asarray(self.codes[cut.id]) if cut.id in self.codes else np.concatenate(self.arrays[cut.id])
            copy = cut.with_id(cut.id)
            copy.custom = {key: value for key, value in cut.custom.items() if key not in PLACE}
            cuts.append((copy.to_dict(), offset, len(block)))
            blocks.append(block)
            offset += len(block)
        whole = np.concatenate(blocks)
        if self.codes:
            whole = whole.astype(np.uint16 if whole.max(initial=0) <= np.iinfo(np.uint16).max else np.int32)
        np.save(part / ("codes.npy" if self.codes else "arrays.npy"), whole)
        if self.stds:
            stds = np.concatenate([block for cut in self.chunk.cuts for block in self.stds.get(cut.id, [])])
            assert len(stds) == offset, "some windows have a standard deviation and some have none"
            np.save(part / "std.npy", stds)
        write_cuts(part, cuts)
        try:
            part.rename(self.folder / self.chunk.id)
        except OSError:
            if not (self.folder / self.chunk.id).is_dir():
                raise
            shutil.rmtree(part)


def read(folder: Path) -> Stored:
    """All cuts in plan order, opened and not loaded; those with latents know their files as custom["array"] and, where there is one, ["std"],
    those with codes have them as custom["codes"].

    Raises ValueError where a planned chunk is missing or holds other cuts than planned.
    """
    return Stored(folder, json.loads((folder / "plan.json").read_text()))


def load_array(cut: Any) -> np.ndarray:
    """The latents (F, D) float16 of a cut, or of a window of it: a slice of the memory-mapped chunk."""
    return _slice(cut, "array")


def load_std(cut: Any) -> np.ndarray | None:
    """Their posterior's standard deviation (F, D) float16; None where the codec has none."""
    return _slice(cut, "std") if "std" in cut.custom else None


PLACE = ("array", "std", "offset", "length", "codes")  # where a cut's latents lie, or its codes


def _slice(cut: Any, name: str) -> np.ndarray:
    custom = cut.custom
    return np.load(custom[name], mmap_mode="r")[custom["offset"] : custom["offset"] + custom["length"]]


def _content(cut: Any) -> dict[str, Any]:
    """What a cut is, without where its latents lie."""
    fields = cut.to_dict()
    return fields | {"custom": {key: value for key, value in fields["custom"].items() if key not in PLACE}}


def _write(path: Path, content: Any) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(content))
    os.replace(part, path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
