"""The cuts of a run on disk, with their text: written once by one process, opened by all others and not loaded.

    <folder>/cuts.jsonl   the cuts in the order of their corpora, as Lhotse writes them
    <folder>/cuts.npy     a ROW for each: where its line is, and what is asked of many cuts at once; memory-mapped
    <folder>/cuts.json    names of the corpora, what the cuts were read from, how many bytes the lines are

Sound is not in it: it is stored by its content (chunks.py), which a ROW names. So a mended caption is another
manifest beside the same sound.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from lhotse.serialization import deserialize_item

from datamodules.atomic_files import whole_file, write_whole
from datamodules.cuts import SPLITS, Cut
from datamodules.errors import DataError
from datamodules.store.open_files import OpenFiles

FILES = ("cuts.jsonl", "cuts.npy", "cuts.json")
BLOCK = 1 << 16  # rows that are kept as Python objects while they are written

# line, bytes: of cuts.jsonl; seconds: of sound; split: of SPLITS, -1 for none; corpus: of the names in cuts.json; name:
# hash of the cut's id; sound: hash of its sound
ROW = np.dtype(
    [
        ("line", "<i8"),
        ("bytes", "<i4"),
        ("seconds", "<f4"),
        ("split", "i1"),
        ("corpus", "<i2"),
        ("name", "<u8"),
        ("sound", "S16"),
    ]
)


class Manifest:
    """Cuts by number. 43 bytes each, shared by all processes that open it. Raises DataError where it is damaged, or of
    an earlier version.
    """

    def __init__(self, folder: Path) -> None:
        refuse_earlier_version(folder)
        self.folder, self._lines = folder, str(folder / "cuts.jsonl")
        try:
            about = json.loads((folder / "cuts.json").read_text())
            self.rows: np.ndarray = np.load(folder / "cuts.npy", mmap_mode="r" if about["cuts"] else None)
            size = (folder / "cuts.jsonl").stat().st_size
            if size != about["bytes"] or len(self.rows) != about["cuts"]:
                raise DataError(f"cuts.jsonl has {size} bytes of {about['bytes']}, cuts.npy {len(self.rows)} cuts")
        except (OSError, EOFError, ValueError, KeyError) as error:
            if not folder.is_dir():  # gone with its disk: there is nothing to remove
                raise
            raise DataError(
                f"{folder} is cut off or damaged ({error}). Remove {folder / 'cuts.json'} and "
                f"{folder.parent / 'receipt.json'}, and run its stage again: no sound is encoded for it"
            ) from error
        self.corpora: list[str] = about["corpora"]
        self.inputs: dict[str, Any] = about["inputs"]
        self.skipped: list[list[str]] = about["skipped"]
        self.digest: str = about["digest"]
        self._files = OpenFiles()
        self._by_name: np.ndarray | None = None  # rows, ascending by the hash of their id

    def __reduce__(self) -> tuple[type["Manifest"], tuple[Path]]:
        return Manifest, (self.folder,)

    def __len__(self) -> int:
        return len(self.rows)

    def fields(self, row: int) -> dict[str, Any]:
        """A cut as its line has it."""
        line, size = self.rows["line"][row], self.rows["bytes"][row]
        return json.loads(self._files.read(self._lines, int(line), int(size)))

    def cut(self, row: int) -> Cut:
        cut: Cut = deserialize_item(self.fields(row))
        return cut

    def row_of(self, cut_id: str) -> int | None:
        """The row of the cut of this id, None where there is none."""
        names, name = self.rows["name"], np.uint64(name_hash(cut_id))
        if self._by_name is None:
            self._by_name = np.argsort(names, kind="stable")
        first, last = (int(np.searchsorted(names, name, side, self._by_name)) for side in ("left", "right"))
        return next((int(row) for row in self._by_name[first:last] if self.fields(row)["id"] == cut_id), None)

    def of_split(self, split: str) -> "CutsOfSplit":
        return CutsOfSplit(self, np.flatnonzero(self.rows["split"] == SPLITS.index(split)))


class CutsOfSplit(Sequence[Cut]):
    """Cuts of a manifest, read when they are asked for; 8 bytes each. rows: of the manifest."""

    def __init__(self, manifest: Manifest, rows: np.ndarray) -> None:
        self.manifest, self.rows = manifest, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Cut: ...
    @overload
    def __getitem__(self, index: slice) -> "CutsOfSplit": ...
    def __getitem__(self, index: int | slice) -> "Cut | CutsOfSplit":
        if isinstance(index, slice):
            return CutsOfSplit(self.manifest, self.rows[index])
        return self.manifest.cut(int(self.rows[index]))


def write(
    folder: Path, lines: Iterable[bytes], inputs: dict[str, Any], skipped: Iterable[tuple[str, str]] = ()
) -> Manifest:
    """Writes the manifest of these lines of JSON and opens it; cuts.json is last. inputs: what the lines were read from;
    skipped: path and reason of recordings that were left out. Raises DataError on an id that comes twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_earlier_version(folder)
    _remove(folder)
    corpora: dict[str, int] = {}
    digest, blocks, block, position = hashlib.sha256(), [np.empty(0, ROW)], list[tuple[Any, ...]](), 0
    with whole_file(folder / "cuts.jsonl", durable=True) as part, part.open("wb") as file:
        for line in lines:
            line = line.rstrip(b"\n")
            block.append((position, len(line), *_row(json.loads(line), corpora)))
            file.write(line + b"\n")
            digest.update(line + b"\n")
            position += len(line) + 1
            if len(block) == BLOCK:
                blocks.append(np.array(block, ROW))
                block.clear()
    rows = np.concatenate([*blocks, np.array(block, ROW)])
    with whole_file(folder / "cuts.npy", durable=True) as part:
        np.save(part, rows)
    about = {
        "cuts": len(rows),
        "bytes": position,
        "corpora": list(corpora),
        "inputs": inputs,
        "skipped": list(skipped),
        "digest": digest.hexdigest(),
    }
    write_whole(folder / "cuts.json", json.dumps(about))
    manifest = Manifest(folder)
    _require_unique_ids(manifest)
    return manifest


