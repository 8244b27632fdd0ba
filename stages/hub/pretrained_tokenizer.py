"""A sound tokenizer of others (models/tokenizer/pretrained.py) as an artifact, and behind the interface of our own.

artifact/config.json     whose it is: source, revision, codebooks
artifact/model/          as `transformers` saves it: what encodes and decodes, with or without the hub
"""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.errors import UsageError
from models.errors import ModelError
from models.tokenizer.pretrained import PretrainedTokenizer
from stages.hub import artifacts
from stages.hub.sound_stream import SoundStream
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.weights import load_sound_tokenizer

CONTEXT_SECONDS = 2.0  # decoded beside a part of a long sound, and thrown away: no part begins without a past


def is_pretrained(artifact: Path) -> bool:
    return (artifact / "model").is_dir()


def build(source: str, revision: str | None, codebooks: int | None) -> tuple[PretrainedTokenizer, dict[str, Any]]:
    """The tokenizer, and what an artifact says of it. Raises UsageError for what is no such tokenizer."""
    loaded = load_sound_tokenizer(source, revision)
    try:
        tokenizer = PretrainedTokenizer(loaded.model, codebooks)
    except ModelError as error:
        raise UsageError(f"{source}: {error}") from error
    return tokenizer, {"source": source, "revision": loaded.revision, "codebooks": tokenizer.num_codebooks}


def save(folder: Path, tokenizer: PretrainedTokenizer, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tokenizer.model.save_pretrained(folder / "model")


def load_tokenizer(folder: Path) -> PretrainedTokenizer:
    config = json.loads((folder / "config.json").read_text())
    return build(str(folder / "model"), None, config["codebooks"])[0]


def codebook_of(artifact: Path) -> Tensor:
    """(Q, K, d) of a `tokenizer` artifact, ours or another's."""
    return (
        load_tokenizer(artifact).vectors
        if is_pretrained(artifact)
        else artifacts.load_tokenizer(artifact).quantizer.vectors
    )


class PretrainedSoundTokenizer(SoundTokenizer):
    """Frames are the model's own: a window is `rule.frames` of them, coded by itself."""

    def __init__(self, tokenizer: Path, facts: dict[str, Any]) -> None:
        """tokenizer: folder of the artifact; facts: of its receipt."""
        self.folders = {"tokenizer": tokenizer}
        self.tokenizer = load_tokenizer(tokenizer)
        self._describe(facts, self.tokenizer.sample_rate, self.tokenizer.channels, self.tokenizer.hop_length, 0)

    @property
    def words(self) -> None:
        return None

    def without_tokens(self, sound: Tensor) -> None:
        return None

    def to(self, device: str | torch.device) -> "SoundTokenizer":
        self.device = torch.device(device)
        self.tokenizer.to(self.device)
        return self

    def decode(
        self,
        codes: Sequence[Sequence[int]],
        num_samples: Sequence[int] | None = None,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
        overlap: int | None = None,
    ) -> list[Tensor]:
        """As the parent's, one sound at a time. Nothing is drawn: num_steps, guidance, temperature, seed, overlap have no effect."""
        counts = [None] * len(codes) if num_samples is None else num_samples
        return [torch.cat([*self.decode_stream(one, n)], 1) for one, n in zip(codes, counts, strict=True)]

    def decode_stream(
        self,
        codes: Sequence[int],
        num_samples: int | None = None,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        seed: int = 0,
        overlap: int | None = None,
    ) -> Iterator[Tensor]:
        """More than one window is decoded in parts, each with CONTEXT_SECONDS of what is before and after it, which is cut
        off: the parts join without a seam, and memory does not grow with the sound.
        """
        self._check_codes(codes)
        ids, frame, hop = torch.tensor([list(codes)], device=self.device), self.tokenizer.num_codebooks, self.hop_length
        total = ids.shape[1] // frame
        context = math.ceil(CONTEXT_SECONDS * self.tokenizer.frame_rate)
        begin, end = 0, total * hop if num_samples is None else num_samples  # frames, samples
        for length in self.rule.lengths(total):
            first, stop = max(0, begin - context), begin + length
            sound = self.tokenizer.decode(ids[:, first * frame : min(total, stop + context) * frame])[0]
            yield sound[:, (begin - first) * hop : max(begin * hop, min(stop * hop, end)) - first * hop]
            begin = stop

    def stream(self) -> SoundStream:
        raise UsageError("a tokenizer of `transformers` encodes whole windows: use encode in place of stream")

    def _encode(self, windows: Sequence[Tensor]) -> list[list[int]]:
        codes: list[list[int]] = self.tokenizer.encode_windows([window.to(self.device) for window in windows])
        return codes
