"""Do the losses for an LLM's sake make codes that a language model predicts? A tokenizer of each, and what its codes are.

    python -m tests.benchmarks.language_losses --latents demo [--seeds 1] [--steps 300] [--preset demo] [--set KEY=VALUE]

In the current folder: runs/<latents>/latents, and data/. A row a tokenizer: none of the losses, each alone, all. Held-out
recordings. `entropy`: bits of a code by how often it comes; `predicted`: bits a code of a small causal transformer that
was trained on the training recordings' codes and reads those before it; `from the past`: the difference, which is what
is left at equal entropy, for a codebook that has collapsed is predicted by its entropy alone; `probe`: accuracy of a
linear classifier on counts of codes; `slice`: share of the codes that the second half of a sound has by itself as in the
whole; `latent error`: of the stage's last validation; `processor s`: of the tokenizer's training and of the rest. With
several seeds a second table has their means and standard deviations, and the perplexity of a code at equal entropy: two to
the entropy of the first row, less `from the past`.

With --openaqa-steps the chain goes on with each tokenizer, in its experiment and with its seed: the stages `cache`, `caption`, `openaqa`
and `text_to_sound` train the LLM on its codes, `evaluate` asks it and `generation` lets it write. A row more says how many
questions of each kind it answers right, and in how many of its sounds the probe reads the caption's kind, beside real codes;
percent, 95 % intervals by clip, and a third table has the means and standard deviations of the seeds.
"""

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datamodules.cuts import Cut
from datamodules.latents import collate_latents, latent_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.metrics.codebook_use import code_histogram
from models.metrics.probe import linear_probe
from models.tokenizer.prediction_loss import PredictionLoss
from models.tokenizer.tokenizer import LatentTokenizer
from stages.hub import artifacts
from stages.reports.formatting import percent_interval
from tests.benchmarks.chain import run

ROWS = {
    "none": {},
    "semantic": {"semantic": 0.3},
    "prediction": {"prediction": 0.3},
    "consistency": {"consistency": 0.3},
    "all": {"semantic": 0.3, "prediction": 0.3, "consistency": 0.3},
}
# of the table, with their digits
COLUMNS = {
    "entropy": 2, "predicted": 2, "from the past": 2, "probe, %": 1, "slice, %": 1, "latent error": 3, "processor s": 0,
}  # fmt: skip


