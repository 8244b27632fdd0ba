"""report.html: what `evaluate` found, as one file to read and to listen to. No network, no framework; sound and pictures stand in it."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conf.sections.evaluation import EvaluateConf
from datamodules.hashing import choose_by_hash
from stages.reports import evaluation_table, fewshot_table, generation_table, real_time
from stages.reports import listening as report_sound
from stages.reports.listening import Listening, Track
from stages.reports.paper_numbers import beside
from stages.scoring.answers import is_right, normalise

MOST_LABELS = 60  # of a confusion matrix that a person can read
OTHER = "another answer"
DRAWN = (
    "experiment",
    "facts",
    "reconstruction",
    "questions",
    "captions",
    "tasks",
    "few_shot",
    "generation",
    "expected",
    "scored",
    "failed",
)  # what the template has a place for
NAMES = {
    "with_sound": "with the sound",
    "without_sound": "the same LLM without it",
    "other_sound": "with another clip's sound",
    "shuffled_choices": "with the sound, choices in another order",
    "best_guess": "best text-only guess",
    "above_both": "interval above the baselines",
    "latent_nmse": "latent error",
    "kad": "KAD x 100",
    "stft": "STFT",
    **evaluation_table.SIGNAL,
}


Judge = Callable[[dict[str, Any]], bool | None]


class Example(NamedTuple):
    question: str
    expected: list[str]
    said: str
    right: bool | None  # None: a caption, which is neither
    sound: Track | None


class Confusion(NamedTuple):
    labels: list[str]  # rows: what is right
    columns: list[str]  # what was answered: the labels, and `another answer` where there is one
    counts: list[list[int]]  # by row and column
    totals: list[int]  # of the rows
    worst: list[tuple[str, str, int]]  # right, said, times


class Scored(NamedTuple):
    """One metric of a task, over all its items or over a kind of them."""

    name: str
    count: int
    lanes: list[tuple[str, dict[str, Any]]]  # (condition or baseline, interval)
    is_share: bool  # from 0 to 1: drawn, in percent


def page(
    found: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    corpora: Sequence[str],
    examples: dict[str, list[Example]],
    listening: Listening,
) -> str:
    """The whole file. found: as report.json; predictions: all rows; corpora: their names, for the paper's table; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "named": named}
    return environment.get_template("report.html.jinja").render(
        found=found,
        further={key: value for key, value in found.items() if key not in DRAWN},
        lanes={kind: _lanes(row) for kind, row in found["questions"].items()},
        confusions=_confusions(found["questions"], predictions),
        tasks={name: _task(task) for name, task in found.get("tasks", {}).items()},
        errors=_errors(found["reconstruction"]),
        answerer=fewshot_table.name,
        written=generation_table,
        realtime=real_time,
        codes_per_second=evaluation_table.codes_per_second,
        scores=fewshot_table.scored(found["few_shot"]) if "few_shot" in found else {},
        columns=[
            key
            for key in ("latent_nmse", "mel", "stft", "kad", *evaluation_table.SIGNAL)
            if any(key in row for row in found["reconstruction"].get("rows", []))
        ],
        published=beside(found, corpora),
        examples=examples,
        listening=listening,
    )


def exact(row: dict[str, Any]) -> bool | None:
    """Whether an answer is the reference to the word; None for what is neither right nor wrong, or is judged by a task's own rule."""
    if row["kind"] == "caption" or row.get("task"):
        return None
    return is_right(row["prediction"] or "", row["references"][0])


def choose(predictions: Sequence[dict[str, Any]], count: int, judge: Judge = exact) -> list[dict[str, Any]]:
    """Up to `count` right and `count` wrong answers of each kind, and as many that are neither, all given with the sound; the same ones on every run."""
    heard = [row for row in predictions if row["condition"] == "sound"]
    found: list[dict[str, Any]] = []
    for kind in sorted({_kind(row) for row in heard}):
        rows = [row for row in heard if _kind(row) == kind]
        verdicts = [judge(row) for row in rows]
        for wanted in (True, False, None):
            part = [row for row, verdict in zip(rows, verdicts, strict=True) if verdict is wanted]
            found += choose_by_hash(part, count, lambda row: row["id"])
    return found


def shown(
    rows: Sequence[dict[str, Any]], cuts: dict[str, Any], listening: Listening, judge: Judge = exact
) -> dict[str, list[Example]]:
    """The chosen rows by kind, with their sound where it is there. cuts: `report_sound.cut_of`."""
    found: dict[str, list[Example]] = {}
    for row in rows:
        cut = cuts.get(_asked(row))
        track = listening.recordings.get(cut.id) if cut else None
        example = Example(row["question"], row["references"], row["prediction"] or "", judge(row), track)
        found.setdefault(_kind(row), []).append(example)
    return found


def _kind(row: dict[str, Any]) -> str:
    return f"{row['task']}: {row['kind']}" if row.get("task") else row["kind"]


def _asked(row: dict[str, Any]) -> str:
    """What of the corpus was asked: a row's id without its task and its condition."""
    return row["id"].rpartition(":")[0].removeprefix(f"{row.get('task', '')}:")


