"""The cache format: chunks of whole recordings, each written once and atomically, so that a killed run goes on with
the rest.

    <folder>/key.json              what made the cache (hash of codec or tokenizer, window rule); another is refused
    <folder>/plan.json             [{"id", "cuts": [cut ids]}, ...]: every recording in exactly one chunk
    <folder>/<chunk>/cuts.jsonl    the chunk's cuts, in the order of the plan
    <folder>/<chunk>/index.npy     where each cut's line and array are (index.py)
    <folder>/<chunk>/codes.npy     codes: (sum of N) uint16, or int32 where one is above 65535
    <folder>/<chunk>/arrays.npy    latents: (sum of F, D) float16
    <folder>/<chunk>/std.npy       standard deviation of their posterior, of the same shape, where it is not all zero

A chunk is written as `.tmp-<chunk>-<pid>` and renamed when it is whole. Rank r of W takes every W-th pending chunk, so
a run may go on with another W. Cuts whose recordings hold the same bytes lie in one chunk and share one result.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.atomic_files import to_disk, write_whole
from datamodules.cuts import Cut
from datamodules.errors import DataError
from datamodules.hashing import digest
from datamodules.store.index import CachedCuts, write_cuts

SECONDS_PER_CHUNK = 24 * 3600  # of sound: a chunk's results are kept in memory, as latents of 21.5 Hz some 240 MB
STORED_FIELDS = (
    "array",
    "std",
    "offset",
    "length",
    "codes",
)  # of `custom`: where latents or codes are, not what a cut is
FLOAT16_MAX = float(np.finfo(np.float16).max)


class Chunk(NamedTuple):
    """Cuts that are encoded together and written as one folder."""

    id: str
    cuts: list[Cut]

    @property
    def recordings(self) -> list[Cut]:
        """The cuts that are encoded: one for each different recording."""
        shared = self.shared
        return [cut for cut in self.cuts if shared[cut.id] == cut.id]

    @property
    def shared(self) -> dict[str, str]:
        """Cut id -> id of the cut whose result it has: the first one whose recording holds the same bytes, mostly
        itself.
        """
        first: dict[object, str] = {}
        return {cut.id: first.setdefault(_sound_key(cut), cut.id) for cut in self.cuts}


def plan(cuts: Iterable[Cut], recordings_per_chunk: int) -> list[Chunk]:
    """Cuts in their order, except that those of one recording follow its first, in chunks of `recordings_per_chunk`
    recordings, fewer where they are long.

    A chunk's id is its number and a hash of what it holds, so that a changed corpus never meets an old chunk. Raises
    DataError on an id that comes twice.
    """
    cuts = list(cuts)
    require_unique_ids(cuts)
    chunks = []
    for number, group in enumerate(_group(cuts, recordings_per_chunk)):
        content = json.dumps([_content(cut) for cut in group], sort_keys=True)
        chunks.append(Chunk(f"{number:06d}-{digest(content)[:12]}", group))
    return chunks


def require_unique_ids(cuts: Iterable[Cut]) -> None:
    """Raises DataError on an id that comes twice."""
    seen: set[str] = set()
    for cut in cuts:
        if cut.id in seen:
            raise DataError(
                f"the cut id {cut.id!r} comes twice in the prepared corpora. "
                "Prepare one of them again with another --name"
            )
        seen.add(cut.id)


def open_cache(folder: Path, chunks: Sequence[Chunk], key: dict[str, Any]) -> None:
    """Writes the key and the plan into a new cache; compares the key with that of an existing one.

    Removes what dead processes left half-written, and chunks that are in no plan any more: their recordings changed
    and are encoded again. Raises DataError that names what differs in the key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key.json"
    if path.is_file():
        old = json.loads(path.read_text())
        changed = [
            f"{name}: {old.get(name)} -> {key.get(name)}" for name in {**old, **key} if old.get(name) != key.get(name)
        ]
        if changed:
            raise DataError(f"{folder} was made otherwise ({'; '.join(changed)}). Begin again with --restart")
    _write_json(path, key)
    _write_json(folder / "plan.json", [{"id": chunk.id, "cuts": [cut.id for cut in chunk.cuts]} for chunk in chunks])
    for part in folder.glob(".tmp-*"):
        pid = int(part.name.rsplit("-", 1)[1])
        # in a container a new process often has a dead one's number
        if pid == os.getpid() or not _is_alive(pid):
            shutil.rmtree(part, ignore_errors=True)
    planned = {chunk.id for chunk in chunks}
    for child in folder.iterdir():
        if child.is_dir() and not child.name.startswith(".") and child.name not in planned:
            shutil.rmtree(child)


