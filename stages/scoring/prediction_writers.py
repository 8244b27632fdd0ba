"""Predictions as other people's scoring reads them; prediction_files.py names the sources and reads them back.

mmau        a JSON list of its records with model_output, which evaluation.py reads, and model_prediction, which its README
            names: to be scored there, or sent to its space
mmar        the same with modality and model_prediction
kimi        JSONL {index, audio_path, question, answer, subset, prediction, real_prompt}; a missing prediction is "null"
lmms-eval   JSONL {doc_id, doc, target, filtered_resps, resps, input}, as --log_samples writes them
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.atomic_files import write_whole
from stages.scoring.answer_rows import Row


class Layout(NamedTuple):
    record: Callable[[int, Row], Row]  # number of a row, row
    lines: bool  # JSONL; else one JSON list


def write_predictions(rows: Sequence[Row], folder: Path, task: str, layout: str) -> Path:
    """Writes folder/TASK.LAYOUT.json or .jsonl of the answers that were given with the sound, and returns its path."""
    with_sound = [row for row in rows if row["condition"] == "sound"]
    chosen = LAYOUTS[layout]
    records = [chosen.record(number, row) for number, row in enumerate(with_sound)]
    path = folder / f"{task}.{layout}.{'jsonl' if chosen.lines else 'json'}"
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    write_whole(path, lines if chosen.lines else json.dumps(records, indent=4))
    return path


def _benchmark_record(row: Row) -> Row:
    own = {"id": row["id"]} | row["fields"] | {"question": row["question"]}
    return own | {"choices": row["choices"], "answer": row["references"][0]}


def _mmau(number: int, row: Row) -> Row:
    answer = row["prediction"] or ""  # theirs leaves an item without one out of the denominator
    return _benchmark_record(row) | {"task": row["kind"], "model_output": answer, "model_prediction": answer}


def _mmar(number: int, row: Row) -> Row:
    return _benchmark_record(row) | {"modality": row["kind"], "model_prediction": row["prediction"] or ""}


def _kimi(number: int, row: Row) -> Row:
    options = "".join(f"\n({chr(ord('A') + index)}) {choice}" for index, choice in enumerate(row["choices"]))
    question = row["question"] + (f"\nOptions:{options}" if options else "")
    audio = next((row["fields"][key] for key in ("audio_path", "audio_id", "path") if key in row["fields"]), "")
    missing = row["prediction"] is None
    return {
        "index": number, "audio_path": audio or row["source"], "question": question, "answer": row["references"][0],
        "subset": row["kind"], "prediction": "null" if missing else row["prediction"],
        "real_prompt": "" if missing else question,
    }  # fmt: skip


def _lmms_eval(number: int, row: Row) -> Row:
    answer = row["prediction"] or ""
    return {
        "doc_id": number, "doc": _benchmark_record(row), "target": row["references"][0],
        "filtered_resps": answer, "resps": [answer], "input": row["question"],
    }  # fmt: skip


LAYOUTS = {
    "mmau": Layout(_mmau, False),
    "mmar": Layout(_mmar, False),
    "kimi": Layout(_kimi, True),
    "lmms-eval": Layout(_lmms_eval, True),
}
