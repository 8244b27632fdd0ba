"""A trained sound tokenizer with its VAE, as one object: waveform to codes and back, of any length and rate.

    tokenizer = SoundTokenizer.from_pretrained("runs/main/tokenizer")     # or a saved folder, or a hub id
    codes = tokenizer.encode([waveform], sample_rate=48000)               # the codes that the stage `cache` writes
    sounds = tokenizer.decode(codes)

Sound is cut into windows as the training data was (`window_seconds` of the stage `latents`), each coded by itself: a long
sound costs no more memory than a short one, and a prefix of whole windows has the same codes whatever follows.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conf import from_plain
from conf.errors import UsageError
from datamodules.audio import split_windows
from stages.hub import artifacts
from stages.runs import receipts
from stages.runs.files import hash_folder, write_whole
from stages.runs.state import run_folder

MANIFEST = "sound_tokenizer.json"


class SoundTokenizer:
    """Attributes: sample_rate (Hz, of decoded sound), channels, token_rate (Hz), bitrate (bits a second), codebook_size."""

    def __init__(self, tokenizer: Path, codec: Path, facts: dict[str, Any]) -> None:
        """tokenizer, codec: folders of artifacts; facts: of the stage `tokenizer`."""
        self.folders = {"tokenizer": tokenizer, "codec": codec}
        self.tokenizer: Any = artifacts.load_tokenizer(tokenizer)
        self.codec: Any = artifacts.load_codec(codec)
        self.facts = facts
        self.sample_rate, self.channels = self.codec.sample_rate, self.codec.channels
        self.token_rate, self.bitrate = facts["token_rate"], facts["bitrate"]
        self.codebook_size, self.window_frames = facts["codebook_size"], facts["window_frames"]
        self.device = torch.device("cpu")

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None) -> "SoundTokenizer":
        """source: a run folder of the stage `tokenizer`, a folder of `save_pretrained`, or a hub id. Raises UsageError."""
        folder = Path(source)
        if (folder / "receipt.json").is_file():
            return cls._from_run(folder)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            try:
                folder = Path(snapshot_download(str(source), revision=revision))
            except Exception as error:  # the hub's and the network's errors share no base
                raise UsageError(
                    f"no sound tokenizer at {str(source)!r}: {str(error).splitlines()[0]}. Allowed: a run folder as "
                    "runs/main/tokenizer, a folder of save_pretrained, or a hub id"
                ) from error
        if not (folder / MANIFEST).is_file():
            raise UsageError(f"{folder} has no {MANIFEST} and no receipt.json: it holds no sound tokenizer")
        facts = json.loads((folder / MANIFEST).read_text())
        return cls(folder / "tokenizer", folder / "codec", facts)

    @classmethod
    def _from_run(cls, folder: Path) -> "SoundTokenizer":
        receipt = receipts.read(folder)
        assert receipt is not None
        if not receipt["stage"].startswith("tokenizer"):
            raise UsageError(f"{folder} is a run of the stage {receipt['stage']}; one of tokenizer is allowed")
        wanted = receipt["parents"]["latents"]
        places = [folder.parent / "latents", run_folder(from_plain(receipt["stage"], receipt["conf"]), "latents")]
        for place in places:
            found = receipts.read(place)
            if found is not None and found["artifact_hash"] == wanted:
                return cls(folder / "artifact", place / "artifact" / "codec", receipt["facts"])
        raise UsageError(
            f"{folder} was trained on latents {wanted[:12]}, which are not in {' or '.join(map(str, places))}"
        )

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

    def num_codes(self, seconds: float) -> int:
        """Codes that a sound of so many seconds has, at most."""
        samples = max(1, int(seconds * self.sample_rate))
        windows, rest = divmod(-(-samples // self.codec.hop_length), self.window_frames)
        return windows * self._codes_per_window + (int(self.tokenizer.num_codes(rest)) if rest else 0)

    def num_samples(self, num_codes: int) -> tuple[int, int]:
        """Fewest and most samples of a sound that has so many codes."""

        def most(codes: int) -> int:
            windows, rest = divmod(codes, self._codes_per_window)
            frames = windows * self.window_frames + (self._frames(rest) if rest else 0)
            return frames * self.codec.hop_length

        return most(num_codes - len(self.tokenizer.quantizer.levels)) + 1, most(num_codes)

    def to(self, device: str | torch.device) -> "SoundTokenizer":
        self.device = torch.device(device)
        self.tokenizer.to(self.device)
        self.codec.to(self.device)
        return self

    @torch.no_grad()
    def encode(self, sounds: Sequence[Tensor | np.ndarray], sample_rate: int, batch_size: int = 16) -> list[list[int]]:
        """sounds: tensors or arrays of floats, each (C, T) in [-1, 1] at sample_rate Hz, mono or stereo -> the codes of each, as a list of int.

        A batch gives what its sounds give one by one. Raises UsageError for a sound of another kind or shape, or none at all.
        """
        found: list[list[int]] = [[] for _ in sounds]
        batch: list[tuple[int, Tensor, int]] = []
        for place, window, samples in self._windows(sounds, sample_rate):
            batch.append((place, window, samples))
            if len(batch) == batch_size:
                self._encode(batch, found)
                batch = []
        if batch:
            self._encode(batch, found)
        return found

    @torch.no_grad()
    def decode(
        self,
        codes: Sequence[Sequence[int]],
        num_samples: Sequence[int] | None = None,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
    ) -> list[Tensor]:
        """The codes of each sound -> waveforms (C, T) at `sample_rate`, T = num_samples, or all that the codes stand for.

        num_steps, guidance: of the sampler; None takes the training configuration's. A batch gives what its sounds give one
        by one: the noise hangs on `seed` (one for all, or one a sound) and the window's place alone. Raises UsageError for codes that are none.
        """
        seeds = [seed] * len(codes) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(codes):
            raise UsageError(f"{len(seeds)} seeds for {len(codes)} sounds; one, or one for each is needed")
        sampling = dict(self.facts["sampling"])
        sampling |= {
            key: value for key, value in (("num_steps", num_steps), ("guidance", guidance)) if value is not None
        }
        if any(not len(one) for one in codes):
            raise UsageError("codes of length 0: a sound has at least one code")
        parts = [
            (place, number, part)
            for place, one in enumerate(codes)
            for number, part in enumerate(_cut(list(one), self._codes_per_window))
        ]
        latents: list[list[Tensor]] = [[] for _ in codes]
        for start in range(0, len(parts), batch_size):
            held = parts[start : start + batch_size]
            num_codes = torch.tensor([len(part) for _, _, part in held])
            padded = torch.tensor([part + [0] * (int(num_codes.max()) - len(part)) for _, _, part in held])
            num_frames = torch.tensor([self._frames(len(part)) for _, _, part in held])
            shape = (self.window_frames, self.codec.latent_dim)
            noise = torch.stack(
                [torch.randn(shape, generator=_generator(seeds[place], number)) for place, number, _ in held]
            )
            decoded = self.tokenizer.decode(
                padded.to(self.device), num_codes.to(self.device), num_frames.to(self.device),
                noise=noise[:, : int(num_frames.max())].to(self.device), **sampling,
            )  # fmt: skip
            for (place, _, _), frames, one in zip(held, num_frames.tolist(), decoded, strict=True):
                latents[place].append(one[:frames])
        sounds = [self.codec.decode(torch.cat(one)[None])[0] for one in latents]
        if num_samples is None:
            return sounds
        return [sound[:, :count] for sound, count in zip(sounds, num_samples, strict=True)]

    def stream(self) -> "Stream":
        """Encodes one sound piece by piece, as it comes: the same codes as `encode` gives for the whole."""
        return Stream(self)

    @property
    def _codes_per_window(self) -> int:
        return int(self.tokenizer.num_codes(self.window_frames))

    def _frames(self, num_codes: int) -> int:
        """Latent frames that the first codes of a window stand for."""
        return min(self.window_frames, int(self.tokenizer.num_frames(num_codes)))

    def _windows(self, sounds: Sequence[Tensor | np.ndarray], sample_rate: int) -> Iterator[tuple[int, Tensor, int]]:
        """(which sound, window (C, T), its valid samples)."""
        for place, sound in enumerate(sounds):
            if not isinstance(sound, (Tensor, np.ndarray)) or not (sound := torch.as_tensor(sound)).is_floating_point():
                what = sound.dtype if isinstance(sound, Tensor) else type(sound).__name__
                raise UsageError(
                    f"sound {place} is {what}; a tensor or array of floats is allowed, (C, T), full scale 1"
                )
            if sound.dim() != 2 or not sound.shape[1]:
                raise UsageError(f"sound {place} has shape {tuple(sound.shape)}; (C, T) with T >= 1 is allowed")
            windows = split_windows(
                sound.float(), sample_rate, self.sample_rate, self.channels, self.window_frames * self.codec.hop_length,
                f"sound {place}",
            )  # fmt: skip
            for window, samples in zip(windows.waveform, windows.num_samples.tolist(), strict=True):
                yield place, window, samples

    def _encode(self, batch: list[tuple[int, Tensor, int]], found: list[list[int]]) -> None:
        waveform = torch.stack([window for _, window, _ in batch]).to(self.device)
        num_frames = torch.tensor([-(-samples // self.codec.hop_length) for _, _, samples in batch])
        latents = self.codec.encode(waveform).mean[:, : int(num_frames.max())]
        codes = self.tokenizer.encode(latents, num_frames.to(self.device))
        for (place, _, _), row, count in zip(batch, codes.codes.tolist(), codes.num_codes.tolist(), strict=True):
            found[place] += row[:count]


class Stream:
    """push(waveform) -> the codes that nothing that follows can change; finish() -> the rest. One window is held in memory."""

    def __init__(self, owner: SoundTokenizer) -> None:
        self.owner, self.codec, self.tokenizer = owner, owner.codec, owner.tokenizer
        self.window_samples = owner.window_frames * self.codec.hop_length
        self.context = self.codec.encoder_context
        self._begin_window()

    def push(self, waveform: Tensor) -> list[int]:
        """waveform (C, T) at the codec's sample_rate, with its number of channels: resampling a stream needs its future."""
        if waveform.dim() != 2 or waveform.shape[0] != self.codec.channels:
            raise UsageError(
                f"waveform of shape {tuple(waveform.shape)}; ({self.codec.channels}, T) at {self.codec.sample_rate} Hz is "
                "allowed: resample and mix it before"
            )
        found: list[int] = []
        while waveform.shape[1]:
            room = self.window_samples - self.samples.shape[1]
            self.samples = torch.cat([self.samples, waveform[:, :room].cpu()], 1)
            waveform = waveform[:, room:]
            if self.samples.shape[1] == self.window_samples:
                found += self._advance(self.owner.window_frames, whole=True)
                self._begin_window()
            else:
                known = self.samples.shape[1] // self.codec.hop_length - self.context.after
                found += self._advance(known, whole=False)
        return found

    def finish(self) -> list[int]:
        """The codes of what is left; the stream is as new afterwards."""
        count = self.samples.shape[1]
        found: list[int] = []
        if count:
            frames = -(-count // self.codec.hop_length)
            self.samples = torch.nn.functional.pad(self.samples, (0, self.window_samples - count))
            found = self._advance(frames, whole=True)
        self._begin_window()
        return found

    def _begin_window(self) -> None:
        self.samples = torch.zeros(self.codec.channels, 0)
        self.latents = torch.zeros(0, self.codec.latent_dim)
        self.emitted = 0

    @torch.no_grad()
    def _advance(self, frames: int, whole: bool) -> list[int]:
        """Latents up to `frames`, and the codes that are certain with them. whole: all of the window's sound is there."""
        if frames <= len(self.latents):
            return []
        first = max(0, len(self.latents) - self.context.before)
        part = self.samples[None, :, first * self.codec.hop_length :].to(self.owner.device)
        new = self.codec.encode(part).mean[0, len(self.latents) - first : frames - first].cpu()
        self.latents = torch.cat([self.latents, new])
        num_frames = torch.tensor([frames], device=self.owner.device)
        codes = self.tokenizer.encode(self.latents[None].to(self.owner.device), num_frames)
        certain = int(codes.num_codes[0]) if whole else int(self.tokenizer.num_complete_codes(frames))
        found = codes.codes[0, self.emitted : certain].tolist()
        self.emitted = max(self.emitted, certain)
        return found


def _cut(codes: list[int], size: int) -> list[list[int]]:
    return [codes[start : start + size] for start in range(0, len(codes), size)]


def _generator(seed: int, window: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + window) % (1 << 62))
