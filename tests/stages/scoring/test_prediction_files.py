"""Files of predictions, each as its publisher's code writes it: a record of each, made by hand after that code."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from stages.scoring.choice_texts import answer_text, choices_of
from stages.scoring.prediction_files import read_predictions
from stages.scoring.prediction_writers import LAYOUTS, write_predictions
from stages.scoring.published_protocols import mmau_official, mmsu_official


def written(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.mark.parametrize("value", ["true", "2.0", "[1]", '{"en": "a dog"}'])
def test_a_prediction_that_is_no_text_is_refused_with_its_line(tmp_path: Path, value: str):
    records = [
        '{"id": "a", "prediction": "x", "reference": "x"}',
        f'{{"id": "b", "reference": "x", "prediction": {value}}}',
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(records))
    with pytest.raises(ValueError, match=r"p\.jsonl, record 2: the prediction is .* a text is expected"):
        read_predictions(tmp_path / "p.jsonl")


def test_nan_and_null_are_missing_predictions(tmp_path: Path):
    lines = [f'{{"id": "{n}", "reference": "x", "prediction": {value}}}' for n, value in enumerate(("NaN", "null"))]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, '{"id": "c", "reference": "x", "prediction": "x"}']))
    assert [row["prediction"] for row in read_predictions(tmp_path / "p.jsonl")] == [None, None, "x"]


MMAU = {
    "id": "3f", "audio_id": "./test-mini-audios/3f.wav", "question": "Who speaks?", "choices": ["Man", "Woman"], "answer": "Man",
    "dataset": "AudioSet", "task": "sound", "split": "test-mini", "category": "Reasoning", "sub-category": "Source", "difficulty": "easy",
}  # fmt: skip
MMAR = {
    "id": "BV1", "audio_path": "./audio/BV1.wav", "question": "Who speaks?", "choices": ["Man", "Woman"], "answer": "Man", "modality": "speech",
    "category": "Signal Layer", "sub-category": "Order", "language": "en", "source": "youtube", "url": "https://x", "timestamp": "0,1",
}  # fmt: skip
MMSU = {
    "id": "a_1", "audio_path": "./audio/a_1.wav", "question": "Who speaks?", "choice_a": "Man", "choice_b": "Woman", "choice_c": None,
    "choice_d": None, "answer_gt": "Man", "task_name": "gender", "category": "Perception", "sub-category": "Paralinguistics",
}  # fmt: skip
AIR = {
    "path": "b.wav", "question": "Who speaks?", "choice_a": "Man", "choice_b": "Woman", "choice_c": "Child", "choice_d": "Robot",
    "answer_gt": "Man", "task_name": "Speaker", "dataset_name": "x", "uniq_id": 0,
}  # fmt: skip
NEMO = {
    "id": "p1", "problem": "Who speaks?\n\nA) Man\nB) Woman", "options": "A) Man\nB) Woman", "A": "Man", "B": "Woman",
    "category": "speech", "audio_path": ["data/p1.wav"], "generation": "A", "predicted_answer": "A",
}  # fmt: skip
KIMI = {
    "index": 0, "audio_path": "/x/3f.wav", "question": "Who speaks?\nOptions:\n(A) Man\n(B) Woman", "answer": "Man", "subset": "sound",
    "prediction": "(A) Man", "real_prompt": "Who speaks? ...",
}  # fmt: skip
LMMS = {
    "doc_id": 0, "target": "Man", "filtered_resps": "A.", "token_counts": [None], "doc_hash": "f", "input": "Who speaks?\nA. Man\nB. Woman",
    "accuracy": {"overall": 1.0, "task": "sound"},
    "submission": {**MMAU, "choices": '["Man", "Woman"]', "model_prediction": "Man"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("record", "name", "kind", "answer", "choices"),
    [
        ({**MMAU, "model_output": "A"}, "3f", "sound", "A", ["Man", "Woman"]),
        ({**MMAU, "model_prediction": "A"}, "3f", "sound", "A", ["Man", "Woman"]),
        ({**MMAR, "model_prediction": "A"}, "BV1", "speech", "A", ["Man", "Woman"]),
        ({**MMAR, "thinking_prediction": "Hm.", "answer_prediction": "A"}, "BV1", "speech", "A", ["Man", "Woman"]),
        ({**MMSU, "response": "A"}, "a_1", "gender", "A", ["Man", "Woman"]),
        ({**AIR, "response": "A."}, "0", "Speaker", "A.", ["Man", "Woman", "Child", "Robot"]),
        ({**NEMO, "expected_answer": "A"}, "p1", "speech", "A", ["Man", "Woman"]),
        ({**NEMO, "expected_answer": "Man", "choices": ["Man", "Woman"]}, "p1", "speech", "A", ["Man", "Woman"]),
        (KIMI, "0", "answer", "(A) Man", []),
        (LMMS, "3f", "sound", "A.", ["Man", "Woman"]),
        ({**LMMS, "filtered_resps": [["A."]], "submission": 0, "doc": MMAU}, "3f", "sound", "A.", ["Man", "Woman"]),
    ],
    ids=["MMAU", "MMAU README", "MMAR", "MMAR challenge", "MMSU", "AIR-Bench", "NeMo letter", "NeMo text", "Kimi", "lmms-eval", "lmms-eval 0.2"],
)  # fmt: skip
def test_what_each_publisher_writes_is_read(
    record: dict[str, Any], name: str, kind: str, answer: str, choices: list[str], tmp_path: Path
):
    (row,) = read_predictions(written(tmp_path / "p.jsonl", record))
    assert (row["id"], row["kind"], row["prediction"], row["choices"]) == (name, kind, answer, choices)
    assert row["references"] == ["Man"] and row["question"].startswith("Who speaks?")


def test_what_only_one_publisher_has(tmp_path: Path):
    """MMAR's `source` is a site; Kimi's "null" without a prompt is no answer; AIR-Bench's chat has no choices."""
    (row,) = read_predictions(written(tmp_path / "p.jsonl", {**MMAR, "model_prediction": "A"}))
    assert row["source"] == "./audio/BV1.wav" and row["fields"]["source"] == "youtube"
    missing, answered = {"prediction": "null", "real_prompt": ""}, {"index": 1, "prediction": "null"}
    rows = read_predictions(written(tmp_path / "p.jsonl", {**KIMI, **missing}, {**KIMI, **answered}))
    assert [row["prediction"] for row in rows] == [None, "null"]
    chat = {key: value for key, value in AIR.items() if not key.startswith("choice_")}
    (row,) = read_predictions(written(tmp_path / "p.jsonl", {**chat, "meta_info": "a man", "response": "A man."}))
    assert row["choices"] == [] and row["prediction"] == "A man."
    (row,) = read_predictions(
        written(tmp_path / "p.jsonl", {"id": "BV1", "thinking_prediction": "Hm.", "answer_prediction": "Man"}),
        written(tmp_path / "meta.json", MMAR),
    )
    assert (row["prediction"], row["choices"], row["kind"]) == ("Man", ["Man", "Woman"], "speech")


