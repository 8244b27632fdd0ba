"""Rate against distortion: seven token rates from 0.05 to 1 kbps, one table and one plot (runs/rates/rates.png).

    python -m tests.benchmarks.rates [--steps 300] [--parallel 2] [--clips 32] [--codes 1024]

In the current folder (data/, runs/), on the embedded corpus. The presets kbps_*, native and the paper's base with a smaller
codebook: the bit rates printed are those of the codebook used. What is done is not done again.
"""

import argparse
import math
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.chain import run, stage

PRESETS = ("kbps_0.05", "kbps_0.1", "kbps_0.15", "base", "native", "kbps_0.5", "kbps_1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--preset", default="demo", help="of every stage")
    parser.add_argument("--embedder", default="aisfx-0.1.2", help="of KAD")
    parser.add_argument(
        "--set", action="append", default=[], help="for what is trained, as trainer.limit_val_batches=1"
    )
    parser.add_argument("--rates", nargs="+", default=PRESETS, choices=PRESETS)
    options = parser.parse_args()
    if not Path("data/diagnostic/receipt.json").is_file():
        stage("prepare", "diagnostic", "--preset", options.preset, "--data.root=data")
    shared = ("--preset", options.preset, "--data.root=data", "--threads=1")
    run("latents", "rates", *shared)

    def measure(preset: str) -> dict[str, Any]:
        experiment, parents = f"rates-{preset}", "--parents.latents=rates"
        chosen = () if preset == "base" else ("--preset", preset)
        if preset == "native":
            rate = ("--rate.token_rate=null", "--rate.stride=1")
        else:  # the demo's own token rate gives way to the preset's, as it is with 8196 codes
            bits = 230 if preset == "base" else 1000 * float(preset.removeprefix("kbps_"))
            rate = ("--rate.token_rate=null", f"--rate.bitrate={bits * _bits(options.codes) / _bits(8196)}")
        run(
            "tokenizer", experiment, *shared, *chosen, parents, *rate, f"--quantizer.codebook_size={options.codes}",
            f"--quantizer.reservoir_size={20 * options.codes}", f"--trainer.max_steps={options.steps}", "--sample_clips=0",
            f"--quantizer.revive_until={options.steps * 7 // 10}", f"--trainer.val_check_interval={options.steps // 2}",
            *(f"--{word}" for word in options.set),
        )  # fmt: skip
        return run(
            "reconstruct", experiment, *shared, parents, "--steps=[1,10]", "--sound=true", "--sound_steps=[10]",
            f"--clips_per_group={options.clips}", f"--embedder={options.embedder}", "--probe=true",
        )  # fmt: skip

    with ThreadPoolExecutor(options.parallel) as pool:
        receipts = list(pool.map(measure, options.rates))
    rows = sorted(
        (_row(preset, receipt) for preset, receipt in zip(options.rates, receipts, strict=True)),
        key=lambda row: row["kbps"],
    )
    print(
        "| preset | tokens/s | kbps | entropy kbps | latent error, 1 evaluation | 10 evaluations | mel | KAD | probe |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['preset']} | {row['token_rate']:.2f} | {row['kbps']:.3f} | {row['entropy']:.3f} | {row['one']:.3f} | {row['ten']:.3f} "
            f"| {row['mel']:.3f} | {row['kad']:.2f} | {100 * row['probe']:.1f} |"
        )
    _plot(rows, f"KAD [{options.embedder}] x 100", Path("runs/rates/rates.png"))


def _bits(codes: int) -> float:
    return math.log2(codes)


def _row(preset: str, receipt: dict[str, Any]) -> dict[str, Any]:
    metrics, facts = receipt["metrics"], receipt["facts"]
    clips = metrics["clips"]

    def mean(steps: int, name: str) -> float:
        rows = [
            row for row in metrics["rows"]
            if (row["decoder"], row["steps"], row["condition"]) == ("flow matching", steps, "sample")
        ]  # fmt: skip
        return sum(row[name] * clips[row["group"]] for row in rows) / sum(clips.values())

    codes = facts["bitrate"] / facts["token_rate"] / _bits(facts["codebook_size"])  # a token
    probe = metrics["probe"].get("diagnostic", {"flow matching": math.nan})  # a small corpus has none
    entropy = metrics["codebook"]["flow matching"]["codebook_bits"] * codes * facts["token_rate"] / 1000
    return {
        "preset": preset, "token_rate": facts["token_rate"], "kbps": facts["bitrate"] / 1000, "entropy": entropy,
        "one": mean(1, "latent_nmse"), "ten": mean(10, "latent_nmse"), "mel": mean(10, "mel"), "kad": mean(10, "kad"),
        "probe": probe["flow matching"],
    }  # fmt: skip


def _plot(rows: list[dict[str, Any]], kad: str, path: Path) -> None:
    if find_spec("matplotlib") is None:  # hours of training are not lost for want of a picture
        print(f"no plot {path}: matplotlib is not installed: pip install -e '.[benchmarks]'")
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.5))
    for axis, (name, label) in zip(
        axes,
        (("one", "latent error, 1 evaluation"), ("mel", "mel distance"), ("kad", kad)),
        strict=True,
    ):
        axis.plot([row["kbps"] for row in rows], [row[name] for row in rows], "o-")
        axis.set(xscale="log", xlabel="nominal kbps", ylabel=label)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
