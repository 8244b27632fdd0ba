"""`stage plan`: whether a run fits and how long it takes, from its configuration alone: no torch, no weights.

Memory is worked out by part (model_sizes.py, codec_sizes.py), and compared with counted tensors in the tests. Hours are
a roofline (gpus.py): products at 70 % of the GPU's peak, then bytes at 85 % of its bandwidth, nothing overlapped, and no
kernel sooner than 10 us after another where one token is written at a time. The bytes of a training step are passes over
what it keeps: an estimate, which no command of this project counts. No hour here is measured.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from conf.sections.codec import LatentsConf, VaeConf
from conf.sections.common import StageConf
from conf.sections.evaluation import EvaluateConf, FewShotConf, GenerationConf
from conf.sections.language import LanguageConf, RehearsalConf
from conf.sections.preference import PreferenceConf
from conf.sections.tokenizer import CacheConf, DecoderFinetuningConf, ReconstructConf, TokenizerConf
from stages.launch import gpus
from stages.launch.gpus import GPUS
from stages.launch.prediction_plans import (
    plan_cache,
    plan_evaluate,
    plan_fewshot,
    plan_generation,
    plan_latents,
    plan_reconstruct,
    plan_rehearsal,
)
from stages.launch.stage_plan import Corpus, Planned, StagePlan, ranks
from stages.launch.training_plans import plan_decoder_finetuning, plan_language, plan_tokenizer, plan_vae
from stages.runs import receipts

PLANS: dict[type, Callable[[Planned], StagePlan | None]] = {
    VaeConf: plan_vae,
    LatentsConf: plan_latents,
    TokenizerConf: plan_tokenizer,
    DecoderFinetuningConf: plan_decoder_finetuning,
    ReconstructConf: plan_reconstruct,
    CacheConf: plan_cache,
    RehearsalConf: plan_rehearsal,
    LanguageConf: plan_language,
    PreferenceConf: plan_language,
    FewShotConf: plan_fewshot,
    GenerationConf: plan_generation,
    EvaluateConf: plan_evaluate,
}
NO_CORPUS = Corpus(0, 0, False)


def plan(
    stage: str, conf: StageConf, corpus: Corpus = NO_CORPUS, parents: Mapping[str, StageConf] | None = None
) -> StagePlan | None:
    """parents: configurations of the stages that it reads; the base presets' stand for those that are not given.

    None for a codec, an LLM or another's tokenizer, whose sizes are not known here, and for what reads that.
    """
    planned = Planned(stage, conf, parents or {}, corpus)
    tokenizer = conf if isinstance(conf, TokenizerConf) else planned.parent("tokenizer")
    if tokenizer.source and not isinstance(conf, VaeConf | LatentsConf | RehearsalConf):
        return None
    return PLANS[type(conf)](planned)


def corpus_of(conf: StageConf, clips: float = 2e6, clip_seconds: float = 10.0) -> Corpus:
    """Of the receipts of conf.data.corpora; else so many clips, the paper's."""
    prepared = [receipts.read_corpus(Path(conf.data.root) / name) for name in conf.data.corpora]
    if prepared and all(prepared):
        return Corpus(
            sum(receipt["recordings"] for receipt in prepared if receipt),
            sum(receipt["seconds"] for receipt in prepared if receipt),
            True,
        )
    return Corpus(clips, clips * clip_seconds, False)


def require_fit(
    stage: str, conf: StageConf, memory: float, name: str, parents: Mapping[str, StageConf] | None = None
) -> None:
    """Raises UsageError for a stage that does not fit into so many bytes of one device, with the keys that make it fit."""
    planned = plan(stage, conf, parents=parents)
    if planned is None or planned.total <= gpus.USABLE * memory:
        return
    parts = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in planned.memory.items() if size > 5e7)
    ways = [typed for typed, smaller in _smaller(conf) if _fits(stage, smaller, memory, parents)]
    cure = f"Type {', or '.join(ways)}" if ways else "No batch is small enough: choose a smaller model or another GPU"
    raise UsageError(
        f"{stage}: needs {planned.total / 1e9:.0f} GB a rank ({parts}), and {name} has {memory / 1e9:.0f}, of which "
        f"{100 * gpus.USABLE:.0f} % can be used. {cure}.   stage plan {stage} --gpu NAME   shows it for another"
    )


