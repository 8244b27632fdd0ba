"""A value whose type is text is the text that was typed, or written in a file of one's own."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

import conf
from conf import evaluation_tasks
from conf.errors import UsageError
from conf.schema import UNITS
from conf.sections.tasks import EvaluationTask
from conf.typed_values import as_written

FOLDER = ["root=recordings", "metadata=m.csv"]
TEXTS = [  # what YAML takes for a number, a date, a truth, nothing, a comment, a mapping, a list, a reference
    "1.10", "01", "2024_01_05", "9509425349e4", "1e3", "0x10", "0o17", "1:30", "2024-01-05", "2024-01-05T10:00:00Z",
    "on", "off", "yes", "No", "true", "False", "null", "~", "NULL", ".nan", ".inf", "take #2", "a: b", "{a: b}", "[a]",
    "!x", "&a", "*a", "'a'", '"a"', "a\\b", "a\\", " a", "a ", "a,b", "- a", "%b", "@a", "`a`", "|", ">", "?", "=", "a=b",
    "${seed}", "\\${seed}", "\\\\${seed}", "é", "e\u0301", "a\nb", "a\tb", "",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_text_is_as_typed(text: str):
    typed = conf.compose("folder", overrides=[*FOLDER, f"label_question={text}"]).conf
    assert typed.label_question == text
    if text != "null":  # no name, where none is allowed
        assert conf.compose("folder", overrides=[*FOLDER, f"name={text}"]).conf.name == text
    parents = conf.compose("cache", overrides=["data.corpora=a", f"parents.vae=x{text}"]).conf.parents
    assert parents == {"vae": f"x{text}"}


@pytest.mark.parametrize("text", [text for text in TEXTS if text and text.strip() == text], ids=repr)
def test_text_in_a_list_is_as_typed(text: str):
    if not text.startswith("["):
        assert conf.compose("folder", overrides=[*FOLDER, f"test={text}"]).conf.test == [text]
    if "," not in text and text[0] not in "'\"":
        assert conf.compose("folder", overrides=[*FOLDER, f"test=[z, {text} ,{text}]"]).conf.test == ["z", text, text]
    quoted = text.replace("'", "''")
    if "\n" not in text:
        assert conf.compose("folder", overrides=[*FOLDER, f"test=['{quoted}', z]"]).conf.test == [text, "z"]


@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_a_configuration_that_was_written_is_read_back_as_it_was(text: str):
    plain = conf.plain(conf.compose("folder", overrides=[*FOLDER, f"label_question={text}"]).conf)
    again = OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(plain))))
    assert again == plain


def test_a_list_keeps_what_stands_in_quotation_marks():
    typed = """prompts.text_to_sound=["Make {caption}, loud", 'It''s {caption}', say "{caption}"]"""
    assert conf.compose("caption", overrides=["data.corpora=a", typed]).conf.prompts.text_to_sound == [
        "Make {caption}, loud", "It's {caption}", 'say "{caption}"',
    ]  # fmt: skip
    for empty in ("", "[]"):
        assert conf.compose("folder", overrides=[*FOLDER, f"test={empty}"]).conf.test == []


def test_what_is_no_text_is_read_by_its_type():
    typed = conf.compose(
        "caption",
        overrides=[
            "data.corpora=[1.10,on]", "trainer.devices=2", "limits.seconds=null", "model.attention=null", "seed=07",
            "model.compile=on", "optimizer.betas=[0.5, 0.75]", "corpus_weights.on=2", "embedding_learning_rate=1e-3",
            "prompts.template_options.enable_thinking=false", "parents={tokenizer: 2024_01}", "prompts.system=null",
        ],
    ).conf  # fmt: skip
    assert typed.data.corpora == ["1.10", "on"]
    assert (typed.trainer.devices, typed.limits.seconds, typed.model.attention, typed.seed) == (2, None, None, 7)
    assert (typed.model.compile, typed.optimizer.betas, typed.corpus_weights) == (True, [0.5, 0.75], {"on": 2.0})
    assert (typed.embedding_learning_rate, typed.prompts.template_options) == (1e-3, {"enable_thinking": False})
    assert (typed.parents, typed.prompts.system) == ({"tokenizer": "2024_01"}, None)
    assert conf.compose("caption", overrides=["data.corpora=a", "trainer.devices=auto"]).conf.trainer.devices == "auto"


def test_a_section_typed_as_a_whole_has_text_too():
    entry = (
        "{name: 1.10, steps: 20000, learning_rate: 1e-3, embedding_learning_rate: 0, train: all, mixture: "
        "{sound_to_text: 1, text_to_sound: 0, question: 0, conversation: 0, text: 0}, kinds: [on], corpora: [], "
        "datasets: [0x10], max_tokens: null}"
    )
    (typed,) = conf.compose("caption", overrides=["data.corpora=a", f"curriculum=[{entry}]"]).conf.curriculum
    assert (typed.name, typed.steps, typed.kinds, typed.datasets) == ("1.10", 20000, ["on"], ["0x10"])
    assert (typed.learning_rate, typed.max_tokens) == (1e-3, None)


def test_what_cannot_be_read_names_its_key():
    for wrong, message in {
        "parents={tokenizer: [}": "parents: cannot read",
        "label_question=???": "label_question: cannot read '???'",
        "data.num_workers=1e3": "data.num_workers: Value '1e3'",
    }.items():
        with pytest.raises(UsageError, match=r"^command line: ") as caught:
            conf.compose(
                "folder" if "label" in wrong else "cache", overrides=[*FOLDER[: 2 * ("label" in wrong)], wrong]
            )
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_home_is_expanded_where_no_shell_does_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "own.yaml"
    file.write_text("runs: ~/runs\n")
    typed = ["data.corpora=~a", "data.root=~/x", "parents.vae=~/y", "model.source=~/m", "experiment=~"]
    made = conf.compose("caption", files=[str(file)], overrides=typed).conf
    assert (made.runs, made.data.root, made.parents) == (f"{tmp_path}/runs", f"{tmp_path}/x", {"vae": f"{tmp_path}/y"})
    assert (made.model.source, made.data.corpora, made.experiment) == (f"{tmp_path}/m", ["~a"], "~")


def test_text_of_a_file_is_the_text_of_the_file(tmp_path: Path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "experiment: 2024_01_05\ndata: {corpora: [1.10, on, 'null'], num_workers: 2}\nseed: 0x10\n"
        "caption: {prompts: {system: off, sound_to_text: [1.0]}, parents: {vae: 01}, limits: {seconds: null}}\n"
        "slurm: {time: 1:00:00, account: 007, further: {qos: yes}}\n"
    )
    made = conf.compose("caption", files=[str(file)]).conf
    assert (made.experiment, made.data.corpora, made.data.num_workers) == ("2024_01_05", ["1.10", "on", "null"], 2)
    assert (made.prompts.system, made.prompts.sound_to_text, made.parents) == ("off", ["1.0"], {"vae": "01"})
    assert (made.seed, made.limits.seconds) == (16, None)
    cluster = conf.compose("slurm", files=[str(file)]).conf
    assert (cluster.time, cluster.account, cluster.further) == ("1:00:00", "007", {"qos": "yes"})


def test_labels_of_a_task_are_the_text_of_its_file(tmp_path: Path):
    text = (conf.ROOT / "tasks" / "labels.yaml").read_text()
    file = tmp_path / "own.yaml"
    file.write_text(text.replace("labels: corpus", "labels: {yes: [on, 1.10], no: [off]}"))
    assert evaluation_tasks.task(str(file)).labels == {"yes": ["on", "1.10"], "no": ["off"]}
    file.write_text(text.replace("labels: corpus", "labels: [yes, no, 01]"))
    assert evaluation_tasks.task(str(file)).labels == ["yes", "no", "01"]
    for broken in ("a: [", "- a"):
        file.write_text(broken)
        with pytest.raises(UsageError, match=r"own\.yaml: "):
            evaluation_tasks.task(str(file))


@pytest.mark.parametrize("path", sorted(conf.ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(conf.ROOT)))
def test_no_text_of_our_files_is_changed_by_yaml(path: Path):
    """Layers of this project are read by YAML alone, which is quicker."""
    values = OmegaConf.to_container(OmegaConf.load(path))
    written = yaml.load(path.read_text(), yaml.BaseLoader)
    folder = str(path.parent.relative_to(conf.ROOT)).replace(".", "")
    schemas = [unit.schema for unit in UNITS.values() if folder in unit.folders] or [EvaluationTask]
    for schema in schemas:
        assert as_written(schema, values, written) == values
