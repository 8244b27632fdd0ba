"""Files of predictions that anybody's model made, and of benchmarks, in any of these formats: JSONL, one JSON list, or a
parquet. No torch here.

ours, plain    {id, prediction, reference | references}, and any of choices, question, kind, source
LTU            {prompt, pred, ref, audio_id}; the records of one clip share their references
GAMA           {audio_id, instruction, prediction, ref, ...}
MMAU           {id, question, choices, answer, model_output | model_prediction, task, difficulty, sub-category}: README.md
               and evaluation.py of github.com/Sakshi113/MMAU
MMAR           {..., model_prediction, modality, category, sub-category}, evaluation.py of github.com/ddlBoJack/MMAR; its
               challenge has {id, thinking_prediction, answer_prediction} alone, and needs --references MMAR-meta.json
MMSU           {id, question, choice_a to choice_d, answer_gt, response, task_name, category, sub-category}:
               mmsu_inference.py of github.com/dingdongwang/MMSU_Bench
AIR-Bench      the same with uniq_id, path and dataset_name; chat has no choices: Inference_Foundation.py and
               Inference_Chat.py of github.com/OFA-Sys/AIR-Bench
MMAU-Pro       {id, question, choices, answer, model_output, category}; of the category `open` without choices:
               evaluate_mmau_pro_comprehensive.py of github.com/sonalkum/MMAUPro
NeMo-Skills    {problem, A, B, ..., expected_answer, generation}, a text or a letter expected: nemo_skills/dataset/utils.py
               and evaluation/evaluator/mcq.py of github.com/NVIDIA/NeMo-Skills
Kimi           {index, audio_path, question, answer, subset, prediction, real_prompt}; "null" without a prompt is a missing
               prediction: run_audio.py of github.com/MoonshotAI/Kimi-Audio-Evalkit
lmms-eval      ..._samples_TASK.jsonl {doc_id, target, filtered_resps, input, METRIC: {...}}, by older ones {doc, ...}:
               lmms_eval/loggers/evaluation_tracker.py of github.com/EvolvingLMMs-Lab/lmms-eval
"""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from datamodules.json_records import JsonRecord, read_json_records
from stages.scoring.answer_rows import Row
from stages.scoring.choice_texts import FIELDS, LETTERS, answer_text, choices_of
from stages.scoring.english import key_among

log = logging.getLogger(__name__)

PREDICTIONS = (  # keys of what the model answered
    "prediction", "pred", "model_output", "model_prediction", "answer_prediction", "response", "generation",
    "filtered_resps",
)  # fmt: skip
# keys of what is expected; lmms-eval's `target` is made one of these
REFERENCES = ("references", "reference", "ref", "answer_gt", "expected_answer", "answer")
IDS = ("id", "uniq_id", "unique_id", "index", "doc_id", "audio_id")
AUDIO = ("audio_path", "path", "audio_id")
QUESTIONS = ("question", "instruction", "prompt", "problem", "input")
KINDS = ("kind", "task", "modality", "task_name", "subset", "category")
OPEN, INSTRUCTIONS = "open", "instruction following"  # MMAU-Pro's categories without choices
LTU_HEADS = ("Audio caption: ", "Label(s): ")


def read_predictions(path: Path, references: Path | None = None) -> list[Row]:
    """Rows as answer_rows.py describes them. Raises UsageError that names the file and the record.

    references: a file of what is expected, as a benchmark is shipped; a prediction that is missing failed.
    """
    records = read_json_records(path)
    if not any(key in record.values for record in records for key in PREDICTIONS):
        raise UsageError(
            f"{path}: no record has a prediction, what the model answered: one of {', '.join(PREDICTIONS)} is needed. The first has the fields "
            f"{', '.join(records[0].values)}; {', '.join(REFERENCES)} are read as what is expected"
        )
    rows = _rows(records, path)
    if references is not None:
        given = {row["id"]: row for row in rows}
        expected = _rows(read_json_records(references), references)
        if strangers := sorted(given.keys() - {row["id"] for row in expected}):
            raise UsageError(
                f"{path}: {len(strangers)} predictions are of no reference in {references}, the first {strangers[0]!r}"
            )
        rows = [row | {"prediction": given.get(row["id"], row)["prediction"]} for row in expected]
    if bare := next((row["id"] for row in rows if not any(map(str.strip, row["references"]))), None):
        raise UsageError(
            f"{path}: {bare} has no reference. Write it as `reference` or `references`, or type --references FILE"
        )
    strange = [row["id"] for row in rows if row["choices"] and not _is_a_choice(row)]
    if strange:
        text = "%s: %d questions have an answer that is none of their choices, as %s; by letter or by choice they cannot be right"
        log.warning(text, references or path, len(strange), strange[0])
    return rows


def _rows(records: Sequence[JsonRecord], path: Path) -> list[Row]:
    asked = [record for record in records if record.values.get("category") != INSTRUCTIONS]
    if left_out := len(records) - len(asked):
        log.warning("%s: %d instructions to follow are left out: their authors' code alone scores them", path, left_out)
    return _named_once([_row(record.values, record.where) for record in asked], path)


