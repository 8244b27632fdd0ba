"""Stage `evaluate`: asks the trained model, reads its answers, prints the table.

Three steps. Generate: answers are appended to `predictions-<rank>.jsonl` as they come, so that a killed evaluation goes on. Read and score are done
anew from that file, and `stage evaluate --predictions FILE` does them alone.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from conf import compose, evaluation_tasks
from conf.errors import UsageError
from conf.sections.evaluation import EvaluateConf, language_stage
from conf.sections.tasks import EvaluationTask
from datamodules.evaluation_items import (
    EvaluationDataModule,
    EvaluationItem,
    caption_items,
    label_names,
    question_items,
    question_texts,
    task_items,
)
from datamodules.generation import caption_of, label_of
from datamodules.store import chunks
from models.language.generation import audio_contrast, pad_left
from models.language.likelihood import answer_scores
from models.language.vocabulary import Turn
from stages.base import Exported, Parents, Row, RowStage, write_rows
from stages.hub import language_model, trained_model
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_to_sound import text_to_sound
from stages.reports import answer_examples, attention_drawing, evaluation_table, html_page, run_curves, task_table
from stages.reports.embedded_audio import Drawing, WrittenSound, in_turn
from stages.reports.formatting import write_report
from stages.runs.contamination import refuse_contamination
from stages.scoring import task_scores
from stages.scoring.abstention import abstention
from stages.scoring.answer_reader import AnswerReader
from stages.scoring.best_guess import BestGuess
from stages.scoring.captions.caption_scores import Tools
from stages.scoring.captions.torchmetrics_scores import torchmetrics_scores
from stages.scoring.localisation import localisation
from stages.scoring.question_accuracy import question_accuracy
from stages.scoring.span_guess import SpanGuess

log = logging.getLogger(__name__)


class Evaluate(RowStage[str]):
    conf: EvaluateConf
    unit = "answers"

    def __init__(self, stage: str, conf: EvaluateConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.tasks = {task.name: task for task in map(evaluation_tasks.task, conf.tasks or [])}
        for task in self.tasks.values():
            task_scores.require(task, None)  # before anything is loaded or asked
        model = parents[language_stage(conf.after)]
        self.language, self.vocabulary = language_model.load(model.artifact, trained=conf.after != "none")
        cuts = chunks.read(parents["cache"].folder / "chunks")
        self.train_cuts = cuts.of_split("train")
        self.test_cuts = cuts.of_split("test")
        if not self.test_cuts:
            raise UsageError(
                f"evaluate: no recording of {', '.join(conf.data.corpora)} is in the split 'test'. Prepare the corpus with a column `split`, "
                "or with --split_by=COLUMN --test=VALUE"
            )
        refuse_contamination(stage, conf, parents, self.test_cuts)
        trained = model.conf
        kinds = trained.kinds if conf.kinds is None else conf.kinds
        prompt = trained.prompts.sound_to_text[0]
        counts = (conf.questions_per_kind, conf.captions)
        self.labels: dict[str, list[str]] = {}
        self.items: list[EvaluationItem] = []
        if not self.tasks:
            self.items = question_items(self.test_cuts, counts[0], kinds)
            self.items += caption_items(self.test_cuts, counts[1], prompt)
        for name, task in self.tasks.items():
            given = task.labels if task.ask == "labels" else []
            self.labels[name] = label_names(cuts, task.corpora) if given == "corpus" else list(given)
            count = counts[task.ask == "captions"]
            items = task_items(task, self.test_cuts, count, kinds, prompt, self.labels[name])
            task_scores.require(task, sum(item.condition == "sound" for item in items))
            _check_answers(task, items, self.labels[name])
            self.items += items
        self.expected = [item.id for item in self.items]
        config = self.language.lm.config.get_text_config()
        self.max_tokens = getattr(config, "max_position_embeddings", None) or 1 << 30

    def datamodule(self) -> EvaluationDataModule:
        return EvaluationDataModule(self.items, set(self.rows()), self.conf.batch_size)

    def on_predict_start(self) -> None:
        if self.trainer.precision == "bf16-mixed":
            self.language.cast_frozen_linears_to_bf16()
        with self.trainer.precision_plugin.forward_context():
            language_model.merge_for_generation(self.language.lm, self.vocabulary)
        super().on_predict_start()

    def predict_rows(self, batch: list[list[EvaluationItem]]) -> Iterator[Row]:
        """batch: prompts, each the items that ask the same."""
        scored = [items for items in batch if items[0].by_likelihood]
        generated = [items for items in batch if not items[0].by_likelihood]
        answers = [self._most_probable_label(items[0]) for items in scored]
        answers += self._generate([_turns(items[0]) for items in generated])
        for items, answer in zip(scored + generated, answers, strict=True):
            for item in items:
                row = item._asdict() | answer
                del row["turns"], row["by_likelihood"]
                yield row

    def _generate(self, conversations: list[list[Turn]]) -> list[Row]:
        """The answers; one that does not fit in the LLM's positions has failed."""
        prompts = [self.vocabulary.render(turns, generate=True).input_ids for turns in conversations]
        fitting = [number for number, prompt in enumerate(prompts) if self._fits(prompt)]
        answers: Iterator[list[int]] = iter(())
        if fitting:
            asked = [conversations[number] for number in fitting]
            guidance = audio_contrast(self.vocabulary, asked, self.conf.audio_contrast)
            padded = pad_left([prompts[number] for number in fitting], self.vocabulary.pad_id)
            ids, mask = (part.to(self.device) for part in padded)
            answers = iter(self.language.generate(ids, mask, self.conf.max_new_tokens, allow="text", guidance=guidance))
        rows: list[Row] = []
        for prompt in prompts:
            if self._fits(prompt):
                rows.append({"prediction": self.vocabulary.decode(next(answers))})
            else:
                reason = f"a prompt of {len(prompt)} tokens and an answer; the LLM takes {self.max_tokens}"
                rows.append({"prediction": None, "failed": reason})
        return rows

    def _fits(self, prompt: list[int]) -> bool:
        return len(prompt) + self.conf.max_new_tokens <= self.max_tokens

    def _most_probable_label(self, item: EvaluationItem) -> Row:
        """With the log-probability of each."""
        names = list(item.choices) or self.labels[item.task]
        scores = answer_scores(self.language.lm, self.vocabulary, _turns(item), names, self.conf.audio_contrast)
        return {"prediction": names[scores.index(max(scores))], "scores": [round(score, 4) for score in scores]}

    def export(self, artifact: Path) -> Exported:
        facts = self.parents["tokenizer"].facts
        predictions = list(self.rows().values())
        failed = sum(row["prediction"] is None for row in predictions) + len(self.items) - len(predictions)
        default = [row for row in predictions if not row.get("task")]
        rows = [
            row | {"answer": row["references"][0], "prediction": row["prediction"] or ""}
            for row in default
            if row["kind"] != "caption"
        ]
        guess = BestGuess(question_texts(self.train_cuts))
        captioned = [row for row in default if row["kind"] == "caption"]
        report: dict[str, Any] = {
            "experiment": self.conf.experiment,
            "facts": facts,
            "audio_contrast": self.conf.audio_contrast,
            "reconstruction": self._reconstruction(),
            "questions": question_accuracy(rows, guess, self.conf.bootstrap_samples, self.conf.seed),
            "captions": {"count": len(captioned) // 3}
            | {
                condition: _score([row for row in captioned if row["condition"] == condition])
                for condition in ("sound", "other", "text")
            },
            "tasks": {name: self._task(task, predictions) for name, task in self.tasks.items()},
            "expected": len(self.items),
            "scored": len(self.items) - failed,
            "failed": failed,
        }
        for stage, key in (("fewshot", "few_shot"), ("generation", "generation")):
            if stage in self.parents:
                report[key] = self._report_of(stage)
        if shares := abstention(rows, self.conf.bootstrap_samples, self.conf.seed):
            report["abstention"] = shares
        if times := self._localisation(rows):
            report["localisation"] = times
        if gap := self._caption_gap():
            report["caption_gap"] = gap
        text = evaluation_table.markdown(report)
        if self.tasks:
            table = task_table.document(f"{self.conf.experiment}: tasks", report["tasks"])
            decoding = filter(None, [evaluation_table.decoding(report)])
            text = "\n".join([table, *decoding, *evaluation_table.other_stages(report)])
        write_report(artifact, report, text)
        write_rows(artifact / "predictions.jsonl", predictions)
        tokenizer = self.parents["decoder_finetuning" if "decoder_finetuning" in self.parents else "tokenizer"].folder
        html_page.write(
            artifact, report, predictions, self.test_cuts, tokenizer, self.conf, self._judge(), self._written(),
            self._attention, run_curves.of_parents(self.parents),
        )  # fmt: skip
        print(text)
        print(f"to read and to hear: {self.folder / 'artifact' / 'report.html'}")
        elsewhere = "" if self.conf.runs == "runs" else f" --runs {self.conf.runs}"
        print(f"to try it: stage serve{elsewhere} --experiment {self.conf.experiment}")
        kept = (
            "audio_contrast",
            "questions",
            *(["localisation"] if times else []),
            "reconstruction",
            "captions",
            "tasks",
            "failed",
        )
        return Exported(facts, {key: report[key] for key in kept})

    def _task(self, task: EvaluationTask, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        name, cuts = task.name, self.train_cuts
        train = list(question_texts(cuts))
        if task.ask == "labels":
            of_task = [cut for cut in cuts if task.corpora is None or cut.custom["corpus"] in task.corpora]
            train = [("label", "", label) for cut in of_task for label in cut.custom.get("labels") or []]
        rows = [row for row in predictions if row.get("task") == name]
        expected = sum(item.task == name for item in self.items)
        samples, seed = self.conf.bootstrap_samples, self.conf.seed
        return task_scores.score(
            task, rows, expected, self.labels[name], train, task_scores.load_tools(task), samples, seed
        )

    def _localisation(self, rows: list[Row]) -> dict[str, Any]:
        """With the sound, without it, and guessed from the text; {} where no answer says from when to when."""
        by_condition = {name: [row for row in rows if row["condition"] == name] for name in ("sound", "text")}
        guess = SpanGuess(question_texts(self.train_cuts))
        guessed = [row | {"prediction": guess(row["kind"], row["question"])} for row in by_condition["sound"]]
        samples, seed = self.conf.bootstrap_samples, self.conf.seed
        each = {name: localisation(part, samples, seed) for name, part in (by_condition | {"guess": guessed}).items()}
        return {name: scores for name, scores in each.items() if scores}

    def _judge(self) -> answer_examples.Judge:
        """Whether a row is right by its task's own rule; None where the task has none."""
        readers = {
            name: AnswerReader(task, self.labels[name], task_scores.load_tools(task))
            for name, task in self.tasks.items()
            if "accuracy" in task.metrics
        }
        return lambda row: (
            readers[row["task"]].is_right(dict(row)) if row.get("task") in readers else answer_examples.exact(row)
        )

    def _attention(self, row: Mapping[str, Any]) -> Drawing | None:
        """Of a row's answer over its clip."""
        turns = next(_turns(item) for item in self.items if item.id == row["id"])
        lm, rate = self.language.to(self.trainer.strategy.root_device).lm, self.parents["tokenizer"].facts["token_rate"]
        with self.trainer.precision_plugin.forward_context():
            return attention_drawing.draw(lm, self.vocabulary, turns, row["prediction"] or "", rate)

    def _reconstruction(self) -> dict[str, Any]:
        """The report of the stage `reconstruct`, with how fast it was; {} where it was not run."""
        if "reconstruct" not in self.parents:
            return {}
        speed = self.parents["reconstruct"].receipt["metrics"].get("speed")
        return self._report_of("reconstruct") | {"speed": speed}

    def _report_of(self, stage: str) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.parents[stage].artifact / "report.json").read_text())
        return report

    def _caption_gap(self) -> dict[str, float | None] | None:
        """Of the LLM that writes, at the last validation of its training; None where that measured none."""
        writer = self._writer()
        if writer == "none":
            return None
        metrics = self.parents[writer].receipt["metrics"]
        gap = metrics.get("val/caption_gap")
        return None if gap is None else {"nats": gap, "ceiling": metrics.get("val/caption_gap_ceiling")}

    def _written(self) -> dict[str, list[WrittenSound]]:
        """What `generation` made of captions, by id of the cut; a few sounds of its own where it was not run."""
        if "generation" not in self.parents:
            return self._write_sounds() if self.conf.examples.clips else {}
        written: dict[str, list[WrittenSound]] = {}
        for line in (self.parents["generation"].artifact / "predictions.jsonl").open():
            row = json.loads(line)
            if row["condition"] == "caption":
                made = WrittenSound(row["caption"], row["number"], row["seed"], row["codes"])
                written.setdefault(row["cut"], []).append(made)
        return written

    def _write_sounds(self) -> dict[str, list[WrittenSound]]:
        """As `stage generate` does it, from captions of one event where the recordings' labels tell them."""
        examples = self.conf.examples
        captioned = [cut for cut in self.test_cuts if caption_of(cut)]
        cuts = in_turn([cut for cut in captioned if label_of(cut)] or captioned, examples.written)
        if not cuts:
            return {}
        tokenizer = SoundTokenizer.from_runs(self.parents["tokenizer"].folder, None)
        most = min(tokenizer.num_codes(examples.seconds), max(len(cut.custom["codes"]) for cut in cuts))
        model, captions = self._writing_model(), [caption_of(cut) or "" for cut in cuts]
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            seeds, seconds = [self.conf.seed] * len(cuts), [min(cut.duration, examples.seconds) for cut in cuts]
            codes = text_to_sound(model, captions, most, seeds, compose("generate").conf, seconds=seconds)
        return {
            cut.id: [WrittenSound(caption, 0, self.conf.seed, one)]
            for cut, caption, one in zip(cuts, captions, codes, strict=True)
        }

    def _writer(self) -> str:
        return self.conf.examples.after or self.conf.after

    def _writing_model(self) -> trained_model.TrainedModel:
        device = self.trainer.strategy.root_device  # which Lightning has taken the module from
        if self._writer() != self.conf.after:
            return trained_model.load(self.parents[self._writer()].folder, device)
        lm, prompts = self.language.to(device).lm, self.parents[language_stage(self.conf.after)].conf.prompts
        return trained_model.TrainedModel(lm, self.vocabulary, prompts, trained_model.context(lm))


def _check_answers(task: EvaluationTask, items: list[EvaluationItem], labels: list[str]) -> None:
    """Raises UsageError, before anything is asked, where an answer could not be read: two labels that are one, or an
    answer that is none of a task's labels.
    """
    if task.ask != "labels":
        return
    reader = AnswerReader(task, labels, Tools())
    if "mean_average_precision" not in task.metrics:
        for item in items:
            reader.reference(item._asdict())
    if reader.exact:
        log.info("task %s: signs and a leading article are read too, for without them two labels are one", task.name)


def _score(rows: list[dict[str, Any]]) -> dict[str, float]:
    return torchmetrics_scores([row["prediction"] or "" for row in rows], [row["references"] for row in rows])


def _turns(item: EvaluationItem) -> list[Turn]:
    return [Turn("user" if role == "user" else "assistant", segments) for role, segments in item.turns]
