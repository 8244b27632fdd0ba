"""The table of stage `generation`, as JSON and Markdown: scores of the sounds that the LLM wrote
(stages/scoring/generation_scores.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

from datamodules.generation import CAPTION, NOTHING, TEST, TOKENIZER, TRAIN
from stages.reports.formatting import ABSENT, markdown_table, percent, percent_interval
from stages.reports.formatting import number as format_number
from stages.scoring.generation_scores import MIN_CLIPS, RECORDED

NAMES = {
    TRAIN: "real recordings of the training split",
    TOKENIZER: "the test recordings through the tokenizer",
    CAPTION: "the LLM, with the caption",
    NOTHING: "the LLM, without a caption",
    TEST: "real recordings of the test split",
    RECORDED: "the same, by a probe trained on real recordings",
    "real": "the real codes",
    "frequent": "always the most frequent kind",
    "chance": "chance",
}


def markdown(report: Mapping[str, Any]) -> str:
    return "\n".join([f"# {report['experiment']}: sound from captions", "", *body(report)])


def body(report: Mapping[str, Any]) -> list[str]:
    """The lines of Markdown below the heading."""
    columns = kind_columns(report)
    kinds = [[row["kind"], *(cell(row) for cell in columns.values())] for row in report["kinds"]]
    failed = report["expected"] - report["scored"]
    return [
        " ".join(about(report)),
        "",
        *_distances(report),
        *_accuracy(report["accuracy"], "codes"),
        *_accuracy(report.get("accuracy_of_sound"), "sounds"),
        *_diversity(report["diversity"]),
        *markdown_table(["kind", *columns], kinds),
        "",
        f"{report['expected']} sounds expected, {report['scored']} scored, {failed} failed.",
        "",
    ]


def about(report: Mapping[str, Any]) -> list[str]:
    """What was done, and how far the numbers may be believed: sentences."""
    settings = report["settings"]
    sentences = [
        f"{report['llm']} writes codes for {report['captions']} captions of the test split of {', '.join(report['corpora'])}, {settings['seeds']} of each, at "
        f"temperature {settings['temperature']:g}, top_p {settings['top_p']:g}, guidance {settings['guidance']:g}"
        f"{_chosen(settings)}; at most {report['codes_max']} codes a sound, real ones too."
    ]
    if report["sounds"]:
        sentences.append(
            f"Distances to {report['recordings']['test']} real test recordings. KAD: kernel audio distance, 0 for equal distributions, with the standard "
            f"error over random halves of the clips. FAD: Frechet audio distance, for more than {report['dimensions']} clips a side; it falls with their "
            "number. Both belong to their embedder. Several sounds of a clip: the mean over seeds."
        )
    if report["accuracy"]:
        accuracy = report["accuracy"]
        sentences.append(
            f"Kind read: by a logistic regression on log(1 + count) of the codes of {accuracy['learnt']} training recordings with one label "
            f"({accuracy['kinds']} kinds), of test recordings with one label; 95 % interval by clip."
        )
    if accuracy := report.get("accuracy_of_sound"):
        sentences.append(
            f"Of sounds: by a logistic regression on the embeddings of {accuracy['learnt']} training recordings with one label, through the tokenizer."
        )
    if report["diversity"]:
        sentences.append(
            "Diversity: mean cosine distance of embedded sounds. Over seeds, the tokenizer's is what its decoder's noise alone does to the same codes."
        )
    return [*sentences, f"By kind, a distance needs {MIN_CLIPS} clips a side."]


def _chosen(settings: Mapping[str, Any]) -> str:
    """Reports of earlier versions name neither."""
    limit, count = settings.get("top_k"), settings.get("best_of", 1)
    text = f", top_k {limit}" if limit else ""
    return text + (f", the best of {count} by the LLM's probability of the caption" if count > 1 else "")


def number(value: float | None, digits: int = 2) -> str:
    """A dash where there is no such number."""
    return format_number(value, digits, ABSENT)


def kind_columns(report: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Heading -> the cell of a row of `kinds` under it; columns that are empty throughout are left out."""

    def score(key: str, name: str, factor: float, digits: int) -> Callable[[Mapping[str, Any]], str]:
        return lambda row: number(factor * row[key][name] if row[key].get(name) is not None else None, digits)

    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "captions": lambda row: str(row["captions"]),
        "kind read, %": score("accuracy", CAPTION, 100, 1),
        "without a caption": score("accuracy", NOTHING, 100, 1),
        "real codes": score("accuracy", "real", 100, 1),
        "recordings": lambda row: number(row["recordings"], 0),
        "KAD, the LLM": score("kad", CAPTION, 1, 1),
        "without a caption's": score("kad", NOTHING, 1, 1),
        "the tokenizer's": score("kad", TOKENIZER, 1, 1),
        "training recordings'": score("kad", TRAIN, 1, 1),
        "over seeds": lambda row: number(row["seeds"], 4),
    }
    return {name: cell for name, cell in columns.items() if any(cell(row) != ABSENT for row in report["kinds"])}


def _distances(report: Mapping[str, Any]) -> list[str]:
    if not report["sounds"]:
        return []
    kad, fad = (f"{name}[{report['embedder']}]" for name in ("KAD", "FAD"))
    rows = [
        [
            NAMES[row["sounds"]],
            row["count"],
            row["repeats"],
            f"{number(row['kad'])} ± {number(row['kad_error'])}",
            number(row["fad"]),
        ]
        for row in report["sounds"]
    ]
    return [*markdown_table(["sounds", "clips", "of each", f"{kad} x 100", fad], rows), ""]


def _accuracy(accuracy: Mapping[str, Any] | None, of: str) -> list[str]:
    if not accuracy:
        return []
    rows = [[NAMES[row["codes"]], row["count"], percent_interval(row)] for row in accuracy["rows"]]
    rows.append([NAMES["chance"], "", percent(accuracy["chance"])])
    return [*markdown_table([of, "n", "kind read, %"], rows), ""]


def _diversity(diversity: list[dict[str, Any]]) -> list[str]:
    if not diversity:
        return []
    rows = [
        [
            NAMES[row["sounds"]],
            *(number(row[key]["value"] if row[key] else None, 4) for key in ("seeds", "kind", "all")),
        ]
        for row in diversity
    ]
    return [*markdown_table(["cosine distance", "of one clip, over seeds", "of one kind", "of all"], rows), ""]
