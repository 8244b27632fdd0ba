"""Stage `rehearsal`: before it learns sound, the LLM writes texts of itself, to be mixed into its training so that it keeps its text.

Self-synthesized rehearsal (Huang et al. 2024, arXiv:2403.01244): no corpus of text is needed, and what is kept is what the LLM was. A text is drawn at
temperature 1 from one of `openings`, by a seed of its own; it does not hang on its company, nor on how many processes write.

    parts/000003.jsonl  a batch of texts, written once, atomically; the same command goes on after them
"""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from transformers import GenerationConfig, LogitsProcessorList

from callbacks.progress import ProgressLine
from conf.sections.language import RehearsalConf
from datamodules.sampler import DealtBatches
from models.language.generation import GumbelNoise, pad_left
from stages.engine.devices import precision
from stages.hub import weights
from stages.runs.files import write_whole
from stages.runs.receipts import FinishedRun


class Rehearsal(L.LightningModule):
    trains = False
    watch = ()

    def __init__(self, stage: str, conf: RehearsalConf, parents: dict[str, FinishedRun], folder: Path) -> None:
        super().__init__()
        self.conf, self.parts = conf, folder / "parts"
        model = conf.model
        narrow = precision(conf, folder).value.startswith("bf16")  # else each step would cast all weights again
        self.lm, self.tokenizer = weights.load_language_model(
            model.source, model.revision, "bfloat16" if narrow else model.dtype, model.attention
        )
        self.lm.generation_config = GenerationConfig()  # a hub's sampling settings are not ours
        numbers = range(conf.texts)
        self.batches = [numbers[start : start + conf.batch_size] for start in numbers[:: conf.batch_size]]
        begin = self.tokenizer("", add_special_tokens=True).input_ids[:1]  # what begins all texts, where one does
        self.openings = [[*begin, *self.tokenizer(text, add_special_tokens=False).input_ids] for text in conf.openings]

    def prepare_data(self) -> None:
        self.parts.mkdir(parents=True, exist_ok=True)

    def datamodule(self) -> DealtBatches[int]:
        return DealtBatches([number for number in range(len(self.batches)) if not self._part(number).is_file()])

    def callbacks(self) -> list[Callback]:
        return []

    def on_predict_start(self) -> None:
        self.line = ProgressLine("rehearsal", len(self.batches), "batches of texts", self.global_rank == 0)
        self.line.start(len(list(self.parts.glob("*.jsonl"))))

    def predict_step(self, number: int, batch_idx: int) -> None:
        texts = self.write(self.batches[number])
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        write_whole(self._part(number), lines)
        self.line.update(len(list(self.parts.glob("*.jsonl"))))

    def write(self, numbers: range) -> list[str]:
        """The texts of these numbers. One of no letters is left out."""
        prompts = [self.openings[number % len(self.openings)] for number in numbers]
        stop = self.tokenizer.eos_token_id
        ids, mask = (tensor.to(self.device) for tensor in pad_left(prompts, stop or 0))
        draws = GumbelNoise([self.conf.seed * 1_000_003 + number for number in numbers])
        found = self.lm.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=self.conf.max_tokens, do_sample=False,
            eos_token_id=stop, pad_token_id=stop or 0, logits_processor=LogitsProcessorList([draws]),
        )  # fmt: skip
        texts = []
        for row, prompt in zip(found.tolist(), prompts, strict=True):
            text = self.tokenizer.decode(row[ids.shape[1] - len(prompt) :], skip_special_tokens=True).strip()
            texts += [text] if any(map(str.isalpha, text)) else []
        return texts

    def on_predict_end(self) -> None:
        self.line.stop()

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        lines = [line for number in range(len(self.batches)) for line in self._part(number).open(encoding="utf-8")]
        (artifact / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
        words = sum(len(json.loads(line)["text"].split()) for line in lines)
        return {"model": self.conf.model.source}, {"texts": len(lines), "words": words}

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.jsonl"
