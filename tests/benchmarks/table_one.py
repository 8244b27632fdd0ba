"""Table I, small and honest: flow matching against squared error, the same network, data and steps, over seeds.

    python -m tests.benchmarks.table_one [--real FOLDER] [--seeds 3] [--steps 600] [--parallel 2] [--set KEY=VALUE ...]

In the current folder (data/, runs/): the embedded corpus and, with --real, FOLDER/esc10 (fold 4 is the test) and FOLDER/fsdd
(the speaker yweweler), as `stage prepare folder` takes them. One tokenizer a seed and objective is trained on all of them; the
stage `reconstruct` measures it by group. Prints mean and range over seeds as one Markdown table. What is done is not done again.
"""

import argparse
import math
import statistics
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.chain import run, stage

# the demo's network at the paper's token rate; the codebook is as large as some hundred thousand tokens fill
SETTINGS = (
    "--rate.token_rate=17.69", "--quantizer.codebook_size=1024", "--quantizer.reservoir_size=20480", "--batch_size=16",
)  # fmt: skip
REAL = {
    "esc10": ("--split_by=fold", "--test=4", "--validation_fraction=0.1"),
    "fsdd": ("--split_by=speaker", "--test=yweweler", "--validation_fraction=0.1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--parallel", type=int, default=2, help="runs side by side, one thread each")
    parser.add_argument("--clips", type=int, default=32, help="windows a group")
    parser.add_argument("--set", action="append", default=[], help="for the tokenizers, as flow.prior_weight=0.5")
    parser.add_argument("--name", default="table", help="begins the experiments' names")
    parser.add_argument("--preset", default="demo", help="of every stage")
    parser.add_argument("--embedder", default="aisfx-0.1.2", help="of KAD")
    options = parser.parse_args()

    corpora = ["diagnostic"]
    if not Path("data/diagnostic/receipt.json").is_file():
        stage("prepare", "diagnostic", "--preset", options.preset, "--data.root=data")
    for name, words in REAL.items() if options.real else ():
        corpora.append(name)
        if not Path(f"data/{name}/receipt.json").is_file():
            root = options.real / name
            stage("prepare", "folder", str(root), "--metadata", str(root / "metadata.csv"), "--name", name, *words)
    shared = ("--preset", options.preset, "--data.root=data", f"--data.corpora=[{','.join(corpora)}]", "--threads=1")
    run("latents", options.name, *shared)

    def train(job: tuple[str, int]) -> None:
        name, seed = job
        steps = options.steps
        run(
            name, f"{options.name}-{seed}", *shared, f"--parents.latents={options.name}", f"--seed={seed}", *SETTINGS,
            f"--trainer.max_steps={steps}", f"--quantizer.revive_until={steps * 7 // 10}",
            f"--trainer.val_check_interval={steps // 2}", "--sample_clips=0", f"--quantizer.seed={seed}",
            *(f"--{word}" for word in options.set),
        )  # fmt: skip

    def measure(seed: int) -> dict[str, Any]:
        return run(
            "reconstruct", f"{options.name}-{seed}", *shared, f"--parents.latents={options.name}", "--steps=[1,4,10,32]",
            "--mean_of=8", f"--clips_per_group={options.clips}", "--sound=true", "--sound_steps=[1,10]",
            f"--embedder={options.embedder}", "--probe=true",
        )  # fmt: skip

    seeds = range(options.seeds)
    with ThreadPoolExecutor(options.parallel) as pool:
        list(pool.map(train, [(name, seed) for seed in seeds for name in ("tokenizer", "tokenizer_mse")]))
        results = [receipt["metrics"] for receipt in pool.map(measure, seeds)]
    print(table(results))


def table(results: list[dict[str, Any]]) -> str:
    """Receipts of `reconstruct`, one a seed, to Markdown: mean and, where there are several, the range over seeds."""
    values: dict[tuple[str, str, int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for metrics in results:
        for row in metrics["rows"]:
            key = (row["group"], row["decoder"], row["steps"], row["condition"])
            for name in ("latent_nmse", "mel", "stft", "kad"):
                values[key][name].append(row.get(name, math.nan))
    lines = []
    for group, clips in results[0]["clips"].items():
        lines += ["", f"{group}, {clips} windows, {len(results)} seeds", ""]
        lines += ["| decoder | evaluations | | latent error | mel | STFT | KAD |", "|---|---|---|---|---|---|---|"]
        for (name, decoder, steps, condition), row in values.items():
            if name == group:
                cells = " | ".join(_spread(row[metric]) for metric in ("latent_nmse", "mel", "stft", "kad"))
                lines.append(f"| {decoder} | {steps or ''} | {condition} | {cells} |")
    lines += ["", "| linear probe | latents | flow matching | MSE |", "|---|---|---|---|"]
    for corpus in results[0]["probe"]:
        cells = " | ".join(
            _spread([100 * metrics["probe"][corpus][name] for metrics in results], 1)
            for name in ("latents", "flow matching", "MSE")
        )
        lines.append(f"| {corpus} | {cells} |")
    lines += ["", "| codebook on held-out sound | perplexity | used, % | bits |", "|---|---|---|---|"]
    for name in results[0]["codebook"]:
        rows = [metrics["codebook"][name] for metrics in results]
        lines.append(
            f"| {name} | {_spread([row['codebook_perplexity'] for row in rows], 0)} "
            f"| {_spread([100 * row['codebook_used'] for row in rows], 0)} | {_spread([row['codebook_bits'] for row in rows], 2)} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 3) -> str:
    if any(math.isnan(value) for value in values):
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


if __name__ == "__main__":
    main()