WRITTEN = {"caption": "kind in written codes", "real": "in real codes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", required=True, help="an experiment")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="of each tokenizer")
    parser.add_argument("--lm-steps", type=int, default=300, help="of the small language model")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--set", action="append", default=[], help="for the tokenizers, as language_losses.noise=0.2")
    parser.add_argument(
        "--openaqa-steps", type=int, default=0, help="of the LLM on each tokenizer's codes; 0: none is trained"
    )
    parser.add_argument("--caption-steps", type=int, default=38)
    parser.add_argument("--sound-steps", type=int, default=60, help="of text_to_sound")
    parser.add_argument("--questions", type=int, default=120, help="of each kind that the LLM is asked, at most")
    options = parser.parse_args()
    folder = Path("runs") / options.latents / "latents"
    parts = {
        name: [cut for cut in chunks.read(folder / "chunks") if cut.custom["split"] == name]
        for name in ("train", "test")
    }
    print(f"| losses | seed | {' | '.join(COLUMNS)} |")
    print(f"|---|---|{'---|' * len(COLUMNS)}")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in options.rows}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in options.rows}
    for name in options.rows:
        for seed in range(options.seeds):
            begun = sum(os.times()[:4])
            experiment = f"{options.latents}-losses-{name}-{seed}"
            weights = [f"--language_losses.{key}={value}" for key, value in ROWS[name].items()]
            receipt = run(
                "tokenizer", experiment, "--preset", options.preset, "--data.root=data", f"--parents.latents={options.latents}",
                "--threads=1", f"--seed={seed}", f"--quantizer.seed={seed}", f"--trainer.max_steps={options.steps}",
                f"--quantizer.revive_until={options.steps * 7 // 10}", f"--trainer.val_check_interval={options.steps}",
                "--sample_clips=0", *weights, *(f"--{word}" for word in options.set),
            )  # fmt: skip
            tokenizer = artifacts.load_tokenizer(Path("runs") / experiment / "tokenizer/artifact")
            entropy, predicted, probe, slices = measured(tokenizer, parts["train"], parts["test"], options.lm_steps)
            error, seconds = receipt["metrics"]["val/latent_nmse"], sum(os.times()[:4]) - begun
            values = (entropy, predicted, entropy - predicted, probe, slices, error, seconds)
            rows[name].append(dict(zip(COLUMNS, values, strict=True)))
            cells = (f"{value:.{COLUMNS[column]}f}" for column, value in rows[name][-1].items())
            print(f"| {name} | {seed} | {' | '.join(cells)} |", flush=True)
            if options.openaqa_steps:
                begun = sum(os.times()[:4])
                shares = dict(asked(options, experiment, seed))
                answers[name].append({what: 100 * share["value"] for what, share in shares.items()})
                told = ", ".join(f"{what} {percent_interval(share)}" for what, share in shares.items())
                print(f"| {name} | {seed} | {told}, {sum(os.times()[:4]) - begun:.0f} processor s |", flush=True)
    if options.seeds > 1:
        print_means(rows)
    if options.seeds > 1 and options.openaqa_steps:
        columns = list(next(iter(answers.values()))[0])
        print(f"\n| losses | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
        for name, seeds in answers.items():
            cells = (mean_and_spread([row[column] for row in seeds], 1) for column in columns)
            print(f"| {name} | {' | '.join(cells)} |")


def asked(options: argparse.Namespace, experiment: str, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Shares of what the LLM answers and writes right, trained on the codes of this experiment's tokenizer."""
    words = ("--preset", options.preset, "--data.root=data", f"--parents.latents={options.latents}", "--threads=1")
    run("cache", experiment, *words)
    steps = {"caption": options.caption_steps, "openaqa": options.openaqa_steps, "text_to_sound": options.sound_steps}
    for name, count in steps.items():
        chosen = (f"--trainer.max_steps={count}", f"--trainer.val_check_interval={count}")
        run(name, experiment, *words, f"--seed={seed}", "--mixture.text=0", *chosen)
        if name == "openaqa":
            few = ("--examples.after=null", "--captions=0", f"--questions_per_kind={options.questions}")
            questions = run("evaluate", experiment, *words, *few)["metrics"]["questions"]
            yield from ((kind, rows["with_sound"]) for kind, rows in questions.items())
    accuracy = run("generation", experiment, *words, "--seeds=1", "--embedder=null")["metrics"]["accuracy"]
    if accuracy:
        rows = {row["codes"]: row for row in accuracy["rows"]}
        yield from ((text, rows[name]) for name, text in WRITTEN.items() if name in rows)


def print_means(rows: dict[str, list[dict[str, float]]]) -> None:
    """rows: of each of `ROWS`, a row a seed."""
    print(f"\n| losses | {' | '.join(COLUMNS)} | perplexity at equal entropy |")
    print(f"|---|{'---|' * len(COLUMNS)}---|")
    reference = np.mean([row["entropy"] for row in next(iter(rows.values()))])
    for name, seeds in rows.items():
        columns = {column: [row[column] for row in seeds] for column in COLUMNS}
        equal = [2 ** (reference - value) for value in columns["from the past"]]
        cells = [mean_and_spread(values, COLUMNS[column]) for column, values in columns.items()]
        print(f"| {name} | {' | '.join(cells)} | {mean_and_spread(equal, 2)} |")


def mean_and_spread(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def measured(
    tokenizer: LatentTokenizer, train: list[Cut], test: list[Cut], steps: int
) -> tuple[float, float, float, float]:
    """Entropy and bits a code of the small LM (bits), accuracy of the probe and agreement of slices (percent)."""
    coded, held_out = [codes_of(tokenizer, cut) for cut in train], [codes_of(tokenizer, cut) for cut in test]
    quantizer = tokenizer.quantizer
    counts = torch.stack([code_histogram(codes, quantizer.codebook_size, quantizer.levels) for codes in held_out])
    shares = (counts.expm1().sum(0) / counts.expm1().sum()).clamp(min=1e-12)
    entropy = -float((shares * shares.log2()).sum())
    labelled = [
        [
            (codes, cut.custom["labels"][0])
            for codes, cut in zip(rows, cuts, strict=True)
            if len(cut.custom["labels"]) == 1
        ]
        for rows, cuts in ((coded, train), (held_out, test))
    ]
    labels = [[label for _, label in part] for part in labelled]
    probe = math.nan
    if len(set(labels[0])) > 1 and labels[1]:
        features = [
            torch.stack([code_histogram(codes, quantizer.codebook_size, quantizer.levels) for codes, _ in part])
            for part in labelled
        ]
        probe = 100 * linear_probe(features[0], labels[0], features[1], labels[1])
    agreement = sum(slice_agreement(tokenizer, cut) for cut in test) / len(test)
    return entropy, bits_predicted(tokenizer, coded, held_out, steps), probe, 100 * agreement


@torch.no_grad()
def codes_of(tokenizer: LatentTokenizer, cut: Cut) -> Tensor:
    """(S) of the whole recording."""
    batch = collate_latents(latent_windows(cut, WindowRule(1 << 20)))
    return tokenizer.encode(batch.latents, batch.num_frames).codes[0]


@torch.no_grad()
def slice_agreement(tokenizer: LatentTokenizer, cut: Cut) -> float:
    batch = collate_latents(latent_windows(cut, WindowRule(1 << 20)))
    grid, quantizer = tokenizer.grid, tokenizer.quantizer
    first = grid.num_tokens(batch.latents.shape[1]) // 2 // quantizer.block * quantizer.block
    begin = grid.first_frame(first)
    latents = tokenizer.standardized(batch.latents, batch.num_frames)[:, begin:]
    part = quantizer(tokenizer.encoder(latents, batch.num_frames - begin, grid, first), None, update=False).codes[0]
    whole = codes_of(tokenizer, cut)[-len(part) :]
    return float((part == whole).float().mean())


def bits_predicted(tokenizer: LatentTokenizer, train: list[Tensor], test: list[Tensor], steps: int) -> float:
    """Bits a code, of the codes behind a sound's first token, that a small causal transformer gives held-out sounds."""
    quantizer, width = tokenizer.quantizer, 128
    torch.manual_seed(0)
    embedding = nn.Embedding(quantizer.num_codebooks * quantizer.codebook_size, width)
    lm = PredictionLoss(width, quantizer.codebook_size, quantizer.levels, quantizer.block, width, 2, 4)
    optimizer = torch.optim.AdamW([*embedding.parameters(), *lm.parameters()], 2e-3, weight_decay=0.1)
    offsets = torch.arange(quantizer.num_codebooks) * quantizer.codebook_size

    def loss(rows: list[Tensor]) -> Tensor:
        codes = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        tokens = codes.shape[1] // len(quantizer.levels) * quantizer.block
        counts = torch.tensor([len(row) // len(quantizer.levels) * quantizer.block for row in rows])
        by_token, _ = lm.by_token(codes, tokens)
        return lm(embedding(by_token + offsets).sum(2), codes, torch.arange(tokens) < counts[:, None])

    generator = torch.Generator().manual_seed(0)
    best = math.inf
    for step in range(steps):
        chosen = torch.randint(len(train), (min(32, len(train)),), generator=generator).tolist()
        optimizer.zero_grad()
        loss([train[number] for number in chosen]).backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 6) == 0:  # a small corpus is learnt by heart: the best counts
            with torch.no_grad():
                best = min(best, float(loss(test)))
    return best / math.log(2)


if __name__ == "__main__":
    main()
