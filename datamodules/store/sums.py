"""Mean and variance of latents, from the sums that a chunk has of each of its recordings: no array is read a second time.

Every different sound counts once. They are added in float64 in the order of the sounds' hashes, so that neither the number of
ranks, nor a kill, nor which sounds share a chunk moves a bit.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.errors import DataError

SUMS = "sums.npy"
BLOCK = 1 << 16  # recordings whose sums are in memory at a time: of 64 channels 64 MiB


class Moments(NamedTuple):
    mean: np.ndarray  # (D) float64
    variance: np.ndarray  # (D) float64
    frames: int


def sums(latents: np.ndarray) -> np.ndarray:
    """(F, D) float16 -> (2, D) float64: the sum of the frames, and of their squares."""
    values = latents.astype(np.float64)
    return np.stack([values.sum(0), np.square(values).sum(0)])


def moments(
    sounds: np.ndarray, lengths: np.ndarray, chunks: np.ndarray, items: np.ndarray, paths: list[Path]
) -> Moments:
    """sounds: (cuts) hashes; lengths: (cuts) frames; chunks: (cuts) index into `paths`, the folders of the chunks; items:
    (cuts) which of the chunk's recordings. Raises DataError where a chunk's sums are damaged.
    """
    _, first = np.unique(sounds, return_index=True)  # each sound once, by hash
    total = np.zeros(())
    for begin in range(0, len(first), BLOCK):
        total = total + _of_block(first[begin : begin + BLOCK], chunks, items, paths).sum(0)
    frames = int(lengths[first].sum(dtype=np.int64))
    mean, square = total / frames
    return Moments(mean, square - np.square(mean), frames)


def _of_block(rows: np.ndarray, chunks: np.ndarray, items: np.ndarray, paths: list[Path]) -> np.ndarray:
    """(rows, 2, D) in the order of the rows; each chunk is opened once."""
    order = np.argsort(chunks[rows], kind="stable")
    numbers, begins = np.unique(chunks[rows][order], return_index=True)
    parts = np.split(order, begins[1:])
    values = np.concatenate([_sums_of(paths[n], items[rows[part]]) for n, part in zip(numbers, parts, strict=True)])
    ordered = np.empty_like(values)
    ordered[order] = values
    return ordered


def _sums_of(chunk: Path, items: np.ndarray) -> np.ndarray:
    """(items, 2, D); from the latents themselves where an earlier version of this project wrote the chunk without."""
    try:
        if (chunk / SUMS).is_file():
            return np.array(np.load(chunk / SUMS, mmap_mode="r")[items])
        index, latents = np.load(chunk / "index.npy"), np.load(chunk / "arrays.npy", mmap_mode="r")
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(
            f"{chunk / SUMS} is cut off or damaged ({error}). Remove it: it is made again from the chunk's latents"
        ) from error
    parts = ((offset, offset + length) for _, offset, length in index[items])
    return np.stack([sums(latents[begin:end]) for begin, end in parts])
