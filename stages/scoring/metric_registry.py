"""Every metric, what it needs, and whether that is installed: checked before anything is generated; no metric stands in
for another.

A need is a package, a program, a file of known sha256, an encoder of sentences, or a least number of clips. No torch
here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from conf.errors import UsageError
from stages.scoring.requirements import Need, Reason, cached_file, package, package_file, program


class Metric(NamedTuple):
    name: str
    of: str  # captions | answers | sound
    what: str  # in one line
    source: str  # paper, standard, package
    needs: tuple[Need, ...] = ()
    encoder: str | None = None  # of sentences
    least: int = 1  # clips


COCO = package("pycocoevalcap", "--no-deps pycocoevalcap==1.2")
JAVA = program("java", "apt-get install default-jre-headless")
AGAIN = "Type   pip install --no-deps --force-reinstall pycocoevalcap==1.2"
TOKENIZER = package_file(
    "pycocoevalcap", "tokenizer/stanford-corenlp-3.4.1.jar",
    "2fcb91bb7a111f93d71e264f4ee0e3afd19ba0dde6d21b38605088df9e940399", AGAIN,
)  # fmt: skip
METEOR = (
    package_file("pycocoevalcap", "meteor/meteor-1.5.jar", "1e57b4c72c0830ebe68558f1c799a624e96cbc1b6045c9f6330e26dcff6eafc2", AGAIN),
    package_file(
        "pycocoevalcap", "meteor/data/paraphrase-en.gz",
        "c147ac7d2c91f2fbb3ad31e4b352235061eb83145e0434daf217ee9ca5975f48", AGAIN,
    ),
)  # fmt: skip
STANFORD = "It is in stanford-corenlp-full-2015-12-09.zip of nlp.stanford.edu/software; unzip it there"
SPICE = (
    package_file(
        "pycocoevalcap",
        "spice/spice-1.0.jar",
        "6c6a73ae6dd108667047c1818707590413934dcb9f1a62cef6469059b41b3d59",
        AGAIN,
    ),
    package_file("pycocoevalcap", "spice/lib/stanford-corenlp-3.6.0.jar", None, STANFORD),
    package_file("pycocoevalcap", "spice/lib/stanford-corenlp-3.6.0-models.jar", None, STANFORD),
)
CHECKER_FILE = "echecker_clotho_audiocaps_base.ckpt"
CHECKER = cached_file(
    CHECKER_FILE, "1a719f090af70614bbdb9f9437530b7e133c48cfa4a58d964de0d47fc974a2fa",
    "github.com/blmoistawinde/fense/releases/tag/V0.1",
)  # fmt: skip
TEXT = (COCO, JAVA, TOKENIZER)
EMBEDDER = "aisfx-0.1.2"  # of sound; 512 dimensions, its weights in a wheel
SENTENCES = "all-MiniLM-L6-v2"

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("bleu", "captions", "n-gram precision with brevity penalty, BLEU-1 to BLEU-4", "Papineni et al. 2002; pycocoevalcap 1.2", TEXT),
        Metric("rouge_l", "captions", "longest common subsequence, beta 1.2", "Lin 2004; pycocoevalcap 1.2", TEXT),
        Metric("cider_d", "captions", "cosine of n-grams weighed by rarity, x 10", "arXiv:1411.5726; pycocoevalcap 1.2", TEXT, least=2),
        Metric("meteor", "captions", "aligned words, stems, synonyms, paraphrases", "Denkowski and Lavie 2014; METEOR 1.5", (*TEXT, *METEOR)),
        Metric("spice", "captions", "F of scene-graph tuples", "arXiv:1607.08822; SPICE 1.0", (*TEXT, *SPICE)),
        Metric("spider", "captions", "mean of cider_d and spice", "arXiv:1612.00370", (*TEXT, *SPICE), least=2),
        Metric(
            "fense", "captions", "sentence similarity, x 0.1 where the checker finds an error of fluency", "arXiv:2110.04684",
            (CHECKER,), encoder="sentence-transformers/paraphrase-TinyBERT-L6-v2",
        ),
        Metric(
            f"similarity[{SENTENCES}]", "captions", "mean cosine with the references, beside its shuffled floor", "arXiv:1908.10084",
            encoder=SENTENCES,
        ),
        Metric("torchmetrics_bleu4", "captions", "torchmetrics' BLEU-4: not COCO's", "torchmetrics"),
        Metric("torchmetrics_rouge_l", "captions", "torchmetrics' ROUGE-L: not COCO's", "torchmetrics"),
        Metric("accuracy", "answers", "share right of all answers, unread ones wrong (micro)", "-"),
        Metric("macro_f1", "answers", "mean F1 over the labels", "-"),
        Metric("confusion", "answers", "what was read for each label", "-"),
        Metric("mean_average_precision", "answers", "mean over labels of the average precision", "-"),
        Metric("latent_error", "sound", "normalised squared error of the latents, in `reconstruct`", "arXiv:2503.22275"),
        Metric("mel", "sound", "mean log-mel distance, in `reconstruct`", "-"),
        Metric("stft", "sound", "multi-resolution STFT distance, in `reconstruct`", "arXiv:1910.11480"),
        Metric(f"kad[{EMBEDDER}]", "sound", "kernel audio distance, in `reconstruct` and `generation`", "arXiv:2502.15602", least=2),
        Metric(f"fad[{EMBEDDER}]", "sound", "Frechet audio distance, in `generation`; biased for few clips", "arXiv:1812.08466", least=513),
        Metric("si_sdr", "sound", "scale-invariant signal-to-distortion ratio, dB, in `reconstruct` (`signal`)", "arXiv:1811.02508; torchmetrics"),
        Metric("pesq", "sound", "perceptual evaluation of speech quality, wide band, in `reconstruct` (`signal`)", "ITU-T P.862.2", (package("pesq", "pesq"),)),
        Metric("stoi", "sound", "short-time objective intelligibility, in `reconstruct` (`signal`)", "Taal et al. 2011", (package("pystoi", "pystoi"),)),
    )
}  # fmt: skip


def chosen(names: Iterable[str], of: Sequence[str]) -> list[Metric]:
    """Raises UsageError for a name that is no metric of these kinds."""
    metrics = []
    for name in names:
        if name not in METRICS or METRICS[name].of not in of:
            allowed = ", ".join(metric.name for metric in METRICS.values() if metric.of in of)
            raise UsageError(
                f"no metric {name!r} of {' or '.join(of)}. There are: {allowed}.   stage metrics   says what each needs"
            )
        metrics.append(METRICS[name])
    return metrics


def missing(
    metrics: Iterable[Metric], count: int | None = None, encoders: Callable[[str], Reason] = lambda name: None
) -> list[str]:
    """What is missing, each once, and the line that says that nothing took its place; [] where nothing is.

    count: clips, where it is known; encoders: name of a sentence encoder -> why it cannot be had.
    """
    problems: dict[str, list[str]] = {}
    for metric in metrics:
        reasons = [reason for need in metric.needs if (reason := need())]
        if metric.encoder and (reason := encoders(metric.encoder)):
            reasons.append(reason)
        if count is not None and count < metric.least:
            reasons.append(f"{count} clips; at least {metric.least} are needed")
        for reason in reasons:
            problems.setdefault(reason, []).append(metric.name)
    lines = [f"{', '.join(names)}: {reason}" for reason, names in problems.items()]
    return [*lines, "No other metric is computed in its place."] if lines else []


def require(metrics: Iterable[Metric], count: int | None, encoders: Callable[[str], Reason]) -> None:
    """Raises one UsageError with all that is missing."""
    if problems := missing(metrics, count, encoders):
        raise UsageError("\n  ".join(["these metrics cannot be computed:", *problems]))
