"""`stage serve` under load: many clients at once beside one after another, what is lost or mixed up, and its memory.

    python -m tests.benchmarks.serving --runs runs --experiment demo --clips data/diagnostic/audio
    python -m tests.benchmarks.serving --runs runs --experiment smoke --clips recordings --requests 2000 --memory

Starts the server as a process of its own, asks each clip its question once with `stage ask`'s code, and sends the same
through the endpoint. Greedy, so that each answer has one right text. Clients are threads of this process, on the same
cores; what an answer costs the server in processor seconds is no other on a crowded machine. --memory: prints the
server's resident memory every tenth of the requests, and compares nothing.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from stages.launch.local import environment

KINDS = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".mp3": "mp3"}


class Load(NamedTuple):
    answers: list[str | None]  # None: lost
    seconds: float
    processor: float  # seconds of the server's

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds

    @property
    def cost(self) -> float:
        return self.processor / len(self.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--clips", type=Path, required=True, help="a folder of sound files")
    parser.add_argument("--question", default="What do you hear?")
    parser.add_argument("--distinct", type=int, default=24, help="clips that are asked about")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--one-client", type=int, default=50, help="requests of the one client")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--memory", action="store_true")
    chosen, keys = parser.parse_known_args()  # keys: of `stage serve`, as --window_seconds=0.25
    clips = [path for path in sorted(chosen.clips.rglob("*")) if path.suffix in KINDS][: chosen.distinct]
    asked = [clips[number % len(clips)] for number in range(chosen.requests)]
    words = ["--runs", chosen.runs, "--experiment", chosen.experiment, "--port=0", "--page=false"]
    command = [sys.executable, "-m", "stages.cli.main", "serve", *words, "--device=cpu", *keys]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment()}) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://\S+/v1", server.stdout.readline())
            assert address is not None
            bodies = {clip: _body(chosen, clip) for clip in clips}
            _load(server.pid, address[0], [bodies[clip] for clip in clips[:4]], 1)  # the first ones also allocate
            if chosen.memory:
                _print_memory(server.pid, address[0], [bodies[clip] for clip in asked], chosen.clients)
            else:
                _compare(chosen, server.pid, address[0], asked, bodies)
        finally:
            server.terminate()


def _compare(
    chosen: argparse.Namespace, pid: int, address: str, asked: Sequence[Path], bodies: dict[Path, bytes]
) -> None:
    at_once = _load(pid, address, [bodies[clip] for clip in asked], chosen.clients)
    one = _load(pid, address, [bodies[clip] for clip in asked[: chosen.one_client]], 1)
    wanted = _by_stage_ask(chosen, list(bodies))
    print(f"| {len(bodies)} clips | {chosen.clients} clients at once | one client |")
    print("|---|---|---|")
    loads = (at_once, one)
    print("| requests | " + " | ".join(str(len(load.answers)) for load in loads) + " |")
    print("| answers a second | " + " | ".join(f"{load.rate:.2f}" for load in loads) + " |")
    print("| processor seconds an answer | " + " | ".join(f"{load.cost:.2f}" for load in loads) + " |")
    print("| lost | " + " | ".join(str(load.answers.count(None)) for load in loads) + " |")
    others = [
        sum(
            got is not None and got != wanted[clip]
            for got, clip in zip(load.answers, asked[: len(load.answers)], strict=True)
        )
        for load in loads
    ]
    print("| other than `stage ask` | " + " | ".join(map(str, others)) + " |")
    print(
        f"{len(set(wanted.values()))} different answers; {at_once.rate / one.rate:.2f} times as many a second, "
        f"{one.cost / at_once.cost:.2f} times as many a processor second"
    )
    for clip in bodies:
        differing = {got for got, other in zip(at_once.answers, asked, strict=True) if other == clip} - {wanted[clip]}
        for got in differing:
            print(f"{clip.name}: {got!r}, and by `stage ask` {wanted[clip]!r}")


def _by_stage_ask(chosen: argparse.Namespace, clips: Sequence[Path]) -> dict[Path, str]:
    """By the verb's own code, which loads the model once here."""
    import conf
    from models.language.vocabulary import Turn
    from stages.cli import ask, model_verbs
    from stages.hub import sound_files

    words = ["--runs", chosen.runs, "--experiment", chosen.experiment, "--device=cpu"]
    loaded = model_verbs.load(model_verbs.computes().parse_args(words))
    tokenizer, model = loaded.tokenizer, loaded.language()
    settings = conf.compose("ask", overrides=[f"max_new_tokens={chosen.max_tokens}"]).conf
    answers = {}
    for clip in clips:
        sound = sound_files.read(clip, tokenizer.sample_rate, tokenizer.channels)
        (codes,) = tokenizer.encode([sound], tokenizer.sample_rate)
        with contextlib.redirect_stderr(io.StringIO()):
            answers[clip] = ask.answer_text(model, [Turn("user", [codes, "\n", chosen.question])], settings)
    return answers


def _print_memory(pid: int, address: str, bodies: Sequence[bytes], clients: int) -> None:
    print("| requests | resident memory, MiB |\n|---|---|")
    part, lost = max(1, len(bodies) // 10), 0
    for start in range(0, len(bodies), part):
        lost += _load(pid, address, bodies[start : start + part], clients).answers.count(None)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        print(f"| {min(start + part, len(bodies))} | {pages * os.sysconf('SC_PAGE_SIZE') / 2**20:.1f} |", flush=True)
    print(f"{lost} lost")


def _load(pid: int, address: str, bodies: Sequence[bytes], clients: int) -> Load:
    began, processor = time.monotonic(), _processor_seconds(pid)
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda body: _post(address, body), bodies))
    return Load(answers, time.monotonic() - began, _processor_seconds(pid) - processor)


def _processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _post(address: str, body: bytes) -> str | None:
    request = urllib.request.Request(f"{address}/chat/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except OSError as error:
        print(f"lost: {error}", file=sys.stderr)
        return None


def _body(chosen: argparse.Namespace, clip: Path) -> bytes:
    sound = {"data": base64.b64encode(clip.read_bytes()).decode(), "format": KINDS[clip.suffix]}
    content = [{"type": "input_audio", "input_audio": sound}, {"type": "text", "text": chosen.question}]
    request = {"model": chosen.experiment, "messages": [{"role": "user", "content": content}]}
    return json.dumps({**request, "max_tokens": chosen.max_tokens, "temperature": 0}).encode()


if __name__ == "__main__":
    main()
