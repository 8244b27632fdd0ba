"""The reading side of the cache: its cuts in the order of the plan, opened by an index and not loaded.

    CachedCuts(folder, plan)[n] ──► index of its chunk ──► a line of cuts.jsonl, a slice of codes.npy ──► Lhotse cut

A million cuts take the memory of the index, 47 bytes each. Only numpy arrays are in memory and files are opened for
each read, so that processes which are forked or spawned from this one share all of it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from lhotse.serialization import deserialize_item

from datamodules.atomic_files import whole_file
from datamodules.cuts import SPLITS, Cut
from datamodules.errors import DataError

# line, bytes: of cuts.jsonl; offset, length: of the array, in steps; split: of SPLITS, -1 for none; corpus: of the list
# in index.json; name: hash of the cut's id
ROW = np.dtype(
    [
        ("line", "<i8"),
        ("bytes", "<i4"),
        ("offset", "<i8"),
        ("length", "<i4"),
        ("split", "i1"),
        ("corpus", "<i2"),
        ("name", "<u8"),
    ]
)


class CachedCuts(Sequence[Cut]):
    """Cuts of a cache; `of_split` and slices are views. Raises DataError where a planned chunk is missing, damaged or
    holds other cuts than planned.
    """

    def __init__(self, folder: Path, plan: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.chunks = folder, [planned["id"] for planned in plan]
        self.corpora: list[str] = []
        rows = [_read_index(folder, planned, self.corpora) for planned in plan]
        self.rows = np.concatenate(rows) if rows else np.empty(0, ROW)
        self.chunk = np.repeat(np.arange(len(rows), dtype=np.int32), [len(part) for part in rows])
        self.selected = np.arange(len(self.rows))  # rows of this view
        self._by_name: tuple[np.ndarray, np.ndarray] | None = None  # hashes of ids, ascending, and their positions
        self._codes: dict[int, _ArrayFile | None] = {}  # by chunk; None where it has latents

    def __len__(self) -> int:
        return len(self.selected)

    @overload
    def __getitem__(self, index: int) -> Cut: ...
    @overload
    def __getitem__(self, index: slice) -> "CachedCuts": ...
    def __getitem__(self, index: int | slice) -> "Cut | CachedCuts":
        if isinstance(index, slice):
            return self._view(self.selected[index])
        row = int(self.selected[index])
        cut: Cut = deserialize_item(self._fields(row))
        if (codes := self.codes(row)) is not None:
            cut.custom["codes"] = codes.tolist()
        else:
            offset, length = int(self.rows["offset"][row]), int(self.rows["length"][row])
            cut.custom |= {"offset": offset, "length": length, **self.files(row)}
        return cut

    def of_split(self, split: str) -> "CachedCuts":
        """The cuts of a split: train, validation, test."""
        return self._view(self.selected[self.rows["split"][self.selected] == SPLITS.index(split)])

    def id_of(self, row: int) -> str:
        """The cut id of a row."""
        return self._fields(row)["id"]

    def files(self, row: int) -> dict[str, str]:
        """The files that hold the latents of a row, as `custom` names them: array and, where there is one, std."""
        folder = self._chunk_folder(row)
        std = folder / "std.npy"
        return {"array": str(folder / "arrays.npy"), **({"std": str(std)} if std.is_file() else {})}

    def codes(self, row: int) -> np.ndarray | None:
        """Codes (N) of a row; None where the cache has latents."""
        chunk, path = int(self.chunk[row]), self._chunk_folder(row) / "codes.npy"
        if chunk not in self._codes:
            self._codes[chunk] = _header(path) if path.is_file() else None
        header = self._codes[chunk]
        if header is None:
            return None
        size = header.dtype.itemsize
        with path.open("rb") as file:
            file.seek(header.start + int(self.rows["offset"][row]) * size)
            codes = np.frombuffer(file.read(int(self.rows["length"][row]) * size), header.dtype)
        if len(codes) != self.rows["length"][row]:
            raise _damaged(path.parent, f"codes.npy became shorter since {path.parent} was opened")
        return codes

    def find(self, cut_id: str) -> Cut | None:
        """The cut of this id in this view, None where there is none."""
        if self._by_name is None:
            names = self.rows["name"][self.selected]
            order = np.argsort(names)
            self._by_name = names[order], order
        names, order = self._by_name
        name = np.uint64(_name_hash(cut_id))
        first, last = np.searchsorted(names, name), np.searchsorted(names, name, side="right")
        return next((cut for position in order[first:last] if (cut := self[int(position)]).id == cut_id), None)

    def digest(self) -> str:
        """SHA-256 of what the view holds, in its order: a chunk's name holds the hash of its cuts."""
        digest = hashlib.sha256(json.dumps(self.chunks).encode())
        digest.update(self.selected.tobytes() + self.rows["length"][self.selected].tobytes())
        return digest.hexdigest()

    def _chunk_folder(self, row: int) -> Path:
        return self.folder / self.chunks[self.chunk[row]]

    def _fields(self, row: int) -> dict[str, Any]:
        with (self._chunk_folder(row) / "cuts.jsonl").open("rb") as file:
            file.seek(self.rows["line"][row])
            return json.loads(file.read(self.rows["bytes"][row]))

    def _view(self, selected: np.ndarray) -> "CachedCuts":
        view = object.__new__(CachedCuts)
        view.__dict__ |= {**self.__dict__, "selected": selected, "_by_name": None}
        return view


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


