"""Stage `evaluate`: asks the trained model, reads its answers, prints the table.

Three steps. Generate: answers are appended to `predictions-<rank>.jsonl` as they come, so that a killed evaluation goes on. Read and score are done
anew from that file, and `stage evaluate --predictions FILE` does them alone.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from callbacks.progress import ProgressLine
from conf import evaluation_tasks
from conf.errors import UsageError
from conf.sections.evaluation import EvaluateConf
from conf.sections.tasks import EvaluationTask
from datamodules.evaluation import (
    EvaluationDataModule,
    EvaluationItem,
    caption_items,
    label_names,
    question_items,
    question_texts,
    task_items,
)
from datamodules.store import chunks
from models.language.generation import pad_left
from models.language.likelihood import answer_scores
from models.language.vocabulary import Turn
from stages.hub import language_model
from stages.reports import answer_examples, evaluation_table, html_page, task_table
from stages.reports.embedded_audio import WrittenSound
from stages.runs import row_files
from stages.runs.receipts import FinishedRun
from stages.scoring import task_scores
from stages.scoring.answer_reader import AnswerReader
from stages.scoring.best_guess import BestGuess
from stages.scoring.captions.torchmetrics_scores import torchmetrics_scores
from stages.scoring.question_accuracy import question_accuracy


class Evaluate(L.LightningModule):
    trains = False
    watch = ()

    def __init__(self, stage: str, conf: EvaluateConf, parents: dict[str, FinishedRun], folder: Path) -> None:
        super().__init__()
        self.conf, self.parents, self.folder = conf, parents, folder
        self.tasks = {task.name: task for task in map(evaluation_tasks.task, conf.tasks or [])}
        for task in self.tasks.values():
            task_scores.require(task, None)  # before anything is loaded or asked
        model = parents["openaqa" if conf.after == "openaqa" else "caption"]
        self.language, self.vocabulary = language_model.load(model.artifact, trained=conf.after != "none")
        cuts = chunks.read(parents["cache"].folder / "chunks")
        self.train_cuts = cuts.of_split("train")
        self.test_cuts = cuts.of_split("test")
        if not self.test_cuts:
            raise UsageError(
                f"evaluate: no recording of {', '.join(conf.data.corpora)} is in the split 'test'. Prepare the corpus with a column `split`, "
                "or with --split_by=COLUMN --test=VALUE"
            )
        trained = model.conf
        kinds = trained.kinds if conf.kinds is None else conf.kinds
        prompt = trained.prompts.sound_to_text[0]
        counts = (conf.questions_per_kind, conf.captions)
        self.labels: dict[str, list[str]] = {}
        if not self.tasks:
            self.asked = question_items(self.test_cuts, counts[0], kinds) + caption_items(
                self.test_cuts, counts[1], prompt
            )
            return
        self.asked = []
        for name, task in self.tasks.items():
            self.labels[name] = self._labels(task, cuts)
            count = counts[task.ask == "captions"]
            asked = task_items(task, self.test_cuts, count, kinds, prompt, self.labels[name])
            task_scores.require(task, sum(item.condition == "sound" for item in asked))
            self.asked += asked

    def _labels(self, task: EvaluationTask, cuts: list[Any]) -> list[str]:
        if task.ask != "labels":
            return []
        return label_names(cuts, task.corpora) if task.labels == "corpus" else list(task.labels)

    def datamodule(self) -> EvaluationDataModule:
        return EvaluationDataModule(self.asked, {row["id"] for row in self._predictions()}, self.conf.batch_size)

    def callbacks(self) -> list[Callback]:
        return []

    def on_predict_start(self) -> None:
        if self.trainer.precision == "bf16-mixed":
            self.language.cast_frozen_linears_to_bf16()
        self.line = ProgressLine("evaluate", len(self.asked), "answers", self.global_rank == 0)
        row_files.mend(self.folder, self.global_rank)
        self.done = {row["id"] for row in self._predictions()}
        self.answered = len(self.done)
        config = self.language.lm.config.get_text_config()
        self._room = getattr(config, "max_position_embeddings", None) or 1 << 30  # tokens
        self.line.start(self.answered)

    def predict_step(self, batch: list[list[EvaluationItem]], batch_idx: int) -> None:
        """batch: prompts, each the items that ask the same."""
        told = [(items, self._answer(items[0])) for items in batch if items[0].by_likelihood]
        rest = [items for items in batch if not items[0].by_likelihood]
        prompts = [self._prompt(items[0]) for items in rest]
        fits = [len(prompt) + self.conf.max_new_tokens <= self._room for prompt in prompts]
        whole = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        answers = iter(self._generated(whole))
        for items, prompt, fit in zip(rest, prompts, fits, strict=True):
            reason = f"a prompt of {len(prompt)} tokens and an answer; the LLM takes {self._room}"
            told.append((items, {"prediction": next(answers)} if fit else {"prediction": None, "failed": reason}))
        rows = []
        for items, answer in told:
            new = [item for item in items if item.id not in self.done]
            for item in new:
                row = {**item._asdict(), "asked": _digest(item), **answer}
                del row["turns"], row["by_likelihood"]
                rows.append(row)
            self.answered += len(new) * self.trainer.world_size
        row_files.append(self.folder, self.global_rank, rows)
        self.line.update(min(self.answered, len(self.asked)))

    def _generated(self, prompts: list[list[int]]) -> list[str]:
        if not prompts:
            return []
        ids, mask = (part.to(self.device) for part in pad_left(prompts, self.vocabulary.pad_id))
        answers = self.language.generate(ids, mask, self.conf.max_new_tokens, allow="text")
        return [self.vocabulary.decode(answer) for answer in answers]

    def _answer(self, item: EvaluationItem) -> dict[str, Any]:
        """The most probable label, and the log-probability of each."""
        names = list(item.choices) or self.labels[item.task]
        turns = [Turn(role, segments) for role, segments in item.turns]
        found = answer_scores(self.language.lm, self.vocabulary, turns, names)
        return {"prediction": names[found.index(max(found))], "scores": [round(value, 4) for value in found]}

    def _prompt(self, item: EvaluationItem) -> list[int]:
        return self.vocabulary.render([Turn(role, segments) for role, segments in item.turns], generate=True).input_ids

    def on_predict_end(self) -> None:
        self.line.stop()

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        facts = self.parents["tokenizer"].facts
        predictions = self._predictions()
        failed = sum(row["prediction"] is None for row in predictions) + len(self.asked) - len(predictions)
        default = [row for row in predictions if not row.get("task")]
        rows = [
            row | {"answer": row["references"][0], "prediction": row["prediction"] or ""}
            for row in default
            if row["kind"] != "caption"
        ]
        guess = BestGuess(question_texts(self.train_cuts))
        captioned = [row for row in default if row["kind"] == "caption"]
        found = {
            "experiment": self.conf.experiment,
            "facts": facts,
            "reconstruction": self._reconstruction(),
            "questions": question_accuracy(rows, guess, self.conf.bootstrap_samples, self.conf.seed),
            "captions": {"count": len(captioned) // 3}
            | {
                condition: _score([row for row in captioned if row["condition"] == condition])
                for condition in ("sound", "other", "text")
            },
            "tasks": {name: self._task(task, predictions) for name, task in self.tasks.items()},
            "expected": len(self.asked),
            "scored": len(self.asked) - failed,
            "failed": failed,
            **self._of("fewshot", "few_shot"),
            **self._of("generation", "generation"),
        }
        evaluation_table.write(artifact, found)
        if self.tasks:
            text = task_table.document(f"{self.conf.experiment}: tasks", found["tasks"])
            (artifact / "report.md").write_text("\n".join([text, *evaluation_table.other_stages(found)]))
        (artifact / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
        tokenizer = self.parents["tokenizer"].folder
        html_page.write(
            artifact, found, predictions, self.test_cuts, tokenizer, self.conf, self._judge(), self._written()
        )
        print((artifact / "report.md").read_text())
        print(f"to read and to hear: {self.folder / 'artifact' / 'report.html'}")
        kept = ("questions", "reconstruction", "captions", "tasks", "failed")
        return facts, {key: found[key] for key in kept}

    def _task(self, task: EvaluationTask, predictions: list[dict[str, Any]]) -> dict[str, Any]:
        name, cuts = task.name, self.train_cuts
        train = list(question_texts(cuts))
        if task.ask == "labels":
            mine = [cut for cut in cuts if task.corpora is None or cut.custom["corpus"] in task.corpora]
            train = [("label", "", label) for cut in mine for label in cut.custom.get("labels") or []]
        rows = [row for row in predictions if row.get("task") == name]
        expected = sum(item.task == name for item in self.asked)
        samples, seed = self.conf.bootstrap_samples, self.conf.seed
        return task_scores.score(
            task, rows, expected, self.labels[name], train, task_scores.load_tools(task), samples, seed
        )

    def _judge(self) -> answer_examples.Judge:
        """Whether a row is right by its task's own rule; None where the task has none."""
        readers = {
            name: AnswerReader(task, self.labels[name], task_scores.load_tools(task))
            for name, task in self.tasks.items()
            if "accuracy" in task.metrics
        }
        return lambda row: (
            readers[row["task"]].is_right(row) if row.get("task") in readers else answer_examples.exact(row)
        )

    def _predictions(self) -> list[dict[str, Any]]:
        """All answers so far, by id, in the order of asking; a line that a kill cut short is asked again."""
        rows = {row["id"]: row for row in row_files.rows(self.folder)}
        return [
            rows[item.id]
            for item in self.asked
            if item.id in rows and rows[item.id].get("asked") in (None, _digest(item))
        ]

    def _reconstruction(self) -> dict[str, Any]:
        """What the stage `reconstruct` found, where it was run."""
        parent = self.parents.get("reconstruct")
        if parent is None:
            return {}
        found: dict[str, Any] = json.loads((parent.artifact / "report.json").read_text())
        return found | {"speed": parent.receipt["metrics"].get("speed")}

    def _of(self, stage: str, key: str) -> dict[str, Any]:
        """The same of another stage, under `key`."""
        parent = self.parents.get(stage)
        return {key: json.loads((parent.artifact / "report.json").read_text())} if parent else {}

    def _written(self) -> dict[str, list[WrittenSound]]:
        """What `generation` made of captions, by id of the cut."""
        found: dict[str, list[WrittenSound]] = {}
        parent = self.parents.get("generation")
        for line in (parent.artifact / "predictions.jsonl").open() if parent else ():
            row = json.loads(line)
            if row["condition"] == "caption":
                made = WrittenSound(row["caption"], row["number"], row["seed"], row["codes"])
                found.setdefault(row["cut"], []).append(made)
        return found


def _score(rows: list[dict[str, Any]]) -> dict[str, float]:
    return torchmetrics_scores([row["prediction"] or "" for row in rows], [row["references"] for row in rows])


def _digest(item: EvaluationItem) -> str:
    """Of what was asked, so that no answer is taken for one to another wording."""
    return hashlib.sha256(json.dumps([item.turns, item.choices]).encode()).hexdigest()[:16]
