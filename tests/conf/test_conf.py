"""Configuration by layers: the strongest wins and is named, a mistake names its layer, sections fit what they feed."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_origin

import lightning
import pytest
from diffusers import AutoencoderOobleck

import conf
from conf import evaluation_tasks, schema
from conf.reasons import reasons, remarks
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


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def names(owner: type) -> set[str]:
    return {field.name for field in dataclasses.fields(owner)}


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters) - {"self"}  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", [None, *conf.presets()])
@pytest.mark.parametrize("unit", list(schema.UNITS))
def test_every_unit_composes_with_every_preset(unit: str, preset: str | None):
    needed = {
        "folder": ["root=recordings", "metadata=m.csv"],
        "published": ["root=recordings"],
        "questions": ["root=a.json"],
    }.get(unit, [])
    composed = conf.compose(unit, [preset] if preset else [], overrides=needed)
    assert type(composed.conf) is schema.UNITS[unit].schema
    files = {f"conf/{path.relative_to(conf.ROOT)}" for path in conf.ROOT.rglob("*.yaml")}
    assert set(composed.origins.values()) <= files | {conf.COMMAND_LINE}, "a value that no YAML gives has no reason"


@pytest.mark.parametrize("preset", conf.presets())
def test_a_run_finds_what_the_same_preset_prepared(preset: str):
    needed = {"folder": ["root=recordings", "metadata=m.csv"], "diagnostic": [], "latents": []}
    roots = {conf.compose(unit, [preset], overrides=words).conf.data.root for unit, words in needed.items()}
    assert len(roots) == 1


def test_every_yaml_is_a_layer_of_some_unit():
    """A file that no unit reads is a setting without effect."""
    read = {
        conf.ROOT / folder / f"{name}.yaml"
        for unit in schema.UNITS.values()
        for folder in unit.folders
        for name in ("base", *conf.presets())
    }
    tasks = set((conf.ROOT / "tasks").glob("*.yaml"))
    assert tasks and all(evaluation_tasks.task(path.stem).version >= 1 for path in tasks)
    assert set(conf.ROOT.rglob("*.yaml")) - tasks <= read


def test_each_layer_beats_those_below_it(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "batch_size: 5\nseed: 5\nencoder: {depth: 5}\n")
    later = write(tmp_path / "later.yaml", "seed: 6\n")
    composed = conf.compose("tokenizer", ["demo"], [file, later], ["encoder.depth=7"])
    value, origin = composed.conf, composed.origins
    assert (value.seed, origin["seed"]) == (6, later)
    assert (value.batch_size, origin["batch_size"]) == (5, file)
    assert (value.encoder.depth, origin["encoder.depth"]) == (7, "command line")
    assert (value.encoder.width, origin["encoder.width"]) == (128, "conf/tokenizer/demo.yaml")
    assert (value.experiment, origin["experiment"]) == ("demo", "conf/demo.yaml")
    assert (value.quantizer.decay, origin["quantizer.decay"]) == (0.99, "conf/tokenizer/base.yaml")
    assert (value.runs, origin["runs"]) == ("runs", "conf/base.yaml")


def test_presets_are_layers_in_the_order_given():
    assert conf.compose("tokenizer", ["demo", "smoke"]).conf.encoder.width == 32
    assert conf.compose("tokenizer", ["smoke", "demo"]).conf.encoder.width == 128


def test_the_twin_differs_in_its_objective_alone():
    flow, mse = (conf.compose(unit, ["demo"]).conf for unit in ("tokenizer", "tokenizer_mse"))
    assert mse == dataclasses.replace(flow, flow=dataclasses.replace(flow.flow, objective="mse"))
    assert mse != flow


def test_an_unknown_key_names_its_layer_and_the_nearest_right_one(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "trainer: {device: 8}\n")
    with pytest.raises(
        ValueError, match=r"mine\.yaml: .*'device' not in 'AutomaticTrainerConf'.*[Dd]id you mean.*devices"
    ):
        conf.compose("tokenizer", files=[file])
    with pytest.raises(ValueError, match=r"command line: .*'depht' not in 'EncoderConf'.*depth"):
        conf.compose("tokenizer", overrides=["encoder.depht=1"])
    with pytest.raises(ValueError, match=r"command line: no stage has a key 'trainer.max_step'.*'trainer.max_steps'"):
        conf.check_shared(schema.UNITS, ["trainer.max_step=3"])
    for wrong, right in (
        ("tokenzer.trainer.max_steps", "tokenizer.trainer.max_steps"),
        ("evaluat.captions", "evaluate.captions"),
        ("experimnt", "experiment"),
    ):
        with pytest.raises(ValueError, match=rf"no stage has a key '{wrong}'\. Did you mean '{right}'\?"):
            conf.check_shared(schema.UNITS, [f"{wrong}=3"])


def test_a_wrong_type_names_its_layer_and_key(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "batch_size: many\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: batch_size: .*'many'.*"):
        conf.compose("tokenizer", files=[file])
    for override in (
        "batch_size=3.5",
        "encoder=3",
        "parents=[a]",
        "parents=a",
        "encoder=null",
        "flow.objective=vq",
        "seed=null",
        "encoder.width=[1]",
    ):
        with pytest.raises(ValueError, match=r"^command line: ") as caught:
            conf.compose("tokenizer", overrides=[override])
        assert override.split("=")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        ValueError, match=r"^command line: data\.corpora: a list, as \[a, b\], is allowed, here \{'mine': '1'\}"
    ):
        conf.compose("tokenizer", overrides=["data.corpora.mine=1"])


def test_a_file_that_is_no_mapping_of_keys_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"list\.yaml: holds a ListConfig"):
        conf.compose("cache", files=[write(tmp_path / "list.yaml", "- 1\n")])
    with pytest.raises(ValueError, match=r"broken\.yaml: not readable as YAML"):
        conf.compose("cache", files=[write(tmp_path / "broken.yaml", "a: [1\n")])
    with pytest.raises(ValueError, match=r"gone\.yaml: no such file"):
        conf.compose("cache", files=["gone.yaml"])


def test_an_unknown_preset_lists_those_that_there_are():
    with pytest.raises(ValueError, match=r"--preset dmeo: no such preset\. Did you mean 'demo'\? Allowed: .*demo"):
        conf.compose("tokenizer", ["dmeo"])


@pytest.mark.parametrize("words", [["--a.b=c"], ["a.b=c"], ["--a.b", "c"]], ids=" ".join)
def test_three_ways_to_write_one_override(words: list[str]):
    assert conf.parse_overrides(words) == ["a.b=c"]


def test_values_keep_their_signs_and_equals():
    words = ["--a-b=x-y", "--c", "-1", "--d=e=f", "--root", "my folder"]
    assert conf.parse_overrides(words) == ["a_b=x-y", "c=-1", "d=e=f", "root=my folder"]
    words = ["--caption.corpus-weights.my-corpus=2", "--corpus-weights.my-corpus=2", "--trainer.max-steps=3"]
    assert conf.parse_overrides(words) == [
        "caption.corpus_weights.my-corpus=2", "corpus_weights.my-corpus=2", "trainer.max_steps=3",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [["--a.b"], ["word"], ["--a", "--b=1"], ["--=1"], ["1=2"]], ids=" ".join)
def test_a_word_that_is_no_override_is_refused(words: list[str]):
    with pytest.raises(ValueError, match="command line: cannot read"):
        conf.parse_overrides(words)


def test_one_value_of_a_list_needs_no_brackets():
    needed = ["root=r", "metadata=m.csv"]
    for override in ("test=4", "test=[4]", "test=['4']"):
        assert conf.compose("folder", overrides=[*needed, override]).conf.test == ["4"]
    assert conf.compose("folder", overrides=[*needed, "test=[4,5]"]).conf.test == ["4", "5"]
    assert conf.compose("tokenizer", overrides=["data.corpora=mine"]).conf.data.corpora == ["mine"]


def test_a_missing_value_is_named(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "encoder:\n  width: ???\n")
    assert conf.compose("tokenizer", files=[file]).conf.encoder.width == 768, "??? says nothing"
    with pytest.raises(ValueError, match=r"curriculum\[0\]\.steps: .*missing.*--KEY=VALUE"):
        conf.compose("openaqa", overrides=["curriculum=[{name: a}]"])


def test_an_override_for_one_stage_is_for_that_one():
    override = ["tokenizer.trainer.max_steps=3", "seed=9"]
    composed = {
        unit: conf.compose(unit, ["demo"], overrides=override, shared=True).conf
        for unit in ("tokenizer", "tokenizer_mse", "caption")
    }
    assert composed["tokenizer"].trainer.max_steps == 3
    assert composed["tokenizer_mse"].trainer.max_steps > 3
    assert composed["caption"].trainer.max_steps > 3
    assert {unit.seed for unit in composed.values()} == {9}


def test_a_shared_override_goes_where_it_is_known():
    composed = {unit: conf.compose(unit, overrides=["lora.rank=2"], shared=True) for unit in ("latents", "openaqa")}
    assert composed["openaqa"].conf.lora.rank == 2
    assert conf.COMMAND_LINE not in composed["latents"].origins.values()
    with pytest.raises(ValueError, match="lora"):
        conf.compose("latents", overrides=["lora.rank=2"], shared=False)


def test_a_parent_may_be_named_though_it_is_a_stage():
    """`parents` is a free mapping: its keys are stages, not schema fields."""
    composed = conf.compose("caption", ["demo"], overrides=["parents.tokenizer=other"], shared=True)
    assert composed.conf.parents == {"tokenizer": "other"}
    assert composed.origins["parents.tokenizer"] == "command line"


def test_a_parent_that_is_no_stage_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^command line: parents\.tokeniser: .*'tokeniser'.*mean 'tokenizer'"):
        conf.compose("caption", overrides=["parents.tokeniser=x"], shared=True)
    file = write(tmp_path / "mine.yaml", "parents: {x: y}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: parents\.x: .*Allowed: .*evaluate, .*vae$"):
        conf.compose("caption", files=[file])


def test_a_file_with_sections_for_stages(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "seed: 4\ntokenizer:\n  batch_size: 3\ncaption:\n  lora: {rank: 3}\n")
    tokenizer, caption = (conf.compose(unit, ["demo"], [file]) for unit in ("tokenizer", "caption"))
    assert (tokenizer.conf.seed, tokenizer.conf.batch_size, tokenizer.origins["batch_size"]) == (4, 3, file)
    assert (caption.conf.seed, caption.conf.lora.rank) == (4, 3)
    wrong = write(tmp_path / "wrong.yaml", "tokenizer:\n  bach_size: 3\n")
    with pytest.raises(ValueError, match=r"wrong\.yaml: .*bach_size.*batch_size"):
        conf.compose("tokenizer", files=[wrong])


@pytest.mark.parametrize(
    "overrides", [["rate.stride=4"], ["rate.bitrate=null"], ["rate.stride=4", "rate.token_rate=5"]], ids=" ".join
)
def test_exactly_one_rate_is_given(overrides: list[str]):
    """The base gives a bit rate."""
    with pytest.raises(ValueError, match=r"^command line: rate: exactly one of token_rate, stride and bitrate"):
        conf.compose("tokenizer", overrides=overrides)
    assert conf.compose("tokenizer", overrides=["rate.stride=4", "rate.bitrate=null"]).conf.rate.stride == 4


def test_laws_between_values_name_the_layer_that_broke_them(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "encoder: {width: 100}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: encoder\.width: 100 is no multiple of 2 x heads = 24"):
        conf.compose("tokenizer", files=[file])
    with pytest.raises(ValueError, match=r"^command line: ema_decay: 1\.5; 0\.0 to 1\.0 is allowed"):
        conf.compose("tokenizer", overrides=["ema_decay=1.5"])
    with pytest.raises(ValueError, match=r"^command line: prompts\.text_to_sound: 'Sing\.' has no \{caption\}"):
        conf.compose("caption", overrides=["prompts.text_to_sound=Sing."])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["kind=lexical"], r"words_from: lexical needs the LLM .*--quantizer\.words_from=smollm2-135m-instruct"),
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
    """Else `--tokenizer.x=1` and a section of a --conf FILE would mean two things."""
    assert not {unit: keys for unit, (owner, _) in schema.UNITS.items() if (keys := names(owner) & set(schema.UNITS))}


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


def test_why_a_value_is_what_it_is(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "quantizer:\n  kind: fsq  # mine\n")
    origins = conf.compose("tokenizer", ["demo"], [file]).origins
    why = reasons("tokenizer", ["demo"], [file], origins)
    assert why["data.on_bad"][0].startswith("a recording that cannot be read: error ends the run"), "the key's help"
    assert why["quantizer.kind"][-1] == "mine"
    assert why["quantizer.kind"][1].startswith("(conf/tokenizer/base.yaml: simvq and fsq need no statistics")
    assert "(conf/tokenizer/base.yaml: the paper's; 13.0007 bits a token)" in why["quantizer.codebook_size"], (
        "the demo has another"
    )
    base = reasons("tokenizer", [], [], conf.compose("tokenizer").origins)
    assert base["quantizer.codebook_size"][1:] == ["the paper's; 13.0007 bits a token"]


@pytest.mark.parametrize("unit", list(schema.UNITS))
def test_a_remark_belongs_to_a_key_of_the_unit(unit: str):
    """Or to one inside a mapping or list, whose keys are free."""
    known = schema.keys(unit)
    free = tuple(f"{key}." for key, field in known.items() if get_origin(field.type) in (dict, list))
    for key in reasons(unit, conf.presets(), [], {}):
        assert key in known or key.startswith(free), key


def test_remarks_of_a_yaml_file():
    """Beside a key, above it, and on the lines on which one goes on; not those at the beginning, and no # in quotes."""
    text = """\
# About the file,
# in two lines.
seed: 0             # beside
                    # and going on
trainer:            # of the section
  # above
  devices: 8
  # above, and
  # again
  num_nodes: 1      # and beside
  strategy: "a # b"

  # of nothing

openings:           # of the list
  - "#"
  - "On"            # of an item
                    # and going on
parts:
- name: "first"     # of a key in an item
  # above a key in it
  steps: 3
after: 1            # the list
"""
    assert remarks(text) == {
        "seed": "beside and going on",
        "trainer": "of the section",
        "trainer.devices": "above",
        "trainer.num_nodes": "above, and again and beside",
        "openings": "of the list; On: of an item and going on",
        "parts": "name: first: of a key in an item; steps: 3: above a key in it",
        "after": "the list",
    }