def write_cuts(folder: Path, cuts: Iterable[tuple[dict[str, Any], int, int]]) -> None:
    """Writes cuts.jsonl, index.npy and index.json. cuts: each with the offset and the length of its array."""
    rows, ids, position = [], hashlib.sha256(), 0
    corpora: dict[str, int] = {}
    with whole_file(folder / "cuts.jsonl") as part, part.open("wb") as file:
        for cut, offset, length in cuts:
            line = json.dumps(cut, ensure_ascii=False).encode()
            split = cut["custom"].get("split")
            number = SPLITS.index(split) if split in SPLITS else -1
            corpus = corpora.setdefault(cut["custom"].get("corpus", ""), len(corpora))
            rows.append((position, len(line), offset, length, number, corpus, _name_hash(cut["id"])))
            ids.update(cut["id"].encode() + b"\0")
            file.write(line + b"\n")
            position += len(line) + 1
    with whole_file(folder / "index.npy") as part:
        np.save(part, np.array(rows, ROW))
    # not an npz, which holds the time: equal cuts are equal bytes
    with whole_file(folder / "index.json") as part:
        part.write_text(json.dumps({"ids": ids.hexdigest(), "corpora": list(corpora), "bytes": position}))


def _read_index(folder: Path, planned: Mapping[str, Any], corpora: list[str]) -> np.ndarray:
    """The rows of a chunk. corpora: of all chunks so far; grows by those of this one."""
    path = folder / planned["id"]
    if not path.is_dir():
        raise DataError(f"{folder} is not whole: chunk {planned['id']} is missing. Run its stage again")
    try:
        rows, about = np.load(path / "index.npy"), json.loads((path / "index.json").read_text())
        ids, own_corpora, expected = about["ids"], about["corpora"], about["bytes"]
        size = (path / "cuts.jsonl").stat().st_size
        if size != expected:
            raise DataError(f"cuts.jsonl has {size} bytes of {expected}")
        _check_arrays(path, int((rows["offset"] + rows["length"]).max(initial=0)))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, str(error)) from error
    planned_ids = hashlib.sha256(b"".join(cut_id.encode() + b"\0" for cut_id in planned["cuts"]))
    if ids != planned_ids.hexdigest():
        raise DataError(f"{path} holds other recordings than planned. Begin its stage again with --restart")
    corpora += [corpus for corpus in own_corpora if corpus not in corpora]
    if own_corpora:
        rows["corpus"] = np.array([corpora.index(corpus) for corpus in own_corpora], np.int16)[rows["corpus"]]
    return rows


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"{path} is cut off or damaged ({what}). Remove {path} and {path.parents[1] / 'receipt.json'}, and run its "
        "stage again: it makes that chunk anew"
    )


def _check_arrays(path: Path, steps: int) -> None:
    """Raises DataError or ValueError where a file of codes or latents is cut short, or holds other steps than the
    index names: after a loss of power a file may be shorter than it was written.
    """
    names = [name for name in ("codes.npy", "arrays.npy", "std.npy") if (path / name).is_file()]
    if not {"codes.npy", "arrays.npy"} & set(names):
        raise DataError("it has neither codes.npy nor arrays.npy")
    for name in names:
        array = _header(path / name)
        expected, size = array.start + array.dtype.itemsize * math.prod(array.shape), (path / name).stat().st_size
        if size != expected:
            raise DataError(f"{name} has {size} bytes of {expected}")
        if array.shape[0] != steps:
            raise DataError(f"{name} has {array.shape[0]} steps of {steps}")


class _ArrayFile(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # first byte of the values


def _header(path: Path) -> _ArrayFile:
    """The header of an .npy file. Raises ValueError where it has none."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return _ArrayFile(dtype, shape, file.tell())


def _name_hash(cut_id: str) -> int:
    """64 bits of BLAKE2b, as index.npy stores them."""
    return int.from_bytes(hashlib.blake2b(cut_id.encode(), digest_size=8).digest(), "little")
