"""A cache in formats of the field, a shard at a time: Lhotse's Shar, and Parquet as `datasets` reads it.

    <folder>/train/cuts.000000.jsonl.gz, codes.000000.tar       Shar: latents, and latents_std where there is one, beside
    <folder>/data/train-00000-of-00002.parquet                  a row a recording, a column `codes` or `latents`

A shard depends on the cache and its own rows alone, and appears whole: what was written before a kill is not written
again. One shard is in memory at a time.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.atomic_files import whole_file
from datamodules.cuts import SPLITS
from datamodules.errors import DataError
from datamodules.store.index import CachedCuts
from datamodules.store.lhotse_manifest import NAMES

MOST_BYTES = 64 << 20  # of codes or latents in a shard that has more than one recording
WITHOUT_SPLIT = "other"  # where a cut names none


class Shard(NamedTuple):
    split: str
    number: int  # within its split
    total: int  # shards of its split
    rows: np.ndarray  # of the cache

    def shar_files(self, folder: Path, names: list[str]) -> dict[str, Path]:
        """The files of a shard: `cuts` last, by which it is whole. names: of its arrays."""
        arrays = {name: folder / self.split / f"{name}.{self.number:06d}.tar" for name in names}
        return arrays | {"cuts": folder / self.split / f"cuts.{self.number:06d}.jsonl.gz"}

    def parquet_file(self, folder: Path) -> Path:
        return folder / "data" / f"{self.split}-{self.number:05d}-of-{self.total:05d}.parquet"


def plan_shards(cuts: CachedCuts, recordings: int) -> list[Shard]:
    """All cuts, split by split in their order: up to `recordings` in a shard, fewer where they are long."""
    step = max((sum(array.bytes_per_step for array in chunk.arrays.values()) for chunk in cuts.chunks), default=0)
    shards = []
    for split in (*SPLITS, WITHOUT_SPLIT):
        number = SPLITS.index(split) if split in SPLITS else -1
        rows = np.flatnonzero(cuts.rows["split"] == number)
        parts = list(_parts(rows, cuts.lengths[rows].astype(np.int64) * step, recordings))
        shards += [Shard(split, index, len(parts), part) for index, part in enumerate(parts)]
    return shards


def _parts(rows: np.ndarray, sizes: np.ndarray, recordings: int) -> Iterator[np.ndarray]:
    """sizes: bytes of each row."""
    begin, total = 0, 0
    for end, size in enumerate(sizes.tolist()):
        if end - begin == recordings or (end > begin and total + size > MOST_BYTES):
            yield rows[begin:end]
            begin, total = end, 0
        total += size
    if begin < len(rows):
        yield rows[begin:]


def write_shar(folder: Path, cuts: CachedCuts, shard: Shard) -> None:
    """By Lhotse's own writers; `cut.load_codes()` and `cut.load_latents()` read it. A shard that is whole stays."""
    from lhotse.array import Array, TemporalArray
    from lhotse.shar.writers import ArrayTarWriter, JsonlShardWriter

    files = shard.shar_files(folder, _names(cuts, shard))
    if files["cuts"].is_file():
        return
    files["cuts"].parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # those that are entered last are renamed first: with `cuts` the shard is whole
        parts = {name: str(stack.enter_context(whole_file(files[name], durable=True))) for name in reversed(files)}
        manifest = stack.enter_context(JsonlShardWriter(parts.pop("cuts"), shard_size=None))
        tars = {name: stack.enter_context(ArrayTarWriter(part, shard_size=None)) for name, part in parts.items()}
        for row in shard.rows.tolist():
            fields = cuts.manifest.fields(row)
            for name, values in _arrays(cuts, row).items():
                shape, shift = list(values.shape), fields["duration"] / len(values)
                described = TemporalArray(Array("shar", "", "", shape), temporal_dim=0, frame_shift=shift, start=0)
                tars[name].write(fields["id"], values, described)
                fields["custom"][name] = described.to_dict()
            manifest.write(fields)


def write_parquet(folder: Path, cuts: CachedCuts, shard: Shard, facts: dict[str, Any]) -> None:
    """facts: go into the file's schema, as JSON under the key `make_some_noise`. A shard that is whole stays.

    Raises DataError where pyarrow is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'make-some-noise[parquet]'") from None
    file = shard.parquet_file(folder)
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text, texts = pa.string(), pa.list_(pa.string())
    question = pa.struct({"kind": text, "question": text, "answer": text, "choices": texts})
    kinds = {
        "id": text, "split": text, "corpus": text, "source": text, "seconds": pa.float64(), "sha256": text,
        "captions": texts, "labels": texts, "questions": pa.list_(question), "conversations": texts, "metadata": text,
    }  # fmt: skip
    rows = shard.rows.tolist()
    described = [_described(cuts.manifest.fields(row), shard.split) for row in rows]
    columns = {name: pa.array([one[name] for one in described], kind) for name, kind in kinds.items()}
    arrays = [_arrays(cuts, row) for row in rows]
    for name in arrays[0]:
        columns[name] = _nested([one[name] for one in arrays])
    table = pa.table(columns).replace_schema_metadata({"make_some_noise": json.dumps(facts)})
    with whole_file(file, durable=True) as part:
        pq.write_table(table, part)


def _nested(arrays: list[np.ndarray]) -> Any:
    """Arrays (N) or (F, D) of one D -> a pyarrow column of lists: of int32, or of D float16 each."""
    import pyarrow as pa

    ends = np.cumsum([0, *map(len, arrays)]).astype(np.int32)
    whole = np.concatenate(arrays)
    values = pa.array(whole.reshape(-1) if whole.ndim > 1 else whole.astype(np.int32))
    if whole.ndim > 1:
        values = pa.FixedSizeListArray.from_arrays(values, whole.shape[1])
    return pa.ListArray.from_arrays(ends, values)


def _described(fields: dict[str, Any], split: str) -> dict[str, Any]:
    """What a row of the Parquet says of a cut, but for its arrays."""
    custom, supervisions = fields["custom"], fields.get("supervisions", [])
    by_task: dict[str, list[dict[str, Any]]] = {"caption": [], "question": [], "conversation": []}
    for supervision in supervisions:
        by_task[supervision["custom"]["task"]].append(supervision)
    keys = ("kind", "question", "answer", "choices")
    return {
        "id": fields["id"],
        "split": split,
        "seconds": fields["duration"],
        **{key: custom.get(key) for key in ("corpus", "source", "sha256")},
        "captions": [supervision["text"] for supervision in by_task["caption"]],
        "labels": custom.get("labels", []),
        "questions": [{key: one["custom"].get(key) for key in keys} for one in by_task["question"]],
        "conversations": [json.dumps(one["custom"]["turns"], ensure_ascii=False) for one in by_task["conversation"]],
        "metadata": json.dumps(custom.get("metadata", {}), ensure_ascii=False),
    }


def _names(cuts: CachedCuts, shard: Shard) -> list[str]:
    return [NAMES[name] for name in cuts.chunks[cuts.chunk[shard.rows[0]]].arrays]


def _arrays(cuts: CachedCuts, row: int) -> dict[str, np.ndarray]:
    """Codes (N), or latents (F, D) and, where there is one, latents_std (F, D), of a recording."""
    arrays = {}
    for name in cuts.chunks[cuts.chunk[row]].arrays:
        values = cuts.read(name, row, 0, int(cuts.lengths[row]))
        assert values is not None, "the chunk has it"
        arrays[NAMES[name]] = values
    return arrays
