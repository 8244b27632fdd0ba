"""Stages `caption` and `openaqa`: an LLM learns to read and to write sound tokens.

Both train the same adapter on cached codes; `openaqa` starts from `caption`'s. What differs is the mixture of conversations.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from datamodules import chunks
from datamodules.language import Encoded, LanguageBatch, LanguageDataModule, Mixture, Turn, conversations
from models.vocabulary import Turn as ChatTurn
from stages import artifacts, chain, optim
from stages.language_model import build, check_base


class Language(L.LightningModule):
    trains = True
    watch = ("train/loss", "val/text_loss", "val/audio_loss")
    strict_loading = False  # checkpoints hold what trains; on_load_checkpoint is strict about that

    def __init__(self, stage: str, conf: dict[str, Any], parents: dict[str, chain.Parent], folder: Path) -> None:
        super().__init__()
        self.stage, self.conf, self.parents = stage, conf, parents
        self.facts = {
            key: parents["tokenizer"].facts[key]
            for key in ("codebook_size", "num_codebooks", "levels", "token_rate", "bitrate")
        }
        codebook = artifacts.load_tokenizer(parents["tokenizer"].artifact).quantizer.vectors
        self.language, self.vocabulary, self.base = build(conf, self.facts, codebook)
        if "caption" in parents:
            config, state = artifacts.load(parents["caption"].artifact)
            _same_model(config["conf"], conf, parents["caption"].folder)
            check_base(parents["caption"].folder, config, self.base, conf)
            self.language.load_trainable_state(state)
        self.language.train()  # transformers hands models over in evaluation mode
        self.data = self._data()  # here, so that data without a conversation is refused before anything is written

    def datamodule(self) -> LanguageDataModule:
        return self.data

    def _data(self) -> LanguageDataModule:
        cuts = chunks.read(self.parents["cache"].folder / "chunks")
        there = {sup.custom["kind"] for cut in cuts for sup in cut.supervisions if sup.custom["task"] == "question"}
        if unknown := sorted(set(self.conf["kinds"]) - there):
            raise ValueError(
                f"kinds: no question of {', '.join(unknown)} in these corpora, which have {', '.join(sorted(there))}. "
                "Name some of those, or --kinds=[] for all"
            )
        prompts, batching = self.conf["prompts"], self.conf["batching"]

        def items(split: str) -> list[Any]:
            chosen = [cut for cut in cuts if cut.custom["split"] == split]
            return conversations(
                chosen,
                Mixture(**self.conf["mixture"]),
                prompts["sound_to_text"],
                prompts["text_to_sound"],
                batching["questions_together"],
                self.conf["kinds"],
            )

        data = LanguageDataModule(
            items("train"), items("validation"), self.encode, self.vocabulary.pad_id,
            tokens_per_batch=batching["tokens_per_batch"], num_buckets=batching["num_buckets"], max_tokens=batching["max_tokens"],
            seed=self.conf["seed"], num_workers=self.conf["data"]["num_workers"],
        )  # fmt: skip
        if not data.train_items:
            raise ValueError(
                f"{self.stage}: the training split of {', '.join(self.conf['data']['corpora'])} gives no conversation. It takes captions, or questions "
                f"with answers; mixture is {self.conf['mixture']}, max_tokens {batching['max_tokens']}, too long {len(data.too_long)}."
            )
        if data.too_long:
            print(
                f"{self.stage}: {len(data.too_long)} conversations are longer than batching.max_tokens={batching['max_tokens']} and left out"
            )
        return data

    def encode(self, turns: list[Turn]) -> Encoded:
        found = self.vocabulary.render([ChatTurn(role, segments) for role, segments in turns])
        return Encoded(found.input_ids, found.labels, found.kinds)

    def callbacks(self) -> list[Callback]:
        return []

    def loss(self, batch: LanguageBatch) -> Any:
        weights = self.conf["loss"]
        return self.language.loss(
            batch.input_ids, batch.attention_mask, batch.labels, batch.kinds, batch.positions, batch.branches,
            audio_weight=weights["audio_weight"], text_weight=weights["text_weight"],
            prompt_weight=weights["prompt_weight"], z_loss_weight=weights["z_loss_weight"],
        )  # fmt: skip

    def training_step(self, batch: LanguageBatch, batch_idx: int) -> Tensor:
        losses = self.loss(batch)
        for name in ("loss", "text_loss", "audio_loss", "z_loss"):
            self.log(f"train/{name}", getattr(losses, name), batch_size=len(batch.ids))
        self.log("train/padding_fraction", 1 - batch.attention_mask.float().mean(), batch_size=len(batch.ids))
        return losses.loss

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: LanguageBatch, batch_idx: int) -> None:
        losses = self.loss(batch)
        for column, (loss, count) in enumerate(
            ((losses.text_loss, losses.text_tokens), (losses.audio_loss, losses.audio_tokens))
        ):
            if count:
                self.sums[2 * column] += loss.double() * count
                self.sums[2 * column + 1] += count

    def on_validation_epoch_end(self) -> None:
        """Means over tokens, summed over ranks: NaN for a kind that no batch held."""
        sums = self.trainer.strategy.reduce(self.sums, reduce_op="sum")
        self.log("val/text_loss", (sums[0] / sums[1]).float())
        self.log("val/audio_loss", (sums[2] / sums[3]).float())

    def configure_optimizers(self) -> dict[str, Any]:
        rates = {"new_rows": self.conf["embedding_learning_rate"]}
        return optim.configure(
            self.language.named_parameters(), self.conf["optimizer"], self.conf["trainer"]["max_steps"], rates
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"], checkpoint["base"] = self.language.trainable_state(), self.base

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_base("the checkpoint", checkpoint, self.base, self.conf)
        self.language.load_trainable_state(checkpoint["state_dict"])
        checkpoint["state_dict"] = {}

    def export(self, artifact: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        config = {"conf": self.conf, "facts": self.facts, "base": self.base}
        artifacts.save(artifact, config, self.language.trainable_state())
        metrics = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        return self.facts | {"model": self.conf["model"]["source"], "vocabulary_size": self.vocabulary.size}, metrics


def _same_model(parent: dict[str, Any], conf: dict[str, Any], folder: Path) -> None:
    """What the numbers hang on; dropout and how the layers are computed may differ."""
    free = {"dropout": 0, "attention": None, "activation_checkpointing": False, "compile": False}
    for section in ("model", "lora"):
        if {**parent[section], **free} != {**conf[section], **free}:
            raise ValueError(
                f"{folder} was trained with {section} {parent[section]}, this stage asks for {conf[section]}. Make them equal."
            )
