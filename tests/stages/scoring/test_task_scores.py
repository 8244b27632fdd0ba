"""Scores that can be trusted: an LLM of random weights is at chance on every task, one that gets the answer is right on every one."""

import functools
import json
import math
from dataclasses import astuple, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conf import compose, evaluation_tasks
from conf.sections.tasks import EvaluationTask
from datamodules.evaluation_items import EvaluationItem, label_names, task_items
from models.language import likelihood
from models.language.generation import pad_left
from models.language.vocabulary import Turn
from stages.cli.main import main
from stages.hub import language_model, weights
from stages.scoring import classification, task_scores
from stages.scoring.captions.caption_scores import Tools
from stages.scoring.intervals import percentile_interval, resample_counts
from stages.scoring.metric_registry import METRICS, missing
from stages.scoring.published_protocols import cut, mmau_official
from stages.scoring.reading_rules import EMPTY, SEVERAL
from stages.scoring.requirements import package_folder

FEW = ("a", "b", "c", "d", "e")
SCORED = [name for name in evaluation_tasks.names() if evaluation_tasks.task(name).metrics]
NO_JAVA = bool(missing([METRICS["cider_d"]]))


def clips(task: EvaluationTask, count: int = 20) -> list[Any]:
    """Recordings as a task's corpus has them, half of them for training."""
    names = task.labels if isinstance(task.labels, list | dict) else [f"sound of {word}" for word in FEW]
    names = list(names)[:10]
    several = "mean_average_precision" in task.metrics
    made = []
    for number in range(2 * count):
        label = names[number // 2 % len(names)]
        labels = [label, names[(number // 2 + 1 + number % 3) % len(names)]] if several else [label]
        choices = [f"{label} {word}" for word in ("one", "two", "three", "four")]
        answer = choices[number // 2 % 4]
        supervisions = [
            {"text": f"a {label} is heard by {name}", "custom": {"task": "caption"}} for name in ("a man", "a child")
        ] + [
            {"custom": {"task": "question", "kind": "class", "question": "Which sound is it?", "answer": label}},
            {"custom": {"task": "question", "kind": "sound", "question": "Which of them?", "answer": answer, "choices": choices}},
        ]  # fmt: skip
        made.append(
            SimpleNamespace(
                id=f"clip-{number}",
                custom={
                    "codes": [number % 7, number % 5, 1],
                    "source": f"source-{number}",
                    "corpus": (task.corpora or ["a corpus"])[0],
                    "labels": labels,
                    "split": "train" if number % 2 else "test",
                },
                supervisions=[
                    SimpleNamespace(id=f"clip-{number}-{index}", text=one.get("text"), custom=one["custom"])
                    for index, one in enumerate(supervisions)
                ],
            )
        )
    return made


def asked_of(task: EvaluationTask, cuts: list[Any]) -> tuple[list[EvaluationItem], list[str]]:
    labels = label_names(cuts, None) if task.labels == "corpus" else list(task.labels or [])
    test = [one for one in cuts if one.custom["split"] == "test"]
    return task_items(task, test, 100, [], "Describe this sound.", labels), labels


def available_task(name: str) -> dict[str, Any]:
    """The task, with an encoder and metrics that this machine has."""
    task = evaluation_tasks.task(name)
    metrics = [metric for metric in task.metrics if not METRICS[metric].needs]
    if task.ask == "captions":
        metrics = ["torchmetrics_rouge_l" if NO_JAVA else "rouge_l"]
    return replace(task, encoder=task.encoder and "all-MiniLM-L6-v2", metrics=metrics)


def scored(task: EvaluationTask, rows: list[dict[str, Any]], labels: list[str], cuts: list[Any]) -> dict[str, Any]:
    train = [one for one in cuts if one.custom["split"] == "train"]
    answers = [("label", "", label) for one in train for label in one.custom["labels"]]
    if task.ask != "labels":
        answers = [
            (s.custom["kind"], s.custom["question"], s.custom["answer"]) for one in train for s in one.supervisions[2:]
        ]
    return task_scores.score(task, rows, len(rows), labels, answers, task_scores.load_tools(task), 200, 0)


def main_score(report: dict[str, Any], condition: str = "with_sound") -> dict[str, Any]:
    """Accuracy, average precision, or the first caption score."""
    values = report["conditions"][condition]
    return values.get("accuracy") or values.get("mean_average_precision") or next(iter(values.values()))


@pytest.fixture(scope="module")
def minilm() -> None:
    placed = [weights.cached_path(weights.parse(spec)) for spec in weights.SENTENCES["all-MiniLM-L6-v2"]]
    if not all(path.is_file() for path in placed):
        pytest.skip("all-MiniLM-L6-v2 is not in the cache")


@pytest.fixture(scope="module", autouse=True)
def load_each_encoder_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load_sentences", functools.cache(weights.load_sentences))
        yield


@pytest.fixture(scope="module")
def random_llm():
    conf = compose("openaqa", ["smoke"], overrides=["embedding_initialization=mean"]).conf
    return language_model.build(conf, {"codebook_size": 16, "levels": [0], "bitrate": 10.0}, None)


@pytest.mark.assets
@pytest.mark.parametrize("name", SCORED)
def test_random_weights_are_at_chance(name: str, random_llm, minilm):
    task, llm = available_task(name), random_llm
    cuts = clips(task)
    asked, labels = asked_of(task, cuts)
    rows, written = [], []
    for item in asked:
        turns = [Turn(role, segments) for role, segments in item.turns]
        if item.by_likelihood:
            scores = likelihood.answer_scores(llm.model.lm, llm.vocabulary, turns, item.choices or labels)
            answer = {"prediction": (item.choices or labels)[scores.index(max(scores))], "scores": scores}
            rows.append(item._asdict() | answer)
        else:
            written.append((item, llm.vocabulary.render(turns, generate=True).input_ids))
    if written:
        prompts = pad_left([prompt for _, prompt in written], llm.vocabulary.pad_id)
        for (item, _), ids in zip(written, llm.model.generate(*prompts, 6, allow="text"), strict=True):
            rows.append(item._asdict() | {"prediction": llm.vocabulary.decode(ids)})
    report = scored(task, rows, labels, cuts)
    assert report["scored"] == report["expected"] == len(asked) and report["failed"] == 0
    value = main_score(report)
    if task.ask == "captions":
        assert value["value"] < 0.2
        return
    chance = report["baselines"]["chance"]
    if "mean_average_precision" not in task.metrics:  # of few clips it lies above the share of positives by itself
        assert value["low"] <= chance
    assert value["value"] <= chance + 0.25


@pytest.mark.assets
@pytest.mark.parametrize("name", SCORED)
def test_one_that_gets_the_answer_is_right(name: str, minilm):
    task = available_task(name)
    cuts = clips(task)
    asked, labels = asked_of(task, cuts)
    rows = [item._asdict() | {"prediction": _right_answer(item, task)} for item in asked]
    report = scored(task, rows, labels, cuts)
    for condition in report["conditions"]:
        value = main_score(report, condition)
        cosines = task.reading == "ltu" and "mean_average_precision" in task.metrics  # of two labels in one vector
        assert value["value"] == pytest.approx(1.0) or (cosines and value["value"] > 0.7), (condition, value)
    if task.ask == "choices":
        assert report["conditions"].keys() == {"with_sound", "other_sound", "without_sound", "shuffled_choices"}
        assert report["baselines"]["always_first"]["value"] == 0.25  # the answers are A to D in turn
    silent = scored(task, [row | {"prediction": None} for row in rows], labels, cuts)
    assert silent["failed"] == len(rows) and silent["scored"] == 0
    assert main_score(silent)["value"] < 0.5  # an average precision without a ranking is the share of positives


def _right_answer(item: EvaluationItem, task: EvaluationTask) -> str:
    if "mean_average_precision" in task.metrics:
        return "; ".join(item.references)
    if task.reading == "mmsu":
        return "ABCD"[item.choices.index(item.references[0])]
    head = {"colon_drop": "Audio caption: ", "colon": "Audio caption: ", "caption": "Audio caption: "}.get(task.cut, "")
    return head + item.references[0]


def test_labels_share_the_prompt_and_score_as_in_a_pass_of_their_own(random_llm, monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH", 3)
    lm, words = random_llm.model.lm, random_llm.vocabulary
    turns = [Turn("user", [[1, 2, 3], "\nWhich sound?"])]
    answers = ["dog", "a much longer answer", "", "cat"]
    scores = likelihood.answer_scores(lm, words, turns, answers)
    for answer, score in zip(answers, scores, strict=True):
        whole = words.render([*turns, Turn("assistant", [answer])])
        ids, _ = pad_left([whole.input_ids], words.pad_id)
        logits = lm(input_ids=ids).logits[0, :-1].float()
        logits[:, words.text_size : words.first_time_id] = -float("inf")
        log_probabilities = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        labels = [index for index, label in enumerate(whole.labels[1:]) if label != -100]
        stop = next(n for n, index in enumerate(labels) if whole.input_ids[index + 1] in words.stop_ids)
        assert score == pytest.approx(float(log_probabilities.detach()[labels[: stop + 1]].double().sum()), abs=1e-4)


def test_mmaus_match_is_theirs_faults_included():
    choices = ["a piano", "a violin", "frustration, neutral", "neutral, frustration"]
    assert mmau_official("a piano", "a piano", choices)
    assert mmau_official("It is not a piano", "a piano", choices)  # blind to negation
    assert mmau_official("neutral, frustration", "frustration, neutral", choices)  # and to order
    assert not mmau_official("(B)", "a violin", choices) and not mmau_official("", "a violin", choices)
    assert not mmau_official("a piano or a violin", "a piano", choices)


def test_ltus_ways_to_cut_an_answer():
    assert cut("Audio caption: A dog barks.", "colon_drop") == "a dog barks"
    assert cut("A dog barks.", "colon_drop") == " dog barks"  # as theirs: the first letter is lost
    assert cut("Audio caption: A dog", "colon") == "a dog" and cut('"Audio caption: a dog"', "caption") == "a dog"


def write(path: Path, records: list[dict[str, Any]], lines: bool = True) -> str:
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    return str(path)


@pytest.mark.parametrize(
    ("records", "task", "accuracy"),
    [
        ([{"id": "1", "prediction": "a dog", "reference": "dog"}, {"id": "2", "prediction": "rain", "reference": "cat"}], "questions", 0.5),
        (
            [{"prompt": "What?", "pred": "Dog.", "ref": "Label(s): dog", "audio_id": "/x/1.flac"},
             {"prompt": "What?", "pred": "", "ref": "Label(s): cat", "audio_id": "/x/2.flac"}], "labels", 0.5,
        ),
        (
            [{"audio_id": "1.wav", "instruction": "What?", "scene_caption": "", "prediction": "yes", "timestamp_events": "[]", "ref": "yes"}],
            "questions", 1.0,
        ),
        (
            [{"id": "1", "question": "Q", "choices": ["piano", "violin"], "answer": "piano", "model_output": "(A) piano", "task": "music"},
             {"id": "2", "question": "Q", "choices": ["piano", "violin"], "answer": "piano", "model_prediction": "B", "task": "sound"}],
            "mmau", 0.5,
        ),
    ],
    ids=["plain", "LTU", "GAMA", "MMAU"],
)  # fmt: skip
@pytest.mark.parametrize("lines", [True, False], ids=["JSONL", "list"])
def test_predictions_of_others_are_scored(records, task: str, accuracy: float, lines: bool, tmp_path: Path, capsys):
    words = [
        "evaluate",
        "--predictions",
        write(tmp_path / "p.json", records, lines),
        "--task",
        task,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tasks"][task]["conditions"]["with_sound"]["accuracy"]["value"] == accuracy
    assert report["failed"] == 0 and report["scored"] == len(records)
    assert (tmp_path / "out/report.md").read_text() in capsys.readouterr().out


def test_missing_predictions_count_and_the_exit_status_says_so(tmp_path: Path, capsys):
    expected = [{"id": str(number), "reference": "dog"} for number in range(4)]
    given = write(tmp_path / "p.jsonl", [{"id": "0", "prediction": "dog"}, {"id": "1", "prediction": "a dog"}])
    words = [
        "evaluate",
        "--predictions",
        given,
        "--references",
        write(tmp_path / "r.jsonl", expected),
        "--task",
        "questions",
    ]
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "2 items have no prediction" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["expected"], report["scored"], report["failed"]) == (4, 2, 2)
    assert report["tasks"]["questions"]["conditions"]["with_sound"]["accuracy"]["value"] == 0.5
    mmau = [
        {"id": "1", "choices": ["a", "b"], "answer": "a", "question": "Q", "task": "music"}
    ]  # no model_output: theirs leaves it out
    assert main(["evaluate", "--predictions", write(tmp_path / "m.json", mmau), "--task", "mmau-official"]) == 1


@pytest.mark.parametrize(
    ("records", "words", "message"),
    [
        ([{"id": "1", "prediction": "a"}], ["--task", "questions"], "1 has no reference"),
        ([{"id": "1", "prediction": "a", "reference": "a"}], [], "--task: which of"),
        ([{"id": "1", "prediction": "a", "reference": "a"}], ["--task", "esc5"], "Did you mean 'esc50'"),
        ([{"id": "1", "prediction": "a", "reference": "a"}], ["--task", "mmau"], "has no choices"),
        ([{"prediction": "a", "reference": "a"}], ["--task", "questions"], "record 1: no id"),
        ([{"id": "1", "prediction": "a", "reference": "a"}] * 2, ["--task", "questions"], "comes twice"),
        ([{"id": "1", "prediction": "a", "reference": "xylophone"}], ["--task", "gtzan"], "which the task has not"),
        (
            [{"id": "1", "prediction": "a", "reference": "a"}],
            ["--task", "clotho-ltu"],
            "No other metric is computed in its place",
        ),
    ],
)
def test_a_file_that_cannot_be_scored_says_why(records, words: list[str], message: str, tmp_path: Path, capsys):
    assert main(["evaluate", "--predictions", write(tmp_path / "p.jsonl", records), *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "1", "prediction": "a", "reference": "a"}\n\n{"id": "2", "prediction"\n', "p.jsonl, line 3: no JSON"),
        ('[{"id": "1"},\n{"id": }]', "p.jsonl, line 2: no JSON list"),
        ('{"id": "1", "answer": "a", "x": 1}\n', "is needed. The first has the fields id, answer, x; "),
    ],
)
def test_a_file_that_cannot_be_read_names_the_line_and_the_field(text: str, message: str, tmp_path: Path, capsys):
    (tmp_path / "p.jsonl").write_text(text)
    assert main(["evaluate", "--predictions", str(tmp_path / "p.jsonl"), "--task", "questions"]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_metric_ends_the_run_before_a_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    task = evaluation_tasks.task("captions")
    with pytest.raises(ValueError, match=r"(?s)task captions: these metrics.*java.*apt-get.*No other metric"):
        task_scores.require(task, None)
    with pytest.raises(ValueError, match="1 clips; at least 2"):
        task_scores.require(replace(task, metrics=["cider_d"]), 1)
    assert package_folder("no_such_package") is None and Tools().package is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("reading: fuzzy", "Invalid value 'fuzzy'"),
        ("metrics: []", "none are named"),
        ("labels: null", "labels: a list, names with aliases"),
        ("encoder: null\nreading: nearest", "needs an encoder"),
        ("prmpt: x", "prmpt"),
    ],
)
def test_a_task_of_ones_own_is_checked(change: str, message: str, tmp_path: Path):
    text = (evaluation_tasks.ROOT / "labels.yaml").read_text()
    keys = {line.split(":")[0] for line in change.splitlines()}
    kept = [line for line in text.splitlines() if line.split(":")[0] not in keys]
    path = tmp_path / "changed.yaml"
    path.write_text("\n".join([*kept, change]))
    with pytest.raises(ValueError, match=message):
        evaluation_tasks.task(str(path))
    path.write_text(text)
    assert evaluation_tasks.task(str(path)).name == "changed"


def test_macro_f1_has_the_interval_of_resampled_clips():
    """Each resample equals macro F1 of its rows, each as often as it comes; clips are resampled, not questions."""
    read = ["a", "b", None, "b", "a", "c"]
    answers = ["a", "a", "b", "b", "c", "c"]
    sources = ["1", "1", "2", "3", "4", "5"]
    times = resample_counts(sources, 200, 0)
    assert (times[:, 0] == times[:, 1]).all() and (times[:, [0, 2, 3, 4, 5]].sum(1) == 5).all()
    values = []
    for row in times.long().tolist():
        indices = [index for index, count in enumerate(row) for _ in range(count)]
        values.append(classification.macro_f1([read[i] for i in indices], [answers[i] for i in indices]))
    actual = task_scores._macro_f1(read, answers, sources, 200, 0)
    expected = percentile_interval(classification.macro_f1(read, answers), torch.tensor(values, dtype=torch.float64), 6)
    assert astuple(actual) == pytest.approx(astuple(expected)) and actual.low < actual.value < actual.high
    assert math.isnan(task_scores._macro_f1([], [], [], 10, 0).value)


def test_unread_answers_count_as_wrong_and_lower_the_coverage():
    names = ["dog", "cat", "rain"]
    task = replace(
        evaluation_tasks.task("labels"), labels=names, reading="whole_word", metrics=["accuracy"], encoder=None
    )
    answers = {"a dog": "dog", "rain": "cat", "": "cat", "a dog and a cat": "cat"}
    rows = [
        {"id": text, "source": text, "kind": "label", "condition": "sound", "references": [right], "prediction": text}
        for text, right in answers.items()
    ]
    scores = task_scores.score(task, rows, 4, names, [], Tools(), 10, 0)["conditions"]["with_sound"]
    assert scores["accuracy"]["value"] == 0.25 and scores["coverage"] == 0.5
    assert scores["unread"] == {EMPTY: 1, SEVERAL: 1}
