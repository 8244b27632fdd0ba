"""FENSE's classifier of fluency errors in captions (Zhou et al. 2022, arXiv:2110.04684)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 64  # tokens


class FluencyChecker(nn.Module):
    """A BERT's first hidden state to six classes; the last one is any error."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.clf = encoder, nn.Linear(width, classes)

    @classmethod
    def from_checkpoint(cls, path: Path, backbone: Callable[[str], Any]) -> "tuple[FluencyChecker, str]":
        """path: echecker_clotho_audiocaps_base.ckpt; backbone: hub name -> encoder.

        Returns the hub name, too, which is that of the tokenizer.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        encoder = backbone(saved["model_type"])
        model = cls(encoder, int(encoder.config.hidden_size), saved["num_classes"])
        # a buffer that transformers saved until 4.31
        unused = "embeddings.position_ids"
        model.load_state_dict({key: value for key, value in saved["state_dict"].items() if not key.endswith(unused)})
        return model.eval(), saved["model_type"]

    @torch.no_grad()
    def forward(self, **batch: Tensor) -> Tensor:
        """The encoder's inputs, (B, S) each -> probability of an error (B)."""
        return self.clf(self.encoder(**batch).last_hidden_state[:, 0]).sigmoid()[:, -1]
