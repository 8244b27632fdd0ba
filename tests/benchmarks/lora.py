"""LoRA's rank and the weight of audio tokens, the paper's first open question, small: caption and openaqa for each setting and
seed, on the embedded corpus, with the sound tokens of an earlier run.

    python -m tests.benchmarks.lora --tokens demo [--seeds 3] [--caption-steps 30] [--steps 100] [--questions 100] [--kinds what order]

In the current folder (data/, runs/). --tokens: experiment, or folder of one, whose tokenizer and cache are read. Prints, for each
setting, mean and standard deviation over the seeds: cross-entropy of held-out text and audio tokens after the caption stage, and
accuracy of held-out questions after openaqa, beside what the LLM answers without the sound (percent).
What is done is not done again.
"""

import argparse
import json
import math
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.chain import run


class Setting(NamedTuple):
    rank: int
    audio_weight: float

    @property
    def name(self) -> str:
        return f"lora-r{self.rank}-a{self.audio_weight:g}"


SETTINGS = (Setting(8, 10), Setting(16, 10), Setting(64, 10), Setting(16, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--caption-steps", type=int, default=30)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--questions", type=int, default=100, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=["what", "order"])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--preset", default="demo", help="of every stage")
    parser.add_argument(
        "--set", action="append", default=[], help="for what is trained, as trainer.limit_val_batches=1"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 64])
    options = parser.parse_args()
    settings = [setting for setting in SETTINGS if setting.rank in options.ranks]
    jobs = [(setting, seed) for seed in range(options.seeds) for setting in settings]
    with ThreadPoolExecutor(options.parallel) as pool:
        results = list(pool.map(lambda job: _measure(*job, options), jobs))
    print(f"mean and standard deviation of {options.seeds} seeds; {options.caption_steps} and {options.steps} steps")
    columns = list(results[0])
    print(f"| rank | audio weight | {' | '.join(columns)} |")
    print("|" + "---|" * (2 + len(columns)))
    for setting in settings:
        rows = [row for (other, _), row in zip(jobs, results, strict=True) if other == setting]
        cells = [_spread([row[column] for row in rows]) for column in columns]
        print(f"| {setting.rank} | {setting.audio_weight:g} | {' | '.join(cells)} |")


def _measure(setting: Setting, seed: int, options: argparse.Namespace) -> dict[str, float]:
    name = f"{setting.name}-{seed}"
    folder = Path(options.tokens)
    tokens = [
        f"--parents.{stage}={folder / stage if folder.is_dir() else options.tokens}" for stage in ("tokenizer", "cache")
    ]
    shared = ("--preset", options.preset, "--data.root=data", "--threads=1", *tokens)
    kinds = f"--kinds=[{','.join(options.kinds)}]"
    trained = (
        *shared, kinds, f"--lora.rank={setting.rank}", f"--lora.alpha={2 * setting.rank}", f"--seed={seed}",
        f"--loss.audio_weight={setting.audio_weight:g}", *(f"--{word}" for word in options.set),
    )  # fmt: skip
    steps = options.caption_steps
    caption = run("caption", name, *trained, f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}")
    steps = options.steps
    run("openaqa", name, *trained, f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}")
    losses = {kind: caption["metrics"][f"val/{kind}_loss"] for kind in ("text", "audio")}
    row = {f"{kind} loss": math.nan if loss is None else loss for kind, loss in losses.items()}  # None: no such batch
    results = run(
        "evaluate", name, *shared, kinds, "--captions=0", f"--questions_per_kind={options.questions}",
    )["metrics"]["questions"]  # fmt: skip
    for kind in options.kinds:
        row[f"{kind}, with the sound"] = 100 * results[kind]["with_sound"]["value"]
        row[f"{kind}, without"] = 100 * results[kind]["without_sound"]["value"]
    print(f"{name}: {json.dumps(row)}", flush=True)
    return row


def _spread(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3g} ± {deviation:.2g}"


if __name__ == "__main__":
    main()