def inputs(folder: Path) -> dict[str, Any] | None:
    """What the manifest in this folder was read from; None where there is none."""
    path = folder / "cuts.json"
    return json.loads(path.read_text())["inputs"] if path.is_file() else None


def link(source: Path, folder: Path) -> None:
    """The manifest of another folder in this one, without a second copy on the disk where the file system allows it."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_earlier_version(folder)
    _remove(folder)
    for name in FILES:
        with whole_file(folder / name) as part:
            link_file(source / name, part)


def _remove(folder: Path) -> None:
    """Before another manifest is written: the plan of this one goes with it."""
    for name in ("plan.json", "cuts.json"):
        (folder / name).unlink(missing_ok=True)


def link_file(source: Path, target: Path) -> None:
    """A second name of a file; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def refuse_earlier_version(folder: Path) -> None:
    """Raises DataError for a folder whose chunks have text in them."""
    if (folder / "plan.json").is_file() and not (folder / "plan.npy").is_file():
        raise DataError(
            f"{folder} was written by an earlier version of this project, which stored sound and text together. "
            f"Make it again: stage run {folder.parent.name} --restart (the old run is kept)"
        )


def name_hash(cut_id: str) -> int:
    """64 bits of BLAKE2b, as cuts.npy stores them."""
    return int.from_bytes(hashlib.blake2b(cut_id.encode(), digest_size=8).digest(), "little")


def sound_hash(fields: dict[str, Any]) -> bytes:
    """16 bytes, equal for cuts of the same sound: of the file's SHA-256 and which part of it; of all that is said about
    the cut where its file's hash is not known.
    """
    sha256 = (fields.get("custom") or {}).get("sha256")
    sound = [sha256, fields["start"], fields["duration"]] if sha256 else fields
    return hashlib.blake2b(json.dumps(sound, sort_keys=True).encode(), digest_size=16).digest()


def _row(fields: dict[str, Any], corpora: dict[str, int]) -> tuple[Any, ...]:
    """The values of a ROW behind line and bytes. corpora: name -> number; grows."""
    custom = fields.get("custom") or {}
    split = custom.get("split")
    number = SPLITS.index(split) if split in SPLITS else -1
    corpus = corpora.setdefault(custom.get("corpus", ""), len(corpora))
    return fields["duration"], number, corpus, name_hash(fields["id"]), sound_hash(fields)


def _require_unique_ids(manifest: Manifest) -> None:
    """Raises DataError on an id that comes twice."""
    for rows in equal_names(manifest.rows["name"]):
        ids = [manifest.fields(int(row))["id"] for row in rows]
        if len(set(ids)) < len(ids):
            raise twice(max(ids, key=ids.count))


def equal_names(names: np.ndarray) -> list[np.ndarray]:
    """The positions of each hash that comes more than once."""
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    begins, ends = (np.searchsorted(ordered, repeated, side) for side in ("left", "right"))
    return [order[begin:end] for begin, end in zip(begins, ends, strict=True)]


def twice(cut_id: str) -> DataError:
    return DataError(
        f"the cut id {cut_id!r} comes twice in the prepared corpora. Prepare one of them again with another --name"
    )
