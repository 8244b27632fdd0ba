"""Plans of the stages that encode, ask and measure. No torch.

An LLM that writes reads all its weights, and the keys and values of all rows, for each token: memory's bandwidth
decides, or how fast small kernels are started, and hardly ever the products. A step is a batch.
"""

from math import ceil
from typing import NamedTuple

from conf.sections.codec import LatentsConf
from conf.sections.evaluation import EvaluateConf, FewShotConf, GenerationConf, guidance_of, language_stage
from conf.sections.language import RehearsalConf
from conf.sections.tokenizer import CacheConf, ReconstructConf
from stages.launch.model_sizes import LlmSizes, llm_sizes
from stages.launch.stage_plan import (
    CLIP_SECONDS,
    FRAMES,
    LATENT_DIM,
    TEXT_TOKENS,
    Llm,
    Planned,
    StagePlan,
    stable_audio,
    weight_bytes,
)

KERNELS = 68  # of a layer that is asked for one token, under autocast and with LoRA not merged; counted in the tests
ROWS = 64  # that stages.hub.text_to_sound draws in one pass
SCORES = 5  # float32 copies of the scores of the next token: processors, noise
KINDS = 5  # of question that a test split has, where none is named: OpenAQA's closed ones and the open one
ROW_BYTES = 2000  # of a row of JSON: texts, codes, an embedding


class _Writing(NamedTuple):
    """What an LLM needs to read prompts and to write answers to them, a batch."""

    memory: dict[str, float]
    flops: float
    traffic: float
    kernels: float

    def times(self, passes: float) -> "_Writing":
        """One pass after the other."""
        return self._replace(flops=passes * self.flops, traffic=passes * self.traffic, kernels=passes * self.kernels)


def plan_latents(planned: Planned) -> StagePlan | None:
    conf: LatentsConf = planned.conf
    if conf.codec.kind != "oobleck":
        return None
    oobleck, corpus, samples = stable_audio(), planned.corpus, conf.window_seconds * conf.batch_size * 44100
    frames = corpus.seconds * oobleck.sample_rate / oobleck.hop_length
    return StagePlan(
        planned.stage, oobleck.parameters, 0,
        {"weights": 4.0 * oobleck.parameters, "activations": samples * oobleck.encoder.alive},
        corpus.seconds * 44100 / samples / planned.ranks,
        samples * oobleck.encoder.flops, samples * oobleck.encoder.traffic, True,
        4 * frames * LATENT_DIM, 3 * max(1, corpus.clips / conf.recordings_per_chunk),
    )  # fmt: skip


def plan_cache(planned: Planned) -> StagePlan:
    conf: CacheConf = planned.conf
    corpus, sizes = planned.corpus, planned.tokenizer
    tokens = corpus.seconds / CLIP_SECONDS * planned.sound_tokens
    kept = sizes.encoder.activations(4) * conf.batch_size * FRAMES / sizes.encoder.depth
    return StagePlan(
        planned.stage, sizes.parameters, 0, {"weights": 4 * sizes.parameters, "activations": kept},
        corpus.seconds / CLIP_SECONDS / conf.batch_size / planned.ranks,
        conf.batch_size * sizes.encoding(FRAMES), 4 * kept * sizes.encoder.depth, True,
        2 * tokens + 1000 * corpus.clips, 2 * max(1, corpus.clips / conf.recordings_per_chunk),
    )  # fmt: skip


