"""What is missing before `run all`: asked before the first stage, for the last ones come hours later."""

from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

import conf
from conf.errors import UsageError
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf
from conf.sections.corpora import DiagnosticConf
from conf.sections.evaluation import FewShotConf
from conf.sections.language import LanguageConf, RehearsalConf
from conf.sections.tokenizer import TokenizerConf
from stages.hub import weights
from stages.launch import corpus_contents
from stages.launch.prepare import prepare
from stages.runs import corpora, receipts
from stages.runs.identity import fingerprint
from stages.runs.state import state_of

ReadsModel = RehearsalConf | LanguageConf | FewShotConf
CODEC_CURE = (
    "Stable Audio's is gated: accept its licence there, `hf auth login`; or --preset ace_step, which is not; or "
    "--codec.source=FOLDER; or --codec.kind=mel, fitted on your sound"
)


def require(
    confs: dict[str, StageConf], presets: Sequence[str], files: Sequence[str], overrides: Sequence[str]
) -> None:
    """Renders the embedded corpus where it is asked for and not prepared.

    Raises UsageError that lists all that is missing, or the stages for which the corpora have no items.
    """
    missing = []
    data = confs["cache"].data
    for name in data.corpora:
        if name == "diagnostic":
            _render_once(conf.compose("diagnostic", presets, files, overrides, shared=True).conf)
        elif receipts.read_corpus(Path(data.root) / name) is None:
            missing.append(f"corpus {corpora.where_from(name, Path(data.root))}")
    if not missing:
        corpus_contents.check(corpora.corpora(data), Path(data.root), confs)
    missing += _pretrained(confs, weights.missing if missing else weights.unreachable)
    if not missing:
        return
    raise UsageError(
        f"{len(missing)} {'thing is' if len(missing) == 1 else 'things are'} missing:\n  - "
        + "\n  - ".join(missing)
        + "\nThe whole chain, small, with nothing to find or download by hand:   stage run all --preset demo"
    )


def _render_once(composed: DiagnosticConf) -> None:
    """Where two commands begin side by side, the second waits for the first's scenes and finds them as it wants them."""
    root = Path(composed.data.root)

    def rendered() -> bool:
        receipt = receipts.read_corpus(root / "diagnostic")
        return receipt is not None and receipt["conf_hash"] == fingerprint(composed)

    if not rendered():
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".diagnostic.lock"):
            if not rendered():
                prepare("diagnostic", composed)


def _pretrained(confs: dict[str, StageConf], lacking: Callable[..., list[str]]) -> list[str]:
    """What `lacking` says of the VAE and the LLM that a stage still has to load."""

    def due(stage: str) -> bool:
        return stage not in confs[stage].parents and state_of(stage, confs[stage]).word != "done"

    lacks, latents, tokenizer = [], confs.get("latents"), confs["tokenizer"]
    if isinstance(latents, LatentsConf) and latents.codec.kind == "oobleck" and latents.codec.source and due("latents"):
        lacks += lacking(
            "VAE",
            latents.codec.source,
            CODEC_CURE,
            "/".join(filter(None, (latents.codec.subfolder, "config.json"))),
        )
    if isinstance(tokenizer, TokenizerConf) and tokenizer.source and due("tokenizer"):
        lacks += lacking("sound tokenizer", tokenizer.source, "--tokenizer.source=FOLDER_OR_HUB_ID")
    sources = {conf.model.source for stage, conf in confs.items() if isinstance(conf, ReadsModel) and due(stage)}
    if isinstance(tokenizer, TokenizerConf) and tokenizer.language_losses.semantic and due("tokenizer"):
        sources.add(tokenizer.language_losses.texts_from)
    for source in sorted(sources):
        lacks += lacking("LLM", source, "--model.source=FOLDER_OR_HUB_ID")
    return lacks


def fetch(configuration: StageConf) -> None:
    """Fetches what a stage reads from the package index, before a job begins: its node may have no network.

    A hub id is not fetched.
    """
    if isinstance(configuration, ReadsModel):
        weights.resolve(configuration.model.source)
    if isinstance(configuration, TokenizerConf) and configuration.language_losses.semantic:
        weights.resolve(configuration.language_losses.texts_from)
    if source := weights.EMBEDDERS.get(getattr(configuration, "embedder", None) or ""):
        weights.resolve(source)
