"""The table of stage `evaluate`: what every stage measured, as JSON and Markdown."""

from collections.abc import Mapping
from typing import Any

from stages.reports import fewshot_table, generation_table, reconstruction_table
from stages.reports.formatting import markdown_table, number, percent, percent_interval


def markdown(report: Mapping[str, Any]) -> str:
    facts = report["facts"]
    lines = [
        f"# {report['experiment']}: held-out scores",
        "",
        f"{facts['token_rate']:.2f} tokens a second, {_codes(facts)}, {facts['bitrate'] / 1000:.3f} kbps nominal.",
        *(["", text] if (text := decoding(report)) else []),
        "",
        *(reconstruction_table.summary(report["reconstruction"]) if report["reconstruction"] else []),
        "## Questions",
        "",
        "Accuracy by exact match, in percent, with the 95 % interval by clip. Best guess: the best way, on training questions, to "
        "answer from the text alone.",
        "",
        *_questions(report["questions"]),
        *(["", text] if (text := abstention_text(report)) else []),
        *localisation(report),
        "",
        f"## Captions, {report['captions']['count']} clips",
        "",
        *_captions(report["captions"]),
        *(["", gap] if (gap := caption_gap(report)) else []),
        *other_stages(report),
        "",
        f"{report['expected']} items expected, {report['scored']} scored, {report['expected'] - report['scored']} failed.",
        "",
    ]
    return "\n".join(lines)


def decoding(report: Mapping[str, Any]) -> str:
    """A sentence; empty where the LLM's own probabilities decided."""
    a = report.get("audio_contrast")
    formula = f"{1 + a:g} log p(answer | sound) - {a:g} log p(answer | no sound)" if a else ""
    return f"Answers by audio-aware decoding, audio_contrast={a:g}: {formula}." if a else ""


def abstention_text(report: Mapping[str, Any]) -> str:
    """A sentence; empty where every question has an answer."""
    shares = report.get("abstention")
    if not shares:
        return ""
    answered, accuracy, abstained = (percent_interval(shares[key]) for key in ("answered", "accuracy", "abstained"))
    return (
        f"Of the questions that the sound answers it answers {answered} %; its answers to all questions are right in {accuracy} %. "
        f"Of {shares['abstained']['count']} that the sound does not answer it says so in {abstained} %."
    )


def localisation(report: Mapping[str, Any]) -> list[str]:
    """Markdown; [] where no answer says from when to when."""
    scores = report.get("localisation")
    if not scores:
        return []
    lines = [
        "", "## From when to when", "",
        "In percent, with the 95 % interval by clip. Event F1: begun within 0.2 s, ended within 0.2 s or half the event's length. "
        "Segment F1: seconds in which it sounds. IoU: of what is there. Located: of what is there, what gets two times. "
        "Denied: of what is not there, what is said not to be heard. Best guess: the answer in training to the same words that "
        "overlaps most with the others.", "",
    ]  # fmt: skip
    rows = [
        [
            name.replace("_", " "),
            value["count"],
            *(percent_interval(scores[key][name]) for key in ("sound", "text", "guess")),
        ]
        for name, value in scores["sound"].items()
    ]
    return [*lines, *markdown_table(["", "n", "with the sound", "the same LLM without it", "best guess"], rows)]


def other_stages(report: Mapping[str, Any]) -> list[str]:
    """Markdown of what `fewshot` and `generation` measured, where they were run."""
    lines: list[str] = []
    if "few_shot" in report:
        lines += ["", f"## Few-shot, {report['few_shot']['ways']} ways", "", *fewshot_table.body(report["few_shot"])]
    if "generation" in report:
        lines += ["", "## Sound from captions", "", *generation_table.body(report["generation"])]
    return lines


def caption_gap(report: Mapping[str, Any]) -> str:
    """A sentence; empty where training measured none."""
    gap = report.get("caption_gap")
    if not gap:
        return ""
    ceiling = "" if gap["ceiling"] is None else f" Which kind of sound it is, is worth {number(gap['ceiling'], 2)}."
    return (
        f"Caption gap: {number(gap['nats'], 2)} nats a clip, by which the codes of validation clips are less probable under "
        f"another clip's caption than under their own; 0 where the LLM does not heed captions.{ceiling}"
    )


def _questions(questions: Mapping[str, Any]) -> list[str]:
    headings = [
        "kind", "n", "with the sound", "the same LLM without it", "best guess", "chance", "interval above both",
    ]  # fmt: skip
    rows = [
        [
            kind,
            row["with_sound"]["count"],
            percent_interval(row["with_sound"]),
            percent_interval(row["without_sound"]),
            percent(row["best_guess"]["value"]),
            percent(row["chance"]),
            "yes" if row["above_both"] else "no",
        ]
        for kind, row in questions.items()
    ]
    return markdown_table(headings, rows)


def _captions(captions: Mapping[str, Any]) -> list[str]:
    conditions = ("sound", "other", "text")
    rows = [[name, *(number(captions[condition][name]) for condition in conditions)] for name in captions["sound"]]
    return markdown_table(["", "with the sound", "another clip's sound", "without"], rows)


def _codes(facts: Mapping[str, Any]) -> str:
    levels = facts["num_codebooks"]
    return f"{facts['codebook_size']} codes" + (f" on each of {levels} levels" if levels > 1 else "")
