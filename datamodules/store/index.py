"""The reading side of the cache: its cuts in plan order, opened by an index and not loaded. A million of them take the memory of the index, 47 bytes each.

    CachedCuts(folder, plan)[n] ──► index of its chunk ──► one line of cuts.jsonl, one slice of codes.npy ──► a Lhotse cut

Numpy alone is held and files are opened for each read, so that processes which are forked or spawned from this one share all of it.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from lhotse.serialization import deserialize_item

from datamodules.errors import DataError

SPLITS = ("train", "validation", "test")
ROW = np.dtype(
    [
        ("line", "<i8"), ("bytes", "<i4"),  # of cuts.jsonl
        ("offset", "<i8"), ("length", "<i4"),  # of the array, in steps
        ("split", "i1"),  # of SPLITS, -1 for none
        ("corpus", "<i2"),  # of `corpora`
        ("name", "<u8"),  # hash of the id
    ]
)  # fmt: skip


class CachedCuts(Sequence[Any]):
    """Cuts of a cache. `of_split` and slices are views. Raises DataError where a planned chunk is missing or holds other cuts than planned."""

    def __init__(self, folder: Path, plan: Sequence[Mapping[str, Any]]) -> None:
        self.folder, self.chunks = folder, [planned["id"] for planned in plan]
        self.corpora: list[str] = []
        rows = [_index(folder, planned, self.corpora) for planned in plan]
        self.rows = np.concatenate(rows) if rows else np.empty(0, ROW)
        self.chunk = np.repeat(np.arange(len(rows), dtype=np.int32), [len(found) for found in rows])
        self.chosen = np.arange(len(self.rows))
        self._by_name: tuple[np.ndarray, np.ndarray] | None = (
            None  # of the view: hashes of ids, ascending, and their places
        )
        self._arrays: dict[int, tuple[np.dtype, int] | None] = {}  # chunk -> type and first byte of its codes

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "CachedCuts": ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._view(self.chosen[index])
        number = self.chosen[index]
        row, cut = self.rows[number], deserialize_item(self._fields(number))
        if (codes := self.codes(number)) is not None:
            cut.custom["codes"] = codes.tolist()
        else:
            cut.custom |= {"offset": int(row["offset"]), "length": int(row["length"]), **self.arrays(number)}
        return cut

    def of_split(self, split: str) -> "CachedCuts":
        return self._view(self.chosen[self.rows["split"][self.chosen] == SPLITS.index(split)])

    def name(self, number: int) -> str:
        """The id of a row's cut."""
        return self._fields(number)["id"]

    def path(self, number: int) -> Path:
        """The chunk of a row."""
        return self.folder / self.chunks[self.chunk[number]]

    def arrays(self, number: int) -> dict[str, str]:
        """The files of a row's latents, as a cut's custom names them."""
        folder = self.path(number)
        std = folder / "std.npy"
        return {"array": str(folder / "arrays.npy"), **({"std": str(std)} if std.is_file() else {})}

    def codes(self, number: int) -> np.ndarray | None:
        """(N) of a row, read from its place; None where the cache has latents."""
        chunk = int(self.chunk[number])
        path = self.folder / self.chunks[chunk] / "codes.npy"
        if chunk not in self._arrays:
            self._arrays[chunk] = _header(path) if path.is_file() else None
        place = self._arrays[chunk]
        if place is None:
            return None
        dtype, start = place
        row = self.rows[number]
        with path.open("rb") as file:
            file.seek(start + int(row["offset"]) * dtype.itemsize)
            return np.frombuffer(file.read(int(row["length"]) * dtype.itemsize), dtype)

    def find(self, cut_id: str) -> Any | None:
        """The cut of that id in this view, None where there is none."""
        if self._by_name is None:
            names = self.rows["name"][self.chosen]
            order = np.argsort(names)
            self._by_name = names[order], order
        names, order = self._by_name
        wanted = np.uint64(_name(cut_id))
        first, last = np.searchsorted(names, wanted), np.searchsorted(names, wanted, side="right")
        return next((cut for place in order[first:last] if (cut := self[int(place)]).id == cut_id), None)

    def digest(self) -> str:
        """Of what is stored, in its order: a chunk's name holds the hash of its cuts."""
        digest = hashlib.sha256(json.dumps(self.chunks).encode())
        digest.update(self.chosen.tobytes() + self.rows["length"][self.chosen].tobytes())
        return digest.hexdigest()

    def _fields(self, number: int) -> dict[str, Any]:
        with (self.path(number) / "cuts.jsonl").open("rb") as file:
            file.seek(self.rows["line"][number])
            return json.loads(file.read(self.rows["bytes"][number]))

    def _view(self, chosen: np.ndarray) -> "CachedCuts":
        view = object.__new__(CachedCuts)
        view.__dict__ |= {**self.__dict__, "chosen": chosen, "_by_name": None}
        return view


