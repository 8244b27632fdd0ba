"""A tokenizer's decoder before and after stage `decoder_finetuning`, by number of evaluations: the sound, not the latents.

    python -m tests.benchmarks.decoder_finetuning --experiment demo [--steps 1 2 4 10 25] [--temperatures 0.8 1] [--clips 24] [--set trainer.max_steps=600]

In a folder with data/ and a finished runs/EXPERIMENT/tokenizer; the stage is run where it is not done. Every cell decodes the
same held-out windows, of the same codes, from the same noise. KAD: kernel audio distance to the recordings, x 100, with its standard error (deviation
over random halves of the clips). Probe: accuracy of a linear classifier, trained on mean and deviation of the latents of
the recordings of the training split, on the latents that the codec makes of the decoded sound.
"""

import argparse
import itertools
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from datamodules.reconstruction import ReconstructionDataModule, ReconstructionWindow, SoundBatch, choose_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.metrics.kernel_distance import kernel_distance
from models.metrics.probe import linear_probe_labels
from models.metrics.reconstruction import MelDistance, MultiResolutionStftDistance
from models.tokenizer.tokenizer import LatentTokenizer
from stages.hub import artifacts, weights
from stages.reports import real_time_factor
from stages.reports.formatting import markdown_table
from stages.runs import receipts
from tests.benchmarks import chain

HALVES, BATCH = 200, 8


