"""Does the LLM keep its text? Perplexity of a fixed English text before and after it learned sound.

    python -m tests.benchmarks.text_stays --runs demo [--text FILE.txt]

In the current folder (runs/). The text, text_stays.txt, is nobody's but ours: instructions, a story, facts, a dialogue, code, a
letter. `whole`: the softmax over all ids, sounds among them; `text`: over the text ids alone, as text answers are made. The base
LLM has no sound ids, so both are one. The aim: at most 1.10 times the base.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from models.language.vocabulary import Vocabulary
from models.metrics.text_perplexity import Perplexity, perplexity
from stages.hub import artifacts, language_model, weights

TEXT = Path(__file__).with_suffix(".txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", nargs="+", required=True, metavar="EXPERIMENT", help="those whose caption and openaqa are measured"
    )
    parser.add_argument("--text", type=Path, default=TEXT)
    options = parser.parse_args()
    text = options.text.read_text()
    print("| experiment | after | tokens | perplexity, whole | to base | perplexity, text | to base |")
    print("|---|---|---|---|---|---|---|")
    bases: dict[str, Perplexity] = {}  # by LLM
    for experiment in options.runs:
        trained = [
            stage for stage in ("caption", "openaqa") if (Path("runs") / experiment / stage / "artifact").is_dir()
        ]
        if not trained:
            raise SystemExit(
                f"runs/{experiment} has neither caption nor openaqa. Make one:   stage run caption --experiment={experiment}"
            )
        for stage in trained:
            artifact = Path("runs") / experiment / stage / "artifact"
            model, vocabulary = language_model.load(artifact)
            source = artifacts.load(artifact)[0]["conf"]["model"]
            if source["source"] not in bases:
                base, _ = weights.load_language_model(source["source"], source["revision"], source["dtype"])
                bases[source["source"]] = measure(
                    lambda ids, base=base: base(ids).logits, text, vocabulary, base.config.vocab_size
                )
                row(source["source"], "nothing", bases[source["source"]], bases[source["source"]])
            after = measure(
                lambda ids, model=model: model.logits(ids, torch.ones_like(ids)), text, vocabulary, vocabulary.size
            )
            row(experiment, stage, after, bases[source["source"]])


def measure(logits: Callable[[Tensor], Tensor], text: str, vocabulary: Vocabulary, size: int) -> Perplexity:
    ids = torch.tensor(vocabulary.tokenizer(text).input_ids)
    return perplexity(logits, ids, torch.arange(size) < vocabulary.text_size)


def row(experiment: str, after: str, measured: Perplexity, base: Perplexity) -> None:
    print(
        f"| {experiment} | {after} | {measured.tokens} | {measured.whole:.2f} | {measured.whole / base.whole:.3f} "
        f"| {measured.text:.2f} | {measured.text / base.text:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
