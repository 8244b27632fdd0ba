"""`stage evaluate --predictions FILE` scores answers that anybody's model gave; `stage metrics` says what each metric needs. No model is loaded.

The formats are those of stages/scoring/prediction_files.py.
"""

import argparse
import logging
import os
from pathlib import Path

from conf import evaluation_tasks
from conf.errors import UsageError
from conf.sections.tasks import EvaluationTask
from stages.cli.arguments import Subparsers, refuse
from stages.scoring.answer_rows import Row
from stages.scoring.prediction_files import OPEN, read_predictions
from stages.scoring.prediction_writers import LAYOUTS, write_predictions

log = logging.getLogger(__name__)
SAMPLES, SEED = 1000, 0  # of the bootstrap


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser(
        "evaluate", help="score a file of predictions, without a model",
        description="Scores predictions that were made before: JSONL or a JSON list, as `stage run evaluate`, LTU, GAMA, MMAU, MMAR, MMSU, "
        "MMAU-Pro, AIR-Bench, NeMo-Skills, Kimi-Audio-Evalkit and lmms-eval write them.",
    )  # fmt: skip
    verb.add_argument(
        "--predictions",
        type=os.path.expanduser,
        metavar="FILE",
        required=True,
        help="{id, prediction, reference} a line, or another's format",
    )
    verb.add_argument(
        "--references",
        type=os.path.expanduser,
        metavar="FILE",
        help="{id, reference} a line, or a benchmark's own file: what is expected; a prediction that is missing failed",
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
    verb.add_argument(
        "--write", choices=LAYOUTS, help="the answers with the sound as this one reads them, a file a task in --out"
    )
    verb.set_defaults(verb=evaluate)
    verb = subparsers.add_parser("metrics", help="metrics and tasks, and what each needs")
    verb.set_defaults(verb=metrics)


def evaluate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    if overrides:
        raise UsageError(
            f"this verb takes no configuration, here {overrides[0]!r}; the LLM is asked by   stage run evaluate"
        )
    if arguments.write and not arguments.out:
        raise UsageError(f"--write={arguments.write}: --out says in which folder")
    rows = read_predictions(Path(arguments.predictions), Path(arguments.references) if arguments.references else None)
    names = arguments.task or sorted({row["task"] for row in rows if row.get("task")})
    if not names:
        raise UsageError(
            f"--task: which of {', '.join(evaluation_tasks.names())}? It says how answers are read and scored"
        )
    tasks = [evaluation_tasks.task(name) for name in names]
    from stages.reports import task_table
    from stages.reports.formatting import write_report
    from stages.scoring import task_scores

    for task in tasks:
        task_scores.require(task, None)
    reports = {task.name: _scored(task, rows) for task in tasks}
    text = task_table.document(Path(arguments.predictions).name, reports)
    print(text)
    failed = sum(row["failed"] for row in reports.values())
    if arguments.out:
        folder = Path(arguments.out)
        folder.mkdir(parents=True, exist_ok=True)
        expected = sum(row["expected"] for row in reports.values())
        report = {"tasks": reports, "expected": expected, "scored": expected - failed, "failed": failed}
        write_report(folder, report, text)
        for task in tasks if arguments.write else ():
            print(write_predictions(_of_task(task, rows), folder, task.name, arguments.write))
    if failed:
        raise UsageError(f"{failed} items have no prediction and count as wrong")
    return 0


def _of_task(task: EvaluationTask, rows: list[Row]) -> list[Row]:
    """A file of `stage run evaluate` has the answers to several tasks, a benchmark's may have several kinds of question.
    What a task that names kinds does not ask is not of it, nor, of one with choices, an open question.
    """
    own = [row for row in rows if row["task"] == task.name] or rows
    own = [row for row in own if row["kind"] in task.kinds] if task.kinds else own
    return [row for row in own if row["choices"] or row["kind"] != OPEN] if task.ask == "choices" else own


def _scored(task: EvaluationTask, rows: list[Row]) -> Row:
    from stages.scoring import task_scores

    answers = _of_task(task, rows)
    if not answers:
        raise UsageError(
            f"task {task.name}: it asks none of the file's questions, as {rows[0]['id']}: {rows[0]['kind']}"
        )
    if task.ask == "choices" and (bare := next((row["id"] for row in answers if not row.get("choices")), None)):
        raise UsageError(f"task {task.name}: {bare} has no choices")
    if others := len(rows) - len(answers) if not any(row["task"] for row in rows) else 0:
        log.warning("task %s: %d of the file's questions are none that it asks", task.name, others)
    labels = task.labels or []
    if labels == "corpus":
        labels = sorted({text for row in answers for text in row["references"]})
    count = sum(row["condition"] == "sound" for row in answers)
    task_scores.require(task, count)
    return task_scores.score(task, answers, len(answers), list(labels), [], task_scores.load_tools(task), SAMPLES, SEED)


def metrics(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides)
    from stages.hub import weights
    from stages.scoring import metric_registry

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