class Cell:
    """What is measured of one decoder, number of evaluations and group."""

    def __init__(self, sample_rate: int) -> None:
        self.mel, self.stft = MelDistance(sample_rate), MultiResolutionStftDistance()
        self.embeddings: list[Tensor] = []
        self.features: list[Tensor] = []  # of the probe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="demo")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 10, 25])
    parser.add_argument(
        "--temperatures",
        type=float,
        nargs="+",
        help="of sampling, for each number of steps; without it the stage's own",
    )
    parser.add_argument("--clips", type=int, default=24, help="held-out windows of a group, at most")
    parser.add_argument("--groups", nargs="*", help="as diagnostic/speech; all where none is named")
    parser.add_argument("--embedder", default="aisfx-0.1.2", help="of KAD; none: not measured")
    parser.add_argument("--speed-repeats", type=int, default=5)
    parser.add_argument("--preset", default="demo", help="of the stage")
    parser.add_argument("--set", action="append", default=[], help="for the stage, as trainer.max_steps=600")
    options = parser.parse_args()
    words = [f"--{word}" for word in options.set]
    chain.run(
        "decoder_finetuning", options.experiment, "--preset", options.preset, "--data.root=data", "--threads=1", *words
    )
    torch.set_grad_enabled(False)
    run = Path("runs") / options.experiment
    latents, finetuned = (receipts.read(run / stage) for stage in ("latents", "decoder_finetuning"))
    assert latents and finetuned, "a parent of what was run, and what was run"
    temperatures = options.temperatures or [finetuned["facts"]["sampling"]["temperature"]]
    facts, sampling = latents["facts"], {"solver": "euler", "guidance": 1.0}
    codec = artifacts.load_codec(run / "latents/artifact/codec")
    tokenizer = run / "tokenizer/artifact"
    decoders = {
        "before": artifacts.load_tokenizer(tokenizer),
        "after": artifacts.load_tokenizer(tokenizer, run / "decoder_finetuning/artifact"),
    }
    embedder = None if options.embedder == "none" else weights.load_embedder(options.embedder)
    cuts = chunks.read(run / "latents/chunks")
    chosen = choose_windows(cuts.of_split("test"), WindowRule.from_facts(facts), options.clips)
    chosen = [window for window in chosen if not options.groups or window.group in options.groups]
    roots = {name: Path(receipt["root"]) for name, receipt in _corpora(chosen).items()}
    data = ReconstructionDataModule(chosen, roots, facts, BATCH, 0)

    cells: dict[tuple[str, str, int, float], Cell] = defaultdict(lambda: Cell(facts["sample_rate"]))
    for number, windows in enumerate(data.batches):
        batch = data.dataset.read(number, windows)

        def score(name: str, steps: int, temperature: float, sound: Tensor, batch: SoundBatch = batch) -> None:
            cell = cells[batch.group, name, steps, temperature]
            for one, true, count in zip(sound, batch.waveform, batch.num_samples.tolist(), strict=True):
                cell.mel.update(one[None, :, :count], true[None, :, :count])
                cell.stft.update(one[None, :, :count], true[None, :, :count])
                if embedder is not None:
                    cell.embeddings.append(embedder(one[:, :count], facts["sample_rate"]))
                cell.features.append(_pooled(codec.encode(one[None, :, :count]).mean[0]))

        score("recorded", 0, 0.0, batch.waveform)
        for temperature in temperatures:
            for name, steps, decoded in _decoded(
                decoders, batch, options.steps, sampling | {"temperature": temperature}
            ):
                score(name, steps, temperature, codec.decode(decoded))
        print(f"batch {number + 1} of {len(data.batches)}", flush=True)

    for group in dict.fromkeys(window.group for window in chosen):
        windows = [window for window in chosen if window.group == group]
        labelled = [len(window.cut.custom["labels"]) == 1 for window in windows]
        train = [
            cut
            for cut in cuts.of_split("train")
            if cut.custom["corpus"] == group.split("/")[0] and len(cut.custom["labels"]) == 1
        ]
        known = torch.stack([_pooled(torch.from_numpy(chunks.load_array(cut).astype("float32"))) for cut in train])
        names = [cut.custom["labels"][0] for cut in train]
        truth = [w.cut.custom["labels"][0] for w, one in zip(windows, labelled, strict=True) if one]
        ids = [window.cut.id for window in windows]
        rows = []
        made = itertools.product(decoders, options.steps, temperatures)
        for name, steps, temperature in [("recorded", 0, 0.0), *made]:
            cell = cells[group, name, steps, temperature]
            kad = "n/a"
            if embedder is not None and name != "recorded":
                real = torch.stack(cells[group, "recorded", 0, 0.0].embeddings)
                distance = kernel_distance(real, torch.stack(cell.embeddings)[None], ids, ids, HALVES, 0)
                kad = f"{distance.value:.2f} ± {distance.error:.2f}"
            probe = "n/a"
            if truth:
                features = torch.stack([one for one, has in zip(cell.features, labelled, strict=True) if has])
                read = linear_probe_labels(known, names, features)
                right = [label == true for label, true in zip(read, truth, strict=True)]
                probe = f"{100 * sum(right) / len(right):.1f}"
            distances = (f"{metric.compute():.3f}" for metric in (cell.stft, cell.mel))
            rows.append([name, steps or "", "" if name == "recorded" else temperature, kad, *distances, probe])
        print(f"\n{group}: {len(windows)} windows, {sum(labelled)} with one label, {len(set(names))} labels\n")
        print(
            "\n".join(markdown_table(["decoder", "evaluations", "temperature", "KAD", "STFT", "mel", "probe, %"], rows))
        )

    if options.speed_repeats:
        longest = max(chosen, key=lambda window: window.cut.duration)
        waveform = data.dataset.read(0, [longest]).waveform
        counts = dict.fromkeys(decoders, options.steps)
        speed = real_time_factor.measure(
            waveform, facts["sample_rate"], codec, decoders, dict.fromkeys(decoders, sampling), counts,
            options.speed_repeats,
        )  # fmt: skip
        print("\n".join(["", *real_time_factor.markdown(speed)]))


def _decoded(
    decoders: dict[str, LatentTokenizer], batch: SoundBatch, steps: list[int], sampling: dict[str, object]
) -> list[tuple[str, int, Tensor]]:
    """(decoder, evaluations, latents (B, F, D)): codes are the tokenizer's for both, and so is the noise."""
    latents, num_frames = batch.latents.latents, batch.latents.num_frames
    encoded = [one.encode(latents, num_frames) for one in decoders.values()]
    assert torch.equal(encoded[0].codes, encoded[1].codes), "the codes of both decoders are the same"
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(batch.number))
    return [
        (name, count, one.decode(*encoded[0], num_frames, num_steps=count, noise=noise, **sampling))  # type: ignore[arg-type]
        for name, one in decoders.items()
        for count in steps
    ]


def _pooled(latents: Tensor) -> Tensor:
    """(F, D) -> mean and standard deviation over the frames (2 D)."""
    return torch.cat([latents.mean(0), latents.std(0, correction=0)])


def _corpora(windows: list[ReconstructionWindow]) -> dict[str, receipts.CorpusReceipt]:
    prepared = {name: receipts.read_corpus(Path("data") / name) for name in {w.cut.custom["corpus"] for w in windows}}
    return {name: receipt for name, receipt in prepared.items() if receipt}


if __name__ == "__main__":
    main()
