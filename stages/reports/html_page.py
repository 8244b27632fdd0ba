"""report.html: what `evaluate` measured, as one file to read and to listen to. No network, no framework; sound and
pictures are inside it.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conf.sections.evaluation import EvaluateConf
from datamodules.cuts import Cut
from stages.reports import confusion_matrix, evaluation_table, fewshot_table, generation_table, real_time_factor
from stages.reports.answer_examples import (
    AnswerExample,
    Judge,
    choose,
    cuts_by_question,
    exact,
    question_id,
    with_audio,
)
from stages.reports.embedded_audio import EmbeddedAudio, WrittenSound, embed
from stages.reports.formatting import number, percent
from stages.reports.paper_numbers import beside
from stages.reports.reconstruction_table import SIGNAL, codes_per_second
from stages.reports.score_bars import bars, latent_error_bars, name_of, task_section

# what the template has a section for; the rest of a report is drawn as plain tables
DRAWN = (
    "experiment", "facts", "reconstruction", "questions", "captions", "tasks", "few_shot", "generation", "caption_gap", "audio_contrast",
    "expected", "scored", "failed",
)  # fmt: skip


def write(
    folder: Path,
    report: Mapping[str, Any],
    predictions: Sequence[dict[str, Any]],
    cuts: Sequence[Cut],
    tokenizer: Path,
    conf: EvaluateConf,
    judge: Judge = exact,
    written: Mapping[str, Sequence[WrittenSound]] = MappingProxyType({}),
) -> None:
    """report.html in `folder`. cuts: of the test split; tokenizer: its run; conf: of the stage; judge: of the examples;
    written: what the LLM made of a cut's caption, by its id. Logs what could not be made audible.
    """
    settings, asked = conf.examples, cuts_by_question(cuts)
    chosen = choose(predictions, settings.answers, judge)
    recordings = [cut for row in chosen if (cut := asked.get(question_id(row))) is not None]
    audio = embed(
        tokenizer, conf.data, cuts, recordings, settings.clips, settings.seconds, int(1e6 * settings.megabytes),
        written, settings.written,
    )  # fmt: skip
    for reason in audio.missing:
        logging.getLogger(__name__).warning("report.html: %s", reason)
    text = render(report, predictions, conf.data.corpora, with_audio(chosen, asked, audio, judge), audio)
    (folder / "report.html").write_text(text, encoding="utf-8")


def render(
    report: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    corpora: Sequence[str],
    examples: Mapping[str, list[AnswerExample]],
    audio: EmbeddedAudio,
) -> str:
    """The whole file. report: as report.json; predictions: all rows; corpora: their names, for the paper's table; every
    text is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "name_of": name_of}
    columns = ("latent_nmse", "mel", "stft", "kad", *SIGNAL)
    measured = report["reconstruction"].get("rows", [])
    return environment.get_template("html_page.jinja").render(
        report=report,
        further={key: value for key, value in report.items() if key not in DRAWN},
        questions={kind: bars(row) for kind, row in report["questions"].items()},
        confusions=confusion_matrix.from_predictions(predictions, report["questions"]),
        tasks={name: task_section(task) for name, task in report.get("tasks", {}).items()},
        errors=latent_error_bars(report["reconstruction"]),
        fewshot_names=fewshot_table.NAMES,
        fewshot_scores=fewshot_table.scores_in(report["few_shot"]) if "few_shot" in report else {},
        generation_table=generation_table,
        real_time_factor=real_time_factor,
        codes_per_second=codes_per_second,
        columns=[key for key in columns if any(key in row for row in measured)],
        caption_gap=evaluation_table.caption_gap(report),
        decoding=evaluation_table.decoding(report),
        published=beside(report, corpora),
        examples=examples,
        audio=audio,
    )
