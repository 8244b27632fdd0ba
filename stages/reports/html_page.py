"""report.html: what `evaluate` measured, as one file to read and to listen to. No network, no framework; sound and
pictures are inside it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from callbacks import pictures
from conf.sections.evaluation import EvaluateConf
from datamodules.cuts import Cut
from models.metrics.codebook_use import CodebookUse
from stages.reports import confusion_matrix, evaluation_table, fewshot_table, generation_table, real_time_factor
from stages.reports.answer_examples import (
    AnswerExample,
    Judge,
    choose,
    cuts_by_question,
    exact,
    in_turn_of_kind,
    question_id,
    with_audio,
)
from stages.reports.embedded_audio import Drawing, EmbeddedAudio, WrittenSound, drawing, embed
from stages.reports.formatting import number, percent
from stages.reports.paper_numbers import beside
from stages.reports.reconstruction_table import SIGNAL, codes_per_second
from stages.reports.run_curves import RunCurves
from stages.reports.score_bars import bars, latent_error_bars, name_of, task_section

Attend = Callable[[Mapping[str, Any]], Drawing | None]

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
    attend: Attend | None = None,
    curves: Sequence[RunCurves] = (),
) -> None:
    """report.html in `folder`. cuts: of the test split; tokenizer: its run; conf: of the stage; judge: of the examples;
    written: what the LLM made of a cut's caption, by its id; attend: draws the attention of a row's answer. Logs what
    could not be made audible.
    """
    settings, asked = conf.examples, cuts_by_question(cuts)
    chosen = choose(predictions, settings.answers, judge)
    recordings = [cut for row in chosen if (cut := asked.get(question_id(row))) is not None]
    use = CodebookUse(report["facts"]["codebook_size"], report["facts"]["levels"])
    for cut in cuts:
        codes = torch.as_tensor(np.asarray(cut.custom["codes"], np.int64))
        use.update(codes, torch.ones_like(codes, dtype=torch.bool))
    audio = embed(
        tokenizer, conf.data, cuts, recordings, settings.clips, settings.seconds, int(1e6 * settings.megabytes),
        written, settings.written, use.counts,
    )  # fmt: skip
    drawn = {row["id"]: attend(row) for row in in_turn_of_kind(chosen)[: settings.clips]} if attend else {}
    attention = {name: one for name, one in drawn.items() if one is not None}
    for reason in audio.missing:
        logging.getLogger(__name__).warning("report.html: %s", reason)
    examples = with_audio(chosen, asked, audio, judge, attention)
    codebook = drawing("use of the codebook", pictures.codebook_use(use.counts)) if cuts else None
    text = render(report, predictions, conf.data.corpora, examples, audio, codebook, curves)
    (folder / "report.html").write_text(text, encoding="utf-8")


def render(
    report: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    corpora: Sequence[str],
    examples: Mapping[str, list[AnswerExample]],
    audio: EmbeddedAudio,
    codebook: Drawing | None = None,
    curves: Sequence[RunCurves] = (),
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
        codebook=codebook,
        curves=[(one, drawing(one.stage, one.picture)) for one in curves],
    )
