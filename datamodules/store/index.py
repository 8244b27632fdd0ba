"""The reading side of the cache: cuts with their latents or codes, opened by an index and not loaded.

    CachedCuts[n] ──► a line of cuts.jsonl (text) + a slice of a chunk's arrays (sound) ──► Lhotse cut

Text and sound meet here: a chunk is found by the sound of a cut, whatever is said about it. A million cuts take the
memory of where their arrays are, 20 bytes each; the rest is memory-mapped. Files stay open, so that a window of latents
costs one read of each array.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from datamodules.cuts import SPLITS, Cut
from datamodules.errors import DataError
from datamodules.store.manifest import Manifest
from datamodules.store.open_files import OpenFiles
from datamodules.store.sums import Moments, moments

# of a chunk's index.npy: hash of the recording's sound (manifest.py), and which steps of the chunk's arrays are its
RECORDING = np.dtype([("sound", "S16"), ("offset", "<i8"), ("length", "<i4")])


class CachedCuts(Sequence[Cut]):
    """Cuts of a cache; `of_split` and slices are views. Raises DataError where a planned chunk is missing, damaged or
    holds other sounds than planned.

    chunks: names of the folders; chunk, item: (cuts) which recording of which chunk has a cut's sound.
    """

    def __init__(self, manifest: Manifest, chunks: Sequence[str], chunk: np.ndarray, item: np.ndarray) -> None:
        self.manifest, self.folder = manifest, manifest.folder
        self.rows, self.corpora = manifest.rows, manifest.corpora
        self.chunk = np.array(chunk)
        self.chunks = [_Chunk(self.folder / name) for name in chunks]
        self.offsets, self.lengths = np.empty(len(manifest), np.int64), np.empty(len(manifest), np.int32)
        order = np.argsort(self.chunk, kind="stable")
        edges = np.searchsorted(self.chunk[order], np.arange(len(chunks) + 1))
        for number, opened in enumerate(self.chunks):
            cuts = order[edges[number] : edges[number + 1]]
            stored = opened.recordings(item[cuts], self.rows["sound"][cuts])
            self.offsets[cuts], self.lengths[cuts] = stored["offset"], stored["length"]
        self.selected = np.arange(len(manifest))  # rows of this view
        self._in_view: np.ndarray | None = None  # (cuts) bool
        self._by_sound: np.ndarray | None = None  # rows, ascending by the hash of their sound
        self._files = OpenFiles()

    def __len__(self) -> int:
        return len(self.selected)

    @overload
    def __getitem__(self, index: int) -> Cut: ...
    @overload
    def __getitem__(self, index: slice) -> "CachedCuts": ...
    def __getitem__(self, index: int | slice) -> "Cut | CachedCuts":
        if isinstance(index, slice):
            return self._view(self.selected[index])
        return self._cut(int(self.selected[index]))

    def _cut(self, row: int) -> Cut:
        cut = self.manifest.cut(row)
        cut.custom |= self.arrays_of(row)
        return cut

    def arrays_of(self, row: int) -> dict[str, object]:
        """What `custom` says of the sound of a row: codes; or array and, where there is one, std, and which steps."""
        if (codes := self.codes(row)) is not None:
            return {"codes": codes.tolist()}
        return {"offset": int(self.offsets[row]), "length": int(self.lengths[row]), **self.files(row)}

    def of_split(self, split: str) -> "CachedCuts":
        """The cuts of a split: train, validation, test."""
        return self._view(self.selected[self.rows["split"][self.selected] == SPLITS.index(split)])

    def files(self, row: int) -> dict[str, str]:
        """The files that hold the latents of a row, as `custom` names them: array and, where there is one, std."""
        arrays = self.chunks[self.chunk[row]].arrays
        return {name: arrays[name].path for name in ("array", "std") if name in arrays}

    def codes(self, row: int) -> np.ndarray | None:
        """Codes (N) of a row; None where the cache has latents."""
        return self.read("codes", row, 0, int(self.lengths[row]))

    def read(self, name: str, row: int, begin: int, count: int) -> np.ndarray | None:
        """`count` steps of the array of a row, from its step `begin` on; None where its chunk has no such array: codes,
        array or std.
        """
        array = self.chunks[self.chunk[row]].arrays.get(name)
        if array is None:
            return None
        start = array.start + (int(self.offsets[row]) + begin) * array.bytes_per_step
        values = self._files.read(array.path, start, count * array.bytes_per_step)
        if len(values) != count * array.bytes_per_step:
            path = Path(array.path)
            raise _damaged(path.parent, f"{path.name} became shorter since {path.parent} was opened")
        return np.frombuffer(values, array.dtype).reshape(count, *array.shape[1:])

    def find(self, cut_id: str) -> Cut | None:
        """The cut of this id in this view, None where there is none."""
        if self._in_view is None:
            self._in_view = np.zeros(len(self.manifest), bool)
            self._in_view[self.selected] = True
        row = self.manifest.row_of(cut_id)
        return None if row is None or not self._in_view[row] else self._cut(row)

    def rows_of(self, sounds: np.ndarray) -> np.ndarray:
        """The row that has each of these sounds (S16), -1 where there is none."""
        available = self.rows["sound"]
        if self._by_sound is None:
            self._by_sound = np.argsort(available, kind="stable")
        position = np.searchsorted(available, sounds, sorter=self._by_sound)
        rows = self._by_sound[np.minimum(position, len(available) - 1)]
        return np.where(available[rows] == sounds, rows, -1)

    def moments(self) -> Moments:
        """Of the latents of the view, each different sound once."""
        rows = self.selected
        items = np.load(self.folder / "plan.npy", mmap_mode="r")["item"][rows]
        paths = [chunk.path for chunk in self.chunks]
        return moments(self.rows["sound"][rows], self.lengths[rows], self.chunk[rows], items, paths)

    def digest(self) -> str:
        """SHA-256 of what the view holds, text and sound, in its order."""
        return hashlib.sha256((self.manifest.digest + self.digest_of_sound()).encode()).hexdigest()

    def digest_of_sound(self) -> str:
        """SHA-256 of the sounds of the view, in their order; another caption does not change it."""
        digest = hashlib.sha256()
        for values in (self.rows["sound"], self.rows["split"], self.lengths):
            digest.update(np.ascontiguousarray(values[self.selected]).tobytes())
        return digest.hexdigest()

    def _view(self, selected: np.ndarray) -> "CachedCuts":
        view = object.__new__(CachedCuts)
        view.__dict__ |= {**self.__dict__, "selected": selected, "_in_view": None}
        return view

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "rows": None}  # a memory map would be pickled as a whole array

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self.rows = self.manifest.rows


class CachedCodes(Mapping[str, Sequence[int]]):
    """Cut id -> codes (N), of a view of the cache; read when asked for."""

    def __init__(self, cuts: CachedCuts) -> None:
        self.cuts = cuts

    def __getitem__(self, cut_id: str) -> Sequence[int]:
        cut = self.cuts.find(cut_id)
        if cut is None:
            raise KeyError(cut_id)
        return cut.custom["codes"]

    def __iter__(self) -> Iterator[str]:
        return (cut.id for cut in self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)


class ArrayFile(NamedTuple):
    path: str
    dtype: np.dtype
    shape: tuple[int, ...]  # steps first
    start: int  # first byte of the values

    @property
    def bytes_per_step(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])


class _Chunk:
    """A finished chunk. arrays: codes, or array and, where there is one, std."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise DataError(f"{path.parent} is not whole: chunk {path.name} is missing. Run its stage again")
        self.path = path
        try:
            self.stored: np.ndarray | None = np.load(path / "index.npy")
            steps = int((self.stored["offset"] + self.stored["length"]).max(initial=0))
            self.arrays = _open_arrays(path, steps)
        except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
            raise _damaged(path, str(error)) from error

    def recordings(self, items: np.ndarray, sounds: np.ndarray) -> np.ndarray:
        """The RECORDING of each of these items, which must have these sounds. Once: the index is not kept."""
        stored, self.stored = self.stored, None
        assert stored is not None
        if len(items) and (items.max() >= len(stored) or (stored["sound"][items] != sounds).any()):
            raise DataError(
                f"{self.path} holds other recordings than planned. Remove {self.path} and "
                f"{self.path.parents[1] / 'receipt.json'}, and run its stage again: it makes that chunk anew"
            )
        return stored[items]


def _open_arrays(path: Path, steps: int) -> dict[str, ArrayFile]:
    """Raises DataError or ValueError where a file of codes or latents is cut short, or holds other steps than the
    index names: after a loss of power a file may be shorter than it was written.
    """
    arrays = {}
    for name, file in (("codes", path / "codes.npy"), ("array", path / "arrays.npy"), ("std", path / "std.npy")):
        if not file.is_file():
            continue
        array = arrays[name] = _header(file)
        expected, size = array.start + array.shape[0] * array.bytes_per_step, file.stat().st_size
        if size != expected:
            raise DataError(f"{file.name} has {size} bytes of {expected}")
        if array.shape[0] != steps:
            raise DataError(f"{file.name} has {array.shape[0]} steps of {steps}")
    if not {"codes", "array"} & set(arrays):
        raise DataError("it has neither codes.npy nor arrays.npy")
    return arrays


def _header(path: Path) -> ArrayFile:
    """The header of an .npy file. Raises ValueError where it has none."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return ArrayFile(str(path), dtype, shape, file.tell())


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is cut off or damaged ({what}). Remove {path} and {path.parents[1] / 'receipt.json'}, and run its "
        "stage again: it makes that chunk anew"
    )