class CachedCodes(Mapping[str, Sequence[int]]):
    """Codes by recording, of a view of the cache."""

    def __init__(self, cuts: CachedCuts) -> None:
        self.cuts = cuts

    def __getitem__(self, cut_id: str) -> Sequence[int]:
        cut = self.cuts.find(cut_id)
        if cut is None:
            raise KeyError(cut_id)
        return cut.custom["codes"]

    def __iter__(self) -> Any:
        return (cut.id for cut in self.cuts)

    def __len__(self) -> int:
        return len(self.cuts)


def write_cuts(folder: Path, cuts: Iterable[tuple[dict[str, Any], int, int]]) -> None:
    """cuts.jsonl, and index.npy and index.json after it. cuts: each with the offset and the length of its array."""
    rows, ids, place = [], hashlib.sha256(), 0
    corpora: dict[str, int] = {}
    part = folder / f".cuts.jsonl.{os.getpid()}"
    with part.open("wb") as file:
        for cut, offset, length in cuts:
            line = json.dumps(cut, ensure_ascii=False).encode()
            split = cut["custom"].get("split")
            number = SPLITS.index(split) if split in SPLITS else -1
            corpus = corpora.setdefault(cut["custom"].get("corpus", ""), len(corpora))
            rows.append((place, len(line), offset, length, number, corpus, _name(cut["id"])))
            ids.update(cut["id"].encode() + b"\0")
            file.write(line + b"\n")
            place += len(line) + 1
    part.replace(folder / "cuts.jsonl")
    part = folder / f".index.{os.getpid()}.npy"
    np.save(part, np.array(rows, ROW))
    part.replace(folder / "index.npy")
    part = folder / f".index.{os.getpid()}.json"  # not an npz, which holds the time: equal cuts are equal bytes
    part.write_text(json.dumps({"ids": ids.hexdigest(), "corpora": list(corpora), "bytes": place}))
    part.replace(folder / "index.json")


def _index(folder: Path, planned: Mapping[str, Any], corpora: list[str]) -> np.ndarray:
    """corpora: of the chunks so far; grows by this one's."""
    path = folder / planned["id"]
    if not path.is_dir():
        raise DataError(f"{folder} is not whole: chunk {planned['id']} is missing. Run its stage again")
    if not (path / "index.json").is_file():
        _upgrade(path)
    try:
        rows, about = np.load(path / "index.npy"), json.loads((path / "index.json").read_text())
        ids, own = about["ids"], about["corpora"]
        size, end = (path / "cuts.jsonl").stat().st_size, about["bytes"]
        if size != end:
            raise DataError(f"cuts.jsonl has {size} bytes of {end}")
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is cut off or damaged ({error}). Remove {path} and {folder.parent / 'receipt.json'}, and run its stage again: "
            "it makes that chunk anew"
        ) from error
    wanted = hashlib.sha256(b"".join(cut_id.encode() + b"\0" for cut_id in planned["cuts"]))
    if ids != wanted.hexdigest():
        raise DataError(f"{path} holds other recordings than planned. Begin its stage again with --restart")
    corpora += [corpus for corpus in own if corpus not in corpora]
    if own:
        rows["corpus"] = np.array([corpora.index(corpus) for corpus in own], np.int16)[rows["corpus"]]
    return rows


def _upgrade(path: Path) -> None:
    """A chunk of an earlier version: compressed cuts, without an index, with their codes or places in `custom`."""
    old = path / "cuts.jsonl.gz"
    if not old.is_file():
        raise DataError(f"{path} has no cuts. Begin its stage again with --restart")
    with gzip.open(old, "rt", encoding="utf-8") as file:
        cuts = [json.loads(line) for line in file]
    codes, offset, placed = [], 0, []
    for cut in cuts:
        custom = cut["custom"]
        if "codes" in custom:
            codes.append(np.asarray(custom.pop("codes"), np.int32))
            placed.append((cut, offset, len(codes[-1])))
            offset += len(codes[-1])
        else:
            placed.append((cut, custom.pop("offset"), custom.pop("length")))
    try:
        if codes:
            part = path / f".codes.{os.getpid()}.npy"
            np.save(part, np.concatenate(codes))
            part.replace(path / "codes.npy")
        write_cuts(path, placed)
    except OSError as error:
        raise DataError(
            f"{path} is of an earlier version, and its index cannot be written ({error}). Make the folder writable, or run its stage again"
        ) from None


def _header(path: Path) -> tuple[np.dtype, int]:
    with path.open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        _, _, dtype = np.lib.format.read_array_header_1_0(file)
        return dtype, file.tell()


def _name(cut_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(cut_id.encode(), digest_size=8).digest(), "little")
