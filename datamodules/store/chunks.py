"""The cache format: sound by its content, in chunks that are written once and atomically, so that a killed run goes on
with the rest.

    <folder>/key.json              what made the cache (hash of codec or tokenizer, window rule); another is refused
    <folder>/cuts.*                the cuts of the run with their text (manifest.py)
    <folder>/plan.json             [{"id", "recordings", "reused"}, ...]: the chunks
    <folder>/plan.npy              for each cut, which recording of which chunk has its sound
    <folder>/<chunk>/index.npy     for each recording, the hash of its sound and where its array is
    <folder>/<chunk>/codes.npy     codes: (sum of N) uint16, or int32 where one is above 65535
    <folder>/<chunk>/arrays.npy    latents: (sum of F, D) float16
    <folder>/<chunk>/std.npy       standard deviation of their posterior, of the same shape, where it is not all zero
    <folder>/<chunk>/sums.npy      latents: (recordings, 2, D) float64, the sum of each one's frames and of their squares

A chunk knows no text and no cut: what it holds depends on sound alone. Cuts of the same sound share one recording, and
a plan takes the recordings that finished chunks hold as they are, whatever was said about them when they were written.

A chunk is written as `.tmp-<chunk>-<pid>` and renamed when it is whole. Rank r of W takes every W-th pending chunk, so
a run may go on with another W.
"""

import json
import os
import shutil
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from datamodules.atomic_files import to_disk, whole_file, write_whole
from datamodules.cuts import Cut
from datamodules.errors import DataError
from datamodules.hashing import digest
from datamodules.store.index import RECORDING, CachedCuts
from datamodules.store.manifest import Manifest, link_file, refuse_earlier_version
from datamodules.store.sums import SUMS, sums

SECONDS_PER_CHUNK = 24 * 3600  # of sound: a chunk's results are kept in memory, as latents of 21.5 Hz some 240 MB
FLOAT16_MAX = float(np.finfo(np.float16).max)
PLACE = np.dtype([("chunk", "<i4"), ("item", "<i4")])  # of plan.npy: item counts the recordings of the chunk


class Chunk:
    """Recordings that are encoded together and written as one folder; their cuts are read when they are asked for."""

    def __init__(self, id: str, manifest: Manifest, rows: np.ndarray, num_cuts: int) -> None:
        """rows: of the manifest, the first cut of each recording; num_cuts: of all these recordings."""
        self.id, self.rows, self.num_cuts, self._manifest = id, rows, num_cuts, manifest

    @property
    def recordings(self) -> list[Cut]:
        """The cuts that are encoded: the first of each different sound."""
        return [self._manifest.cut(int(row)) for row in self.rows]

    @property
    def sounds(self) -> np.ndarray:
        """Their hashes, S16."""
        return self._manifest.rows["sound"][self.rows]

    @property
    def seconds(self) -> float:
        """Of sound that is encoded."""
        return float(self._manifest.rows["seconds"][self.rows].sum(dtype=np.float64))


