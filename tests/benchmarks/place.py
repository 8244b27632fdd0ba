"""On which side is it heard, and is it near or far? What codes keep of place at several rates, and what an LLM says.

    python -m tests.benchmarks.place [--codecs stereo mono oobleck] [--rates own kbps_0.1 kbps_1] [--ask stereo/own] [--steps 200]

In the current folder (data/, runs/): renders the embedded corpus with the extra `place` (data/place) and codes it with each
codec (runs/place-CODEC), the stereo one at each rate, the others at the preset's `own` (runs/place-CODEC-RATE; a kbps_* has
fewer bits as --codes are fewer than 8196). What is done is not done again. A linear probe reads the side and the distance of a
sound from the latents, and from the codes, of the time in which it sounds. On the codes that --ask names the stages `caption`
and `openaqa` train the LLM to answer these questions, and `evaluate` asks it; where a scene has more codes than the preset's LLM
takes, it is trained with longer sequences, two in a batch. Percent, 95 % intervals by scene; chance is 50.

Of a codec of two channels, the row `decoded sound` is the louder channel of the event as the codec gives it back, without a
tokenizer: whether it holds what is asked about, beside by how many dB the event is off.

stereo   the mel codec of two channels            mono   of one: the control, in which no side is heard
oobleck  a small stereo Oobleck, which the stage `vae` trains here
"""

import argparse
import math
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from conf import compose
from datamodules.audio import load_sound
from datamodules.cuts import Cut, questions
from datamodules.diagnostic.scene import REVERBERATION
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from models.metrics.codebook_use import code_histogram
from models.metrics.probe import linear_probe_labels
from stages.hub import artifacts
from stages.reports.formatting import markdown_table, percent_interval
from stages.scoring.intervals import bootstrap
from tests.benchmarks.chain import run, stage

KINDS = {"side": "left or right", "distance": "near or far"}
CODECS = {"stereo": ("--codec.mel.channels=2",), "mono": (), "oobleck": ("--codec.kind=trained",)}
OWN = "own"
ASKED = 160  # tokens of all questions of a scene, at most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", choices=CODECS, default=list(CODECS))
    parser.add_argument(
        "--rates", nargs="+", default=[OWN, "kbps_0.1", "kbps_1"], help="own, or presets of the tokenizer"
    )
    parser.add_argument(
        "--ask", nargs="*", default=["stereo/own"], metavar="CODEC/RATE", help="with which the LLM is trained"
    )
    parser.add_argument("--scenes", type=int, default=800, help="of training; a quarter as many of test")
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--vae-steps", type=int, default=400)
    parser.add_argument("--tokenizer-steps", type=int, default=300)
    parser.add_argument("--caption-steps", type=int, default=38)
    parser.add_argument("--steps", type=int, default=200, help="of openaqa")
    parser.add_argument("--questions", type=int, default=200, help="of each kind that the LLM is asked, at most")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], help="for the tokenizers, as quantizer.reservoir_size=16")
    parser.add_argument("--set-vae", nargs="+", default=[], help="for the VAE, as codec.oobleck.sampling_rate=8000")
    options = parser.parse_args()
    if not Path("data/place/diagnostic/receipt.json").is_file():
        stage(
            "prepare", "diagnostic", "--preset", options.preset, "--data.root=data/place", "--extras=[place]",
            f"--train_scenes={options.scenes}", f"--test_scenes={options.scenes // 4}",
        )  # fmt: skip
    rows: list[list[str]] = []

    def add(*row: str) -> None:
        rows.append(list(row))
        print(" | ".join(row), flush=True)

    for codec in options.codecs:
        facts = _latents(options, codec)
        folder = Path(f"runs/place-{codec}/latents")
        add(codec, "", "", "latents", *_probe(folder, facts, coded=False))
        if facts["channels"] == 2:
            add(codec, "", "", "decoded sound", _louder_channel(folder), "")
        for rate in options.rates if codec == "stereo" else [OWN]:
            experiment = f"place-{codec}-{rate}"
            facts = _codes(options, codec, rate, experiment)
            shown = (codec, f"{facts['token_rate']:.1f}", f"{facts['bitrate'] / 1000:.3f}")
            add(*shown, "codes", *_probe(Path(f"runs/{experiment}/cache"), facts, coded=True))
            if f"{codec}/{rate}" in options.ask:
                asked = _evaluate(options, experiment)
                for row in ("with_sound", "without_sound", "best_guess"):
                    cells = [percent_interval(asked[kind][row]) for kind in KINDS]
                    add(*shown, f"LLM, {row}" if row != "best_guess" else "best guess from the text", *cells)
    spent = time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{spent:.0f} processor seconds of what was not done before")
    print("\n".join(markdown_table(["codec", "tokens/s", "kbps", "read from", *KINDS.values()], rows)))


def _words(options: argparse.Namespace) -> tuple[str, ...]:
    return ("--preset", options.preset, "--data.root=data/place", "--threads=1")


def _latents(options: argparse.Namespace, codec: str) -> dict[str, Any]:
    """Facts of the stage `latents`."""
    words, steps = _words(options), options.vae_steps
    if codec == "oobleck":
        run(
            "vae", f"place-{codec}", *words, "--codec.oobleck.audio_channels=2", f"--trainer.max_steps={steps}",
            f"--trainer.val_check_interval={steps}", f"--discriminator_warmup={steps // 2}",
            *(f"--{word}" for word in options.set_vae),
        )  # fmt: skip
    return run("latents", f"place-{codec}", *words, *CODECS[codec])["facts"]


