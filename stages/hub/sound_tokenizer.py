"""A sound tokenizer as one object: waveform to codes and back, of any length and rate. Ours, with its VAE, or another's.

    tokenizer = SoundTokenizer.from_pretrained("runs/main/tokenizer")     # or a saved folder, or a hub id
    codes = tokenizer.encode([waveform], sample_rate=48000)               # the codes that the stage `cache` writes
    sounds = tokenizer.decode(codes)
    for piece in tokenizer.decode_stream(codes[0]): ...                   # the first of them, as it is decoded

Sound is cut into windows as the training data was (`window_seconds` of the stage `latents`), each coded by itself: a
long sound costs no more memory than a short one, and a prefix of whole windows has the same codes whatever follows.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from conf import from_plain
from conf.errors import UsageError
from datamodules.atomic_files import write_whole
from datamodules.audio import split_windows
from datamodules.hashing import hash_folder
from datamodules.windows import WindowFormat, WindowRule
from models.codec.decoding_stream import DecodingStream
from stages.hub import artifacts, export_format, hub_repository
from stages.hub.latent_windows import LatentWindows, decode_next
from stages.hub.sound_stream import SoundStream, check_finite
from stages.runs import receipts
from stages.runs.state import run_folder

MANIFEST = "sound_tokenizer.json"
log = logging.getLogger(__name__)


class SoundTokenizer:
    """A sound tokenizer and its VAE; one of `transformers`, which has none, is its child (pretrained_tokenizer.py).

    Attributes: sample_rate (Hz, of decoded sound), channels, hop_length (samples of a frame), token_rate (Hz), bitrate
    (bits a second), codebook_size.
    """

    tokenizer: Any  # LatentTokenizer, or models.tokenizer.pretrained.PretrainedTokenizer

    def __init__(self, tokenizer: Path, codec: Path, facts: dict[str, Any], decoder: Path | None = None) -> None:
        """tokenizer, codec: folders of artifacts; facts: of the stage `tokenizer`, or `decoder_finetuning` where there is one;
        decoder: folder of the artifact of that stage.
        """
        self.folders = {"tokenizer": tokenizer, "codec": codec} | ({"decoder": decoder} if decoder else {})
        self.tokenizer = artifacts.load_tokenizer(tokenizer, decoder)
        self.codec = artifacts.load_codec(codec)
        codec_ = self.codec
        self._describe(facts, codec_.sample_rate, codec_.channels, codec_.hop_length, codec_.encoder_context.after)

    def _describe(
        self, facts: dict[str, Any], sample_rate: int, channels: int, hop_length: int, context_frames: int
    ) -> None:
        """What both kinds have; context_frames: see `WindowFormat`."""
        self.facts = facts
        self.sample_rate, self.channels, self.hop_length = sample_rate, channels, hop_length
        self.token_rate, self.bitrate = facts["token_rate"], facts["bitrate"]
        self.codebook_size, self.rule = facts["codebook_size"], WindowRule.from_facts(facts)
        self.window = WindowFormat(sample_rate, channels, hop_length, self.rule, context_frames)
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> "SoundTokenizer":
        """source: a run folder of the stage `tokenizer` or `decoder_finetuning`, a folder of `save_pretrained` or of `stage
        export`, or a hub id of one. Raises UsageError.
        """
        folder = Path(source)
        if (folder / "receipt.json").is_file():
            return cls._from_run(folder)
        if not folder.is_dir():
            folder = hub_repository.fetch(
                str(source),
                revision,
                "sound tokenizer, which is a run folder as runs/main/tokenizer, a folder of save_pretrained or a hub id,",
            )
        if not (folder / MANIFEST).is_file() and export_format.is_export(folder):
            folder = folder / export_format.SOUND_TOKENIZER
        if not (folder / MANIFEST).is_file():
            raise UsageError(f"{folder} has no {MANIFEST} and no receipt.json: it holds no sound tokenizer")
        facts = json.loads((folder / MANIFEST).read_text())
        decoder = folder / "decoder"
        return cls._of(folder / "tokenizer", folder / "codec", facts, decoder if decoder.is_dir() else None)

    @classmethod
    def _of(cls, tokenizer: Path, codec: Path | None, facts: dict[str, Any], decoder: Path | None) -> "SoundTokenizer":
        """codec: None where the tokenizer has none."""
        from stages.hub import pretrained_tokenizer

        if pretrained_tokenizer.is_pretrained(tokenizer):
            return pretrained_tokenizer.PretrainedSoundTokenizer(tokenizer, facts)
        assert codec is not None
        return cls(tokenizer, codec, facts, decoder)

    @classmethod
    def _from_run(cls, folder: Path) -> "SoundTokenizer":
        """Of a run of `tokenizer`, with the decoder that was trained on beside it, or of a run of `decoder_finetuning`."""
        receipt = receipts.read(folder)
        assert receipt is not None
        if receipt["stage"] == "decoder_finetuning":
            return cls.from_runs(parent_of(folder, receipt, "tokenizer"), folder)
        if not receipt["stage"].startswith("tokenizer"):
            raise UsageError(
                f"{folder} is a run of the stage {receipt['stage']}; one of tokenizer, or of decoder_finetuning, is allowed"
            )
        decoder = folder.parent / "decoder_finetuning"
        other = receipts.read(decoder)
        if other is None or other["parents"]["tokenizer"] != receipt["artifact_hash"]:
            return cls.from_runs(folder, None)
        sampling = other["facts"]["sampling"]
        log.info("sound is decoded by %s, in %d steps", decoder, sampling["num_steps"])
        return cls.from_runs(folder, decoder)

    @classmethod
    def from_runs(cls, tokenizer: Path, decoder: Path | None) -> "SoundTokenizer":
        """Run folders of the stages of these names, no other is looked for. Raises UsageError."""
        receipt = receipts.read(tokenizer)
        assert receipt is not None
        codec = None
        if "latents" in receipt["parents"]:
            codec = parent_of(tokenizer, receipt, "latents") / "artifact" / "codec"
        trained = receipts.read(decoder) if decoder else None
        if decoder is None or trained is None:
            return cls._of(tokenizer / "artifact", codec, receipt["facts"], None)
        return cls._of(tokenizer / "artifact", codec, trained["facts"], decoder / "artifact")

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes all that `from_pretrained` reads; an Oobleck that came from a hub or folder stays a reference to it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in self.folders.items():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        write_whole(folder / MANIFEST, json.dumps(self.facts, indent=1))

    @cached_property
    def hash(self) -> str:
        """What the receipt of its run calls `artifact_hash`: codes of another hash mean nothing to it."""
        return hash_folder(self.folders["tokenizer"])

    @property
    def words(self) -> list[str] | None:
        """The words of an LLM that its codes are, level after level; None where they are none."""
        return self.tokenizer.quantizer.words

    def without_tokens(self, sound: Tensor) -> Tensor | None:
        """A sound (C, T) at `sample_rate` through the VAE alone; None where there is none."""
        latents = self.codec.encode(sound[None].to(self.device)).mean
        return self.codec.decode(latents)[0, :, : sound.shape[1]]

    def num_codes(self, seconds: float) -> int:
        """Codes that a sound of so many seconds has, at most."""
        samples = max(1, int(seconds * self.sample_rate))
        return self._codes_of(-(-samples // self.hop_length))

    def num_samples(self, num_codes: int) -> tuple[int, int]:
        """Fewest and most samples of a sound that has so many codes, or, where no sound has, the most codes below."""
        most = self._most_frames(num_codes)
        fewer = self._most_frames(self._codes_of(most) - 1)
        return fewer * self.hop_length + 1, most * self.hop_length

    def to(self, device: str | torch.device) -> "SoundTokenizer":
        self.device = torch.device(device)
        self.tokenizer.to(self.device)
        assert isinstance(self.codec, nn.Module)
        self.codec.to(self.device)
        return self

    @torch.no_grad()
    def encode(self, sounds: Sequence[Tensor | np.ndarray], sample_rate: int, batch_size: int = 16) -> list[list[int]]:
        """sounds: tensors or arrays of floats, each (C, T) in [-1, 1] at sample_rate Hz, mono or stereo -> the codes of
        each, as a list of int.

        A batch gives what its sounds give one by one. Raises UsageError for a sound of another kind or shape, one that
        is not finite, none at all, and for a rate that is none.
        """
        if not float(sample_rate).is_integer() or sample_rate < 1:
            raise UsageError(f"sample_rate {sample_rate}; a whole number of Hz is allowed, as 44100")
        rows: list[list[int]] = [[] for _ in sounds]
        windows = self._windows(sounds, int(sample_rate))
        while batch := list(islice(windows, batch_size)):
            codes = self._encode([window for _, window in batch])
            for (index, _), window_codes in zip(batch, codes, strict=True):
                rows[index] += window_codes
        return rows

    @torch.no_grad()
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
        """The codes of each sound -> waveforms (C, T) at `sample_rate`, T = num_samples, or all that the codes stand
        for.

        num_steps, guidance, temperature: of the sampler; None takes the training configuration's. A batch gives what its sounds give
        one by one: the noise depends on `seed` (one for all, or one a sound) and the window's number alone. overlap: latent
        frames that two windows share (latent_windows.py); None is a quarter of one, 0 leaves a seam behind each.
        Raises UsageError for codes that a tokenizer cannot have written.
        """
        seeds = [seed] * len(codes) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(codes):
            raise UsageError(f"{len(seeds)} seeds for {len(codes)} sounds; one, or one for each is needed")
        sampling = self._sampling(num_steps, guidance, temperature)
        for index, given in enumerate(codes):
            self._check_codes(given, f"sound {index}: ")
        waveforms: list[Tensor] = []
        for start in range(0, len(codes), batch_size):
            chosen = range(start, min(start + batch_size, len(codes)))
            sounds = [LatentWindows(self.tokenizer, self.rule, self.device, seeds[index], overlap) for index in chosen]
            for sound, index in zip(sounds, chosen, strict=True):
                for part in self._parts(codes[index], None if num_samples is None else num_samples[index]):
                    sound.add(part.codes, part.num_frames)
                sound.end()
            latents: list[list[Tensor]] = [[] for _ in sounds]
            while any(sound.next_window() for sound in sounds):
                for one, new in zip(latents, decode_next(sounds, sampling), strict=True):
                    one.append(new)
            waveforms += [self.codec.decode(torch.cat(one)[None])[0] for one in latents]
        if num_samples is None:
            return waveforms
        return [sound[:, :count] for sound, count in zip(waveforms, num_samples, strict=True)]

    @torch.no_grad()
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
        """The sound of `decode` in pieces (C, t), each as soon as its window is decoded: memory does not grow with the
        sound. Arguments and errors as there.
        """
        sampling = self._sampling(num_steps, guidance, temperature)
        self._check_codes(codes)
        windows = LatentWindows(self.tokenizer, self.rule, self.device, seed, overlap)
        sound, rest = DecodingStream(self.codec), math.inf if num_samples is None else num_samples
        parts = iter(self._parts(codes, num_samples))
        while not windows.ended:
            if part := next(parts, None):
                windows.add(part.codes, part.num_frames)
            else:
                windows.end()
            while windows.next_window():
                piece = sound.push(decode_next([windows], sampling)[0])
                yield piece[:, : int(min(rest, piece.shape[1]))]
                rest -= min(rest, piece.shape[1])
        last = sound.finish()
        yield last[:, : int(min(rest, last.shape[1]))]

    def _sampling(self, num_steps: int | None, guidance: float | None, temperature: float | None) -> dict[str, Any]:
        given = {"num_steps": num_steps, "guidance": guidance, "temperature": temperature}
        return {**self.facts["sampling"], **{key: value for key, value in given.items() if value is not None}}

    def _check_codes(self, codes: Sequence[int], which: str = "") -> None:
        """Raises UsageError for those that a tokenizer cannot have written."""
        if not len(codes):
            raise UsageError(f"{which}codes of length 0: a sound has at least one code")
        if not 0 <= min(codes) <= max(codes) < self.codebook_size:
            raise UsageError(
                f"{which}codes from {min(codes)} to {max(codes)}; 0 to {self.codebook_size - 1} are allowed"
            )

    def stream(self) -> SoundStream:
        """Encodes one sound piece by piece, as it comes, at `sample_rate` and with `channels`."""
        return SoundStream(self.codec, self.tokenizer, self.window, self.device)

    def _codes_of(self, num_frames: int) -> int:
        """Codes of a sound of so many frames. Law: grows with them."""
        return sum(int(self.tokenizer.num_codes(length)) for length in self.rule.lengths(num_frames))

    def _most_frames(self, num_codes: int) -> int:
        """The most frames of a sound that has no more codes than that; 0 where a frame has more."""
        fewest, too_many = 0, self.rule.frames
        while self._codes_of(too_many) <= num_codes:
            fewest, too_many = too_many, 2 * too_many
        while too_many - fewest > 1:
            middle = (fewest + too_many) // 2
            fewest, too_many = (middle, too_many) if self._codes_of(middle) <= num_codes else (fewest, middle)
        return fewest

    def _parts(self, codes: Sequence[int], num_samples: int | None) -> list["_Part"]:
        """The codes of a sound by window. Where two lengths have as many codes and differ in their windows, num_samples
        decides; without it, the longer one. Codes that no sound has so many of are the last window's.
        """
        num_frames = -(-(num_samples or 0) // self.hop_length)
        if not num_frames or self._codes_of(num_frames) != len(codes):
            num_frames = max(1, self._most_frames(len(codes)))
        lengths = self.rule.lengths(num_frames)
        begins = accumulate((int(self.tokenizer.num_codes(length)) for length in lengths[:-1]), initial=0)
        edges = pairwise([*begins, len(codes)])
        return [_Part(list(codes[begin:end]), length) for (begin, end), length in zip(edges, lengths, strict=True)]

    def _windows(self, sounds: Sequence[Tensor | np.ndarray], sample_rate: int) -> Iterator[tuple[int, Tensor]]:
        """(index of the sound, window (C, T))."""
        for index, given in enumerate(sounds):
            sound = _checked(given, index)
            windows = split_windows(
                sound.float(), sample_rate, self.sample_rate, self.channels, self.rule, self.hop_length,
                f"sound {index}",
            )  # fmt: skip
            for window in windows:
                yield index, window

    def _encode(self, windows: Sequence[Tensor]) -> list[list[int]]:
        """Windows (C, T) -> the codes of each. None is padded to the length of a longer kind: its last frames would
        differ from those that the stage `cache` saw.
        """
        codes: list[list[int]] = [[] for _ in windows]
        for is_long in (False, True):
            chosen = [n for n, one in enumerate(windows) if (one.shape[1] > self.window.window_samples) is is_long]
            if not chosen:
                continue
            counts = [windows[n].shape[1] for n in chosen]
            length = self.window.padded_samples(max(counts)) if is_long else self.window.window_samples
            waveform = torch.stack([F.pad(windows[n], (0, length - windows[n].shape[1])) for n in chosen])
            num_frames = torch.tensor([-(-count // self.codec.hop_length) for count in counts])
            latents = self.codec.encode(waveform.to(self.device)).stored_mean[:, : int(num_frames.max())]
            encoded = self.tokenizer.encode(latents, num_frames.to(self.device))
            for n, row, count in zip(chosen, encoded.codes.tolist(), encoded.num_codes.tolist(), strict=True):
                codes[n] = row[:count]
        return codes


class _Part(NamedTuple):
    """One window, as codes."""

    codes: list[int]
    num_frames: int


def _checked(sound: Tensor | np.ndarray, index: int) -> Tensor:
    """Raises UsageError for what is no sound (C, T)."""
    if not isinstance(sound, (Tensor, np.ndarray)):
        raise UsageError(
            f"sound {index} is {type(sound).__name__}; a tensor or array of floats is allowed, (C, T), full scale 1"
        )
    tensor = torch.as_tensor(sound)
    if not tensor.is_floating_point():
        raise UsageError(
            f"sound {index} is {tensor.dtype}; a tensor or array of floats is allowed, (C, T), full scale 1"
        )
    if tensor.dim() != 2 or not tensor.shape[1]:
        raise UsageError(f"sound {index} has shape {tuple(tensor.shape)}; (C, T) with T >= 1 is allowed")
    check_finite(tensor, f"sound {index}")
    return tensor


def parent_of(folder: Path, receipt: receipts.Receipt, stage: str) -> Path:
    """The run folder of the stage that a run was made with: for a tokenizer, the `latents` with its VAE. folder, receipt:
    of the run. Raises UsageError where there is none.
    """
    wanted = receipt["parents"][stage]
    folders = [folder.parent / stage, run_folder(from_plain(receipt["stage"], receipt["conf"]), stage)]
    for parent in folders:
        other = receipts.read(parent)
        if other is not None and other["artifact_hash"] == wanted:
            return parent
    raise UsageError(
        f"{folder} was trained on {stage} {wanted[:12]}, which are not in {' or '.join(map(str, folders))}"
    )
