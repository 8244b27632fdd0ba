"""The cache format: chunks of whole recordings, written once, atomically, found again after a crash.

    <folder>/key.json              what made the cache (producer's hash, window rule); another key is refused
    <folder>/plan.json             [{"id", "cuts": [cut ids]}, ...]: every recording in exactly one chunk
    <folder>/<chunk>/cuts.jsonl    the chunk's cuts, in plan order
    <folder>/<chunk>/index.npy     where each cut's line and array are: datamodules/store/index.py reads by it
    <folder>/<chunk>/codes.npy     codes: (sum of N) uint16, or int32 where one is above 65535
    <folder>/<chunk>/arrays.npy    latents: (sum of F, D) float16
    <folder>/<chunk>/std.npy       their posterior's standard deviation, of the same shape, where it is not all zero

A chunk is written as `.tmp-<chunk>-<pid>` and renamed when it is whole. Rank r of W takes every W-th pending chunk, so
a run may go on with another W. Cuts whose recordings hold the same bytes lie in one chunk and share one result.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse import CutSet

from datamodules.errors import DataError
from datamodules.store.index import CachedCuts, write_cuts

SECONDS_PER_CHUNK = 24 * 3600  # of sound: a chunk's results are held in memory, as latents of 21.5 Hz some 240 MB


class Chunk(NamedTuple):
    id: str
    cuts: list[Any]

    @property
    def recordings(self) -> list[Any]:
        """The cuts that are computed, one of each recording."""
        shared = self.shared
        return [cut for cut in self.cuts if shared[cut.id] == cut.id]

    @property
    def shared(self) -> dict[str, str]:
        """Cut id -> id of the cut whose result it has: its own, or of the first whose recording has the same bytes."""
        first: dict[Any, str] = {}
        return {cut.id: first.setdefault(_sound(cut), cut.id) for cut in self.cuts}


def plan(cuts: Iterable[Any], recordings_per_chunk: int) -> list[Chunk]:
    """Cuts in their order, but for those of one recording, which follow its first; `recordings_per_chunk` recordings to a
    chunk, fewer where they are long. Raises DataError on an id that comes twice.

    The chunk's id is its number and a hash of what it holds, so that a changed corpus never meets an old chunk.
    """
    cuts = list(cuts)
    require_ids(cuts)
    chunks = []
    for number, held in enumerate(_held(cuts, recordings_per_chunk)):
        content = json.dumps([_content(cut) for cut in held], sort_keys=True)
        chunks.append(Chunk(f"{number:06d}-{hashlib.sha256(content.encode()).hexdigest()[:12]}", held))
    return chunks


def require_ids(cuts: Iterable[Any]) -> None:
    """Raises DataError on an id that comes twice."""
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise DataError(
                f"the cut id {cut.id!r} comes twice in the prepared corpora. "
                "Prepare one of them again with another --name"
            )
        seen.add(cut.id)


def _held(cuts: list[Any], recordings_per_chunk: int) -> Iterator[list[Any]]:
    """The cuts of each chunk."""
    sounds: dict[Any, list[Any]] = {}
    for cut in cuts:
        sounds.setdefault(_sound(cut), []).append(cut)
    held: list[Any] = []
    recordings, seconds = 0, 0.0
    for group in sounds.values():
        if recordings == recordings_per_chunk or (held and seconds + group[0].duration > SECONDS_PER_CHUNK):
            yield held
            held, recordings, seconds = [], 0, 0.0
        held += group
        recordings, seconds = recordings + 1, seconds + group[0].duration
    if held:
        yield held


def _sound(cut: Any) -> Any:
    """What two cuts of one recording have in common: its file's hash and which part of it; the id where no hash is known."""
    digest = cut.custom.get("sha256")
    return (digest, cut.start, cut.duration) if digest else cut.id


def open_cache(folder: Path, chunks: Sequence[Chunk], key: dict[str, Any]) -> None:
    """Writes the key and the plan, or holds the key against what is there. Raises DataError that names what differs.

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
            raise DataError(f"{folder} was made otherwise ({'; '.join(changed)}). Begin again with --restart")
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
        none; DataError on values that float16 cannot hold.
        """
        for values, kept in ((array, self.arrays), (std, self.stds)):
            if values is None:
                continue
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                raise DataError(
                    f"{cut_id}: latents are not finite or above {np.finfo(np.float16).max} and do not fit the cache's "
                    "float16"
                )
            kept.setdefault(cut_id, []).append(values.astype(np.float16))

    def finish(self) -> None:
        """Writes and renames; equal results are equal bytes. A chunk that another process finished in the meantime is left
        as it is. Raises DataError where the folder cannot be written: nothing of the chunk is left then.
        """
        part = self.folder / f".tmp-{self.chunk.id}-{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            self._write(part)
            part.rename(self.folder / self.chunk.id)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if (self.folder / self.chunk.id).is_dir():
                return
            raise DataError(
                f"{self.folder}: chunk {self.chunk.id} cannot be written: {error.strerror or error}. The finished ones are "
                "kept: give the folder room and leave to write, and the same command goes on"
            ) from error

    def _write(self, part: Path) -> None:
        shared = self.chunk.shared
        offset, blocks, cuts = 0, [], []
        places: dict[str, tuple[int, int]] = {}
        for cut in self.chunk.cuts:
            source = shared[cut.id]
            assert (source in self.codes) != (source in self.arrays), f"{source} has no result"
            if source not in places:
                found = self.codes.get(source)
                block = np.concatenate(self.arrays[source]) if found is None else np.asarray(found)
                places[source] = (offset, len(block))
                blocks.append(block)
                offset += len(block)
            copy = cut.with_id(cut.id)
            copy.custom = {key: value for key, value in cut.custom.items() if key not in PLACE}
            cuts.append((copy.to_dict(), *places[source]))
        whole = np.concatenate(blocks)
        if self.codes:
            whole = whole.astype(np.uint16 if whole.max(initial=0) <= np.iinfo(np.uint16).max else np.int32)
        _save(part / ("codes.npy" if self.codes else "arrays.npy"), whole)
        if self.stds:
            stds = np.concatenate([block for name in places for block in self.stds.get(name, [])])
            assert len(stds) == offset, "some windows have a standard deviation and some have none"
            _save(part / "std.npy", stds)
        write_cuts(part, cuts)


def read(folder: Path) -> CachedCuts:
    """All cuts in plan order, opened and not loaded; those with latents know their files as custom["array"] and, where there is one, ["std"],
    those with codes have them as custom["codes"].

    Raises DataError where a planned chunk is missing or holds other cuts than planned.
    """
    return CachedCuts(folder, json.loads((folder / "plan.json").read_text()))


def read_cuts(path: Path, cure: str) -> list[Any]:
    """All cuts of a file. Raises DataError, with what mends it, where it was cut off or is no such file."""
    try:
        return list(CutSet.from_file(path))
    except (EOFError, OSError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is cut off, damaged or no list of cuts ({error}). {cure}") from error


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


def _save(path: Path, array: np.ndarray) -> None:
    """As np.save, which does not say why a disk would take no more; time first, whatever the codec's memory layout is."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


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
