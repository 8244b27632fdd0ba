"""Where a training step's time goes, on one rank and on two that share a gradient over gloo: data, arithmetic, communication.

    python -m tests.benchmarks.scaling RUNS [--stages tokenizer caption openaqa] [--steps 40] [--threads 1]

RUNS is the folder of an experiment that has run, as runs/demo: its conf, caches and models are trained on from the beginning, in a folder that is
thrown away. Every rank has its own process, `--threads` of torch's threads and the batch that one rank alone has (weak scaling), so on a machine with a
core for each rank an efficiency of 1 is what there is to gain. Medians over the steps after the first five, of rank 0:

    data        the trainer waits for a batch (Lightning's profiler: train_dataloader_next)
    gradients   from the last bucket that is ready to the last that is averaged: DDP averages a bucket while the next is computed, so this is what
                is not hidden; waiting for a slower rank is in it
    other       seconds inside torch.distributed's other calls: codebook, loss normaliser, the agreement to stop
    arithmetic  the rest of the step
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FIRST = 5  # steps that are not counted: what is made at the first use


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--stages", nargs="+", default=["tokenizer", "caption", "openaqa"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ranks:
        return _measure(options)
    print(f"{options.runs}, {options.steps} steps, {options.threads} threads a rank; ms of a step\n")
    print("| stage | ranks | data | arithmetic | gradients | other | step | items a second | efficiency |")
    print("|---|---|---|---|---|---|---|---|---|")
    for stage in options.stages:
        alone = 0.0
        for ranks in (1, 2):
            measured = _started(options, stage, ranks)
            alone = alone or measured["items"]
            cells = (measured[name] for name in ("data", "arithmetic", "gradients", "other", "step"))
            cells = " | ".join(f"{1000 * cell:.1f}" for cell in cells)
            print(
                f"| {stage} | {ranks} | {cells} | {measured['items']:.1f} | {measured['items'] / ranks / alone:.2f} |",
                flush=True,
            )


def _started(options: argparse.Namespace, stage: str, ranks: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        command = [sys.executable, "-m", "tests.benchmarks.scaling", str(options.runs.resolve()), "--stages", stage]
        command += [
            "--steps",
            str(options.steps),
            "--threads",
            str(options.threads),
            "--ranks",
            str(ranks),
            "--folder",
            folder,
        ]
        threads = {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads((Path(folder) / "found.json").read_text())


def _measure(options: argparse.Namespace) -> None:
    import torch
    from lightning.pytorch.profilers import SimpleProfiler

    from callbacks.ranks import RankWatch
    from callbacks.stop import Stop
    from stages.engine import devices, runner
    from stages.runs import graph
    from stages.runs.state import run_folder

    stage = options.stages[0]
    configuration = _conf(stage, options)
    runner._quiet()
    torch.set_num_threads(options.threads)
    folder = run_folder(configuration, stage)
    module = _module(stage)(stage, configuration, graph.parents(stage, configuration), folder)
    stop, watch = Stop(None, 0.0, time.monotonic()), RankWatch(stage)
    chosen = devices.precision(configuration, folder).value
    trainer = runner._trainer(stage, configuration, folder, module, stop, watch, chosen)
    timed = _timed()
    trainer.callbacks.append(timed)  # type: ignore[attr-defined]
    trainer.profiler = profiler = SimpleProfiler()
    assert trainer.accumulate_grad_batches == 1, "a step is one batch here"
    trainer.fit(module, datamodule=module.datamodule())
    if not trainer.is_global_zero:
        return
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][FIRST : len(timed.steps)]
    data = statistics.median(waits)
    step, gradients, other = (statistics.median(row[FIRST:]) for row in (timed.steps, timed.gradients, timed.other))
    parts = {
        "data": data,
        "arithmetic": step - gradients - other,
        "gradients": gradients,
        "other": other,
        "step": data + step,
    }
    items = statistics.mean(timed.items[FIRST:]) * options.ranks / (data + step)
    (options.folder / "found.json").write_text(json.dumps(parts | {"items": items}))


def _timed() -> Any:
    """A callback, made where Lightning has been imported."""
    import lightning as L
    import torch
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    class Timed(L.Callback):
        def __init__(self) -> None:
            self.steps: list[float] = []  # seconds
            self.gradients: list[float] = []
            self.other: list[float] = []
            self.items: list[int] = []
            self.spent = self.ready = self.averaged = 0.0

        def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            if trainer.world_size == 1:
                return
            for name in ("all_reduce", "all_gather", "broadcast"):
                setattr(dist, name, self._timed(getattr(dist, name)))
            trainer.strategy.model.register_comm_hook(None, self._hook)  # type: ignore[union-attr]

        def _timed(self, call: Any) -> Any:
            def timed(*arguments: Any, **named: Any) -> Any:
                begun = time.perf_counter()
                try:
                    return call(*arguments, **named)
                finally:
                    self.spent += time.perf_counter() - begun

            return timed

        def _hook(self, _: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            self.ready = time.perf_counter()
            return allreduce_hook(dist.group.WORLD, bucket).then(self._averaged)  # type: ignore[arg-type]

        def _averaged(self, future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            self.averaged = time.perf_counter()
            return future.value()

        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            self.begun, self.spent = time.perf_counter(), 0.0

        def on_train_batch_end(
            self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, *_: Any
        ) -> None:
            self.steps.append(time.perf_counter() - self.begun)
            self.gradients.append(self.averaged - self.ready)
            self.other.append(self.spent)
            self.items.append(_items(batch))

    return Timed()


def _items(batch: Any) -> int:
    """Windows of a tokenizer's batch; tokens that are no padding of a language model's."""
    if hasattr(batch, "latents"):
        return len(batch.latents)
    return int(batch.attention_mask.sum())


def _conf(stage: str, options: argparse.Namespace) -> Any:
    import conf
    from stages.runs import receipts

    receipt = receipts.read(options.runs / stage)
    assert receipt is not None, f"{options.runs / stage} has no receipt"
    place = options.folder / "runs" / "scaling" / stage
    place.mkdir(parents=True, exist_ok=True)
    words = ["experiment=scaling", f"runs={options.folder}/runs", f"data.root={options.runs.parents[1] / 'data'}"]
    words += [f"parents.{parent}={options.runs / parent}" for parent in receipt["parents"]]
    words += [
        f"trainer.devices={options.ranks}",
        "trainer.num_nodes=1",
        "trainer.accelerator=cpu",
        f"threads={options.threads}",
    ]
    words += [f"trainer.max_steps={options.steps}", "trainer.val_check_interval=1000000"]
    return conf.compose(stage, ["demo"], [], words).conf


def _module(stage: str) -> Any:
    import importlib

    from stages import STAGES

    name, _, attribute = STAGES[stage].target.partition(":")
    return getattr(importlib.import_module(name), attribute)


if __name__ == "__main__":
    main()
