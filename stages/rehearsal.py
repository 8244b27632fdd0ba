"""Stage `rehearsal`: before it learns sound, the LLM writes texts of itself, to be mixed into its training so that it keeps its text.

Self-synthesized rehearsal (Huang et al. 2024, arXiv:2403.01244): no corpus of text is needed, and what is kept is what the LLM was. A text is drawn at
temperature 1 from one of `openings`, by a seed of its own; it depends neither on the texts beside it nor on how many processes write. A row is a batch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LogitsProcessorList

from conf.sections.language import RehearsalConf
from datamodules.batches import in_groups
from datamodules.sampler import DealtBatches
from models.language.generation import GumbelNoise, pad_left
from stages.base import Exported, Parents, Row, RowStage, write_rows
from stages.engine.devices import precision
from stages.hub import weights


class Rehearsal(RowStage[int]):
    conf: RehearsalConf
    unit = "batches of texts"

    def __init__(self, stage: str, conf: RehearsalConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        model = conf.model
        narrow = precision(conf, folder).value.startswith("bf16")  # else each step would cast all weights again
        loaded = weights.load_language_model(
            model.source, model.revision, "bfloat16" if narrow else model.dtype, model.attention
        )
        self.lm: Any = loaded.model
        self.tokenizer = loaded.tokenizer
        self.lm.generation_config = GenerationConfig()  # a hub's sampling settings are not ours
        self.batches = in_groups(range(conf.texts), conf.batch_size)
        self.expected = range(len(self.batches))
        begin = self.tokenizer("", add_special_tokens=True).input_ids[:1]  # what begins all texts, where one does
        self.openings = [[*begin, *self.tokenizer(text, add_special_tokens=False).input_ids] for text in conf.openings]

    def datamodule(self) -> DealtBatches[int]:
        saved = self.rows()
        return DealtBatches([number for number in self.expected if number not in saved])

    def key(self, row: Row) -> int:
        return row["batch"]

    def predict_rows(self, batch: int) -> list[Row]:
        return [{"batch": batch, "texts": self.write(self.batches[batch])}]

    def write(self, numbers: Sequence[int]) -> list[str]:
        """The texts of these numbers. One of no letters is left out."""
        prompts = [self.openings[number % len(self.openings)] for number in numbers]
        stop = self.tokenizer.eos_token_id
        ids, mask = (tensor.to(self.device) for tensor in pad_left(prompts, stop or 0))
        draws = GumbelNoise([self.conf.seed * 1_000_003 + number for number in numbers])
        written = self.lm.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=self.conf.max_tokens, do_sample=False,
            eos_token_id=stop, pad_token_id=stop or 0, logits_processor=LogitsProcessorList([draws]),
        )  # fmt: skip
        texts = []
        for row, prompt in zip(written.tolist(), prompts, strict=True):
            text = str(self.tokenizer.decode(row[ids.shape[1] - len(prompt) :], skip_special_tokens=True)).strip()
            texts += [text] if any(map(str.isalpha, text)) else []
        return texts

    def export(self, artifact: Path) -> Exported:
        texts = [text for row in self.rows().values() for text in row["texts"]]
        write_rows(artifact / "texts.jsonl", ({"text": text} for text in texts))
        words = sum(len(text.split()) for text in texts)
        return Exported({"model": self.conf.model.source}, {"texts": len(texts), "words": words})