@pytest.mark.parametrize("path", sorted(conf.ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(conf.ROOT)))
def test_no_remark_of_a_file_is_lost(path: Path):
    """But those at its beginning, and those that stand by themselves between empty lines."""
    body = re.sub(r"\A(#.*\n)+", "", path.read_text())
    shown = " ".join(remarks(path.read_text()).values())
    for line in body.splitlines():
        unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "_" * len(match[0]), line)
        remark = re.search(r"(?:^|\s)#\s?(.*)$", unquoted)
        assert remark is None or line[remark.start(1) :].strip() in shown, line


@pytest.mark.parametrize("preset", [None, *conf.presets()])
@pytest.mark.parametrize("unit", list(schema.UNITS))
def test_why_says_something_of_every_row(unit: str, preset: str | None):
    given = ["root=r", "metadata=m"] if unit == "folder" else ["root=r"] if unit in ("published", "questions") else []
    presets = [preset] if preset else []
    origins = conf.compose(unit, presets, overrides=given).origins
    why = reasons(unit, presets, [], origins)
    assert all(why[key] and why[key][0] for key in origins)


def test_where_a_preset_changes_something():
    assert conf.units_of("kbps_1") == ["tokenizer", "tokenizer_mse"]
    assert {"latents", "caption", "evaluate"} <= set(conf.units_of("demo"))