def plan_reconstruct(planned: Planned) -> StagePlan:
    """Both tokenizers; a group of test windows for each corpus. The embedder and the probe are not counted."""
    conf: ReconstructConf = planned.conf
    sizes, vae = planned.tokenizer, stable_audio()
    windows, batch, samples = conf.clips_per_group * len(conf.data.corpora), conf.batch_size, CLIP_SECONDS * 44100
    passes = conf.mean_of * sum(conf.steps) + conf.steps[0] + 2  # and those of shuffled tokens, and of MSE
    sounds = 3 + len(conf.sound_steps) if conf.sound else 0  # the VAE alone, the mean latent, MSE
    decoded = 2 * sizes.encoding(FRAMES) + passes * sizes.decoding(FRAMES)
    kept = batch * FRAMES * sizes.decoder.activations(4) / sizes.decoder.depth
    moved = batch * (passes * FRAMES * sizes.decoder.activations(4) + sounds * samples * vae.decoder.traffic)
    memory = {"weights": 4.0 * (2 * sizes.parameters + vae.parameters)}
    memory["activations"] = max(kept, batch * samples * vae.decoder.alive if conf.sound else 0.0)
    return StagePlan(
        planned.stage, 2 * sizes.parameters + vae.parameters, 0, memory, ceil(windows / batch) / planned.ranks,
        batch * (decoded + sounds * samples * vae.decoder.flops), moved, True,
        windows * ROW_BYTES * 4, 5 + planned.ranks,
    )  # fmt: skip


def plan_rehearsal(planned: Planned) -> StagePlan | None:
    conf: RehearsalConf = planned.conf
    sizes = llm_sizes(conf.model.source)
    if sizes is None:
        return None
    llm = Llm(sizes, weight_bytes(conf.model, planned.narrow), 0)
    writing = _writing(llm, conf.batch_size, 4, conf.max_tokens, planned.narrow)
    steps = ceil(conf.texts / conf.batch_size) / planned.ranks
    return _asked(
        planned, llm, {"weights": llm.weights, **writing.memory}, steps, writing, 6.0 * conf.texts * conf.max_tokens
    )


def plan_evaluate(planned: Planned) -> StagePlan | None:
    """Answers that are written; a label that is scored by likelihood costs about what it would to write it."""
    conf: EvaluateConf = planned.conf
    llm = planned.llm(conf.after)
    if llm is None:
        return None
    prompt = planned.sound_tokens + TEXT_TOKENS
    rows = conf.batch_size * (2 if conf.audio_contrast else 1)
    writing = _writing(llm, rows, prompt, conf.max_new_tokens, planned.narrow)
    answers = 2 * conf.questions_per_kind * len(conf.kinds or range(KINDS)) + 3 * conf.captions
    steps = ceil(answers / conf.batch_size) / planned.ranks
    disk = ROW_BYTES * answers + 1e6 * conf.examples.megabytes
    return _asked(planned, llm, {"weights": llm.weights, **writing.memory}, steps, writing, disk)


def plan_fewshot(planned: Planned) -> StagePlan | None:
    """A step is an episode under one condition; codes are words of one token each, or sound tokens."""
    conf: FewShotConf = planned.conf
    if conf.llm == "frozen":
        sizes = llm_sizes(conf.model.source)
        llm = Llm(sizes, weight_bytes(conf.model, planned.narrow), 0) if sizes else None
    else:
        llm = planned.llm(conf.llm)
    if llm is None:
        return None
    codes = planned.sound_tokens * min(1.0, (conf.seconds or CLIP_SECONDS) / CLIP_SECONDS)  # of all levels
    sound = min(codes, conf.max_codes or codes) + TEXT_TOKENS / 4
    lengths = [sound * (conf.ways * shots * conf.repeats + 1) for shots in conf.shots]
    longest, mean = max(lengths), sum(lengths) / len(lengths)
    reading, again = _writing(llm, 1, longest, 1, planned.narrow), _writing(llm, 1, mean, 1, planned.narrow)
    memory = {"weights": llm.weights + 4.0 * planned.tokenizer.parameters + 4.0 * stable_audio().parameters}
    memory |= reading.memory | {"KV cache": 3 * reading.memory["KV cache"]}  # the prefix, and a copy for each query
    passes = 3 if conf.calibrated else 2  # the query, the empty one, and each class behind it
    again = again.times(passes)._replace(flops=again.flops)  # what follows the prefix is short
    steps = len(conf.shots) * conf.episodes * (1 + len(conf.controls)) / planned.ranks
    return _asked(planned, llm, memory, steps, again, ROW_BYTES * steps * planned.ranks)


