"""Every way to interrupt training, at random moments, held against the undisturbed run: the data's order, the steps, the final weights.

    python -m tests.benchmarks.interruptions --moments 3
    python -m tests.benchmarks.interruptions --stages tokenizer --signals kill TERM --workers 0 --ranks 2

Smoke size, on the CPU (gloo). A moment is a batch and a place in it, drawn from --seed; with two ranks also the rank that is struck. `kill` is SIGKILL,
`limit` is limits.seconds running out on that rank. Exit status 1 where a cell differs.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import transformers  # noqa: F401  before the forks, each of which would wait for it
from safetensors.torch import load_file

from callbacks.stop_callbacks import StopTraining
from stages import STAGES
from stages.cli.main import main as stage
from tests.conftest import SMOKE, write_tones

PLACES = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end")
SIGNALS = {"kill": signal.SIGKILL, "USR1": signal.SIGUSR1, "TERM": signal.SIGTERM, "limit": None}
STATUS = {"kill": (-9, 137, 1), "USR1": (75,), "TERM": (75,), "limit": (75,)}  # 1: rank 0, where the other was killed
STEPS = 12


class Strike(L.Callback):
    """Writes the ids of each batch, and strikes once."""

    def __init__(self, order: Path, how: str, batch: int, hook: str, rank: int) -> None:
        self.order, self.how, self.at, self.rank = order, how, (batch, hook), rank

    def _here(self, hook: str, trainer: L.Trainer) -> None:
        batch = trainer.fit_loop.epoch_loop.total_batch_idx + (hook == "on_train_batch_start")
        if self.how == "none" or trainer.global_rank != self.rank or (batch, hook) != self.at:
            return
        if self.how == "limit":
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, StopTraining):
                    callback.stop.seconds = 0.0
        else:
            os.kill(os.getpid(), SIGNALS[self.how])  # type: ignore[arg-type]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with (self.order / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.global_step, list(batch.ids)]) + "\n")
        self._here("on_train_batch_start", trainer)

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        self._here("on_before_backward", trainer)

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        self._here("on_before_optimizer_step", trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._here("on_train_batch_end", trainer)


def struck(name: str, order: str, how: str, batch: str, hook: str, rank: str, *words: str) -> int:
    """`stage run name words`, with a Strike."""
    module, _, attribute = STAGES[name].target.partition(":")
    module_class = getattr(importlib.import_module(module), attribute)
    callbacks = module_class.callbacks
    module_class.callbacks = lambda self: [*callbacks(self), Strike(Path(order), how, int(batch), hook, int(rank))]
    return stage(["run", name, *words])


def start(log: Path, *words: str) -> int:
    """`struck` in a fork, which spares the imports; its exit status. Lightning starts the other rank by sys.argv."""
    pid = os.fork()
    if pid == 0:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv[1:] = ["--struck", *words]
        status = 1
        try:
            status = struck(*words)
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:  # the fork must end here whatever comes
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def order(folder: Path) -> dict[str, list[str]]:
    """ "rank step" -> ids of that step's batch, as it was trained last."""
    return {
        f"{path.stem} {step}": ids
        for path in sorted(folder.glob("*.jsonl"))
        for step, ids in map(json.loads, path.read_text().splitlines())
    }


def trained(folder: Path) -> tuple[int, dict[str, Any]]:
    return json.loads((folder / "receipt.json").read_text())["steps"], load_file(folder / "artifact/model.safetensors")


def compared(struck_run: Path, other: Path, name: str) -> str:
    """What differs; "" where nothing does."""
    if not (struck_run / name / "receipt.json").is_file():
        return "did not end"
    (steps, weights), (wanted, others) = trained(struck_run / name), trained(other / name)
    actual = ["steps"] if (steps, wanted) != (STEPS, STEPS) else []
    actual += ["order"] if order(struck_run / "order") != order(other / "order") else []
    return " ".join(actual + (["weights"] if not all(weights[key].equal(others[key]) for key in others) else []))


def cell(name: str, workers: int, ranks: int, how: str, moment: int, seed: int) -> str:
    """One interruption and its end; what differs from the undisturbed run."""
    chance = random.Random(f"{seed} {name} {workers} {ranks} {how} {moment}")
    batch, hook, rank = chance.randrange(1, STEPS - 1), chance.choice(PLACES), chance.randrange(ranks)
    parents = [parent for parent in ("latents", "tokenizer", "cache", "caption") if parent != name]
    more = ["--trainer.devices=2", "--trainer.strategy=ddp"] if ranks == 2 else []
    words = [*(f"--parents.{parent}=whole" for parent in parents), f"--data.num_workers={workers}", *more, *SMOKE]
    undisturbed, struck_run = f"{name}-{workers}-{ranks}", f"{name}-{workers}-{ranks}-{how}-{moment}"
    shutil.rmtree(Path("runs") / struck_run, ignore_errors=True)
    for experiment in (undisturbed, struck_run):
        (Path("runs") / experiment / "order").mkdir(parents=True, exist_ok=True)

    def run(experiment: str, how: str) -> int:
        hook_ = (str(Path("runs") / experiment / "order"), how, str(batch), hook, str(rank))
        return start(Path("runs") / experiment / "log", name, *hook_, f"--experiment={experiment}", *words)

    if not (Path("runs") / undisturbed / name / "receipt.json").is_file() and run(undisturbed, "none"):
        return f"the undisturbed run failed: {Path('runs') / undisturbed / 'log'}"
    status = run(struck_run, how)
    if status not in STATUS[how]:
        return f"status {status}"
    again = run(struck_run, "none")
    actual = (
        f"the second run's status {again}"
        if again
        else compared(Path("runs") / struck_run, Path("runs") / undisturbed, name)
    )
    return f"{actual} (batch {batch}, {hook}, rank {rank})" if actual else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", default=["tokenizer", "caption", "openaqa"])
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS), choices=list(SIGNALS))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--moments", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where it runs, and stays; its undisturbed runs are used again")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    os.chdir(folder)
    if not Path("data/tones").is_dir():
        table = write_tones(folder.resolve() / "recordings", 24)
        stage(["prepare", "folder", str(table.parent), "--metadata", str(table), "--name", "tones", "--data.root=data"])
    if not Path("runs/whole/evaluate/receipt.json").is_file():
        stage(["run", "all", "--experiment=whole", *SMOKE])
    print("| stage | workers | ranks | " + " | ".join(arguments.signals) + " |")
    print("|---" * (3 + len(arguments.signals)) + "|", flush=True)
    began, differing = time.monotonic(), 0
    for name in arguments.stages:
        for ranks in arguments.ranks:
            for workers in arguments.workers:
                row = []
                for how in arguments.signals:
                    actual = [cell(name, workers, ranks, how, n, arguments.seed) for n in range(arguments.moments)]
                    wrong = [each for each in actual if each]
                    differing += len(wrong)
                    row.append("; ".join(wrong) or f"equal {len(actual)}/{len(actual)}")
                print(f"| {name} | {workers} | {ranks} | " + " | ".join(row) + " |", flush=True)
    print(f"{time.monotonic() - began:.0f} s, {differing} differ")
    if arguments.folder is None:
        shutil.rmtree(folder)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(struck(*sys.argv[2:]) if sys.argv[1:2] == ["--struck"] else main())
