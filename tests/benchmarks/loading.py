"""How the language stages start from and read a cache of many entries: time, cuts and tokens a second, padding, memory, resume.

    python -m tests.benchmarks.loading [--entries 1000000] [--stage openaqa] [--model smollm2-135m-instruct] [--folder FOLDER] [--keep]

The cache is written here, in the cache's own format: an entry has up to 177 codes (10 s at the paper's rate), a caption and two questions. Each
row is a process of its own that has the stage's data and vocabulary and no LLM. Seconds begin when the imports and the tokenizer are done: by the clock,
and of the processor, workers' included; rates are by processor seconds. Memory of the main process is its resident set less what that was before the
data, of a worker what is its own (USS).

Texts, codes and thus lengths repeat after --distinct entries (there is one wording of the prompt). The tokenizer counts those, in the row `first start`
of so many entries; of a larger cache the stored lengths are theirs, again and again, and every item that is read is held to them.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from conf import compose
from datamodules.language import id_batches
from datamodules.language import lengths as stored_lengths
from datamodules.language.conversations import Turn
from datamodules.language.packing import Encoded
from datamodules.store import chunks, index, manifest
from models.language.vocabulary import Turn as ChatTurn
from models.language.vocabulary import Vocabulary
from stages.engine import language_data
from stages.hub.weights import load_language_model

PER_CHUNK = 1000  # the base configuration's
CODEBOOK = 8196
CODE_RATE = 17.69  # Hz
WORDS = (
    "a",
    "dog",
    "barks",
    "while",
    "rain",
    "falls",
    "on",
    "the",
    "roof",
    "and",
    "bell",
    "rings",
    "twice",
    "far",
    "away",
)
COLUMNS = (
    "entries", "what", "workers", "seconds to the first batch", "of the processor", "items a second", "tokens a second",
    "padding, %", "main process, MiB", "a worker, MiB",
)  # fmt: skip
PROMPT = "prompts.sound_to_text=[Write a caption for this sound.]"
ROWS = ("start", "middle of an epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--stage", default="openaqa")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--distinct", type=int, default=20_000, help="entries until texts repeat; a multiple of 1000")
    parser.add_argument("--processes", type=int, default=2, help="that write the cache")
    parser.add_argument("--folder", type=Path, help="the cache, which is kept; one that is there is taken")
    parser.add_argument("--measure", nargs=2, metavar=("ROW", "WORKERS"), help="one row, in this process")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the data, a row each")
    parser.add_argument("--measuring", type=int, default=2, help="workers of the first start, which measures")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options, options.measure[0], int(options.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        few = min(options.entries, options.distinct)
        rows = [
            (few, "first start", options.measuring),
            *((options.entries, row, workers) for row in ROWS for workers in options.workers),
        ]
        for entries, row, workers in rows:
            if not chunks.is_planned(folder / str(entries) / "chunks"):
                write(folder / str(entries) / "chunks", entries, options.processes, options.distinct // PER_CHUNK)
            command = [sys.executable, "-m", "tests.benchmarks.loading", *sys.argv[1:], "--folder", str(folder)]
            done = subprocess.run(
                [*command, "--entries", str(entries), "--measure", row, str(workers)], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            actual = json.loads(done.stdout.splitlines()[-1])
            print(f"| {entries:,} | {row} | {workers} | " + " | ".join(str(value) for value in actual), flush=True)
        print(f"{options.entries:,} entries take {_megabytes(folder / str(options.entries))}")


def measure(options: argparse.Namespace, row: str, workers: int) -> list[Any]:
    conf = compose(options.stage, [], [], [f"data.num_workers={workers}", "prompts.format=ltu", PROMPT]).conf
    _, tokenizer = load_language_model(options.model, None, "float32")
    words = Vocabulary(tokenizer, CODEBOOK, [0], "ltu", None)

    def encode(talks: list[list[Turn]]) -> list[Encoded]:
        return [Encoded(*row) for row in words.render_all([[ChatTurn(*turn) for turn in talk] for talk in talks])]

    folder, few = options.folder / str(options.entries), options.folder / str(options.distinct)
    if row != "first start" and options.entries > options.distinct:
        id_batches.measure = partial(_repeated, few / "measured", options.distinct)
    process = psutil.Process()
    before, started, worked = process.memory_info().rss, time.monotonic(), processor(process)
    cuts = chunks.read(folder / "chunks")
    measured = folder / "measured"
    if row == "first start":
        shutil.rmtree(measured, ignore_errors=True)
    data = language_data.data("loading", conf, cuts, encode, words.pad_id, words.fingerprint(), "", measured)
    if row == "middle of an epoch":
        data._position = (1, int(data.train_items[0].lengths.sum()) // conf.batching.tokens_per_batch // 2)
    batches = iter(data.train_dataloader())
    next(batches)
    first, first_worked = time.monotonic() - started, processor(process) - worked
    cuts, tokens, places, batches_read = 0, 0, 0, []
    worked = processor(process)
    for number, batch in enumerate(batches, 1):
        cuts, tokens = cuts + len(batch.ids), tokens + int(batch.attention_mask.sum())
        places += batch.attention_mask.numel()
        batches_read.append((batch.ids, batch.attention_mask.sum(1).tolist()))
        if number == options.batches:
            break
    seconds = processor(process) - worked
    _hold(data, batches_read, options.entries)
    memory = (process.memory_info().rss - before) / 2**20
    each = max((child.memory_full_info().uss / 2**20 for child in process.children()), default=0.0)
    return [
        round(first, 2), round(first_worked, 2), round(cuts / seconds), round(tokens / seconds),
        round(100 - 100 * tokens / places, 2), round(memory), round(each),
    ]  # fmt: skip


def _repeated(
    few: Path, distinct: int, entries: Any, max_tokens: int, lengths: Any, workers: int, measured: Path, *_: Any
) -> stored_lengths.MeasuredItems:
    """Stands in for `measure` where nothing is stored yet: the lengths of the first `distinct` entries, as often as they come."""
    if not (measured / "rows.npy").is_file():
        split = "train" if len(entries) > distinct // 2 else "validation"
        stored_rows = [np.load(path) for path in few.glob("*/rows.npy")]
        rows = (max if split == "train" else min)(stored_rows, key=len)
        per = distinct - distinct // 1000 if split == "train" else distinct // 1000
        times = -(-len(entries) // per)
        whole = np.concatenate([rows + np.array([n * per, 0, 0], np.int32) for n in range(times)])
        stored_lengths.store(measured, whole[whole[:, 0] < len(entries)], [])
    return stored_lengths.measure(entries, max_tokens, lengths, workers, measured)


def _hold(data: Any, batches_read: list[tuple[list[str], list[int]]], entries: int) -> None:
    """Every item that was read is as long as was stored: its number follows from its id."""
    items = data.train_items[0]
    starts = np.searchsorted(items.rows[:, 0], np.arange(entries))
    for names, lengths in batches_read:
        for name, length in zip(names, lengths, strict=True):
            number = int(name.split("-")[1])
            entry = number - number // 1000
            rows = items.rows[starts[entry] : starts[entry + 1]]
            assert length in rows[:, 2], f"{name} has {length} ids, stored are {rows[:, 2]}"


def processor(process: psutil.Process) -> float:
    """Seconds of it and of its children."""
    return sum(process.cpu_times()[:4]) + sum(sum(child.cpu_times()[:2]) for child in process.children())


def write(folder: Path, entries: int, processes: int, distinct: int) -> None:
    """As the stages leave it, without their Lhotse objects in between, which take most of the time."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was broken off
    folder.mkdir(parents=True)
    numbers = range(-(-entries // PER_CHUNK))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        jobs = [(number, number % distinct, min(PER_CHUNK, entries - number * PER_CHUNK)) for number in numbers]
        manifest.write(folder, (line for lines in pool.map(_lines, jobs, chunksize=4) for line in lines), {})
    chunks.open_cache(folder, {})
    for number, chunk in enumerate(chunks.plan(folder, PER_CHUNK)):
        seed = number % distinct
        recordings = np.zeros(len(chunk.rows), index.RECORDING)
        recordings["sound"] = chunk.sounds
        recordings["length"] = (_seconds(seed, len(recordings)) * CODE_RATE).astype(int)
        recordings["offset"] = np.cumsum(recordings["length"]) - recordings["length"]
        codes = np.random.default_rng(seed).integers(0, CODEBOOK, int(recordings["length"].sum()), dtype=np.uint16)
        (folder / chunk.id).mkdir()
        np.save(folder / chunk.id / "index.npy", recordings)
        np.save(folder / chunk.id / "codes.npy", codes)


def _seconds(seed: int, count: int) -> np.ndarray:
    """Of the recordings of a chunk."""
    return np.random.default_rng(seed).uniform(2, 10, count).round(2)


def _lines(job: tuple[int, int, int]) -> list[bytes]:
    """The cuts of a chunk."""
    number, seed, count = job
    words = np.array(WORDS)[np.random.default_rng(seed).integers(0, len(WORDS), 50_000)].tolist()
    cuts = [
        _cut(number * PER_CHUNK + n, seed * PER_CHUNK + n, one, words)
        for n, one in enumerate(_seconds(seed, count).tolist())
    ]
    return [json.dumps(cut, ensure_ascii=False).encode() for cut in cuts]


def _cut(number: int, seed: int, seconds: float, words: list[str]) -> dict[str, Any]:
    name, chance = f"synthetic-{number:09d}", random.Random(seed)
    custom = {
        "split": "validation" if number % 1000 == 999 else "train", "corpus": "synthetic", "source": f"source:{number}",
        "origin": f"source:{number}", "labels": [], "metadata": {"dataset": "as_2m"}, "size": 1, "sha256": f"{number:064x}",
    }  # fmt: skip

    def sentence(least: int, most: int) -> str:
        begin = chance.randrange(len(words) - most)
        return " ".join(words[begin : begin + chance.randrange(least, most)])

    sups: list[dict[str, Any]] = [{"text": sentence(6, 20), "custom": {"task": "caption"}}]
    for kind in ("open-ended question", "cla_label"):
        asked = {"task": "question", "kind": kind, "question": f"{sentence(5, 16)}?", "answer": sentence(3, 40)}
        sups.append({"custom": asked})
    for n, sup in enumerate(sups):
        sup |= {"id": f"{name}-{n}", "recording_id": name, "start": 0, "duration": seconds, "channel": 0}
    return {
        "id": name, "start": 0, "duration": seconds, "channel": 0, "supervisions": sups, "custom": custom, "type": "MonoCut"
    }  # fmt: skip


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:,.0f} MB"


if __name__ == "__main__":
    main()
