"""`stage plan`: whether a run fits and how long it takes, from its configuration alone: no torch, no weights.

Memory is worked out by part (model_sizes.py), and compared with counted saved tensors in the tests. Hours are a roofline
(gpus.py): products at 70 % of the GPU's peak, then bytes at 85 % of its bandwidth, nothing overlapped. The bytes of a
step are PASSES over what it keeps: an estimate, which no command of this project counts. No hour here is measured.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from conf.errors import UsageError
from conf.sections.codec import LatentsConf
from conf.sections.common import StageConf, TrainerConf
from conf.sections.language import LanguageConf
from conf.sections.tokenizer import CacheConf, TokenizerConf
from stages.launch import gpus
from stages.launch.gpus import GPUS, Gpu
from stages.launch.model_sizes import LlmSizes, OobleckSizes, TokenizerSizes, llm_sizes
from stages.runs import receipts

PASSES = {"tokenizer": 8.5, "language": 19.0}  # over the activations that are kept, of eager kernels
COMPILED = 0.5  # of them, where blocks are compiled
FRAME_RATE, LATENT_DIM = 44100 / 2048, 64  # Stable Audio's; the stage's receipt is not asked
LENGTH = 512  # tokens of a sequence that operations are counted for


class Corpus(NamedTuple):
    """The sound that is prepared, or else the paper's."""

    clips: float
    seconds: float
    prepared: bool


class StagePlan(NamedTuple):
    """What a stage needs. Bytes; memory, flops and traffic are of one rank."""

    stage: str
    parameters: float
    trained: float
    memory: dict[str, float]
    steps: float  # or batches, of a rank
    flops: float  # of a step
    traffic: float  # of a step
    float32: bool
    disk: float
    files: float

    @property
    def total(self) -> float:
        return sum(self.memory.values())

    def seconds(self, gpu: Gpu) -> float:
        """Of a step."""
        return gpus.seconds(gpu, self.flops, self.traffic, self.float32)

    def peak_share(self, gpu: Gpu) -> float:
        seconds = self.seconds(gpu)
        return self.flops / (seconds * (gpu.float32 if self.float32 else gpu.bfloat16)) if seconds else 0.0


def plan(stage: str, conf: StageConf, corpus: Corpus) -> StagePlan | None:
    """None for a stage, or an LLM, whose sizes are not known here."""
    world = ranks(conf.trainer)
    if isinstance(conf, LatentsConf) and conf.codec.kind == "oobleck":
        return _latents(stage, conf, corpus, world)
    if isinstance(conf, TokenizerConf):
        return _tokenizer(stage, conf, world)
    if isinstance(conf, LanguageConf):
        sizes = llm_sizes(conf.model.source)
        return None if sizes is None else _language(stage, conf, sizes, world)
    if isinstance(conf, CacheConf):
        return _cache(stage, conf, corpus, world)
    return None


def ranks(trainer: TrainerConf) -> int:
    """Processes; `auto` and `-1` count as one device, for none is looked at."""
    devices = trainer.devices if isinstance(trainer.devices, int) else int("0" + trainer.devices.strip("auto-"))
    return max(1, devices) * trainer.num_nodes


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


def require_fit(stage: str, conf: StageConf, memory: float, name: str) -> None:
    """Raises UsageError for a stage that does not fit into so many bytes of one device, with the keys that make it fit."""
    planned = plan(stage, conf, Corpus(0, 0, False))
    if planned is None or planned.total <= gpus.USABLE * memory:
        return
    parts = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in planned.memory.items() if size > 5e7)
    ways = [typed for typed, smaller in _smaller(conf) if _fits(stage, smaller, memory)]
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
        f" bytes at {gpus.TRAFFIC:.0%} of the bandwidth",
        f"{corpus.clips:,.0f} recordings, {corpus.seconds / 3600:,.0f} h, {origin}",
        "",
        "| stage | parameters, M | trained, M | memory of a rank, GB | of it | fits | steps | TFLOP a step"
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
            f" | {planned.peak_share(card):.0%}{' of float32' if planned.float32 else ''} | {planned.steps * seconds / 3600:.1f}"
            f" | {planned.disk / 1e9:,.1f} | {planned.files:,.0f} |"
        )
    return lines


def _fits(stage: str, conf: StageConf, memory: float) -> bool:
    planned = plan(stage, conf, Corpus(0, 0, False))
    return planned is not None and planned.total <= gpus.USABLE * memory


def _smaller(conf: Any) -> Iterable[tuple[str, Any]]:
    """Keys to type and the configuration that they give: the largest batch first, then what costs time."""
    accumulated = getattr(conf.trainer, "accumulate_grad_batches", 1)
    for factor in (2, 4, 8, 16):
        trainer = replace(conf.trainer, accumulate_grad_batches=accumulated * factor)
        typed = f" --trainer.accumulate_grad_batches={accumulated * factor}"
        if isinstance(conf, LanguageConf):
            tokens = conf.batching.tokens_per_batch // factor
            if tokens < conf.batching.max_tokens:
                break
            batching = replace(conf.batching, tokens_per_batch=tokens)
            yield f"--batching.tokens_per_batch={tokens}{typed}", replace(conf, batching=batching, trainer=trainer)
        elif isinstance(conf, TokenizerConf) and conf.batch_size >= factor:
            size = conf.batch_size // factor
            yield f"--batch_size={size}{typed}", replace(conf, batch_size=size, trainer=trainer)
    if isinstance(conf, LanguageConf):
        if conf.lora.dropout:
            yield "--lora.dropout=0", replace(conf, lora=replace(conf.lora, dropout=0.0))
        model = replace(conf.model, activation_checkpointing=True)
        yield "--model.activation_checkpointing=true", replace(conf, model=model)