def plan_generation(planned: Planned) -> StagePlan | None:
    """Sounds of captions and of none are written, all are decoded; the embedder and the probe are not counted."""
    conf: GenerationConf = planned.conf
    llm, sizes, vae = planned.llm(conf.after), planned.tokenizer, stable_audio()
    if llm is None:
        return None
    share = conf.seconds_max / CLIP_SECONDS
    drawn = conf.batch_size * conf.best_of
    guided = guidance_of(conf, planned.parent(language_stage(conf.after)).prompts) != 1
    rows, passes = min(drawn, ROWS) * (2 if guided else 1), ceil(drawn / ROWS)
    writing = _writing(llm, rows, TEXT_TOKENS, share * planned.sound_tokens, planned.narrow)
    writing = writing.times((conf.seeds * passes + 1) / (conf.seeds + 1))  # without a caption nothing is chosen
    if conf.best_of > 1:  # the LLM reads each sound again, for its caption
        heard = _writing(llm, drawn, TEXT_TOKENS + share * planned.sound_tokens, 0, planned.narrow)
        writing = writing._replace(flops=writing.flops + heard.flops, traffic=writing.traffic + heard.traffic)
    written, decoded = conf.captions * (conf.seeds + 1), conf.captions * (2 * conf.seeds + 1)
    steps = ceil(written / conf.batch_size) / planned.ranks
    memory = {"weights": llm.weights * (2 if conf.chooses_by_openaqa else 1), **writing.memory}
    if conf.embedder is not None:
        samples, frames = conf.seconds_max * 44100, int(share * FRAMES)
        flow = planned.parent("tokenizer").sampling
        passes = flow.num_steps * (1 if flow.solver == "euler" else 2) * (1 if flow.guidance == 1 else 2)
        a_batch = conf.batch_size * decoded / written
        moved = passes * frames * sizes.decoder.activations(4) + samples * vae.decoder.traffic
        writing = writing._replace(
            flops=writing.flops + a_batch * (passes * sizes.decoding(frames) + samples * vae.decoder.flops),
            traffic=writing.traffic + a_batch * moved,
        )
        memory["weights"] += 4.0 * (sizes.parameters + vae.parameters)
        memory["activations"] = max(memory["activations"], samples * vae.decoder.alive)
    made = written if conf.embedder is None else decoded + 2 * conf.recordings
    return _asked(planned, llm, memory, steps, writing, ROW_BYTES * 2.0 * made)


def _asked(
    planned: Planned, llm: Llm, memory: dict[str, float], steps: float, writing: _Writing, disk: float
) -> StagePlan:
    return StagePlan(
        planned.stage, float(llm.sizes.parameters + llm.added), 0, memory, steps, writing.flops, writing.traffic,
        planned.narrow == 4, disk, 5 + planned.ranks, writing.kernels,
    )  # fmt: skip


def _writing(llm: Llm, rows: int, prompt: float, new: float, narrow: int) -> _Writing:
    """Prompts of so many tokens, read, then so many new tokens one after the other."""
    sizes: LlmSizes = llm.sizes
    cache = rows * sizes.cache(prompt + new, narrow)
    read = rows * prompt * (3 * sizes.intermediate + 6 * sizes.hidden) * narrow
    memory = {"KV cache": cache, "activations": max(read, 4.0 * SCORES * rows * sizes.vocabulary)}
    flops = rows * (sizes.reading(prompt) + new * (sizes.reading(1) + 2 * llm.added))
    flops += 4 * rows * new * sizes.layers * (prompt + new / 2) * sizes.heads * sizes.head_dim
    traffic = (new + 1) * llm.weights + new * rows * sizes.cache(prompt + new / 2, narrow) + 2 * sizes.layers * read
    return _Writing(memory, flops, traffic, new * KERNELS * sizes.layers)
