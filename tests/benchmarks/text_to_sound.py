"""Does the sound that the LLM writes hold what the caption names? By kind of sound, told from the codes alone.

    python -m tests.benchmarks.text_to_sound --experiment E [--captions 50] [--seeds 1] [--guidance 1 3] [--temperature 0 1] [--model DIR]

In the current folder (runs/): test captions of the embedded corpus that name one sound, so that right is one kind and chance is
known; for scenes of several sounds a classifier would have to be multi-label, and its own errors would swamp the LLM's. The
judge is the probe of the stage `reconstruct`: a logistic regression on log(1 + count) of each code, trained on the real codes
of the training scenes with one sound. Beside the generated codes stand what it makes of the real ones of the same test scenes (the ceiling),
of sounds that the LLM writes without a caption, scored against the captions all the same (what the LLM's habits alone
get), the most frequent kind of the training scenes, and chance. Generated sounds are at most as long as the real ones.
95 % intervals are Wilson's (1927).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.line import Line
from datamodules import chunks
from datamodules.evaluation import spread
from models.metrics.probe import linear_probe
from stages import chain, trained, verbs

BATCH = 50  # sounds at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default=None)
    parser.add_argument("--model", default=None, help="a run folder, as runs/demo/caption")
    parser.add_argument("--captions", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1, help="sounds a caption, where the temperature is above 0")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 1.0])
    options = parser.parse_args()

    place = trained.find("runs", "main", options.experiment, options.model)
    assert place.language is not None
    real, asked = scenes(place.language, options.captions)
    model = trained.load(place, trained.device(None))
    most = max(len(cut.custom["codes"]) for cut in real)
    size = model.vocabulary.codebook_size
    labels = [cut.custom["labels"][0] for cut in real]
    wanted = [cut.custom["labels"][0] for cut in asked]
    judged = torch.stack([histogram(cut.custom["codes"], size) for cut in real])

    def right(codes: list[list[int]]) -> float:
        """Share of them whose kind the judge finds: several sounds of a caption after one another."""
        features = torch.stack([histogram(one, size) for one in codes])
        return linear_probe(judged, labels, features, wanted * (len(codes) // len(wanted)))

    settings = [(guidance, temperature) for temperature in options.temperature for guidance in options.guidance]
    line = Line("text to sound", len(settings) + 1, "settings")
    line.start()
    rows = [("real codes of these scenes", len(asked), right([list(cut.custom["codes"]) for cut in asked]))]
    captions = [next(sup.text for sup in cut.supervisions if sup.custom["task"] == "caption") for cut in asked]
    for number, (guidance, temperature) in enumerate(settings, 1):
        codes = generated(model, captions, most, options.seeds, guidance, temperature)
        rows.append((f"temperature {temperature:g}, guidance {guidance:g}", len(codes), right(codes)))
        line.update(number)
    codes = generated(model, [""] * len(captions), most, options.seeds, 1.0, 1.0)
    rows.append(("no caption, temperature 1", len(codes), right(codes)))
    line.stop()
    frequent = max(sorted(set(labels)), key=labels.count)
    rows.append((f"always the most frequent kind ({frequent})", len(wanted), wanted.count(frequent) / len(wanted)))

    kinds = len(set(labels))
    print(
        f"\n{place.language}: {len(asked)} captions, {kinds} kinds, judge trained on {len(real)} scenes, at most {most} codes a sound\n"
    )
    print("| codes | n | kind found, % | 95 % |\n|---|---|---|---|")
    for name, count, share in rows:
        low, high = wilson(share, count)
        print(f"| {name} | {count} | {100 * share:.1f} | {100 * low:.1f} to {100 * high:.1f} |")
    print(f"| chance | | {100 / kinds:.1f} | |")


def scenes(run: Path, captions: int) -> tuple[list[Any], list[Any]]:
    """Cached scenes of one sound: all of the training split, and `captions` of the test split, chosen by hash."""
    receipt = chain.read_receipt(run)
    assert receipt is not None
    conf = receipt["conf"] | {"runs": str(run.parents[1]), "experiment": run.parent.name}
    lone = [cut for cut in chunks.read(chain.run_folder(conf, "cache") / "chunks") if len(cut.custom["labels"]) == 1]
    test = [cut for cut in lone if cut.custom["split"] == "test"]
    if len(test) < captions:
        raise SystemExit(f"{len(test)} test scenes have one sound; --captions {captions} is more")
    return [cut for cut in lone if cut.custom["split"] == "train"], spread(test, captions, lambda cut: cut.id)


def generated(
    model: trained.Trained, captions: list[str], most: int, seeds: int, guidance: float, temperature: float
) -> list[list[int]]:
    """Seed after seed, in each the captions in their order; no two sounds of a run have one seed."""
    settings = {"temperature": temperature, "top_p": 1.0, "guidance": guidance}
    found: list[list[int]] = []
    for seed in range(seeds if temperature else 1):
        for start in range(0, len(captions), BATCH):
            few = captions[start : start + BATCH]
            numbers = [seed * len(captions) + start + number for number in range(len(few))]
            found += verbs.text_to_sound(model, few, most, numbers, settings)
    return found


def histogram(codes: list[int], codebook_size: int) -> Tensor:
    """log(1 + count) of each code (K)."""
    return torch.bincount(torch.tensor(codes), minlength=codebook_size).float().log1p()


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return middle - half, middle + half


if __name__ == "__main__":
    main()
