"""Stage `evaluate`: asks the trained model, reads its answers, prints the table.

Answers are appended to `predictions-<rank>.jsonl` as they come, so that a killed evaluation goes on; scoring is done anew from that file.
"""

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from callbacks.progress import Line
from datamodules import chunks
from datamodules.evaluation import Asked, EvaluationDataModule, captions, questions, texts
from models.metrics.answers import BestGuess
from models.metrics.captions import caption_scores
from models.vocabulary import Turn
from stages import chain, language_model, report


class Evaluate(L.LightningModule):
    trains = False
    watch = ()

    def __init__(self, stage: str, conf: dict[str, Any], parents: dict[str, chain.Parent], folder: Path) -> None:
        super().__init__()
        self.conf, self.parents, self.folder = conf, parents, folder
        model = parents["openaqa" if conf["after"] == "openaqa" else "caption"]
        self.language, self.vocabulary = language_model.load(model.artifact, trained=conf["after"] != "none")
        cuts = chunks.read(parents["cache"].folder / "chunks")
        self.train_cuts = cuts.of_split("train")
        self.test_cuts = cuts.of_split("test")
        if not self.test_cuts:
            raise ValueError(
                f"evaluate: no recording of {', '.join(conf['data']['corpora'])} is in the split 'test'. Prepare the corpus with a column `split`, "
                "or with --split_by=COLUMN --test=VALUE"
            )
        trained = model.receipt["conf"]
        kinds = trained["kinds"] if conf["kinds"] is None else conf["kinds"]
        prompt = trained["prompts"]["sound_to_text"][0]
        self.asked = questions(self.test_cuts, conf["questions_per_kind"], kinds) + captions(
            self.test_cuts, conf["captions"], prompt
        )

    def datamodule(self) -> EvaluationDataModule:
        return EvaluationDataModule(self.asked, {row["id"] for row in self._predictions()}, self.conf["batch_size"])

    def callbacks(self) -> list[Callback]:
        return []

    def on_predict_start(self) -> None:
        self.line = Line("evaluate", len(self.asked), "answers", self.global_rank == 0)
        self.answered = len(self.asked) - sum(
            len(items) for batch in self.trainer.datamodule.batches for items in batch
        )
        self.line.start(self.answered)

    def predict_step(self, batch: list[list[Asked]], batch_idx: int) -> None:
        """batch: prompts, each the items that ask the same."""
        prompts = [self._prompt(items[0]) for items in batch]
        width = max(len(prompt) for prompt in prompts)
        ids = torch.tensor(
            [[self.vocabulary.pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device
        )
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device)
        answers = self.language.generate(ids, mask, self.conf["max_new_tokens"], allow="text")
        with (self.folder / f"predictions-{self.global_rank}.jsonl").open("a") as file:
            for items, answer in zip(batch, answers, strict=True):
                for item in items:
                    row = {**item._asdict(), "prediction": self.vocabulary.decode(answer)}
                    del row["turns"]
                    file.write(json.dumps(row) + "\n")
                self.answered += len(items) * self.trainer.world_size
        self.line.update(min(self.answered, len(self.asked)))

    def _prompt(self, item: Asked) -> list[int]:
        return self.vocabulary.render([Turn(role, segments) for role, segments in item.turns], generate=True).input_ids

    def on_predict_end(self) -> None:
        self.line.stop()

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        facts = self.parents["tokenizer"].facts
        predictions = self._predictions()
        rows = [row | {"answer": row["references"][0]} for row in predictions if row["kind"] != "caption"]
        guess = BestGuess(texts(self.train_cuts))
        captioned = [row for row in predictions if row["kind"] == "caption"]
        found = {
            "experiment": self.conf["experiment"],
            "facts": facts,
            "reconstruction": self._reconstruction(),
            "questions": report.answers(rows, guess, self.conf["bootstrap_samples"], self.conf["seed"]),
            "captions": {"count": len(captioned) // 3}
            | {
                condition: _score([row for row in captioned if row["condition"] == condition])
                for condition in ("sound", "other", "text")
            },
            "expected": len(self.asked),
            "scored": len(predictions),
        }
        report.write(artifact, found)
        (artifact / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in predictions))
        print(report.markdown(found))
        return facts, {
            "questions": found["questions"],
            "reconstruction": found["reconstruction"],
            "captions": found["captions"],
        }

    def _predictions(self) -> list[dict[str, Any]]:
        """All answers so far, by id, in the order of asking; a line that a kill cut short is asked again."""
        rows: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("predictions-*.jsonl")):
            whole, _, _ = path.read_text().rpartition("\n")
            if path.stat().st_size > len(whole.encode()) + 1:
                path.write_text(whole + "\n" if whole else "")
            rows |= {row["id"]: row for row in map(json.loads, whole.splitlines())}
        return [rows[item.id] for item in self.asked if item.id in rows]

    def _reconstruction(self) -> dict[str, Any]:
        """What the stage `reconstruct` found, where it was run."""
        parent = self.parents.get("reconstruct")
        return json.loads((parent.artifact / "report.json").read_text()) if parent else {}


def _score(rows: list[dict[str, Any]]) -> dict[str, float]:
    return caption_scores([row["prediction"] for row in rows], [row["references"] for row in rows])
