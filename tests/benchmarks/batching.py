"""What a batch saves a server: reading a prompt, and writing a token, for one request and for several at once.

    python -m tests.benchmarks.batching --run runs/demo/openaqa

Processor time of each request, on the CPU in float32, as `stage serve` computes there. The last column: how many times as many
answers of so many tokens the batch gives, of this part of the work alone. Reading is bound by arithmetic, which a batch
does not save; writing is bound by reading the weights, which it does.
"""

import argparse
import time
from pathlib import Path

import torch

from datamodules.store import chunks
from models.language.generation import pad_left
from models.language.vocabulary import Turn
from stages.hub import trained_model

LENGTHS = (2, 10, 64)  # tokens of an answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, required=True, help="of openaqa or caption, with the experiment's cache beside it"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--question", default="What do you hear?")
    parser.add_argument("--tokens", type=int, default=8, help="written, to be timed")
    parser.add_argument("--repeats", type=int, default=3, help="of which the least counts")
    chosen = parser.parse_args()
    model = trained_model.load(chosen.run, torch.device("cpu"))
    cuts = list(chunks.read(chosen.run.parent / "cache" / "chunks"))[: max(chosen.batches)]
    prompts = [
        model.vocabulary.render(
            [Turn("user", [list(cut.custom["codes"]), "\n", chosen.question])], generate=True
        ).input_ids
        for cut in cuts
    ]

    def seconds(rows: int, tokens: int) -> float:
        """Of the processor, for each row."""
        ids, mask = pad_left(prompts[:rows], model.vocabulary.pad_id)
        spent = []
        for _ in range(chosen.repeats):
            began = time.process_time()
            model.lm.generate(
                input_ids=ids, attention_mask=mask, min_new_tokens=tokens, max_new_tokens=tokens, do_sample=False
            )
            spent.append(time.process_time() - began)
        return min(spent) / rows

    print(f"{max(map(len, prompts))} tokens of a prompt at most, {torch.get_num_threads()} threads")
    print("| batch | read a prompt, ms | write a token, ms | answers of " + ", ".join(map(str, LENGTHS)) + " tokens |")
    print("|---|---|---|---|")
    first: list[float] = []
    for rows in chosen.batches:
        read = seconds(rows, 1)
        write = max(1e-9, (seconds(rows, 1 + chosen.tokens) - read) / chosen.tokens)
        cost = [read + (length - 1) * write for length in LENGTHS]
        first = first or cost
        ratios = ", ".join(f"x {before / now:.1f}" for before, now in zip(first, cost, strict=True))
        print(f"| {rows} | {1e3 * read:.1f} | {1e3 * write:.1f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
