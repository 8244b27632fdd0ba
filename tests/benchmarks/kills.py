"""kill -9 at random moments of the stages `latents` and `cache`, with one and two processes; then on with one or two: is every
recording there once, and every byte that of the undisturbed cache?

    python -m tests.benchmarks.kills [--moments 10] [--processes 1,2] [--recordings 48] [--seed 0]

The moments are uniform over an undisturbed run, from its first line on (the imports are done before, in a process that forks). Of two processes
one is killed and the other a random while later. Of the recordings a quarter has a twin of the same bytes under another name.
Ends with status 1 where a cache differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from datamodules.store import chunks
from stages.cli.main import main as stage
from tests.conftest import SMOKE, write_tones


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--recordings", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import stages.cache
    import stages.latents  # noqa: F401  before the forks

    scratch = Path(tempfile.mkdtemp(prefix="kills-"))
    os.chdir(scratch)
    try:
        wrong = _all(options)
    finally:
        shutil.rmtree(scratch)
    sys.exit(wrong)


def _all(options: argparse.Namespace) -> int:
    metadata = write_tones(Path("recordings"), options.recordings)
    shutil.copytree("recordings", "twins")
    rows = (Path("twins") / metadata.name).read_text().splitlines(keepends=True)
    (Path("twins") / metadata.name).write_text("".join(rows[: 1 + options.recordings // 2]))  # two rows a recording
    for name, root in (("tones", "recordings"), ("twin", "twins")):
        words = ["--metadata", f"{root}/{metadata.name}", "--name", name, "--data.root=data"]
        _end(_start(["prepare", "folder", root, *words], 1))
    seconds = {}
    for name in ("latents", "tokenizer", "cache"):
        started = time.monotonic()
        _end(_start(_words(name, "whole", 1), 1))
        seconds[name] = time.monotonic() - started
    draw, wrong = random.Random(options.seed), 0
    print(
        f"{options.recordings} recordings and their twins, chunks of 4, seed {options.seed}; undisturbed "
        + ", ".join(f"{name} {seconds[name]:.1f} s" for name in ("latents", "cache"))
    )
    print("| stage | processes | killed after, s | chunks written | goes on with | each recording once | bytes equal |")
    print("|---|---|---|---|---|---|---|")
    for processes in map(int, options.processes.split(",")):
        for number in range(options.moments):
            name = ("latents", "cache")[number % 2]
            moment, others = draw.uniform(0, seconds[name]), draw.choice((1, 2))
            written, once, equal = _disturbed(name, f"killed-{processes}-{number}", processes, moment, others, draw)
            print(
                f"| {name} | {processes} | {moment:.2f} | {written} | {others} | {_yes(once)} | {_yes(equal)} |",
                flush=True,
            )
            wrong += not (once and equal)
    print(f"{wrong} of {options.moments * len(options.processes.split(','))} caches differ from the undisturbed one")
    return min(wrong, 1)


def _disturbed(
    name: str, experiment: str, processes: int, moment: float, others: int, draw: random.Random
) -> tuple[int, bool, bool]:
    """(chunks at the kill, every recording once, every byte equal)"""
    folder, whole = (Path("runs") / which / name / "chunks" for which in (experiment, "whole"))
    running = _start(_words(name, experiment, processes), processes)
    time.sleep(moment)
    draw.shuffle(running)
    for process in running:
        os.kill(process, signal.SIGKILL)
        time.sleep(draw.uniform(0, 0.2) if processes > 1 else 0)
    for process in running:
        os.waitpid(process, 0)
    written = len([path for path in folder.glob("[!.]*") if path.is_dir()])
    _end(_start(_words(name, experiment, others), others))
    ids, expected = ([cut.id for cut in chunks.read(where)] for where in (folder, whole))
    return written, ids == expected and len(ids) == len(set(ids)), _bytes(folder) == _bytes(whole)


def _words(name: str, experiment: str, processes: int) -> list[str]:
    words = [f"--experiment={experiment}", "--data.corpora=[tones,twin]", f"--trainer.devices={processes}"]
    if name != "tokenizer":
        words.append("--recordings_per_chunk=4")
    if name == "cache" and experiment != "whole":
        words += ["--parents.latents=whole", "--parents.tokenizer=whole"]
    words.append("--trainer.strategy=ddp" if processes > 1 else "--trainer.strategy=auto")
    return ["run", name, *SMOKE, *words]


def _start(words: Sequence[str], processes: int) -> list[int]:
    """Forks; the ranks are told of each other as Lightning's own launcher does it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [_fork(words, rank, processes, port) for rank in range(processes)]


def _fork(words: Sequence[str], rank: int, processes: int, port: str) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    with open("log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        if processes > 1:
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
            os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        try:
            status = stage(list(words))
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        os._exit(status)


def _end(processes: Sequence[int]) -> None:
    for process in processes:
        _, status = os.waitpid(process, 0)
        if status:
            raise SystemExit(Path("log.txt").read_text()[-4000:])


def _bytes(folder: Path) -> dict[str, bytes]:
    """All that lies in a cache."""
    contents = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    contents["key.json"] = json.dumps(json.loads(contents["key.json"]), sort_keys=True).encode()
    return contents


def _yes(law: bool) -> str:
    return "yes" if law else "NO"


if __name__ == "__main__":
    main()
