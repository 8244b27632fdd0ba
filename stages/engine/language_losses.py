"""The losses that make sound tokens easy for an LLM, as the section `language_losses` weighs them, for the stage
`tokenizer`.

What they draw comes from a generator of their own, and what is turned off is not built: without them a run is what it
was.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from conf import plain
from conf.sections.tokenizer import LanguageLossesConf
from datamodules.latents import LatentBatch, WindowIds
from models.tokenizer.consistency_loss import consistency_loss, draw_view
from models.tokenizer.prediction_loss import PredictionLoss
from models.tokenizer.semantic_loss import SemanticLoss
from models.tokenizer.tokenizer import LatentTokenizer, TokenizerLoss
from stages.hub.caption_features import CaptionFeatures, text_dim

OTHER_DRAWS = 0x5DEECE66D  # what the tokenizer's own seed of a step is mixed with


class WeightedLoss(NamedTuple):
    name: str
    loss: Tensor  # (), weighted
    items: Tensor  # (), how many it is a mean over


class LanguageLosses(nn.Module):
    """Those that have a weight."""

    def __init__(self, conf: LanguageLossesConf, tokenizer: LatentTokenizer) -> None:
        super().__init__()
        self.conf = conf
        self.texts: CaptionFeatures | None = None
        width, quantizer = tokenizer.encoder.width, tokenizer.quantizer
        self.semantic: SemanticLoss | None = None
        self.prediction: PredictionLoss | None = None
        if conf.semantic:
            self.semantic = SemanticLoss(width, text_dim(conf.texts_from), conf.temperature)
        if conf.prediction:
            self.prediction = PredictionLoss(
                width, quantizer.codebook_size, quantizer.levels, quantizer.block, **plain(conf.predictor)
            )

    def open(self, folder: Path) -> None:
        """folder: that stages/hub/caption_features.py wrote."""
        self.texts = CaptionFeatures(folder)

    def forward(
        self, batch: LatentBatch, latents: Tensor, tokenizer: LatentTokenizer, losses: TokenizerLoss, seed: int
    ) -> list[WeightedLoss]:
        """latents (B, F, D): of the batch, as the tokenizer was trained on them; losses: of that step."""
        conf, device = self.conf, latents.device
        result: list[WeightedLoss] = []
        generator = torch.Generator().manual_seed(seed ^ OTHER_DRAWS)
        mask, quantized = losses.token_mask, losses.quantized
        if self.semantic is not None:
            assert self.texts is not None and isinstance(batch.ids, WindowIds)
            text = np.asarray(self.texts.text_of_row[batch.ids.rows])
            drawn = torch.randint(len(self.texts.features), (conf.memory,), generator=generator).numpy()
            numbers, memory_numbers = torch.from_numpy(text).to(device), torch.from_numpy(drawn).to(device)
            own, memory = (self.texts.of_texts(one).to(device) for one in (text, drawn))
            loss = self.semantic(quantized, mask, own, numbers, memory, memory_numbers)
            result.append(WeightedLoss("semantic", conf.semantic * loss, (numbers >= 0).sum()))
        if self.prediction is not None:
            loss = self.prediction(quantized, losses.codes, mask)
            result.append(WeightedLoss("prediction", conf.prediction * loss, mask[:, 1:].sum()))
        if conf.consistency:
            view = draw_view(
                tokenizer.standardized(latents, batch.num_frames), batch.num_frames, tokenizer.grid,
                tokenizer.quantizer.block, conf.noise, generator,
            )  # fmt: skip
            seen = tokenizer.encoder(view.latents, view.num_frames, tokenizer.grid, view.first_token)
            loss = consistency_loss(losses.tokens, mask, seen, view.first_token)
            result.append(WeightedLoss("consistency", conf.consistency * loss, mask[:, view.first_token :].sum()))
        return result


def is_on(conf: LanguageLossesConf) -> bool:
    return bool(conf.semantic or conf.prediction or conf.consistency)


def logged(losses: list[WeightedLoss], conf: Any) -> dict[str, Tensor]:
    """name -> the loss without its weight."""
    return {one.name: one.loss.detach() / getattr(conf, one.name) for one in losses}
