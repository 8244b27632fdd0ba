"""Plans of the stages that train: vae, tokenizer, caption and openaqa. No torch."""

from conf.sections.codec import VaeConf
from conf.sections.language import LanguageConf
from conf.sections.preference import PreferenceConf
from conf.sections.tokenizer import DecoderFinetuningConf, TokenizerConf
from stages.launch.codec_sizes import DiscriminatorSizes, OobleckSizes, spectral_activations
from stages.launch.model_sizes import llm_sizes
from stages.launch.stage_plan import FRAMES, Planned, StagePlan, base, weight_bytes

PASSES = {"tokenizer": 8.5, "language": 19.0}  # over the activations that are kept, of eager kernels
COMPILED = 0.5  # of them, where blocks are compiled
LENGTH = 512  # tokens of a sequence that operations are counted for
FILES = 10  # of a training: configuration, receipt, checkpoints, artifact, log


def plan_vae(planned: Planned) -> StagePlan:
    """One that is fine-tuned brings sizes of its own; the base preset's stand for them."""
    conf: VaeConf = planned.conf
    oobleck = conf.codec.oobleck if conf.codec.source is None else base("vae").codec.oobleck
    vae, channels = OobleckSizes.of(oobleck), oobleck.audio_channels
    judge = DiscriminatorSizes.of(conf.discriminator, channels)
    samples, trained = conf.batch_size * conf.crop_samples, vae.parameters + judge.parameters
    kept = vae.encoder.activations + vae.decoder.activations
    beside = judge.activations + spectral_activations(len(conf.spectral.fft_sizes), channels)
    # the discriminator sees four sounds forward, three of them backward too
    flops = 3 * (vae.encoder.flops + vae.decoder.flops) + 10 * judge.flops
    memory = trained_memory(trained, planned.ranks, vae.parameters)
    memory |= {"activations": samples * (kept + beside), "temporary": samples * vae.decoder.alive}
    return StagePlan(
        planned.stage, trained, trained, memory, conf.trainer.max_steps, samples * flops,
        samples * 3 * (vae.encoder.traffic + vae.decoder.traffic + judge.activations), True,
        conf.checkpoints.keep * (12.0 * trained + 4.0 * vae.parameters) + 4.0 * vae.parameters, FILES,
    )  # fmt: skip


def plan_tokenizer(planned: Planned) -> StagePlan:
    conf: TokenizerConf = planned.conf
    sizes = planned._replace(parents={"tokenizer": conf}).tokenizer
    batch, accumulated = conf.batch_size, conf.trainer.accumulate_grad_batches
    kept = sizes.activations(batch * FRAMES, planned.narrow)
    memory = trained_memory(sizes.parameters, planned.ranks, sizes.decoder_parameters)
    memory |= {"activations": kept, "temporary": batch * FRAMES * sizes.decoder.hidden * 16}
    passes = PASSES["tokenizer"] * (COMPILED if conf.compile else 1.0)
    return StagePlan(
        planned.stage, sizes.parameters, sizes.parameters, memory, conf.trainer.max_steps,
        accumulated * batch * sizes.training(FRAMES), accumulated * passes * kept, planned.narrow == 4,
        conf.checkpoints.keep * (12 * sizes.parameters + 4 * sizes.decoder_parameters), FILES,
    )  # fmt: skip


def plan_decoder_finetuning(planned: Planned) -> StagePlan:
    """Four passes forward beside the one that is trained for mean velocities: the running average's two, the decoder as
    it was, with guidance twice.
    """
    conf: DecoderFinetuningConf = planned.conf
    sizes, batch, accumulated = planned.tokenizer, conf.batch_size, conf.trainer.accumulate_grad_batches
    trained, mean = sizes.decoder_parameters, conf.flow.objective == "mean"
    forward = 2 + (1 if conf.flow.guidance == 1 else 2) if mean else 0
    kept = sizes.activations(batch * FRAMES, planned.narrow)
    memory = {"frozen weights": 4.0 * (sizes.parameters + mean * sizes.parameters)}
    memory |= trained_memory(trained, planned.ranks, trained)
    memory |= {"activations": kept, "temporary": batch * FRAMES * sizes.decoder.hidden * 16}
    flops = sizes.encoding(FRAMES) + (3 + forward) * sizes.decoding(FRAMES)
    passes = PASSES["tokenizer"] * (COMPILED if conf.compile else 1.0) * (3 + forward) / 3
    return StagePlan(
        planned.stage, sizes.parameters, trained, memory, conf.trainer.max_steps, accumulated * batch * flops,
        accumulated * passes * kept, planned.narrow == 4,
        conf.checkpoints.keep * (4 * sizes.parameters + 12 * trained), FILES,
    )  # fmt: skip


def plan_language(planned: Planned) -> StagePlan | None:
    """None for an LLM whose sizes are not known."""
    conf: LanguageConf = planned.conf
    sizes = llm_sizes(conf.model.source)
    if sizes is None:
        return None
    rank, narrow, contrast = conf.lora.rank, planned.narrow, conf.loss.contrast.weight > 0
    tokens = conf.batching.tokens_per_batch * (2 if contrast else 1)  # at most: each sound under two captions
    new = planned.tokenizer.codes + 2  # and the marks around a sound
    trained = sizes.lora(rank) + sizes.new_rows(new)
    width, checkpointing = weight_bytes(conf.model, narrow), conf.model.activation_checkpointing
    kept = sizes.activations(tokens, rank, conf.lora.dropout, narrow, checkpointing)
    if conf.model.attention == "eager":
        kept += tokens * conf.batching.max_tokens * sizes.heads * (4 + narrow) * (1 if checkpointing else sizes.layers)
    temporary = 2 * tokens * (sizes.intermediate + sizes.hidden) * narrow + 3 * 256 * (sizes.vocabulary + new) * 4
    memory = {"frozen weights": width * float(sizes.parameters), **trained_memory(trained, planned.ranks)}
    memory |= {"activations": kept, "temporary": temporary}
    reference = contrast or (isinstance(conf, PreferenceConf) and conf.pair_loss.kind != "simpo")
    if reference:
        memory["reference"] = 4.0 * trained
    again = (4 / 3 if checkpointing else 1.0) + (0.5 if reference else 0.0)  # it goes forward alone
    moved = sizes.activations(tokens, rank, conf.lora.dropout, narrow, False) * PASSES["language"] * again
    accumulated = conf.trainer.accumulate_grad_batches
    return StagePlan(
        planned.stage, sizes.parameters + trained, trained, memory, conf.trainer.max_steps,
        accumulated * again * tokens * sizes.flops(rank, LENGTH, new),
        accumulated * (moved + 2 * width * sizes.parameters), narrow == 4,
        conf.checkpoints.keep * 12.0 * trained + 4.0 * trained, FILES,
    )  # fmt: skip


def trained_memory(trained: float, world: int, average: float = 0.0) -> dict[str, float]:
    """In float32: the weights, AdamW's two moments, the gradients, and DDP's copy of them."""
    return {
        "trained weights": 4 * (trained + average),
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "buckets": 4.0 * trained if world > 1 else 0.0,
    }
