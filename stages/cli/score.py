"""`stage evaluate --predictions FILE` scores answers that anybody's model gave; `stage metrics` says what each metric needs. No model is loaded.

ours, plain    {id, prediction, reference | references}, and any of choices, question, kind, source     JSONL or one JSON list
LTU            {prompt, pred, ref, audio_id}; the records of one clip share their references
GAMA           {audio_id, instruction, prediction, ref, ...}
MMAU           {id, question, choices, answer, model_output | model_prediction, task, ...}
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from conf import evaluation_tasks
from conf.errors import UsageError
from conf.sections.tasks import EvaluationTask
from stages.scoring import metric_registry

Row = dict[str, Any]
SAMPLES, SEED = 1000, 0  # of the bootstrap


def add(subparsers: Any) -> None:
    verb = subparsers.add_parser(
        "evaluate", help="score a file of predictions, without a model", allow_abbrev=False,
        description="Scores predictions that are there already: JSONL or a JSON list, as `stage run evaluate`, LTU, GAMA and MMAU write them.",
    )  # fmt: skip
    verb.add_argument(
        "--predictions",
        type=os.path.expanduser,
        metavar="FILE",
        required=True,
        help="{id, prediction, reference} a line, or LTU's, GAMA's, MMAU's",
    )
    verb.add_argument(
        "--references",
        type=os.path.expanduser,
        metavar="FILE",
        help="{id, reference} a line: what is expected; a prediction that is missing failed",
    )
    verb.add_argument(
        "--task", action="append", default=[], metavar="NAME", help="of conf/tasks, or a YAML; ours name their own"
    )
    verb.add_argument(
        "--out",
        type=os.path.expanduser,
        metavar="DIR",
        help="report.json and report.md; else the table is printed alone",
    )
    verb.set_defaults(verb=evaluate)
    verb = subparsers.add_parser("metrics", help="metrics and tasks, and what each needs", allow_abbrev=False)
    verb.set_defaults(verb=metrics)


def evaluate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if overrides:
        raise UsageError(
            f"this verb takes no configuration, here {overrides[0]!r}; the LLM is asked by   stage run evaluate"
        )
    rows = read(Path(arguments.predictions), Path(arguments.references) if arguments.references else None)
    names = arguments.task or sorted({row["task"] for row in rows if row.get("task")})
    if not names:
        raise UsageError(
            f"--task: which of {', '.join(evaluation_tasks.names())}? It says how answers are read and scored"
        )
    tasks = [evaluation_tasks.task(name) for name in names]
    from stages.reports import task_table
    from stages.scoring import task_scores

    for task in tasks:
        task_scores.require(task, None)
    found = {task.name: _scored(task, rows) for task in tasks}
    text = task_table.document(Path(arguments.predictions).name, found)
    print(text)
    failed = sum(row["failed"] for row in found.values())
    if arguments.out:
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        expected = sum(row["expected"] for row in found.values())
        report = {"tasks": found, "expected": expected, "scored": expected - failed, "failed": failed}
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        (folder / "report.md").write_text(text)
    if failed:
        raise UsageError(f"{failed} items have no prediction and count as wrong")
    return 0


def _scored(task: EvaluationTask, rows: list[Row]) -> Row:
    from stages.scoring import task_scores

    own = [row for row in rows if row.get("task") == task.name]
    mine = own or rows  # a file of ours holds the answers to several tasks, and each has its own
    if task.ask == "choices" and (bare := next((row["id"] for row in mine if not row.get("choices")), None)):
        raise UsageError(f"task {task.name}: {bare} has no choices")
    labels = task.labels or []
    if labels == "corpus":
        labels = sorted({text for row in mine for text in row["references"]})
    count = sum(row["condition"] == "sound" for row in mine)
    task_scores.require(task, count)
    return task_scores.score(task, mine, len(mine), list(labels), [], task_scores.load_tools(task), SAMPLES, SEED)


def read(path: Path, references: Path | None = None) -> list[Row]:
    """Rows as stages/scoring/answer_reader.py describes them. Raises UsageError that names the file and the record."""
    records = _records(path)
    if not any(key in record for record in records for key in SAID):
        raise UsageError(
            f"{path}: no record has a prediction, what the model said: one of {', '.join(SAID)} is needed. The first has the fields "
            f"{', '.join(records[0])}; {', '.join(TOLD)} are read as what is expected"
        )
    rows = [_row(record, f"{path}, record {number}") for number, record in enumerate(records, 1)]
    if references is not None:
        given = {row["id"]: row for row in rows}
        told = [_row(record, f"{references}, record {number}") for number, record in enumerate(_records(references), 1)]
        if strangers := sorted(given.keys() - {row["id"] for row in told}):
            raise UsageError(
                f"{path}: {len(strangers)} predictions are of no reference in {references}, the first {strangers[0]!r}"
            )
        rows = [row | {"prediction": given.get(row["id"], row)["prediction"]} for row in told]
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
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}, line {error.lineno}: no JSON list ({error.msg})") from None
    else:
        found = [_record(line, f"{path}, line {n}") for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found or not all(isinstance(record, dict) for record in found):
        raise UsageError(f"{path}: a list of records is expected, and one record at least")
    return found


def _record(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where}: no JSON ({error.msg}, character {error.colno}). One object a line, or one JSON list, is expected"
        ) from None


SAID = ("prediction", "pred", "model_output", "model_prediction")
TOLD = ("references", "reference", "ref", "answer")
LTU_HEADS = ("Audio caption: ", "Label(s): ")


def _row(record: Row, where: str) -> Row:
    name = next((str(record[key]) for key in ("id", "audio_id") if record.get(key)), None)
    if name is None:
        raise UsageError(f"{where}: no id (or audio_id); it has {', '.join(record)}")
    if not any(key in record for key in (*SAID, *TOLD)):
        raise UsageError(
            f"{where}: no prediction; one of {', '.join(SAID)} is expected, and it has {', '.join(record)}"
        )
    said = next((record[key] for key in SAID if record.get(key) is not None), None)
    told = next((record[key] for key in TOLD if record.get(key) is not None), [])
    texts = [str(text) for text in (told if isinstance(told, list) else [told])]
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
        "prediction": None if said is None else str(said),
        "task": "" if mmau else record.get("task", ""),
        "clip": clip,
        **({"scores": record["scores"]} if "scores" in record else {}),
    }


def metrics(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if overrides:
        raise UsageError(f"this verb takes no configuration, here {overrides[0]!r}")
    from stages.hub import weights

    for of in ("captions", "answers", "sound"):
        print(f"of {of}")
        for metric in metric_registry.METRICS.values():
            if metric.of == of:
                least = f"; at least {metric.least} clips" if metric.least > 1 else ""
                print(f"  {metric.name:<30} {metric.what}. {metric.source}{least}")
                for reason in metric_registry.missing(
                    [metric], None, lambda name: weights.sentences_missing(name, fetch=False)
                )[:-1]:
                    print(f"  {'':<30} not here: {reason.partition(': ')[2]}")
    print("tasks (--tasks=[NAME, ...] of `stage run evaluate`; --task NAME of `stage evaluate --predictions`)")
    for name in evaluation_tasks.names():
        task = evaluation_tasks.task(name)
        print(f"  {name:<30} {task.title}; read by {task.reading}; {', '.join(task.metrics)}")
    return 0