def pending(folder: Path, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks without a finished folder, in the order of the plan."""
    return [chunk for chunk in chunks if not (folder / chunk.id).is_dir()]


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
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if (self.folder / self.chunk.id).is_dir():
                return
            raise DataError(
                f"{self.folder}: chunk {self.chunk.id} cannot be written: {error.strerror or error}. The finished ones "
                "are kept: give the folder room and leave to write, and the same command goes on"
            ) from error

    def _write(self, part: Path) -> None:
        shared = self.chunk.shared
        cuts: list[tuple[dict[str, Any], int, int]] = []
        blocks: dict[str, np.ndarray] = {}
        ranges: dict[str, tuple[int, int]] = {}  # cut id -> offset and length of its block
        offset = 0
        for cut in self.chunk.cuts:
            source = shared[cut.id]
            if source not in blocks:
                block = blocks[source] = self._block(source)
                ranges[source] = (offset, len(block))
                offset += len(block)
            copy = cut.with_id(cut.id)
            copy.custom = {key: value for key, value in cut.custom.items() if key not in STORED_FIELDS}
            cuts.append((copy.to_dict(), *ranges[source]))
        whole = np.concatenate(list(blocks.values()))
        if self.codes:
            whole = whole.astype(np.uint16 if whole.max(initial=0) <= np.iinfo(np.uint16).max else np.int32)
        _save(part / ("codes.npy" if self.codes else "arrays.npy"), whole)
        if self.stds:
            stds = np.concatenate([block for name in blocks for block in self.stds.get(name, [])])
            assert len(stds) == offset, "some windows have a standard deviation and some have none"
            _save(part / "std.npy", stds)
        write_cuts(part, cuts)

    def _block(self, cut_id: str) -> np.ndarray:
        """Codes (N) or latents (F, D) of a recording."""
        assert (cut_id in self.codes) != (cut_id in self.arrays), f"{cut_id} has no result"
        return np.asarray(self.codes[cut_id]) if cut_id in self.codes else np.concatenate(self.arrays[cut_id])


def read(folder: Path) -> CachedCuts:
    """All cuts in the order of the plan, opened and not loaded. Those with latents have the paths of their files as
    custom["array"] and, where there is one, ["std"]; those with codes have them as custom["codes"].

    Raises DataError where a planned chunk is missing or holds other cuts than planned.
    """
    return CachedCuts(folder, json.loads((folder / "plan.json").read_text()))


def load_array(cut: Cut) -> np.ndarray:
    """The latents (F, D) float16 of a cut: a slice of the memory-mapped chunk."""
    return load_rows(cut.custom["array"], cut.custom["offset"], cut.custom["length"])


def load_rows(path: str, offset: int, length: int) -> np.ndarray:
    """`length` rows from `offset` on of an array on disk, memory-mapped."""
    return np.load(path, mmap_mode="r")[offset : offset + length]


def _group(cuts: list[Cut], recordings_per_chunk: int) -> Iterator[list[Cut]]:
    """The cuts of each chunk."""
    sounds: dict[object, list[Cut]] = {}
    for cut in cuts:
        sounds.setdefault(_sound_key(cut), []).append(cut)
    group: list[Cut] = []
    recordings, seconds = 0, 0.0
    for same in sounds.values():
        if recordings == recordings_per_chunk or (group and seconds + same[0].duration > SECONDS_PER_CHUNK):
            yield group
            group, recordings, seconds = [], 0, 0.0
        group += same
        recordings, seconds = recordings + 1, seconds + same[0].duration
    if group:
        yield group


def _sound_key(cut: Cut) -> object:
    """Equal for cuts of the same sound: hash of the file and which part of it; the cut's id where no hash is known."""
    sha256 = cut.custom.get("sha256")
    return (sha256, cut.start, cut.duration) if sha256 else cut.id


def _content(cut: Cut) -> dict[str, Any]:
    """What a cut is, without where its latents or codes are."""
    fields = cut.to_dict()
    return fields | {"custom": {key: value for key, value in fields["custom"].items() if key not in STORED_FIELDS}}


def _save(path: Path, array: np.ndarray) -> None:
    """Same bytes as np.save, which does not say why a disk took no more; time first, whatever the codec's memory
    layout.
    """
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _write_json(path: Path, content: object) -> None:
    write_whole(path, json.dumps(content))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
