"""Does a frozen LLM name sounds from a few examples, as UniAudio 1.5 asks it? The stage `fewshot` over tokenizers and ways.

    python -m tests.benchmarks.fewshot --latents demo --corpus diagnostic [--seconds 1] [--ways 2 6] [--shots 1 4]

In the current folder: runs/<latents>/latents, and data/. A tokenizer of each of `TOKENIZERS` is trained on all that the
latents hold. A row an episode's form: percent right of the LLM (the class that greedy decoding writes where only the classes
may be written, which is UniAudio's), of the same LLM with the codes of other recordings, and of the shot with the nearest
histogram of codes, each with the 95 % interval by recording. `processor s` is of a run of the stage, all its shots together.

With --taught the same is asked of an LLM that learned all codes of the tokenizer: from captions, for --caption-steps, and then so
many steps from texts of examples of the training split (mixture.examples), whose classes have names of other classes in a share
of --renamed. Name splits that it was not trained on, as --ask splits=[test].
"""

import argparse
import json
import os
from pathlib import Path

from stages.reports.formatting import percent_interval
from stages.scoring.fewshot_scores import SCORES
from tests.benchmarks.chain import run

# name -> keys of the tokenizer, and of the stage `fewshot`
TOKENIZERS: dict[str, tuple[list[str], list[str]]] = {
    "vq": ([], []),
    "lexical": (["quantizer.kind=lexical"], []),
    "lexical, losses": (
        ["quantizer.kind=lexical", *(f"language_losses.{name}=0.3" for name in ("semantic", "prediction", "consistency"))],
        [],
    ),
    "lexical_residual": (["quantizer.kind=lexical_residual", "rate.token_rate=21.5"], ["levels=1"]),
}  # fmt: skip
COLUMNS = {"codes": "right", "shuffled_codes": "other recordings' codes", "nearest": "nearest histogram"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", required=True, help="an experiment")
    parser.add_argument("--corpus", required=True, help="that the episodes are of")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--tokenizers", nargs="*", default=list(TOKENIZERS), choices=list(TOKENIZERS))
    parser.add_argument("--llm", default="smollm2-135m-instruct", help="that reads, and whose words are codes")
    parser.add_argument("--seconds", type=float, help="of a recording, the first ones; without it all")
    parser.add_argument("--ways", nargs="*", type=int, default=[2, 6])
    parser.add_argument("--shots", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--words", type=int, default=512, help="codes of a level")
    parser.add_argument("--score", default="greedy", choices=list(SCORES))
    parser.add_argument(
        "--taught", type=int, default=0, metavar="STEPS", help="of texts of examples; 0: the LLM is frozen"
    )
    parser.add_argument("--caption-steps", type=int, default=38)
    parser.add_argument("--renamed", type=float, default=1.0)
    parser.add_argument("--teach", action="append", default=[], help="for its two stages, as data.corpora=[fsdd]")
    parser.add_argument("--set", action="append", default=[], help="for the tokenizers, as trainer.max_steps=100")
    parser.add_argument("--ask", action="append", default=[], help="for the stage fewshot, as splits=[train,test]")
    options = parser.parse_args()
    print(f"| codes | LLM | ways | shots | {' | '.join(COLUMNS.values())} | chance | tokens | processor s |")
    print(f"|---|---|---|---|{'---|' * len(COLUMNS)}---|---|---|")
    for kind in options.tokenizers:
        changes, asked = TOKENIZERS[kind]
        base = f"{options.latents}-fewshot-{kind.replace(', ', '-')}"
        shared = ["--preset", options.preset, "--data.root=data", "--threads=1"]
        of_llm = [
            f"--quantizer.words={options.words}",
            *(f"--{key}={options.llm}" for key in ("quantizer.words_from", "language_losses.texts_from")),
        ]
        run(
            "tokenizer", base, *shared, f"--parents.latents={options.latents}", "--sample_clips=0",
            *of_llm, *(f"--{word}" for word in [*changes, *options.set]),
        )  # fmt: skip
        llms = [("frozen", ["--llm=frozen", *(f"--{word}" for word in asked)])]
        if options.taught:
            _teach(options, base, shared)
            llms.append((f"taught-{options.taught}", ["--llm=openaqa", f"--parents.openaqa={base}"]))
        for llm, words in llms:
            for ways in options.ways:
                _ask(options, base, [*shared, *words], kind, llm, ways)


def _ask(options: argparse.Namespace, base: str, words: list[str], kind: str, llm: str, ways: int) -> None:
    """Prints the rows of one number of classes."""
    begun = sum(os.times()[:4])
    parts = [options.corpus, options.seconds or "all", options.repeats, ways, *options.shots, llm]
    experiment = "-".join([base, *map(str, parts)])
    run(
        "fewshot", experiment, *words, f"--parents.tokenizer={base}", f"--data.corpora=[{options.corpus}]",
        f"--ways={ways}", f"--shots={options.shots}", f"--seconds={options.seconds or 'null'}",
        f"--repeats={options.repeats}", f"--episodes={options.episodes}", f"--model.source={options.llm}",
        "--controls=[shuffled_codes]", *(f"--{word}" for word in options.ask),
    )  # fmt: skip
    seconds = sum(os.times()[:4]) - begun
    artifact = Path("runs") / experiment / "fewshot/artifact"
    table = json.loads((artifact / "report.json").read_text())["table"]
    rows = [json.loads(line) for line in (artifact / "predictions.jsonl").read_text().splitlines()]
    for shots in options.shots:
        lines = {line["answers"]: line for line in table if line["shots"] == shots}
        cells = [percent_interval(lines[column].get(options.score) or lines[column]["mean"]) for column in COLUMNS]
        lengths = [row["prompt_tokens"] for row in rows if row["shots"] == shots]
        print(
            f"| {kind} | {llm} | {ways} | {shots} | {' | '.join(cells)} | "
            f"{100 / ways:.1f} | {sum(lengths) / len(lengths):.0f} | {seconds:.0f} |",
            flush=True,
        )


def _teach(options: argparse.Namespace, base: str, shared: list[str]) -> None:
    """Trains `caption` and `openaqa` on the codes of this experiment's tokenizer."""
    words = [
        *shared, f"--parents.latents={options.latents}", f"--model.source={options.llm}", "--mixture.text=0",
        *(f"--{word}" for word in options.teach),
    ]  # fmt: skip
    corpora = [f"--{word}" for word in options.teach if word.startswith("data.corpora=")]
    run("cache", base, *shared, f"--parents.latents={options.latents}", *corpora)
    run(
        "caption", base, *words, f"--trainer.max_steps={options.caption_steps}",
        f"--trainer.val_check_interval={options.caption_steps}",
    )  # fmt: skip
    run(
        "openaqa", base, *words, f"--trainer.max_steps={options.taught}", f"--trainer.val_check_interval={options.taught}",
        "--mixture.examples=4", "--mixture.question=0", "--kinds=[]", f"--examples.renamed={options.renamed}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
