"""Stage `generation`: does the sound that the LLM writes sound real, and hold what the caption names?

Captions of the test split ──LLM──► codes ──tokenizer──► sound ──embedder──► distances of distributions, diversity; the codes ──probe──► class accuracy.
Beside it what bounds it: real recordings of the training split, the tokenizer's own reconstruction, and codes that the LLM writes without a caption
(datamodules/generation.py). The paper shows this direction and does not measure it. Rows are appended as they come: a killed run goes on.
"""

import base64
import importlib.util
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conf.errors import UsageError
from conf.sections.evaluation import GenerationConf, guidance_of, language_stage
from datamodules.audio import load_sound
from datamodules.cuts import Cut
from datamodules.generation import (
    CAPTION,
    NOTHING,
    TEST,
    TRAIN,
    GenerationDataModule,
    GenerationItem,
    caption_of,
    choose_recordings,
    generation_items,
    kind_of,
    label_of,
)
from datamodules.hashing import choose_by_hash
from datamodules.store import chunks
from models.language.model import SoundLanguageModel
from stages.base import Exported, Parents, Row, RowStage, write_rows
from stages.hub import language_model, trained_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_to_sound import text_to_sound
from stages.reports import generation_table
from stages.reports.formatting import write_report
from stages.runs import corpora
from stages.runs.contamination import refuse_contamination
from stages.scoring.generation_scores import CaptionedClip, KindProbe, generation_scores

SETTINGS = ("temperature", "top_p", "top_k", "guidance", "best_of", "seeds", "seconds_max")  # in the report


