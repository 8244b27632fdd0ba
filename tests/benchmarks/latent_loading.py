"""How the tokenizer stages start from and read a cache of many recordings: time, memory, opens and reads a window.

    python -m tests.benchmarks.latent_loading [--entries 2000000] [--ranks 2] [--batches 120] [--batch-size 256] [--folder F]

The cache is written here, in the cache's own format: recordings of 2 to 10 s, each a window of latents with 64 channels
at 21.53 Hz, without text, which this stage does not read. All chunks have the latents of the first (links), so no disk
is measured: they are in the page cache. Each rank is a process of its own that reads its batches without workers, all
at once. Rates are by processor seconds of one core. Memory is the resident set less what it was after the imports, with
what processes share (mapped files), and without it (USS).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from datamodules.latents import LatentDataModule
from datamodules.store import chunks, index, manifest
from datamodules.windows import WindowRule

COLUMNS = (
    "recordings", "rank", "seconds to the first batch", "of the processor", "windows a second", "opens a window",
    "reads a window", "MiB", "MiB of its own",
)  # fmt: skip
RULE = WindowRule(216, 54)  # 10 s
PER_CHUNK, LATENT_DIM = 1000, 64  # the base configuration's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=2_000_000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batches", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="the cache, which is kept; one that is there is taken")
    parser.add_argument("--rank", type=int, help="one rank, in this process")
    options = parser.parse_args()
    if options.rank is not None:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)) / str(options.entries)
        if not chunks.is_planned(folder):
            write(folder, options.entries)
        command = [sys.executable, "-m", "tests.benchmarks.latent_loading", *sys.argv[1:], "--folder", str(folder)]
        ranks = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.PIPE, text=True)
            for rank in range(options.ranks)
        ]
        print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
        for number, rank in enumerate(ranks):
            printed, _ = rank.communicate()
            if rank.returncode:
                raise SystemExit(rank.returncode)
            values = json.loads(printed.splitlines()[-1])
            print(f"| {options.entries:,} | {number} | " + " | ".join(str(value) for value in values), flush=True)


def write(folder: Path, entries: int) -> None:
    started = time.process_time()
    manifest.write(folder, map(_line, range(entries)), {})
    chunks.open_cache(folder, {})
    planned = chunks.plan(folder, PER_CHUNK)
    print(f"{entries:,} recordings are written and planned in {time.process_time() - started:.1f} processor seconds")
    first: Path | None = None
    for chunk in planned:
        recordings = np.zeros(len(chunk.rows), index.RECORDING)
        recordings["sound"] = chunk.sounds
        recordings["length"] = 43 + np.arange(len(recordings)) * 7919 % 173  # frames
        recordings["offset"] = np.cumsum(recordings["length"]) - recordings["length"]
        path = folder / chunk.id
        path.mkdir()
        np.save(path / "index.npy", recordings)
        if first and len(recordings) == PER_CHUNK:
            (path / "arrays.npy").hardlink_to(first / "arrays.npy")
        else:
            frames = int(recordings["length"].sum())
            np.save(path / "arrays.npy", np.random.default_rng(0).normal(size=(frames, LATENT_DIM)).astype(np.float16))
            first = first or path


def _line(number: int) -> bytes:
    split = "validation" if number % 1000 == 999 else "train"
    custom = {"split": split, "corpus": "synthetic", "sha256": f"{number:064x}"}
    cut = {"id": f"synthetic-{number:09d}", "start": 0, "duration": 5.0, "channel": 0, "supervisions": []}
    return json.dumps({**cut, "custom": custom, "type": "MonoCut"}).encode()


def measure(options: argparse.Namespace) -> list[Any]:
    opened = [0]
    sys.addaudithook(lambda event, _: opened.__setitem__(0, opened[0] + (event == "open")))
    process = psutil.Process()
    before, started, worked = process.memory_full_info(), time.monotonic(), time.process_time()
    data = LatentDataModule(options.folder, RULE, options.batch_size, seed=0, num_workers=0)
    batches = data.train_sampler(options.rank, options.ranks).from_batch(0)
    data.dataset[next(batches)]
    first, first_worked = time.monotonic() - started, time.process_time() - worked
    windows, worked = 0, time.process_time()
    opened[0], reads = 0, process.io_counters().read_count
    for _ in range(options.batches):
        windows += len(data.dataset[next(batches)].num_frames)
    seconds, reads = time.process_time() - worked, process.io_counters().read_count - reads
    after = process.memory_full_info()
    return [
        round(first, 2), round(first_worked, 2), round(windows / seconds), round(opened[0] / windows, 3),
        round(reads / windows, 3), round((after.rss - before.rss) / 2**20), round((after.uss - before.uss) / 2**20),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
