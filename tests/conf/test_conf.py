"""Configuration by layers: the strongest wins and is named, a mistake names its layer."""

import dataclasses
from pathlib import Path

import pytest

import conf
from conf import evaluation_tasks, schema
from conf.reasons import reasons


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("preset", [None, *conf.presets()])
@pytest.mark.parametrize("unit", list(schema.UNITS))
def test_every_unit_composes_with_every_preset(unit: str, preset: str | None):
    needed = {
        "folder": ["root=recordings", "metadata=m.csv"],
        "published": ["root=recordings"],
        "questions": ["root=a.json"],
    }.get(unit, [])
    presets = [preset] if preset else []
    composed = conf.compose(unit, presets, overrides=needed)
    assert type(composed.conf) is schema.UNITS[unit].schema
    files = {f"conf/{path.relative_to(conf.ROOT)}" for path in conf.ROOT.rglob("*.yaml")}
    assert set(composed.origins.values()) <= files | {conf.COMMAND_LINE}, "a value that no YAML gives has no reason"
    why = reasons(unit, presets, [], composed.origins)
    assert all(why[key] and why[key][0] for key in composed.origins)


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


def test_laws_between_values_name_the_layer_that_broke_them(tmp_path: Path):
    file = write(tmp_path / "mine.yaml", "encoder: {width: 100}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: encoder\.width: 100 is no multiple of 2 x heads = 24"):
        conf.compose("tokenizer", files=[file])
    with pytest.raises(ValueError, match=r"^command line: ema_decay: 1\.5; 0\.0 to 1\.0 is allowed"):
        conf.compose("tokenizer", overrides=["ema_decay=1.5"])
    with pytest.raises(ValueError, match=r"^command line: prompts\.text_to_sound: 'Sing\.' has no \{caption\}"):
        conf.compose("caption", overrides=["prompts.text_to_sound=Sing."])
    for template, said in (
        ("{caption} of {length} s", r"has \{length\}; \{caption\} and \{seconds\} are"),
        ("{caption", "typed twice"),
    ):
        with pytest.raises(ValueError, match=rf"^command line: prompts\.text_to_sound: .*{said}"):
            conf.compose("caption", overrides=[f'prompts.text_to_sound=["{template}"]'])


def test_where_a_preset_changes_something():
    assert conf.units_of("kbps_1") == ["tokenizer", "tokenizer_mse"]
    assert {"latents", "caption", "evaluate"} <= set(conf.units_of("demo"))
