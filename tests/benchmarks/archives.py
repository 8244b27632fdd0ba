"""Many short recordings as files and in tars: what `stage prepare` and `stage run latents` open, and how fast they are.

    python -m tests.benchmarks.archives [--clips 100000] [--per-shard 1000] [--seconds 0.25] [--kinds files tars]
        [--folder F]

The clips are noise, 8 kHz mono in 16 bit, each with a caption: in a folder a shard with a table, and in tars with a
`.txt` beside each. Every command is a process of its own, without workers, the mel codec of the preset `smoke`, fitted
on 1000 clips, however many there are. Opens are those of the folders with sound, as the kernel reports them (inotify).
Rates are by processor seconds; memory is the largest resident set.
"""

import argparse
import csv
import ctypes
import io
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

RATE = 8000  # Hz
IN_OPEN, IN_CLOSE, IN_Q_OVERFLOW = 0x20, 0x18, 0x4000
EVENT = struct.Struct("iIII")  # watch, mask, cookie, bytes of the name that follows


class Measured(NamedTuple):
    opens: int
    seconds: float  # of the processor
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--kinds", nargs="+", choices=("files", "tars"), default=("files", "tars"))
    parser.add_argument("--folder", type=Path, help="where all of it is written, and kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)).absolute()
        if not (folder / "metadata.csv").is_file():
            write(folder, options.clips, options.per_shard, options.seconds)
        print("| clips | as | stage | opens | clips a second | MiB |\n|---|---|---|---|---|---|")
        for kind in options.kinds:
            source = [str(folder / "files"), "--metadata", str(folder / "metadata.csv")]
            if kind == "tars":
                source = [str(folder / "tars" / "*.tar")]
            prepare = ["prepare", "folder" if kind == "files" else "webdataset", *source, "--name", kind]
            latents = ["run", "latents", "--preset=smoke", f"--experiment={kind}", f"--data.corpora={kind}"]
            latents += ["--threads=1", "--fit_recordings=1000"]
            for name, words in (("prepare", prepare), ("latents", latents)):
                words += ["--data.root=data", f"--data.num_workers={1 if name == 'prepare' else 0}"]
                done = measure(words, folder, kind)
                print(
                    f"| {options.clips:,} | {kind} | {name} | {done.opens:,} | {options.clips / done.seconds:,.0f} | "
                    f"{done.mib:.0f} |",
                    flush=True,
                )


def write(folder: Path, clips: int, per_shard: int, seconds: float) -> None:
    """files/000/000000.wav ..., tars/000.tar ..., and metadata.csv."""
    generator = np.random.default_rng(0)
    rows = []
    (folder / "tars").mkdir(parents=True)
    for shard in range(-(-clips // per_shard)):
        (folder / f"files/{shard:03d}").mkdir(parents=True)
        with tarfile.open(folder / f"tars/{shard:03d}.tar", "w") as tar:
            for number in range(shard * per_shard, min(clips, (shard + 1) * per_shard)):
                name, caption = f"{shard:03d}/{number:06d}", f"noise number {number}"
                wave = generator.uniform(-0.5, 0.5, round(RATE * seconds)).astype(np.float32)
                soundfile.write(folder / f"files/{name}.wav", wave, RATE)
                tar.add(folder / f"files/{name}.wav", f"{number:06d}.wav")
                text = tarfile.TarInfo(f"{number:06d}.txt")
                text.size = len(caption)
                tar.addfile(text, io.BytesIO(caption.encode()))
                rows.append([f"{name}.wav", caption])
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "caption"], *rows])


def measure(words: list[str], folder: Path, kind: str) -> Measured:
    opens = Opens([folder / kind, *(path for path in (folder / kind).iterdir() if path.is_dir())])
    process = subprocess.Popen([sys.executable, "-m", "stages.cli.main", *words], cwd=folder, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return Measured(opens.count(), used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


class Opens:
    """Counts how often files in these folders are opened, by any process, until `count` is called."""

    def __init__(self, folders: list[Path]) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_CLOEXEC)
        for folder in folders:
            # with what closes them: the kernel joins equal events that follow one another
            watch = self.libc.inotify_add_watch(self.descriptor, os.fsencode(folder), IN_OPEN | IN_CLOSE)
            assert self.descriptor >= 0 and watch >= 0, os.strerror(ctypes.get_errno())
        self.opened, self.last = 0, folders[0] / ".end"
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def count(self) -> int:
        self.last.touch()
        self.thread.join()
        self.last.unlink()
        return self.opened

    def _read(self) -> None:
        while True:
            events = os.read(self.descriptor, 1 << 20)
            position = 0
            while position < len(events):
                _, mask, _, size = EVENT.unpack_from(events, position)
                name = events[position + EVENT.size : position + EVENT.size + size].rstrip(b"\0")
                position += EVENT.size + size
                assert not mask & IN_Q_OVERFLOW, "the kernel dropped events"
                if name == os.fsencode(self.last.name):
                    os.close(self.descriptor)
                    return
                self.opened += bool(mask & IN_OPEN) and b"." in name  # no folder


if __name__ == "__main__":
    main()