@pytest.mark.parametrize("choices", [
    ["Man", "Woman", "Man"], ["A. Man", "B. Woman"], ["(A) Man", "(B) Woman"], ["(a) Man", "(b) Woman"], '["Man", "Woman"]', "['Man', 'Woman']",
    {"A": "Man", "B": "Woman", "C": None}, ["Man", "Woman", "", None],
])  # fmt: skip
@pytest.mark.parametrize("answer", ["Man", "A", "(A)", "A.", "a", "(A) Man", "A. Man"])
def test_choices_and_answers_are_read_as_they_are_spelt(choices: Any, answer: str):
    texts = choices_of({"choices": choices}, "here")
    assert texts[:2] == ["Man", "Woman"] and answer_text(answer, texts) == "Man"


def test_a_choice_that_looks_like_a_letter_stays():
    assert choices_of({"choices": ["A. Bach", "C. Bach"]}, "here") == ["A. Bach", "C. Bach"]
    assert choices_of({"choices": ["A", "B"]}, "here") == ["A", "B"] and answer_text("B", ["B", "A"]) == "B"
    assert choices_of({"choices": ["None", "One"]}, "here") == ["None", "One"]  # 19 choices of MMSU are this word
    assert answer_text("Z", ["x", "y"]) == "Z"
    with pytest.raises(ValueError, match="here: choices is 'Man or woman'; a list of texts"):
        choices_of({"choices": "Man or woman"}, "here")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{**MMAU, "model_output": "A", "model_prediction": "Man"}], r"several predictions that differ \(model_output: 'A', model_pred"),
        ([{**LMMS, "filtered_resps": [[-1.5, True], [-2.0, False]]}], "record 1: the prediction is .* a text is expected"),
        ([{"answer_prediction": "Man", "answer": "Man"}], "record 1: no id, uniq_id, unique_id, index, doc_id or audio_id"),
        ([KIMI, KIMI], "the id '0' comes twice"),
        ([{"id": "1", "response": "A"}], "1 has no reference"),
        ([{**MMAU, "model_output": "A", "id": "withheld", "answer": " "}], "withheld has no reference"),
        ([{"id": "1", "prediction": "x", "reference": ["x", {"en": "x"}]}], "record 1: what is expected is .*a text, or a list"),
        ([{"id": "1", "prediction": "x", "reference": True}], "record 1: what is expected is true"),
        ([{"id": "1", "prediction": "a \ud83d", "reference": "x"}], "record 1: the prediction holds half of a character"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(records: list[dict[str, Any]], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        read_predictions(written(tmp_path / "p.jsonl", *records))


def test_null_and_nan_are_no_references_and_a_key_comes_once(tmp_path: Path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "1", "prediction": "x", "references": ["a dog", null, NaN, 3]}')
    assert read_predictions(path)[0]["references"] == ["a dog", "3"]
    for text, where in (
        ('{"id": "1", "prediction": "x", "prediction": "y"}', ", line 1"),
        ('[{"id": 1, "id": 2}]', ""),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"p.jsonl{where}: the key '(prediction|id)' comes 2 times"):
            read_predictions(path)


def test_an_answer_that_is_no_choice_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Four of MMAR's are; its authors' match reads the answer's words and needs no choice."""
    strange = {**MMAR, "answer": "Man\nWoman", "model_prediction": "man, woman"}
    with caplog.at_level(logging.WARNING):
        (row,) = read_predictions(written(tmp_path / "p.jsonl", strange))
    assert "1 questions have an answer that is none of their choices, as BV1" in caplog.text
    assert mmau_official(row["prediction"], row["references"][0], row["choices"])


def test_mmsus_letter_is_theirs_faults_included():
    assert [mmsu_official(text, 4) for text in ("A", "B.", "C) x", "The answer is D.", "Dogs", "(A)", "a", "none", "")] == [
        0, 1, 2, 3, 3, 0, None, None, None,
    ]  # fmt: skip
    assert mmsu_official("C", 2) is None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("record", [MMAU, MMAR, MMSU], ids=["MMAU", "MMAR", "MMSU"])
def test_what_is_written_is_read_back(layout: str, record: dict[str, Any], tmp_path: Path):
    given = {key: value for key, value in record.items() if value is not None}
    rows = read_predictions(
        written(tmp_path / "p.jsonl", {**given, "response": "A"}, {**given, "id": "n", "response": None})
    )
    blind = {**rows[0], "id": "b", "condition": "text"}
    path = write_predictions([*rows, blind], tmp_path, "task", layout)
    back = read_predictions(path)
    assert len(back) == 2 and [row["references"] for row in back] == [["Man"], ["Man"]]
    assert back[0]["prediction"] == "A" and not back[1]["prediction"]
    if layout in ("mmau", "mmar"):  # the benchmark's own record, and the answer
        (first, _) = json.loads(path.read_text())
        assert (
            first["id"] == record["id"] and first["model_prediction"] == "A" and first["category"] == record["category"]
        )
        assert [row["choices"] for row in back] == [["Man", "Woman"]] * 2
