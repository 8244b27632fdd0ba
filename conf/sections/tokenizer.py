"""Stages `tokenizer`, `decoder_finetuning`, `reconstruct` and `cache`: latents to codes and back, how well, and once for each recording."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from conf.laws import Problem, about, exceptions
from conf.sections.common import AutomaticTrainerConf, OptimizerConf, StageConf, TrainingStageConf, compile_problems
from conf.suggest import allowed

SIGNAL_METRICS = ("si_sdr", "pesq", "stoi")


@dataclass
class RateConf:
    """Exactly one is given; the others are computed from it."""

    token_rate: float | None = about("tokens a second (Hz)")
    stride: int | None = about("latent frames a token")
    bitrate: float | None = about("bits a second, if all codes came equally often")

    def laws(self) -> Iterable[Problem]:
        given = {key: value for key, value in vars(self).items() if value is not None}
        if len(given) != 1:
            yield Problem(
                "",
                f"exactly one of token_rate, stride and bitrate is given, here {given or 'none'}; "
                + (
                    f"set the others to null, as --rate.{next(iter(given))}=null"
                    if given
                    else "type one, as --rate.bitrate=100"
                ),
            )


@dataclass
class TransformerConf:
    width: int = about("features of a position; a multiple of 2 x heads")
    depth: int = about("layers")
    heads: int = about("attention heads of a layer")

    def laws(self) -> Iterable[Problem]:
        if self.width % (2 * self.heads):
            yield Problem(
                "width",
                f"{self.width} is no multiple of 2 x heads = {2 * self.heads} "
                "(rotary positions need an even head width)",
            )


@dataclass
class EncoderConf(TransformerConf):
    """`models.tokenizer.tokenizer.CausalEncoder`."""


@dataclass
class DecoderConf(TransformerConf):
    """`models.tokenizer.dit.DiffusionTransformer`."""


@dataclass
class QuantizerConf:
    """`models.quantizer.build`."""

    kind: Literal["vq", "simvq", "fsq", "residual", "lexical", "lexical_residual"] = about(
        "vq: a codebook of running means; simvq: frozen vectors through a learned matrix; "
        "fsq: a fixed grid; residual: a vq a "
        "level; lexical: words of an LLM; lexical_residual: other words of it a level"
    )
    codebook_size: int = about("vq, simvq and each level of residual: number of codes", 2, 1 << 20)
    code_dim: int = about("features of a code")
    decay: float = about("vq, residual: of the running means, a batch", 0.0, 1.0)
    commitment_weight: float = about("weight of the distance between a vector and its code")
    kmeans_iterations: int = about("vq, residual: of the k-means that the codebook starts from")
    reservoir_size: int = about("vq, residual: first vectors, that k-means is given; at least codebook_size")
    revive_threshold: float = about(
        "vq, residual: share of the mean use below which a code starts anew from a vector of the batch"
    )
    revive_every: int = about("vq, residual: batches from one search for unused codes to the next")
    revive_until: int = about("vq, residual: batch after which no code starts anew; 0: none ever does")
    seed: int = about("of the first codebook and of what is drawn for it")
    strides: list[int] = about(
        "residual, lexical_residual: tokens a code of each level, the coarsest first; each divides the one before"
    )
    levels: list[int] = about("fsq: values of each dimension; their product is the number of codes")
    words: int = about("lexical, each level of lexical_residual: how many whole words of the LLM are codes", 2, 1 << 20)
    words_from: str | None = about(
        "lexical, lexical_residual: the LLM whose words are the codes, named as in model.source"
    )
    variational: Literal["none", "gumbel", "gaussian"] = about(
        "vq, residual: none takes the nearest code; gumbel draws the code; gaussian draws the vector before it"
    )
    kl_weight: float = about("gumbel, gaussian: weight of the divergence from the prior", 0.0, 1e6)
    temperature: float = about("gumbel: of the posterior over cosines; lower is sharper", 1e-4, 1e4)

    def laws(self) -> Iterable[Problem]:
        if self.kind.startswith("lexical") and not self.words_from:
            yield Problem(
                "words_from",
                f"{self.kind} needs the LLM whose words are the codes, as --quantizer.words_from=smollm2-135m-instruct",
            )
        residual = self.kind in ("residual", "lexical_residual")
        if residual and (not self.strides or min(self.strides) < 1):
            yield Problem(
                "strides", f"{self.strides}; one of at least 1 a level is allowed, as --quantizer.strides=[4,2,1]"
            )
        elif residual and any(coarse % fine for coarse, fine in pairwise(self.strides)):
            yield Problem("strides", f"{self.strides}: each must divide the one before it, as 4, 2, 1")
        if self.kind == "fsq" and (not self.levels or min(self.levels) < 2 or max(self.levels) > 1000):
            yield Problem("levels", f"{self.levels}; one dimension or more of 2 to 1000 values each is allowed")
        if self.variational != "none" and self.kind not in ("vq", "residual"):
            yield Problem(
                "variational", f"{self.variational} is for the kinds vq and residual, here {self.kind}; set it to none"
            )


@dataclass
class FlowConf:
    """Training objective of the decoder."""

    objective: Literal["flow", "mse"] = about(
        "flow: conditional flow matching; mse: the same network regresses the latents, the paper's baseline"
    )
    logit_normal_share: float = about(
        "share of the training times drawn from a logit-normal; the others are uniform", 0.0, 1.0
    )
    token_dropout: float = about("share of the clips trained without tokens, for classifier-free guidance", 0.0, 1.0)
    prior_weight: float = about("weight of the squared error of a linear prediction of the latents from the tokens")


@dataclass
class FlowSamplingConf:
    """How the decoder turns tokens into latents."""

    num_steps: int = about("steps from noise to latents")
    solver: Literal["euler", "midpoint", "heun"] = about(
        "of the differential equation; euler evaluates the network once a step, the others twice"
    )
    guidance: float = about("weight of the tokens (classifier-free guidance); 1 is the plain model")
    temperature: float = about(
        "deviation of the noise that decoding begins with; 1 as in training for a velocity, below it sound is less varied and nearer "
        "to what is most likely",
        0.0,
        2.0,
    )


@dataclass
class PredictorConf(TransformerConf):
    """`models.tokenizer.prediction_loss.PredictionLoss`."""


@dataclass
class LanguageLossesConf:
    """Losses that make the codes easy for an LLM; each is off at a weight of 0."""

    semantic: float = about("weight of: which text is a sound's own, from the mean of its tokens", 0.0, 1e6)
    prediction: float = about("weight of: the next token's codes, guessed by a small causal transformer", 0.0, 1e6)
    consistency: float = about("weight of: a slice of a sound, with noise, has the tokens of the whole", 0.0, 1e6)
    texts_from: str = about(
        "semantic: the LLM whose hidden states stand for captions or labels, named as in model.source"
    )
    layer: float = about("semantic: which part of its layers they come after", 0.0, 1.0)
    memory: int = about("semantic: other texts that a sound's own is contrasted with, drawn at each step", 1, 1 << 20)
    temperature: float = about("semantic: of the cosines", 1e-4, 1e4)
    predictor: PredictorConf = about("prediction: the transformer")
    noise: float = about("consistency: standard deviation of the noise, of a latent channel's", 0.0, 100.0)


@dataclass
class PretrainedTokenizerConf:
    """`models.tokenizer.pretrained.PretrainedTokenizer`, where `source` is given."""

    revision: str | None = about("commit, tag or branch of a hub id; null: its newest")
    codebooks: int | None = about("levels that are used, from the first on; null: all that it has", 1, 1024)
    window_seconds: float = about(
        "length of a window, s, rounded up to whole frames; a recording longer by a quarter has several", 0.1, 3600.0
    )


@dataclass
class TokenizerConf(TrainingStageConf):
    source: str | None = about(
        "another's sound tokenizer in place of one that is trained: a folder or hub id of Mimi, EnCodec, DAC or X-Codec "
        "as transformers has them; the keys of training then have no effect. null: train one",
        path=True,
    )
    pretrained: PretrainedTokenizerConf = about("what of `source` is used")
    trainer: AutomaticTrainerConf = about("arguments of lightning.Trainer")
    optimizer: OptimizerConf = about("AdamW, and its learning rate by step")
    rate: RateConf = about("how many tokens a second")
    encoder: EncoderConf = about("the causal transformer from latents to tokens")
    quantizer: QuantizerConf = about("from tokens to codes")
    decoder: DecoderConf = about("the diffusion transformer from tokens to latents")
    flow: FlowConf = about("what the decoder is trained on")
    language_losses: LanguageLossesConf = about("what the codes are trained on beside that, for an LLM's sake")
    sampling: FlowSamplingConf = about("how the decoder is sampled, in validation and later")
    sample_posterior: bool = about(
        "train on draws from the VAE's posterior, where it has a spread, instead of on its mean"
    )
    ema_decay: float = about("decay, a step, of the averaged weights of the decoder, which are kept", 0.0, 1.0)
    compile: bool | str = about(
        "torch.compile of the transformers, block by block: needs a C compiler, and a minute or two at the start; "
        "auto: true on CUDA, where there is one"
    )
    batch_size: int = about("windows of a batch on each device", 1, 1 << 20)
    corpus_weights: dict[str, float] = about(
        "corpus -> how often its windows come in an epoch: 2 twice, 0.25 for a quarter of them; 1 for those not named"
    )
    sample_clips: int = about("validation clips whose sound and spectrogram go to TensorBoard")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        yield from compile_problems(self.compile)
        yield from weights_of_corpora(self.corpus_weights, self.data.corpora)
        if self.init_from and self.source:
            yield Problem(
                "init_from", f"{self.init_from}: source={self.source} stands in place of a training; give one of them"
            )


@dataclass
class FinetuningFlowConf:
    """`models.tokenizer.decoder_finetuning`."""

    objective: Literal["mean", "flow"] = about(
        "mean: mean velocities, with which one step gives a sample; flow: the tokenizer's own objective, for longer or on other sound"
    )
    instant_share: float = about("mean: share of the clips that are trained on the velocity at one time", 0.0, 1.0)
    guidance: float = about("mean: weight of the tokens (classifier-free guidance) that is trained in", 0.0, 100.0)
    token_dropout: float = about("flow: share of the clips trained without tokens", 0.0, 1.0)
    logit_normal_share: float = about("flow: share of the times drawn from a logit-normal", 0.0, 1.0)


@dataclass
class DecoderFinetuningConf(TrainingStageConf):
    trainer: AutomaticTrainerConf = about("arguments of lightning.Trainer")
    optimizer: OptimizerConf = about("AdamW, and its learning rate by step")
    flow: FinetuningFlowConf = about("what the decoder is trained on")
    sampling: FlowSamplingConf = about(
        "how the decoder is sampled, in validation and later; mean velocities are trained at its temperature"
    )
    sample_posterior: bool = about(
        "train on draws from the VAE's posterior, where it has a spread, instead of on its mean; codes are of the mean"
    )
    ema_decay: float = about("decay, a step, of the averaged weights, which are kept", 0.0, 1.0)
    compile: bool | str = about("torch.compile of the decoder, as in `tokenizer`")
    batch_size: int = about("windows of a batch on each device", 1, 1 << 20)
    corpus_weights: dict[str, float] = about(
        "corpus -> how often its windows come in an epoch: 2 twice, 0.25 for a quarter of them; 1 for those not named"
    )
    sample_clips: int = about("validation clips whose sound and spectrogram go to TensorBoard")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        yield from compile_problems(self.compile)
        yield from weights_of_corpora(self.corpus_weights, self.data.corpora)
        if self.flow.objective == "mean" and self.sampling.guidance != 1:
            yield Problem(
                "sampling.guidance",
                f"{self.sampling.guidance}: mean velocities have theirs trained in; type "
                f"--flow.guidance={self.sampling.guidance} --sampling.guidance=1",
            )


@dataclass
class ReconstructConf(StageConf):
    batch_size: int = about("windows of a batch on each device", 1, 1 << 20)
    clips_per_group: int = about(
        "test windows of each corpus, or of each family of sounds where the corpus names them, at most"
    )
    steps: list[int] = about("numbers of steps of the decoder, each measured")
    mean_of: int = about("samples whose mean is measured too; 1: no mean")
    sound: bool = about("decode to sound and measure that too")
    sound_steps: list[int] = about("those of `steps` whose sound is measured")
    signal: list[str] = about(
        f"metrics of sound against sound, of {', '.join(SIGNAL_METRICS)}; pesq and stoi are for speech"
    )
    embedder: str | None = about("of the kernel audio distance: a name of stages/hub/weights; null: not measured")
    probe: bool = about("accuracy of a linear classifier on the codes")
    others: list[str] = about(
        "experiments or run folders of finished tokenizers, ours or of `transformers`, whose sound is measured beside",
        path=True,
    )
    speed_repeats: int = about("repetitions of each measurement of speed; 0: none", 0, 1000)

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        for name in exceptions(self.signal, SIGNAL_METRICS):
            yield Problem(
                "signal", f"no metric of sound against sound is called {name!r}. {allowed(name, SIGNAL_METRICS)}"
            )
        if self.others and not self.sound:
            yield Problem("others", "other tokenizers are compared by their sound: type --sound=true")
        if self.signal and not self.sound:
            yield Problem("signal", f"{', '.join(self.signal)} need sound: type --sound=true, and --sound_steps=[10]")


@dataclass
class CacheConf(StageConf):
    batch_size: int = about("windows of a batch on each device", 1, 1 << 20)
    recordings_per_chunk: int = about("recordings of a chunk, the unit that is written at once", 1, 1 << 20)


def weights_of_corpora(weights: dict[str, float], corpora: list[str]) -> Iterable[Problem]:
    """The law of every `corpus_weights`."""
    for name in exceptions(weights, corpora):
        yield Problem("corpus_weights", f"data.corpora has no {name!r}. {allowed(name, corpora)}")
    for name, weight in weights.items():
        if not 0 <= weight <= 1000:
            yield Problem("corpus_weights", f"{name} has the weight {weight}; 0 to 1000 is allowed")
    if corpora and not any(weights.get(name, 1) for name in corpora):
        yield Problem("corpus_weights", "no corpus has a weight above 0: nothing would be trained")
