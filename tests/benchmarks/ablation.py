"""What makes the tokens of the flow-matching tokenizer better: one change at a time, beside the tokens of the MSE baseline.

    python -m tests.benchmarks.ablation --latents NAME [--seeds 1] [--steps 300] [--parallel 2]

In the current folder (data/, runs/), on the latents of an earlier experiment (of `table_one` for instance). Prints by change, mean
and range over seeds: the linear probe on the codes of each corpus, held-out latent error with 1 and 10 evaluations, the loss gap
between true and shuffled tokens at time 0.5, and the codebook's perplexity. What is done is not done again.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stages.runs import receipts
from tests.benchmarks.chain import run
from tests.benchmarks.table_one import SETTINGS

CHANGES = {
    "as the demo: prior 2, uniform times": (),
    "without the prior head": ("flow.prior_weight=0",),
    "prior 0.5": ("flow.prior_weight=0.5",),
    "prior 8": ("flow.prior_weight=8",),
    "logit-normal times": ("flow.logit_normal_share=1",),
    "never without tokens": ("flow.token_dropout=0",),
    "MSE": ("flow.objective=mse", "flow.token_dropout=0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--preset", default="demo", help="of every stage")
    parser.add_argument("--change", action="append", choices=CHANGES, help="this one alone; again for more")
    parser.add_argument(
        "--set", action="append", default=[], help="for what is trained, as trainer.limit_val_batches=1"
    )
    options = parser.parse_args()
    receipt = receipts.read(Path("runs") / options.latents / "latents")
    if receipt is None:
        raise SystemExit(f"runs/{options.latents}/latents is missing: make it with `stage run latents`, or table_one")
    corpora = receipt["conf"]["data"]["corpora"]
    shared = (
        "--preset",
        options.preset,
        "--data.root=data",
        f"--data.corpora=[{','.join(corpora)}]",
        "--threads=1",
        f"--parents.latents={options.latents}",
    )

    def measure(job: tuple[str, int]) -> dict[str, float]:
        change, seed = job
        name, steps = f"ablation-{list(CHANGES).index(change)}-{seed}", options.steps
        trained = run(
            "tokenizer", name, *shared, f"--seed={seed}", *SETTINGS, f"--trainer.max_steps={steps}", f"--quantizer.seed={seed}",
            f"--quantizer.revive_until={steps * 7 // 10}", f"--trainer.val_check_interval={steps // 2}", "--sample_clips=0",
            *(f"--{word}" for word in (*CHANGES[change], *options.set)),
        )["metrics"]  # fmt: skip
        reconstruction = run(
            "reconstruct",
            name,
            *shared,
            "--steps=[1,10]",
            "--sound=false",
            "--probe=true",
            "--embedder=null",
            "--mean_of=1",
        )["metrics"]
        row = {
            f"probe {corpus}": 100 * accuracy["flow matching"] for corpus, accuracy in reconstruction["probe"].items()
        }
        for evaluations in (1, 10):
            row[f"error {evaluations}"] = _error(reconstruction, evaluations)
        return row | {
            "token gap": trained["val/token_gap_0.5"],
            "perplexity": reconstruction["codebook"]["flow matching"]["codebook_perplexity"],
        }

    changes = options.change or list(CHANGES)
    jobs = [(change, seed) for seed in range(options.seeds) for change in changes]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(measure, jobs))
    print(f"| change | {' | '.join(results[0])} |")
    print("|" + "---|" * (1 + len(results[0])))
    for change in changes:
        rows = [row for (other, _), row in zip(jobs, results, strict=True) if other == change]
        print(f"| {change} | {' | '.join(_spread([row[column] for row in rows]) for column in rows[0])} |")


def _error(metrics: dict[str, Any], evaluations: int) -> float:
    """Over all windows; an MSE decoder has one evaluation, whatever was asked."""
    rows = [row for row in metrics["rows"] if row["decoder"] == "flow matching" and row["condition"] == "sample"]
    rows = [row for row in rows if row["steps"] == evaluations] or rows
    clips = metrics["clips"]
    return sum(row["latent_nmse"] * clips[row["group"]] for row in rows) / sum(clips[row["group"]] for row in rows)


def _spread(values: list[float]) -> str:
    text = f"{statistics.mean(values):.3g}"
    return text if len(values) == 1 else f"{text} [{min(values):.3g}, {max(values):.3g}]"


if __name__ == "__main__":
    main()
