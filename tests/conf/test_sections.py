"""Sections fit what they feed, every key has a help and a range, and none a default."""

import dataclasses
import inspect
from pathlib import Path

import lightning
import pytest
from diffusers import AutoencoderOobleck

import conf
from conf import schema
from conf.sections import codec, common, tokenizer
from conf.sections.language import CurriculumEntryConf
from conf.sections.tasks import EvaluationTask
from models.codec.discriminator import Discriminator
from models.codec.mel import MelCodec
from models.codec.spectral_loss import SpectralLoss
from models.quantizer import build
from models.tokenizer.dit import DiffusionTransformer
from models.tokenizer.encoder import CausalEncoder
from models.tokenizer.tokenizer import LatentTokenizer


def names(owner: type) -> set[str]:
    return {field.name for field in dataclasses.fields(owner)}


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "overrides", [["rate.stride=4"], ["rate.bitrate=null"], ["rate.stride=4", "rate.token_rate=5"]], ids=" ".join
)
def test_exactly_one_rate_is_given(overrides: list[str]):
    """The base gives a bit rate."""
    with pytest.raises(ValueError, match=r"^command line: rate: exactly one of token_rate, stride and bitrate"):
        conf.compose("tokenizer", overrides=overrides)
    assert conf.compose("tokenizer", overrides=["rate.stride=4", "rate.bitrate=null"]).conf.rate.stride == 4


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["kind=lexical"], r"words_from: lexical needs the LLM .*--quantizer\.words_from=smollm2-135m-instruct"),
        (["kind=lexical_residual"], r"words_from: lexical_residual needs the LLM"),
        (["kind=lexical_residual", "words_from=x", "strides=[4,3]"], r"strides: \[4, 3\]: each must divide"),
        (["kind=residual", "strides=[4,3]"], r"strides: \[4, 3\]: each must divide the one before it"),
        (["kind=residual", "strides=[]"], r"strides: \[\]; one of at least 1 a level"),
        (["kind=fsq", "levels=[8,1]"], r"levels: \[8, 1\]; one dimension or more of 2 to 1000"),
        (["kind=simvq", "variational=gumbel"], r"variational: gumbel is for the kinds vq and residual, here simvq"),
    ],
    ids=str,
)
def test_what_a_kind_of_quantizer_needs(overrides: list[str], message: str):
    """And no other kind: the same values with another one compose."""
    with pytest.raises(ValueError, match=rf": quantizer\.{message}"):
        conf.compose("tokenizer", overrides=[f"quantizer.{text}" for text in overrides])
    conf.compose("tokenizer", overrides=["quantizer.kind=vq", *(f"quantizer.{text}" for text in overrides[1:])])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["trainer.max_steps=5"], r"curriculum: its steps add up to 48285 .* 5\. Type --trainer\.max_steps=48285"),
        (
            ["data.corpora=[openaqx]"],
            r"curriculum: entry 'rows': data\.corpora has no 'openaqa'\. Did you mean 'openaqx'",
        ),
        (["batching.tokens_per_batch=100"], r"batching\.max_tokens: 2048 is more than a batch holds"),
        (["mixture.question=-1"], r"mixture\.question: -1\.0; 0 to 1000 is allowed"),
        (["mixture={sound_to_text: 0, question: 0, conversation: 0}"], r"mixture: no weight is above 0"),
        (["text.files=[a.jsonl]"], r"text\.files: no mixture takes them"),
        (["caption_dropout=1.5"], r"caption_dropout: 1\.5; 0\.0 to 1\.0 is allowed"),
        (["timestamps.step=0.005"], r"timestamps\.step: 0\.005 s; a whole number of hundredths"),
        (["timestamps.every=1"], r"timestamps\.every: 1\.0 s; null where max_seconds is null"),
        (
            ["timestamps.max_seconds=10", "timestamps.every=0.25"],
            r"timestamps\.every: 0\.25 s; a multiple of timestamps\.step=0\.1 up to 10",
        ),
        (["loss.time_width=0.2"], r"loss\.time_width: 0\.2; 0 is allowed where timestamps\.max_seconds is null"),
        (["timestamps.max_seconds=10.05"], r"timestamps\.max_seconds: 10\.05 s; a multiple of timestamps\.step=0\.1"),
        (["curriculum=[{name: a, steps: 48285}]"], r"curriculum\[0\]\.learning_rate: .*missing"),
        (["curriculum=[{name: a, stps: 3}]"], r"stps.*Did you mean: 'steps'"),
    ],
    ids=str,
)
def test_what_a_language_stage_is_taught_must_fit_together(overrides: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        conf.compose("openaqa", ["curriculum"], overrides=overrides)


def test_entries_of_a_curriculum_have_names_of_their_own_and_steps():
    import copy

    from conf import laws

    composed = conf.compose("openaqa", ["curriculum"]).conf
    for change, message in (
        ({"name": "rows"}, "two entries are called 'rows'"),
        ({"steps": 0}, "steps: 0; at least 1"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0; at least 0"),
        ({"max_tokens": 20000}, "max_tokens: 20000; 1 to batching.tokens_per_batch=8192"),
    ):
        changed = copy.deepcopy(composed)
        changed.curriculum[1] = dataclasses.replace(changed.curriculum[1], **change)
        assert any(message in problem for _, problem in laws.problems(changed)), change
    assert not list(laws.problems(composed))


def test_no_schema_key_is_the_name_of_a_unit():
    """Else `--tokenizer.x=1` and a section of a --conf FILE would mean two things. The column `caption` of `format` is a
    text, and no section.
    """
    shared = {unit: keys for unit, (owner, _) in schema.UNITS.items() if (keys := names(owner) & set(schema.UNITS))}
    assert shared == {"format": {"caption"}}


def test_a_column_that_is_called_as_a_stage_is_a_text(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("caption: text.en\n")
    (tmp_path / "y.yaml").write_text("caption: {mixture: {question: 1.0}}\n")
    assert conf.compose("format", overrides=["caption=text.en"]).conf.caption == "text.en"
    assert conf.compose("format", files=[str(tmp_path / "x.yaml")]).conf.caption == "text.en"
    assert conf.compose("format", files=[str(tmp_path / "y.yaml")]).conf.caption is None


def test_schema_has_no_defaults():
    for owner in vars(schema).values():
        for field in dataclasses.fields(owner) if dataclasses.is_dataclass(owner) else ():
            assert field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING, (
                owner,
                field.name,
            )


FED = {  # section -> (constructor, what comes from parents, other modules or another section)
    codec.MelCodecConf: (MelCodec, set()),
    codec.OobleckConf: (AutoencoderOobleck, set()),
    codec.SpectralLossConf: (SpectralLoss, {"sample_rate", "channels"}),
    codec.DiscriminatorConf: (Discriminator, {"channels"}),
    tokenizer.EncoderConf: (CausalEncoder, {"latent_dim"}),
    tokenizer.QuantizerConf: (build, {"dim", "lexicon"}),
    tokenizer.DecoderConf: (DiffusionTransformer, {"latent_dim", "condition_dim"}),
    tokenizer.FlowConf: (LatentTokenizer, {"encoder", "quantizer", "decoder", "grid"}),
}


@pytest.mark.parametrize("section", FED, ids=lambda section: section.__name__)
def test_sections_fit_the_constructors_they_feed(section: type):
    constructor, inherited = FED[section]
    assert names(section) == parameters(constructor) - inherited
    assert inherited <= parameters(constructor)


def test_trainer_and_sampling_sections_are_arguments():
    assert (
        names(common.TrainerConf)
        < names(common.FitTrainerConf)
        < names(common.AutomaticTrainerConf)
        < parameters(lightning.Trainer.__init__)
    )
    assert names(tokenizer.FlowSamplingConf) == parameters(LatentTokenizer.decode) - {
        "codes",
        "num_codes",
        "num_frames",
        "noise",
    }


def test_every_operational_key_exists():
    known = {key for unit in schema.UNITS for key in schema.keys(unit)}
    assert set(schema.OPERATIONAL) <= known


def test_every_key_has_a_help():
    """What a key means, once, in its dataclass: its value, and the reason of that, stand in YAML."""
    owners = [schema.UNITS[unit].schema for unit in schema.UNITS] + [CurriculumEntryConf, EvaluationTask]
    for owner in owners:
        for key, field in schema.keys_of(owner).items():
            text = field.metadata.get("help", "")
            assert len(text) >= 2 and not text.endswith("."), f"{owner.__name__}.{key}"


def test_a_range_is_a_range():
    for unit in schema.UNITS:
        for key, field in schema.keys(unit).items():
            assert field.metadata["low"] < field.metadata["high"], f"{unit}: {key}"
