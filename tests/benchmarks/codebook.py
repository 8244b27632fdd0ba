"""Is a codebook of 8196 in use? Trains tokenizers on the embedded corpus and counts the codes of its whole training split.

    python -m tests.benchmarks.codebook [--seeds 3] [--scenes 2000] [--steps 600] [--set KEY=VALUE ...]

In the current folder (data/, runs/). All 36 kinds of sound, scenes of 5 s, one token a latent frame unless --set says otherwise.
Prints for each seed: tokens counted, share of the codes used, perplexity, bits by entropy beside the nominal ones, and the same
over the frames that are no digital silence.
"""

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from datamodules.latents import collate_latents, latent_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.metrics.codebook_use import CodebookUse
from stages.hub import artifacts
from tests.benchmarks.chain import run, stage

SETTINGS = (
    "--rate.token_rate=null",
    "--rate.stride=1",
    "--quantizer.codebook_size=8196",
    "--quantizer.code_dim=16",
    "--batch_size=32",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="for the tokenizers, as quantizer.code_dim=8")
    parser.add_argument("--name", default="codebook")
    parser.add_argument("--preset", default="demo", help="of every stage")
    options = parser.parse_args()
    if not Path("data/diagnostic/receipt.json").is_file():
        stage(
            "prepare",
            "diagnostic",
            "--preset",
            options.preset,
            "--data.root=data",
            "--kinds=[]",
            f"--train_scenes={options.scenes}",
        )
    shared = ("--preset", options.preset, "--data.root=data", "--threads=1")
    run("latents", options.name, *shared)

    def train(seed: int) -> Path:
        experiment = f"{options.name}-{seed}"
        run(
            "tokenizer", experiment, *shared, f"--parents.latents={options.name}", *SETTINGS, f"--seed={seed}",
            f"--quantizer.seed={seed}", "--quantizer.reservoir_size=40980", f"--trainer.max_steps={options.steps}",
            f"--quantizer.revive_until={options.steps * 39 // 40}", f"--trainer.val_check_interval={options.steps // 2}",
            "--quantizer.revive_every=10", "--sample_clips=0", *(f"--{word}" for word in options.set),
        )  # fmt: skip
        return Path("runs") / experiment / "tokenizer/artifact"

    with ThreadPoolExecutor(options.parallel) as pool:
        folders = list(pool.map(train, range(options.seeds)))
    latents = Path("runs") / options.name / "latents"
    cuts = [cut for cut in chunks.read(latents / "chunks") if cut.custom["split"] == "train"]
    print(f"{len(cuts)} training scenes")
    print(
        "| seed | codes counted | used | perplexity | bits | nominal | without silence: counted | used | perplexity |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seed, folder in enumerate(folders):
        tokenizer = artifacts.load_tokenizer(folder)
        book = tokenizer.quantizer
        every, loud = (CodebookUse(book.codebook_size, book.levels) for _ in range(2))
        with torch.no_grad():
            for cut in cuts:
                batch = collate_latents(latent_windows(cut, WindowRule(1 << 20)))
                codes = tokenizer.encode(batch.latents, batch.num_frames)
                valid = torch.ones_like(codes.codes, dtype=torch.bool)
                every.update(codes.codes, valid)
                if tokenizer.grid.step == 1 and book.levels == (0,):
                    loud.update(codes.codes, ~_silent(batch.latents))
        use, rest = every.compute(), loud.compute()
        print(
            f"| {seed} | {int(every.counts.sum())} | {100 * use['codebook_used']:.1f} % | {use['codebook_perplexity']:.0f} "
            f"| {use['codebook_bits']:.2f} | {math.log2(book.codebook_size):.2f} "
            f"| {int(loud.counts.sum())} | {100 * rest['codebook_used']:.1f} % | {rest['codebook_perplexity']:.0f} |"
        )


def _silent(latents: torch.Tensor) -> torch.Tensor:
    """latents (1, F, D) -> (1, F): frames equal to the most frequent one."""
    rounded = (latents[0] * 64).round()
    frames, counts = rounded.unique(dim=0, return_counts=True)
    silent = (rounded == frames[counts.argmax()]).all(-1)
    return (silent if int(counts.max()) > 1 else torch.zeros_like(silent))[None]


if __name__ == "__main__":
    main()