def write(
    folder: Path,
    found: dict[str, Any],
    predictions: Sequence[dict[str, Any]],
    cuts: Sequence[Any],
    tokenizer: Path,
    conf: EvaluateConf,
    judge: Judge = exact,
    written: Mapping[str, Sequence[report_sound.Written]] = MappingProxyType({}),
) -> None:
    """report.html in `folder`. cuts: of the test split; tokenizer: its run; conf: of the stage; judge: of the examples; written: what `generation`
    made of a cut's caption, by its id. Says on the terminal what could not be made heard.
    """
    chosen, owners, settings = (
        choose(predictions, conf.examples.answers, judge),
        report_sound.cut_of(cuts),
        conf.examples,
    )
    heard = [cut for row in chosen if (cut := owners.get(_asked(row))) is not None]
    listening = report_sound.listen(
        tokenizer, conf.data, cuts, heard, settings.clips, settings.seconds, int(1e6 * settings.megabytes), written
    )  # fmt: skip
    for reason in listening.missing:
        print(f"report.html: {reason}")
    text = page(found, predictions, conf.data.corpora, shown(chosen, owners, listening, judge), listening)
    (folder / "report.html").write_text(text, encoding="utf-8")


def _lanes(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Of a kind of question: what has a value, each as an interval; a plain share has none around it."""
    found = []
    for key, value in row.items():
        if isinstance(value, dict) and {"value", "low", "high"} <= set(value):
            found.append((key, value))
        elif isinstance(value, float):
            found.append((key, {"value": value, "low": value, "high": value}))
    return [(key, value) for key, value in found if not math.isnan(value["value"])]


def confusion(predictions: Sequence[dict[str, Any]], kind: str) -> Confusion | None:
    """Of the answers with the sound; None where the kind is no closed set of at most 60 answers, or has fewer than two rows an answer."""
    pairs = [
        (normalise(row["references"][0]), normalise(row["prediction"] or ""))
        for row in predictions
        if _kind(row) == kind and row["condition"] == "sound"
    ]
    labels = sorted({answer for answer, _ in pairs})
    if not 2 <= len(labels) <= min(MOST_LABELS, len(pairs) // 2):
        return None
    place = {label: index for index, label in enumerate(labels)}
    counts = [[0] * (len(labels) + 1) for _ in labels]
    for answer, said in pairs:
        counts[place[answer]][place.get(said, len(labels))] += 1
    return _matrix(labels, [*labels, OTHER], counts)


def _matrix(labels: list[str], columns: list[str], counts: list[list[int]]) -> Confusion:
    """columns: the labels, and one more, which is left out where it is empty."""
    wrong = [
        (labels[row], columns[column], times)
        for row, line in enumerate(counts)
        for column, times in enumerate(line)
        if times and column != row
    ]
    kept = len(columns) - (not any(line[-1] for line in counts))
    worst = sorted(wrong, key=lambda item: (-item[2], item))[:3]
    return Confusion(labels, columns[:kept], [line[:kept] for line in counts], [sum(line) for line in counts], worst)


def _task(task: dict[str, Any]) -> dict[str, Any]:
    """What the template shows of a task of conf/tasks."""
    groups = {"": task} | task.get("kinds", {})
    scored = [one for kind, group in groups.items() for one in _scored(kind, group)]
    heard = task["conditions"].get("with_sound", {})
    matrix = (
        _matrix(*(heard["confusion"][key] for key in ("labels", "columns", "counts"))) if "confusion" in heard else None
    )
    if matrix and len(matrix.labels) > MOST_LABELS:
        matrix = None
    notes = {key: task[key] for key in ("version", "source", "reading", "expected", "scored", "failed")}
    return {
        "title": task["title"],
        "notes": notes,
        "scored": scored,
        "coverage": heard.get("coverage"),
        "confusion": matrix,
    }


def _scored(kind: str, group: dict[str, Any]) -> list[Scored]:
    conditions, found = group["conditions"], []
    first = next(iter(conditions.values()), {})
    for metric in [key for key, value in first.items() if isinstance(value, dict) and "value" in value]:
        lanes = [(name, part[metric]) for name, part in conditions.items() if metric in part]
        if metric == "accuracy":
            lanes += _lanes(group["baselines"])
        name = f"{kind}: {named(metric)}" if kind else named(metric)
        share = metric in ("accuracy", "macro_f1", "mean_average_precision")
        found.append(
            Scored(name, first[metric]["count"], [lane for lane in lanes if not math.isnan(lane[1]["value"])], share)
        )
    return found


def _confusions(kinds: Iterable[str], predictions: Sequence[dict[str, Any]]) -> dict[str, Confusion]:
    """Of the closed kinds, the small ones first."""
    found = {kind: matrix for kind in kinds if (matrix := confusion(predictions, kind))}
    return dict(sorted(found.items(), key=lambda item: len(item[1].labels)))


def _errors(found: dict[str, Any]) -> list[tuple[str, float]]:
    """Latent error of each decoder over all windows, for the bars."""
    rows: dict[str, float] = {}
    for row in found.get("rows", []):
        steps = f", {row['steps']} evaluation{'s' if row['steps'] > 1 else ''}" if row["steps"] else ""
        name = row["decoder"] + steps + ("" if row["condition"] == "sample" else f", {row['condition']}")
        rows[name] = rows.get(name, 0.0) + row["latent_nmse"] * found["clips"][row["group"]] / sum(
            found["clips"].values()
        )
    return list(rows.items())


def named(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))


def number(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.3f}"


def percent(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{100 * value:.1f}"
