"""Files of predictions that anybody's model made: JSONL or one JSON list, in any of these formats. No torch here.

ours, plain    {id, prediction, reference | references}, and any of choices, question, kind, source     JSONL or one JSON list
LTU            {prompt, pred, ref, audio_id}; the records of one clip share their references
GAMA           {audio_id, instruction, prediction, ref, ...}
MMAU           {id, question, choices, answer, model_output | model_prediction, task, ...}
"""

import json
import math
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from stages.scoring.answer_rows import Row

PREDICTIONS = ("prediction", "pred", "model_output", "model_prediction")  # keys of what the model answered
REFERENCES = ("references", "reference", "ref", "answer")  # keys of what is expected
LTU_HEADS = ("Audio caption: ", "Label(s): ")


def read_predictions(path: Path, references: Path | None = None) -> list[Row]:
    """Rows as answer_rows.py describes them. Raises UsageError that names the file and the record."""
    records = _records(path)
    if not any(key in record for record in records for key in PREDICTIONS):
        raise UsageError(
            f"{path}: no record has a prediction, what the model answered: one of {', '.join(PREDICTIONS)} is needed. The first has the fields "
            f"{', '.join(records[0])}; {', '.join(REFERENCES)} are read as what is expected"
        )
    rows = [_row(record, f"{path}, record {number}") for number, record in enumerate(records, 1)]
    if references is not None:
        given = {row["id"]: row for row in rows}
        expected = [
            _row(record, f"{references}, record {number}") for number, record in enumerate(_records(references), 1)
        ]
        if strangers := sorted(given.keys() - {row["id"] for row in expected}):
            raise UsageError(
                f"{path}: {len(strangers)} predictions are of no reference in {references}, the first {strangers[0]!r}"
            )
        rows = [row | {"prediction": given.get(row["id"], row)["prediction"]} for row in expected]
    if bare := next((row["id"] for row in rows if not row["references"]), None):
        raise UsageError(
            f"{path}: {bare} has no reference. Write it as `reference` or `references`, or type --references FILE"
        )
    seen: set[str] = set()
    shared: dict[str, list[str]] = {}
    for row in rows:
        if row["clip"]:  # LTU has a record for each reference of a clip
            shared.setdefault(row["clip"], [])
            shared[row["clip"]] += [text for text in row["references"] if text not in shared[row["clip"]]]
    for number, row in enumerate(rows):
        if row["clip"] and not row["choices"]:
            row["id"], row["references"] = f"{row['clip']}#{number}", shared[row["clip"]]
        if row["id"] in seen:
            raise UsageError(f"{path}: the id {row['id']!r} comes twice")
        seen.add(row["id"])
    return rows


def _records(path: Path) -> list[Row]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {error.lineno}: no JSON list ({error.msg})") from None
    else:
        records = [_record(line, f"{path}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not records or not all(isinstance(record, dict) for record in records):
        raise UsageError(f"{path}: a list of records is expected, and one record at least")
    return records


def _record(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: no JSON ({error.msg}, character {error.colno}). One object a line, or one JSON list, is expected"
        ) from None


def _row(record: Row, where: str) -> Row:
    record = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in record.items()}
    name = next((str(record[key]) for key in ("id", "audio_id") if record.get(key)), None)
    if name is None:
        raise UsageError(f"{where}: no id (or audio_id); it has {', '.join(record)}")
    if not any(key in record for key in (*PREDICTIONS, *REFERENCES)):
        raise UsageError(
            f"{where}: no prediction; one of {', '.join(PREDICTIONS)} is expected, and it has {', '.join(record)}"
        )
    prediction = next((record[key] for key in PREDICTIONS if record.get(key) is not None), None)
    if prediction is not None and not isinstance(prediction, str):
        raise UsageError(
            f"{where}: the prediction is {json.dumps(prediction)[:60]}; a text is expected, in quotes, or null"
        )
    references: Any = next((record[key] for key in REFERENCES if record.get(key) is not None), [])
    texts = [str(text) for text in (references if isinstance(references, list) else [references])]
    if "pred" in record or "scene_caption" in record:  # LTU's and GAMA's keep the training's heads
        texts = [text.removeprefix(head) for text in texts for head in LTU_HEADS if text.startswith(head)] or texts
    clip = str(record["audio_id"]) if "id" not in record else ""
    mmau = "choices" in record and "kind" not in record
    return {
        "id": name,
        "source": str(record.get("source") or name),
        "kind": str(record.get("kind") or (record.get("task") if mmau else "") or "answer"),
        "condition": record.get("condition", "sound"),
        "question": str(record.get("question") or record.get("instruction") or record.get("prompt") or ""),
        "references": texts,
        "choices": [str(choice) for choice in record.get("choices") or ()],
        "prediction": prediction,
        "task": "" if mmau else record.get("task", ""),
        "clip": clip,
        **({"scores": record["scores"]} if "scores" in record else {}),
    }