def _narrow(trainer: TrainerConf) -> int:
    """Bytes of an element of the products."""
    return 4 if trainer.precision == "32-true" else 2


def _trained_memory(trained: float, world: int, average: float = 0.0) -> dict[str, float]:
    """In float32: the weights, AdamW's two moments, the gradients, and DDP's copy of them."""
    return {
        "trained weights": 4 * (trained + average),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "buckets": 4.0 * trained if world > 1 else 0.0,
    }


def _latents(stage: str, conf: LatentsConf, corpus: Corpus, world: int) -> StagePlan:
    from conf import compose

    sizes: Any = compose("vae").conf
    oobleck = OobleckSizes.of(sizes.codec.oobleck)  # Stable Audio's
    seconds = conf.window_seconds * conf.batch_size
    frames = corpus.seconds * FRAME_RATE
    chunks = corpus.clips / conf.recordings_per_chunk
    return StagePlan(
        stage, 156e6, 0,
        {"weights": 4 * 156e6, "activations": seconds * 44100 * 128 * 4 * 4},
        corpus.seconds / seconds / world, oobleck.flops * seconds, oobleck.traffic * seconds, True,
        4 * frames * LATENT_DIM, 5 * max(1, chunks),
    )  # fmt: skip


def _tokenizer(stage: str, conf: TokenizerConf, world: int) -> StagePlan:
    sizes = TokenizerSizes.of(conf, LATENT_DIM)
    frames = -(-10.0 * FRAME_RATE // 1)
    batch, accumulated = conf.batch_size, conf.trainer.accumulate_grad_batches
    kept = sizes.activations(int(batch * frames), _narrow(conf.trainer))
    memory = _trained_memory(sizes.parameters, world, sizes.decoder_parameters)
    memory |= {"activations": kept, "temporary": batch * frames * sizes.decoder.hidden * 16}
    passes = PASSES["tokenizer"] * (COMPILED if conf.compile is True else 1.0)
    return StagePlan(
        stage, sizes.parameters, sizes.parameters, memory, conf.trainer.max_steps,
        accumulated * batch * sizes.training(int(frames)), accumulated * passes * kept, _narrow(conf.trainer) == 4,
        conf.checkpoints.keep * (12 * sizes.parameters + 4 * sizes.decoder_parameters), 10,
    )  # fmt: skip


def _cache(stage: str, conf: CacheConf, corpus: Corpus, world: int) -> StagePlan:
    """The tokenizer is taken to be the base preset's: the parent's configuration is not read."""
    from conf import compose

    base: Any = compose("tokenizer").conf
    sizes = TokenizerSizes.of(base, LATENT_DIM)
    frames = int(-(-10.0 * FRAME_RATE // 1))
    windows = corpus.seconds / 10.0
    tokens = corpus.seconds * base.rate.bitrate / 13.0
    kept = sizes.encoder.activations(4) * conf.batch_size * frames / sizes.encoder.depth
    return StagePlan(
        stage, sizes.parameters, 0, {"weights": 4 * sizes.parameters, "activations": kept},
        windows / conf.batch_size / world, conf.batch_size * sizes.encoding(frames), 4 * kept * sizes.encoder.depth, True,
        2 * tokens + 1000 * corpus.clips, 3 * max(1, corpus.clips / conf.recordings_per_chunk),
    )  # fmt: skip


def _language(stage: str, conf: LanguageConf, sizes: LlmSizes, world: int) -> StagePlan:
    rank, tokens, narrow = conf.lora.rank, conf.batching.tokens_per_batch, _narrow(conf.trainer)
    new = 8198  # of the paper's codebook; the parent's receipt is not asked
    trained = sizes.lora(rank) + sizes.new_rows(new)
    width = 2 if conf.model.dtype == "bfloat16" or narrow == 2 else 4
    checkpointing = conf.model.activation_checkpointing
    kept = sizes.activations(tokens, rank, conf.lora.dropout, narrow, checkpointing)
    if conf.model.attention == "eager":
        kept += tokens * conf.batching.max_tokens * sizes.heads * (4 + narrow) * (1 if checkpointing else sizes.layers)
    temporary = 2 * tokens * (sizes.intermediate + sizes.hidden) * narrow + 3 * 256 * (sizes.vocabulary + new) * 4
    memory = {"frozen weights": width * float(sizes.parameters), **_trained_memory(trained, world)}
    memory |= {"activations": kept, "temporary": temporary}
    again = 4 / 3 if checkpointing else 1.0
    moved = sizes.activations(tokens, rank, conf.lora.dropout, narrow, False) * PASSES["language"] * again
    accumulated = conf.trainer.accumulate_grad_batches
    return StagePlan(
        stage, sizes.parameters + trained, trained, memory, conf.trainer.max_steps,
        accumulated * again * tokens * sizes.flops(rank, LENGTH, new),
        accumulated * (moved + 2 * width * sizes.parameters), narrow == 4,
        conf.checkpoints.keep * 12.0 * trained + 4.0 * trained, 10,
    )  # fmt: skip
