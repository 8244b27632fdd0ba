"""How the new rows start: mean, random (the paper's) and codebook, each with a few steps of the caption stage, and its validation losses.

    python -m tests.benchmarks.new_rows --run runs/demo [--steps 30] [--seeds 1] [--batches 4]

--run: a finished demo, for its tokenizer and codes. The demo's settings otherwise; losses are means over tokens of validation conversations, in nats.
"""

import argparse
import statistics
from pathlib import Path

import lightning as L
import torch

from conf import compose, plain
from stages.engine.devices import precision
from stages.engine.runner import _quiet
from stages.language import Language
from stages.runs import graph

WAYS = ("mean", "random", "codebook")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--batches", type=int, default=4, help="of validation")
    parser.add_argument("--preset", default="demo", help="of every stage")
    options = parser.parse_args()
    _quiet()
    torch.set_num_threads(1)
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        for way in WAYS:
            results[way].append(_losses(options, way, seed))
            print(f"seed {seed}, {way}: text {results[way][-1][0]:.3f}, audio {results[way][-1][1]:.3f}", flush=True)
    print(f"{options.steps} steps, {options.seeds} seeds (each is shown)")
    print("| new rows | val/text_loss | val/audio_loss | seeds |")
    print("|---|---|---|---|")
    for way, losses in results.items():
        text, audio = (statistics.mean(column) for column in zip(*losses, strict=True))
        print(f"| {way} | {text:.3f} | {audio:.3f} | {', '.join(f'{one:.3f}/{two:.3f}' for one, two in losses)} |")


def _losses(options: argparse.Namespace, way: str, seed: int) -> tuple[float, float]:
    given = [f"parents.{name}={options.run / name}" for name in ("tokenizer", "latents", "cache")]
    steps = [f"trainer.max_steps={options.steps}", f"trainer.val_check_interval={options.steps}"]
    words = [
        f"embedding_initialization={way}",
        f"seed={seed}",
        f"trainer.limit_val_batches={options.batches}",
        "threads=1",
    ]
    conf = compose("caption", [options.preset], [], [*given, *steps, *words]).conf
    L.seed_everything(seed, verbose=False)
    module = Language("caption", conf, graph.parents("caption", conf), options.run)
    trainer = L.Trainer(
        **plain(conf.trainer) | {"precision": precision(conf, options.run).value, "logger": False}, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=None, max_epochs=-1, inference_mode=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=module.datamodule())
    values = trainer.callback_metrics
    return float(values["val/text_loss"]), float(values["val/audio_loss"])


if __name__ == "__main__":
    main()