def _codes(options: argparse.Namespace, codec: str, rate: str, experiment: str) -> dict[str, Any]:
    """Facts of the tokenizer, whose codes are cached."""
    words, steps = (*_words(options), f"--parents.latents=place-{codec}"), options.tokenizer_steps
    chosen: tuple[str, ...] = ()
    if rate != OWN:  # the preset's bits, as far as there are codes; its own token rate gives way
        bitrate = 1000 * float(rate.removeprefix("kbps_")) * math.log2(options.codes) / math.log2(8196)
        chosen = ("--preset", rate, "--rate.token_rate=null", f"--rate.bitrate={bitrate}")
    facts = run(
        "tokenizer", experiment, *words, *chosen, f"--quantizer.codebook_size={options.codes}", "--sample_clips=0",
        f"--quantizer.reservoir_size={16 * options.codes}", f"--quantizer.revive_until={steps * 7 // 10}",
        f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}", *(f"--{word}" for word in options.set),
    )["facts"]  # fmt: skip
    run("cache", experiment, *words)
    return facts


def _probe(folder: Path, facts: dict[str, Any], coded: bool) -> Iterator[str]:
    """Accuracy on the test scenes of a linear probe of each kind of question, with its interval. folder: of `latents` or `cache`."""
    cuts = chunks.read(folder / "chunks")
    for kind in KINDS:
        splits = []
        for split in ("train", "test"):
            asked = _asked(cuts, split, kind)
            features = torch.stack([_features(cut, one["question"], facts, coded) for cut, one in asked])
            splits.append((asked, features, [one["answer"] for _, one in asked]))
        (_, train, labels), (asked, test, expected) = splits
        said = linear_probe_labels(train, labels, test)
        right = [one == answer for one, answer in zip(said, expected, strict=True)]
        yield percent_interval(bootstrap(right, [cut.custom["source"] for cut, _ in asked], 1000, 0))


def _asked(cuts: CachedCuts, split: str, kind: str) -> list[tuple[Cut, dict[str, Any]]]:
    asked = [(cut, one.custom) for cut in cuts.of_split(split) for one in questions(cut, [kind])]
    if not asked:
        raise SystemExit(f"no {split} scene has a question of {kind}: ask for more --scenes")
    return asked


def _louder_channel(folder: Path) -> str:
    """Percent of the test questions of the side. folder: of `latents`."""
    codec, asked = (
        artifacts.load_codec(folder / "artifact/codec"),
        _asked(chunks.read(folder / "chunks"), "test", "side"),
    )
    decoded: dict[str, Tensor] = {}
    right, off = [], []
    for cut, one in asked:
        recorded = load_sound(cut, Path("data/place/diagnostic"), codec.sample_rate, codec.channels)
        if cut.id not in decoded:
            decoded[cut.id] = codec.decode(torch.from_numpy(chunks.load_array(cut).astype("float32"))[None])[0]
        heard = _heard(cut, one["question"], codec.sample_rate, recorded.shape[-1])
        left, other = decoded[cut.id][:, heard].square().sum(1).tolist()
        right.append(one["answer"] == ("left" if left > other else "right"))
        powers = [sound[:, heard].square().mean().item() for sound in (decoded[cut.id], recorded)]
        off.append(abs(10 * math.log10(max(powers[0], 1e-12) / powers[1])))
    print(f"decoded, an event is off by {median(off):.1f} dB (median of {len(off)})", flush=True)
    return percent_interval(bootstrap(right, [cut.custom["source"] for cut, _ in asked], 1000, 0))


def _heard(cut: Cut, question: str, rate: float, length: int) -> slice:
    """Where the sound that the question names is heard, of `length` rows at `rate` a second."""
    named = [event for event in cut.custom["metadata"]["events"] if f"the {event['kind']}" in question]
    event = max(named, key=lambda event: len(event["kind"]))
    first = min(length - 1, int(event["onset"] * rate))
    return slice(first, math.ceil((event["onset"] + event["seconds"] + REVERBERATION / 2) * rate))


def _features(cut: Cut, question: str, facts: dict[str, Any], coded: bool) -> Tensor:
    """(E) of the time in which the sound that the question names is heard: counts of codes; mean and deviation of latents."""
    if coded:
        rows, rate = torch.tensor(cut.custom["codes"]).view(-1, len(facts["levels"])), facts["token_rate"]
    else:
        rows, rate = torch.from_numpy(chunks.load_array(cut).astype("float32")), facts["frame_rate"]
    heard = rows[_heard(cut, question, rate, len(rows))]
    if coded:
        return code_histogram(heard.flatten(), facts["codebook_size"], facts["levels"])
    return torch.cat([heard.mean(0), heard.std(0, correction=0)])


def _evaluate(options: argparse.Namespace, experiment: str) -> dict[str, Any]:
    """By kind of question: with the sound, without it, the best guess."""
    words, kinds = _words(options), f"--kinds=[{','.join(KINDS)}]"
    batching = _batching(options.preset, experiment)
    for name, steps in (("caption", options.caption_steps), ("openaqa", options.steps)):
        run(
            name, experiment, *words, kinds, f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}",
            "--mixture.text=0", "--mixture.text_to_sound=0", *batching,
        )  # fmt: skip
    asked = (kinds, "--examples.after=null", "--captions=0", f"--questions_per_kind={options.questions}")
    return run("evaluate", experiment, *words, *asked)["metrics"]["questions"]


def _batching(preset: str, experiment: str) -> tuple[str, ...]:
    """Keys for a scene with its questions, where that is more than the preset's `batching.max_tokens`."""
    cuts = chunks.read(Path(f"runs/{experiment}/cache/chunks"))
    tokens = max(len(cut.custom["codes"]) for cut in cuts.of_split("train")) + ASKED
    if tokens <= compose("openaqa", [preset]).conf.batching.max_tokens:
        return ()
    return (f"--batching.max_tokens={tokens}", f"--batching.tokens_per_batch={2 * tokens}")


if __name__ == "__main__":
    main()
