"""The classifier of errors of fluency in FENSE (Zhou et al. 2022, arXiv:2110.04684)."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

LONGEST = 64  # tokens


class FluencyChecker(nn.Module):
    """A BERT's first hidden state to six classes; the last is any error."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.clf = encoder, nn.Linear(width, classes)

    @classmethod
    def from_checkpoint(cls, path: Path, backbone: Callable[[str], nn.Module]) -> "tuple[FluencyChecker, str]":
        """path: echecker_clotho_audiocaps_base.ckpt; backbone: hub name -> encoder. Returns the name too, for the tokenizer."""
        saved = torch.load(path, map_location="cpu", weights_only=True)
        encoder = backbone(saved["model_type"])
        model = cls(encoder, int(encoder.config.hidden_size), saved["num_classes"])  # type: ignore[union-attr,arg-type]
        state = {
            key: value for key, value in saved["state_dict"].items() if not key.endswith("embeddings.position_ids")
        }
        model.load_state_dict(state)  # a buffer that transformers saved until 4.31 is no weight
        return model.eval(), saved["model_type"]

    @torch.no_grad()
    def forward(self, **batch: Tensor) -> Tensor:
        """(B, S) each -> the probability of an error (B)."""
        return self.clf(self.encoder(**batch).last_hidden_state[:, 0]).sigmoid()[:, -1]