def _named_once(rows: list[Row], path: Path) -> list[Row]:
    """Raises UsageError for an id that comes twice. LTU has a record for each reference of a clip: they share them all."""
    shared: dict[str, list[str]] = {}
    for row in rows:
        if row["clip"]:
            shared.setdefault(row["clip"], [])
            shared[row["clip"]] += [text for text in row["references"] if text not in shared[row["clip"]]]
    seen: set[str] = set()
    for number, row in enumerate(rows):
        if row["clip"] and not row["choices"]:
            row["id"], row["references"] = f"{row['clip']}#{number}", shared[row["clip"]]
        if row["id"] in seen:
            raise UsageError(f"{path}: the id {row['id']!r} comes twice")
        seen.add(row["id"])
    return rows


def _is_a_choice(row: Row) -> bool:
    key = key_among(row["choices"])
    return any(key(answer) == key(choice) for answer in row["references"] for choice in row["choices"])


def _row(record: Row, where: str) -> Row:
    record = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    if "filtered_resps" in record:
        record = _of_lmms_eval(record)
    if "real_prompt" in record and record.get("prediction") == "null" and not record["real_prompt"]:
        record["prediction"] = None  # Kimi's, where the model gave nothing
    if (name := _first(record, IDS)) is None:
        raise UsageError(f"{where}: no {', '.join(IDS[:-1])} or {IDS[-1]}; it has {', '.join(record)}")
    if not any(key in record for key in (*PREDICTIONS, *REFERENCES)):
        raise UsageError(
            f"{where}: no prediction; one of {', '.join(PREDICTIONS)} is expected, and it has {', '.join(record)}"
        )
    choices = choices_of(record, where)
    references: Any = next((record[key] for key in REFERENCES if record.get(key) is not None), [])
    texts = _references(references if isinstance(references, list) else [references], where)
    texts = [answer_text(text, choices) for text in texts] if choices else texts
    if "pred" in record or "scene_caption" in record:  # LTU's and GAMA's keep the training's heads
        texts = [text.removeprefix(head) for text in texts for head in LTU_HEADS if text.startswith(head)] or texts
    ours, is_open = "kind" in record, record.get("category") == OPEN
    known = {*PREDICTIONS, *REFERENCES, *QUESTIONS, *FIELDS, *LETTERS, "choices", "fields"}
    fields = {key: value for key, value in record.items() if key not in known and isinstance(value, str)}
    audio, source = _first(record, AUDIO), record.get("source")
    return {
        "id": str(name),
        # MMAR's `source` is the site of the video: clips of a site are not one
        "source": str((audio if "modality" in record else source or audio) or name),
        "kind": str(
            _first(record, KINDS if ours or choices or is_open or "task_name" in record else ("kind",)) or "answer"
        ),
        "condition": record.get("condition", "sound"),
        "question": str(_first(record, QUESTIONS) or ""),
        "references": texts,
        "choices": choices,
        "prediction": _prediction(record, where),
        "task": record.get("task", "") if ours or not choices else "",
        "clip": str(name) if _first(record, IDS[:-1]) is None else "",
        "fields": (record["fields"] or {}) if "fields" in record else fields,
        **({"scores": record["scores"]} if "scores" in record else {}),
    }


def _references(values: Sequence[Any], where: str) -> list[str]:
    """Texts, and numbers as texts; null and NaN are none. Raises UsageError for any other value."""
    values = [value for value in values if value is not None and value == value]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(
                f"{where}: what is expected is {json.dumps(value)[:60]}; a text, or a list of texts, is read"
            )
    return [str(value) for value in values]


def _prediction(record: Row, where: str) -> str | None:
    """None where it is missing. Raises UsageError for one that is no text, and where two keys say two things."""
    given = {key: record[key] for key in PREDICTIONS if record.get(key) is not None}
    for prediction in given.values():
        if not isinstance(prediction, str):
            raise UsageError(
                f"{where}: the prediction is {json.dumps(prediction)[:60]}; a text is expected, in quotes, or null"
            )
        if re.search("[\ud800-\udfff]", prediction):
            raise UsageError(
                f"{where}: the prediction holds half of a character (a surrogate). Write the whole character"
            )
    if len(set(given.values())) > 1:
        both = ", ".join(f"{key}: {value[:40]!r}" for key, value in given.items())
        raise UsageError(f"{where}: several predictions that differ ({both}); leave the one that counts")
    return next(iter(given.values()), None)


def _of_lmms_eval(record: Row) -> Row:
    """With the fields of the benchmark's own record, where the task logged them, and the answer before the task read it."""
    given = record["filtered_resps"]
    while isinstance(given, list) and len(given) == 1:
        given = given[0]
    own: Row = {}
    for part in (record.get("doc"), *record.values()):
        own |= part if isinstance(part, Mapping) else {}
    own = {key: value for key, value in own.items() if key not in (*PREDICTIONS, *REFERENCES)}
    known = {"prediction": given, "reference": record.get("target")}
    return own | {key: value for key, value in record.items() if key != "filtered_resps"} | known


def _first(record: Row, keys: Sequence[str]) -> Any:
    """The value of the first of these keys that has one: 0 is an index, "" and [] are none."""
    return next((record[key] for key in keys if record.get(key) not in (None, "", [])), None)
