"""What a frozen LLM makes of the captions of a corpus: hidden states, computed once and kept.

    folder/features.npy       (T, E) float16, of each distinct text: its tokens' mean, minus the mean of all texts
    folder/text_of_row.npy    (R) int32, of each recording of a manifest: the number of its text, -1 for none

A recording's text is one of its captions, or its labels.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from callbacks.progress import ProgressLine
from conf.errors import UsageError
from datamodules.atomic_files import whole_file
from datamodules.generation import caption_of
from datamodules.store.manifest import Manifest
from stages.hub import weights

BATCH = 32  # texts


class CaptionFeatures:
    """They stay on the disk, mapped."""

    def __init__(self, folder: Path) -> None:
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self.text_of_row = np.load(folder / "text_of_row.npy", mmap_mode="r")

    def of_texts(self, texts: np.ndarray) -> Tensor:
        """Numbers of texts (B), any for -1 -> (B, E) float32."""
        return torch.from_numpy(self.features[np.maximum(texts, 0)].astype(np.float32))


def text_dim(source: str) -> int:
    """E, of the hidden states of an LLM."""
    return int(weights.load_language_model(source, None, "float32").model.config.get_text_config().hidden_size)


def write(folder: Path, manifest: Manifest, source: str, layer: float, device: torch.device) -> None:
    """Where it is not written yet. source: of the LLM; layer: which part of its layers the hidden states come after.

    Raises UsageError where no recording has a text.
    """
    if (folder / "features.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, int] = {}
    rows = np.full(len(manifest), -1, np.int32)
    for row in range(len(manifest)):
        cut = manifest.cut(row)
        text = caption_of(cut) or ", ".join(cut.custom.get("labels") or [])
        if text:
            rows[row] = numbers.setdefault(text, len(numbers))
    if not numbers:
        raise UsageError(
            "language_losses.semantic needs captions or labels, and no recording has any. Set it to 0, or prepare the "
            "corpus with a column `caption` or `label`"
        )
    with whole_file(folder / "text_of_row.npy", durable=True) as part:
        np.save(part, rows)
    features = _hidden_states(list(numbers), source, layer, device)
    with whole_file(folder / "features.npy", durable=True) as part:
        np.save(part, (features - features.mean(0)).astype(np.float16))


@torch.no_grad()
def _hidden_states(texts: list[str], source: str, layer: float, device: torch.device) -> np.ndarray:
    """(T, E) float32: the mean over the tokens of each text."""
    model, tokenizer = weights.load_language_model(source, None, "float32")
    base = model.get_submodule(model.base_model_prefix).to(device)
    number = round(layer * model.config.get_text_config().num_hidden_layers)
    line = ProgressLine("captions", len(texts), "texts")
    line.start()
    features = []
    for start in range(0, len(texts), BATCH):
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts[start : start + BATCH]]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
        states = base(padded, attention_mask=mask, output_hidden_states=True).hidden_states[number].float()
        features.append(((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy())
        line.update(start + len(ids))
    line.stop()
    return np.concatenate(features)