class Plan(Sequence[Chunk]):
    """The chunks of a cache. What it keeps in memory is 16 bytes a cut; the rest is memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest(folder)
        self.chunks: list[dict[str, Any]] = json.loads((folder / "plan.json").read_text())
        chunk, self._items = _places(folder, len(self.manifest))
        self._order = np.argsort(chunk, kind="stable")
        self._edges = np.searchsorted(chunk[self._order], np.arange(len(self.chunks) + 1))

    def __len__(self) -> int:
        return len(self.chunks)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> list[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | list[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        rows = self._order[self._edges[index] : self._edges[index + 1]]
        _, first = np.unique(self._items[rows], return_index=True)
        return Chunk(self.chunks[index]["id"], self.manifest, rows[first], len(rows))

    @property
    def num_cuts(self) -> int:
        return len(self.manifest)

    @property
    def duplicates(self) -> int:
        """Cuts whose sound another cut has, too."""
        return self.num_cuts - len(np.unique(self.manifest.rows["sound"]))

    def seconds(self, without: Container[str] = ()) -> float:
        """Seconds of sound in the chunks, each sound once, but for the chunks `without`."""
        counted = [self[number] for number, about in enumerate(self.chunks) if about["id"] not in without]
        return sum((chunk.seconds for chunk in counted), 0.0)


def open_cache(folder: Path, key: dict[str, Any]) -> None:
    """Writes the key into a new cache; compares it with that of an existing one.

    Removes what dead processes left half-written. Raises DataError that names what differs in the key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_earlier_version(folder)
    path = folder / "key.json"
    if path.is_file():
        old = json.loads(path.read_text())
        changed = [
            f"{name}: {old.get(name)} -> {key.get(name)}" for name in {**old, **key} if old.get(name) != key.get(name)
        ]
        if changed:
            raise DataError(f"{folder} was made otherwise ({'; '.join(changed)}). Begin again with --restart")
    write_whole(path, json.dumps(key))
    for part in folder.glob(".tmp-*"):
        pid = int(part.name.rsplit("-", 1)[1])
        # in a container a new process often has a dead one's number
        if pid == os.getpid() or not _is_alive(pid):
            shutil.rmtree(part, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes the finished chunks and their key: what made them is gone."""
    for chunk in finished(folder):
        shutil.rmtree(chunk)
    (folder / "key.json").unlink(missing_ok=True)


def take_over(folder: Path, earlier: Path) -> None:
    """The finished chunks of an earlier cache of the same key become this one's too, without a second copy on the disk
    where the file system allows it.
    """
    for chunk in taken_over(folder, earlier):
        part = folder / f".tmp-{chunk.name}-{os.getpid()}"
        if not (folder / chunk.name).is_dir():
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for file in chunk.iterdir():
                link_file(file, part / file.name)
            part.rename(folder / chunk.name)


def taken_over(folder: Path, earlier: Path) -> list[Path]:
    """The finished chunks of an earlier cache, where it has the same key."""
    keys = [path / "key.json" for path in (folder, earlier)]
    if not all(path.is_file() for path in keys):
        return []
    own, other = (json.loads(path.read_text()) for path in keys)
    return finished(earlier) if own == other else []


def plan(folder: Path, recordings_per_chunk: int, apart: np.ndarray | None = None) -> Plan:
    """Plans the chunks of the manifest in this folder, or opens the plan that was made for it.

    Sounds that a finished chunk holds stay where they are. The others come in the order of their first cut, in chunks of
    `recordings_per_chunk` recordings, fewer where they are long. apart: (cuts) bool; no chunk has recordings of both
    values. A chunk's id is its number and a hash of its sounds. Chunks of no sound of the manifest are removed.
    """
    manifest = Manifest(folder)
    if not is_planned(folder):
        _write_plan(folder, manifest, recordings_per_chunk, apart)
    planned = Plan(folder)
    ids = {chunk["id"] for chunk in planned.chunks}
    for chunk in finished(folder):
        if chunk.name not in ids:
            shutil.rmtree(chunk)
    return planned


def is_planned(folder: Path) -> bool:
    """Whether the manifest in this folder has a plan, and every chunk that it took over is still here."""
    path = folder / "plan.json"
    return path.is_file() and all(
        (folder / chunk["id"]).is_dir() for chunk in json.loads(path.read_text()) if chunk["reused"]
    )


def _write_plan(folder: Path, manifest: Manifest, recordings_per_chunk: int, apart: np.ndarray | None) -> None:
    sounds, first, inverse = np.unique(manifest.rows["sound"], return_index=True, return_inverse=True)
    places = np.full(len(sounds), -1, PLACE)  # of each different sound
    chunks: list[dict[str, Any]] = []
    for path in finished(folder):
        stored = _stored_sounds(path)
        _, here, items = np.intersect1d(sounds, stored, assume_unique=True, return_indices=True)
        here, items = here[places["chunk"][here] < 0], items[places["chunk"][here] < 0]
        if len(here):
            places["chunk"][here], places["item"][here] = len(chunks), items
            chunks.append({"id": path.name, "recordings": len(stored), "reused": True})
    new = np.flatnonzero(places["chunk"] < 0)
    new = new[np.argsort(first[new])]  # as their first cuts come
    groups = [new] if apart is None else [new[apart[first[new]]], new[~apart[first[new]]]]
    for group in (
        part for one in groups for part in _group(one, manifest.rows["seconds"][first], recordings_per_chunk)
    ):
        places["chunk"][group], places["item"][group] = len(chunks), np.arange(len(group))
        content = digest(b"".join(bytes(sound).ljust(16, b"\0") for sound in sounds[group]).hex())
        chunks.append({"id": f"{len(chunks):06d}-{content[:12]}", "recordings": len(group), "reused": False})
    with whole_file(folder / "plan.npy", durable=True) as part:
        np.save(part, places[inverse.reshape(-1)])
    write_whole(folder / "plan.json", json.dumps(chunks))


def _group(new: np.ndarray, seconds: np.ndarray, recordings_per_chunk: int) -> Iterator[np.ndarray]:
    """The sounds of each new chunk. seconds: of each sound."""
    begin, total = 0, 0.0
    for end, length in enumerate(seconds[new].tolist()):
        if end - begin == recordings_per_chunk or (end > begin and total + length > SECONDS_PER_CHUNK):
            yield new[begin:end]
            begin, total = end, 0.0
        total += length
    if begin < len(new):
        yield new[begin:]


def _stored_sounds(chunk: Path) -> np.ndarray:
    """Hashes of the sounds of a finished chunk; none where its index is damaged or of an earlier version."""
    try:
        return np.load(chunk / "index.npy")["sound"]
    except (OSError, EOFError, ValueError, KeyError, IndexError):
        return np.empty(0, "S16")


def _places(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Which chunk each cut is in, and which of its recordings. Raises DataError where plan.npy is damaged."""
    try:
        places = np.load(folder / "plan.npy", mmap_mode="r" if count else None)
        if len(places) != count:
            raise ValueError(f"it has {len(places)} cuts of {count}")
    except (OSError, EOFError, ValueError) as error:
        if not folder.is_dir():  # gone with its disk: there is nothing to remove
            raise
        raise DataError(
            f"{folder / 'plan.npy'} is cut off or damaged ({error}). Remove {folder / 'plan.json'} and "
            f"{folder.parent / 'receipt.json'}, and run its stage again: no sound is encoded for it"
        ) from error
    return places["chunk"], places["item"]


def finished(folder: Path) -> list[Path]:
    """The folders of the chunks that are whole, by their names."""
    return sorted(path for path in folder.glob("[0-9]*-*") if path.is_dir())


def pending(folder: Path, planned: Sequence[Chunk]) -> list[Chunk]:
    """Chunks without a finished folder, in the order of the plan."""
    return [chunk for chunk in planned if not (folder / chunk.id).is_dir()]


class ChunkWriter:
    """Collects the results of one chunk, window by window, and makes it appear whole."""

    def __init__(self, folder: Path, chunk: Chunk) -> None:
        self.folder, self.chunk = folder, chunk
        self.codes: dict[str, list[int]] = {}
        self.arrays: dict[str, list[np.ndarray]] = {}
        self.stds: dict[str, list[np.ndarray]] = {}

    def add_codes(self, cut_id: str, codes: Iterable[int]) -> None:
        """Appends the codes (N) of a recording's next window."""
        self.codes.setdefault(cut_id, []).extend(codes)

    def add_array(self, cut_id: str, array: np.ndarray, std: np.ndarray | None = None) -> None:
        """Appends the latents (F, D) of a recording's next window, and the standard deviation (F, D) of their
        posterior, None where the codec has none. Raises DataError on values that float16 cannot represent.
        """
        for values, kept in ((array, self.arrays), (std, self.stds)):
            if values is None:
                continue
            if not np.isfinite(values).all() or np.abs(values).max(initial=0) > FLOAT16_MAX:
                raise DataError(
                    f"{cut_id}: latents are not finite or above {FLOAT16_MAX} and do not fit the cache's float16"
                )
            kept.setdefault(cut_id, []).append(values.astype(np.float16))

    def finish(self) -> None:
        """Writes and renames; equal results are equal bytes. A chunk that another process has finished meanwhile stays
        as it is. Raises DataError where the folder cannot be written: nothing of the chunk is left then.
        """
        part = self.folder / f".tmp-{self.chunk.id}-{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir(parents=True)
            self._write(part)
            for written in (*part.iterdir(), part):
                to_disk(written)  # else a loss of power after the rename could leave a shorter file in a whole chunk
            part.rename(self.folder / self.chunk.id)
            to_disk(self.folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if (self.folder / self.chunk.id).is_dir():
                return
            raise DataError(
                f"{self.folder}: chunk {self.chunk.id} cannot be written: {error.strerror or error}. The finished ones "
                "are kept: give the folder room and leave to write, and the same command goes on"
            ) from error

    def _write(self, part: Path) -> None:
        names = [cut.id for cut in self.chunk.recordings]
        blocks = [self._block(name) for name in names]
        whole = np.concatenate(blocks)
        if self.codes:
            whole = whole.astype(np.uint16 if whole.max(initial=0) <= np.iinfo(np.uint16).max else np.int32)
        _save(part / ("codes.npy" if self.codes else "arrays.npy"), whole)
        if self.arrays:
            _save(part / SUMS, np.stack([sums(block) for block in blocks]))
        if self.stds:
            stds = np.concatenate([block for name in names for block in self.stds.get(name, [])])
            assert len(stds) == len(whole), "some windows have a standard deviation and some have none"
            _save(part / "std.npy", stds)
        index = np.empty(len(names), RECORDING)
        index["sound"], index["length"] = self.chunk.sounds, [len(block) for block in blocks]
        index["offset"] = np.cumsum(index["length"]) - index["length"]
        _save(part / "index.npy", index)

    def _block(self, cut_id: str) -> np.ndarray:
        """Codes (N) or latents (F, D) of a recording."""
        assert (cut_id in self.codes) != (cut_id in self.arrays), f"{cut_id} has no result"
        return np.asarray(self.codes[cut_id]) if cut_id in self.codes else np.concatenate(self.arrays[cut_id])


def read(folder: Path) -> CachedCuts:
    """All cuts in the order of their corpora, opened and not loaded. Those with latents have the paths of their files as
    custom["array"] and, where there is one, ["std"]; those with codes have them as custom["codes"].

    Raises DataError where a planned chunk is missing, damaged or holds other sounds than planned.
    """
    manifest = Manifest(folder)
    names = [chunk["id"] for chunk in json.loads((folder / "plan.json").read_text())]
    return CachedCuts(manifest, names, *_places(folder, len(manifest)))


def load_array(cut: Cut) -> np.ndarray:
    """The latents (F, D) float16 of a cut: a slice of the memory-mapped chunk."""
    return load_rows(cut.custom["array"], cut.custom["offset"], cut.custom["length"])


def load_rows(path: str, offset: int, length: int) -> np.ndarray:
    """`length` rows from `offset` on of an array on disk, memory-mapped."""
    return np.load(path, mmap_mode="r")[offset : offset + length]


def _save(path: Path, array: np.ndarray) -> None:
    """Same bytes as np.save, which does not say why a disk took no more; time first, whatever the codec's memory
    layout.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data if array.dtype.names is None else array.tobytes())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
