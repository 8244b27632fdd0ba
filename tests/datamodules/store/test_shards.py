"""A cache as Lhotse Shar and as Parquet: what Lhotse and pyarrow read is what the cache holds, shard by shard."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lhotse import CutSet, MonoCut, SupervisionSegment

from datamodules.store import shards
from datamodules.store.chunks import ChunkWriter, read
from datamodules.store.index import CachedCuts
from datamodules.store.shards import plan_shards, write_parquet, write_shar
from tests.datamodules.store.planned import planned_in

SPLITS = ("train", "train", "validation", "train", None)


def cuts(count: int) -> list[MonoCut]:
    """Of 1 to 3 s, with two captions, a question with choices and a conversation; each fifth is in no split."""
    made = []
    for n in range(count):
        custom = {"split": SPLITS[n % 5], "corpus": "one", "source": f"s{n}", "labels": ["dog"], "sha256": f"{n:064x}"}
        cut = MonoCut(f"one-{n}.{n}", 0, 1.0 + n % 3, 0, custom=custom)
        question = {"task": "question", "kind": "which", "question": "q?", "answer": "b", "choices": ["a", "b"]}
        turns = {"task": "conversation", "turns": [{"role": "user", "content": ["é"]}]}
        texts = [(f"first of {n}, é", {"task": "caption"}), ("second", {"task": "caption"})]
        cut.supervisions = [
            SupervisionSegment(f"{cut.id}-{k}", cut.id, 0, cut.duration, text=text, custom=custom)
            for k, (text, custom) in enumerate([*texts, (None, question), (None, turns)])
        ]
        made.append(cut)
    return made


def array(kind: str, cut_id: str) -> np.ndarray:
    """Codes (N), some above 65535; latents (F, D) and, at half of them, their deviation."""
    n = int(cut_id.rpartition(".")[2])
    if kind == "codes":
        return np.arange(n % 7 + 1) * 20_000
    return np.random.default_rng(n).normal(size=(1 + n % 11, 3)).astype(np.float16)


def cache(folder: Path, count: int, kind: str) -> CachedCuts:
    for chunk in planned_in(folder, cuts(count), 8):
        writer = ChunkWriter(folder, chunk)
        for cut in chunk.recordings:
            if kind == "codes":
                writer.add_codes(cut.id, array(kind, cut.id).tolist())
            else:
                writer.add_array(cut.id, array(kind, cut.id), array(kind, cut.id) / 2)
        writer.finish()
    return read(folder)


def of_split(split: str, count: int) -> list[MonoCut]:
    wanted = None if split == shards.WITHOUT_SPLIT else split
    return [cut for cut in cuts(count) if cut.custom["split"] == wanted]


@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_lhotse_reads_what_the_cache_holds(tmp_path: Path, kind: str):
    opened = cache(tmp_path / "cache", 23, kind)
    for shard in plan_shards(opened, 4):
        write_shar(tmp_path / "out", opened, shard)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "validation", "other"}
    for split in ("train", "validation", "other"):
        actual = list(CutSet.from_shar(in_dir=tmp_path / "out" / split))
        for cut, wanted in zip(actual, of_split(split, 23), strict=True):
            assert (cut.id, cut.duration, cut.supervisions) == (wanted.id, wanted.duration, wanted.supervisions)
            assert cut.custom.items() >= wanted.custom.items()
            values = cut.load_custom(kind)
            assert values.dtype.kind == ("f" if kind == "latents" else values.dtype.kind)
            assert np.array_equal(values, array(kind, cut.id))
            if kind == "latents":
                assert np.array_equal(cut.load_latents_std(), array(kind, cut.id) / 2)


@pytest.mark.parametrize("kind", ["codes", "latents"])
def test_pyarrow_reads_what_the_cache_holds(tmp_path: Path, kind: str):
    pq = pytest.importorskip("pyarrow.parquet")
    opened = cache(tmp_path / "cache", 23, kind)
    for shard in plan_shards(opened, 4):
        write_parquet(tmp_path / "out", opened, shard, {"token_rate": 5.4})
    for split in ("train", "validation", "other"):
        files = sorted((tmp_path / "out/data").glob(f"{split}-*-of-*.parquet"))
        assert [path.name for path in files] == [
            f"{split}-{n:05d}-of-{len(files):05d}.parquet" for n in range(len(files))
        ]
        rows: list[dict[str, Any]] = [row for path in files for row in pq.read_table(path).to_pylist()]
        for row, wanted in zip(rows, of_split(split, 23), strict=True):
            n = wanted.id.rpartition(".")[2]
            assert np.array_equal(np.array(row.pop(kind)), array(kind, wanted.id))
            if kind == "latents":
                assert np.array_equal(np.array(row.pop("latents_std"), np.float16), array(kind, wanted.id) / 2)
            question = {"kind": "which", "question": "q?", "answer": "b", "choices": ["a", "b"]}
            assert row == {
                "id": wanted.id, "split": split, "corpus": "one", "source": f"s{n}", "seconds": wanted.duration,
                "sha256": f"{int(n):064x}", "captions": [f"first of {n}, é", "second"], "labels": ["dog"],
                "questions": [question], "conversations": ['[{"role": "user", "content": ["é"]}]'], "metadata": "{}",
            }  # fmt: skip
        assert json.loads(pq.read_schema(files[0]).metadata[b"make_some_noise"]) == {"token_rate": 5.4}


def test_a_shard_has_few_recordings_or_few_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Latents of D = 3 with deviations are 12 bytes a frame: at most 4 recordings, and 10 frames where there are two."""
    opened = cache(tmp_path / "cache", 40, "latents")
    monkeypatch.setattr(shards, "MOST_BYTES", 120)
    planned = plan_shards(opened, 4)
    assert sorted(row for shard in planned for row in shard.rows.tolist()) == list(range(40))
    frames = [int(opened.lengths[shard.rows].sum()) for shard in planned]
    assert all(len(shard.rows) <= 4 for shard in planned)
    assert all(count <= 10 or len(shard.rows) == 1 for count, shard in zip(frames, planned, strict=True))
    assert 11 in frames, "a recording that is longer is a shard by itself"
    for one, following in itertools.pairwise(planned):
        if one.split == following.split:
            size = int(opened.lengths[one.rows].sum() + opened.lengths[following.rows[0]])
            assert len(one.rows) == 4 or size > 10, "no shard ends before it must"
    assert {shard.total for shard in planned if shard.split == "train"} == {
        sum(one.split == "train" for one in planned)
    }