def table(plans: Mapping[str, StagePlan | None], gpu: str, corpus: Corpus, confs: Mapping[str, StageConf]) -> list[str]:
    """The lines of `stage plan`."""
    card = GPUS[gpu]
    origin = "of the prepared corpora" if corpus.prepared else "as the paper has about, for a corpus is not prepared"
    worlds = {ranks(conf.trainer) for conf in confs.values()}
    lines = [
        f"{gpu}: {card.memory / 1e9:.0f} GB, {card.bfloat16 / 1e12:.0f} TFLOP/s bfloat16, {card.bandwidth / 1e12:.2f} TB/s;"
        f" {', '.join(map(str, sorted(worlds)))} of them. Assumed, not measured: products at {gpus.PRODUCTS:.0%} of the peak,"
        f" bytes at {gpus.TRAFFIC:.0%} of the bandwidth, {1e6 * gpus.LAUNCH:.0f} us from one kernel to the next where single tokens are written",
        f"{corpus.clips:,.0f} recordings, {corpus.seconds / 3600:,.0f} h, {origin}",
        "",
        "| stage | parameters, M | trained, M | memory of a rank, GB | of it | fits | steps or batches | TFLOP each"
        " | share of the peak | hours | GB on disk | files |",
        "|" + "---|" * 12,
    ]
    for stage, planned in plans.items():
        if planned is None:
            lines.append(f"| {stage} | its sizes are not known here |" + " |" * 10)
            continue
        memory, seconds = ", ".join(f"{k} {v / 1e9:.1f}" for k, v in planned.memory.items()), planned.seconds(card)
        lines.append(
            f"| {stage} | {planned.parameters / 1e6:,.0f} | {planned.trained / 1e6:,.0f} | {planned.total / 1e9:.1f} | {memory}"
            f" | {'yes' if planned.total <= gpus.USABLE * card.memory else 'NO'} | {planned.steps:,.0f} | {planned.flops / 1e12:.2f}"
            f" | {planned.peak_share(card):.0%}{' of float32' if planned.float32 else ''} | {_hours(planned.steps * seconds)}"
            f" | {planned.disk / 1e9:,.1f} | {planned.files:,.0f} |"
        )
    return lines


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 0.1 else f"{hours:.2f}"


def _fits(stage: str, conf: StageConf, memory: float, parents: Mapping[str, StageConf] | None) -> bool:
    planned = plan(stage, conf, parents=parents)
    return planned is not None and planned.total <= gpus.USABLE * memory


def _smaller(conf: Any) -> Iterable[tuple[str, Any]]:
    """Keys to type and the configuration that they give: the largest batch first, then what costs time."""
    for factor in (2, 4, 8, 16):
        typed, trainer = "", conf.trainer
        if hasattr(trainer, "accumulate_grad_batches"):
            batches = trainer.accumulate_grad_batches * factor
            typed = f" --trainer.accumulate_grad_batches={batches}"
            trainer = replace(trainer, accumulate_grad_batches=batches)
        if isinstance(conf, LanguageConf):
            tokens = conf.batching.tokens_per_batch // factor
            if tokens < conf.batching.max_tokens:
                break
            batching = replace(conf.batching, tokens_per_batch=tokens)
            yield f"--batching.tokens_per_batch={tokens}{typed}", replace(conf, batching=batching, trainer=trainer)
        elif getattr(conf, "batch_size", 0) >= factor:
            size = conf.batch_size // factor
            yield f"--batch_size={size}{typed}", replace(conf, batch_size=size, trainer=trainer)
    if isinstance(conf, LanguageConf):
        if conf.lora.dropout:
            yield "--lora.dropout=0", replace(conf, lora=replace(conf.lora, dropout=0.0))
        model = replace(conf.model, activation_checkpointing=True)
        yield "--model.activation_checkpointing=true", replace(conf, model=model)
    if isinstance(conf, FewShotConf):
        yield "--max_codes=20", replace(conf, max_codes=20)