class Generation(RowStage[str]):
    conf: GenerationConf
    unit = "sounds"

    def __init__(self, stage: str, conf: GenerationConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        if conf.probe_recordings and importlib.util.find_spec("sklearn") is None:
            raise UsageError(
                "generation: class accuracy needs scikit-learn: pip install scikit-learn, or --probe_recordings=0"
            )
        self.embedder = weights.load_embedder(conf.embedder) if conf.embedder else None
        self.roots = {name: Path(receipt["root"]) for name, receipt in corpora.corpora(conf.data).items()}
        cuts, names = chunks.read(parents["cache"].folder / "chunks"), ", ".join(self.roots)
        refuse_contamination(stage, conf, parents, cuts.of_split("test"))
        train = cuts.of_split("train")
        test = self._of_named_corpora(cuts.of_split("test"))
        self.chosen = choose_recordings(
            test, self._of_named_corpora(train), conf.captions, conf.recordings, conf.one_label
        )
        if not self.chosen.asked:
            raise UsageError(
                f"generation: no recording of {names} in the split 'test' has a caption{', and one label' * conf.one_label}. "
                "Prepare a corpus with the columns `caption` and `split`"
            )
        self.cuts = {cut.id: cut for part in self.chosen for cut in part}
        self.items = generation_items(self.chosen, conf.seeds, self.embedder is not None)
        self.expected = [item.id for item in self.items]
        decoder = parents["decoder_finetuning"].folder if "decoder_finetuning" in parents else None
        self.sound_tokenizer = SoundTokenizer.from_runs(parents["tokenizer"].folder, decoder)
        longest = max(train.lengths[train.selected].tolist(), default=1 << 30)
        self.most = min(self.sound_tokenizer.num_codes(conf.seconds_max), longest)  # codes of a sound
        self.samples = max(1, int(conf.seconds_max * self.sound_tokenizer.sample_rate))
        self.probe = self._probe(train)
        self.languages: list[SoundLanguageModel] = []
        self.model = self._load(language_stage(conf.after), trained=conf.after != "none")
        self.ear = self._load("openaqa") if conf.chooses_by_openaqa else None

    def _load(self, stage: str, trained: bool = True) -> trained_model.TrainedModel:
        language, vocabulary = language_model.load(self.parents[stage].artifact, trained)
        self.languages.append(language)
        self.add_module(f"language_after_{stage}", language)  # Lightning moves it to the device
        lm, prompts = language.lm, self.parents[stage].conf.prompts
        return trained_model.TrainedModel(lm, vocabulary, prompts, trained_model.context(lm))

    def _of_named_corpora(self, cuts: Iterable[Cut]) -> Iterator[Cut]:
        return (cut for cut in cuts if cut.custom["corpus"] in self.roots)

    def _probe(self, train: Iterable[Cut]) -> KindProbe | None:
        """None where the training split has no two labels."""
        if not self.conf.probe_recordings:
            return None
        labelled = (cut for cut in self._of_named_corpora(train) if label_of(cut) is not None)
        learnt = choose_by_hash(labelled, self.conf.probe_recordings, lambda cut: cut.id)
        labels, facts = [cut.custom["labels"][0] for cut in learnt], self.parents["tokenizer"].facts
        if len(set(labels)) < 2:
            return None
        codes = [list(cut.custom["codes"])[: self.most] for cut in learnt]
        return KindProbe(codes, labels, facts["codebook_size"], facts["levels"])

    def datamodule(self) -> GenerationDataModule:
        return GenerationDataModule(self.items, set(self.rows()), self.conf.batch_size)

    def on_predict_start(self) -> None:
        for language in self.languages:
            if self.trainer.precision == "bf16-mixed":
                language.cast_frozen_linears_to_bf16()
            with self.trainer.precision_plugin.forward_context():
                language_model.merge_for_generation(language.lm, self.model.vocabulary)
        super().on_predict_start()
        self.sound_tokenizer.to(self.device)

    @torch.no_grad()
    def predict_rows(self, batch: list[GenerationItem]) -> list[Row]:
        codes = self.codes(batch)
        with torch.autocast(self.device.type, enabled=False):
            embedded = self._embedded(batch, codes)
        return [
            {"id": item.id, **item._asdict(), "seed": self._seed(item), "codes": one, "embedding": vector}
            for item, one, vector in zip(batch, codes, embedded, strict=True)
        ]

    def codes(self, batch: list[GenerationItem]) -> list[list[int]]:
        """Written by the LLM, or the recordings' own."""
        condition = batch[0].condition
        if condition not in (CAPTION, NOTHING):
            return [list(self.cuts[item.cut].custom["codes"])[: self.most] for item in batch]
        settings = self.conf
        if condition == NOTHING:  # greedy, all of them would be one sound
            settings = replace(settings, guidance=1.0, best_of=1, temperature=settings.temperature or 1.0)
        seeds = [self._seed(item) for item in batch]
        captions = [item.caption for item in batch]
        seconds = [min(self.cuts[item.cut].duration, settings.seconds_max) for item in batch]
        return text_to_sound(self.model, captions, self.most, seeds, settings, self.ear, seconds=seconds)

    def _embedded(self, batch: list[GenerationItem], codes: list[list[int]]) -> list[str | None]:
        if self.embedder is None:
            return [None] * len(batch)
        tokenizer = self.sound_tokenizer
        if batch[0].condition in (TEST, TRAIN):
            sounds = [self._real(item) for item in batch]
        else:
            sounds = tokenizer.decode(codes, [self.samples] * len(batch), seed=[self._seed(item) for item in batch])
        return [_written(self.embedder(sound, tokenizer.sample_rate)) for sound in sounds]

    def _real(self, item: GenerationItem) -> Tensor:
        cut, tokenizer = self.cuts[item.cut], self.sound_tokenizer
        sound = load_sound(cut, self.roots[cut.custom["corpus"]], tokenizer.sample_rate, tokenizer.channels)
        return sound[:, : self.samples].to(self.device)

    def _seed(self, item: GenerationItem) -> int:
        """Each sound's own, whatever else is made."""
        return zlib.crc32(f"{self.conf.seed} {item.id}".encode())

    def export(self, artifact: Path) -> Exported:
        rows, conf = self.rows(), self.conf
        report = {
            "experiment": conf.experiment,
            "llm": self.language_name(),
            "corpora": conf.data.corpora,
            "settings": {key: getattr(conf, key) for key in SETTINGS} | {"guidance": guidance_of(conf, self.model.prompts)},
            "codes_max": self.most,
            "embedder": conf.embedder,
            "expected": len(self.items),
            "scored": len(rows),
            **generation_scores(
                {part: [_clip(cut) for cut in cuts] for part, cuts in self.chosen._asdict().items()},
                {name: (row["codes"], _read(row["embedding"])) for name, row in rows.items()},
                {cut.id: list(cut.custom["codes"])[: self.most] for cut in self.chosen.asked},
                self.probe, conf.seeds, conf.bootstrap_samples, conf.seed,
            ),
        }  # fmt: skip
        text = generation_table.markdown(report)
        write_report(artifact, report, text)
        shown = ({key: value for key, value in row.items() if key != "embedding"} for row in rows.values())
        write_rows(artifact / "predictions.jsonl", shown)
        print(text)
        metrics = {key: report[key] for key in ("sounds", "accuracy", "diversity")}
        return Exported(self.parents["tokenizer"].facts, metrics)

    def language_name(self) -> str:
        source = self.parents[language_stage(self.conf.after)].conf.model
        return f"{source.source} " + ("untrained" if self.conf.after == "none" else f"after {self.conf.after}")


def _clip(cut: Cut) -> CaptionedClip:
    return CaptionedClip(cut.id, cut.custom["source"], kind_of(cut), label_of(cut), caption_of(cut) or "")


def _written(vector: Tensor) -> str:
    """An embedding to text, to the bit."""
    return base64.b64encode(vector.float().cpu().numpy().astype("<f4").tobytes()).decode()


def _read(text: str | None) -> Tensor | None:
    return None if text is None else torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float64))
