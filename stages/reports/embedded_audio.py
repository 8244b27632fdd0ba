"""Sound inside the page: a few clips as the recording, through the VAE and through the tokens, as MP3 and spectrograms
in data URIs.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from callbacks import pictures
from callbacks.pictures import Picture, Tick
from conf.sections.common import DataConf
from datamodules.audio import load_sound, resample
from datamodules.cuts import Cut
from datamodules.hashing import choose_by_hash
from datamodules.reconstruction import group_of
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import corpora

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


class Drawing(NamedTuple):
    """A picture with its axes, as the page has it."""

    name: str
    picture: str  # data URI, PNG
    x: Sequence[Tick] = ()
    y: Sequence[Tick] = ()


class Track(NamedTuple):
    """A sound, and its spectrogram."""

    name: str
    audio: str  # data URI, MP3
    picture: str  # data URI, PNG
    x: Sequence[Tick] = ()
    y: Sequence[Tick] = ()


class AudioClip(NamedTuple):
    name: str
    note: str  # its group and labels
    seconds: float  # of sound in the page
    tracks: list[Track]
    codes: Drawing | None = None


class EmbeddedAudio(NamedTuple):
    reconstructed: list[AudioClip]
    recordings: dict[str, Track]  # by id of a cut
    missing: list[str]  # why a sound is not in the page
    written: Sequence[AudioClip] = ()  # what the LLM made of captions, beside the recording that each is of


class WrittenSound(NamedTuple):
    """A sound of the stage `generation`."""

    caption: str
    number: int
    seed: int
    codes: list[int]


NOTHING = EmbeddedAudio([], {}, [])


def embed(
    tokenizer: Path,
    data: DataConf,
    cuts: Sequence[Cut],
    recordings: Sequence[Cut],
    count: int,
    seconds: float,
    max_bytes: int,
    written: Mapping[str, Sequence[WrittenSound]],
    count_written: int,
    counts: Tensor,
) -> EmbeddedAudio:
    """tokenizer: a run folder; data: the section; cuts: of the test split, `count` of which are reconstructed, from all
    groups in turn; recordings: those whose recording alone is wanted; written: by id of a cut, `count_written` of which
    are embedded too; counts (Q, K): how often each code is used. The first `seconds` of each. What would make the page
    larger than max_bytes is left out, and listed in `missing`.
    """
    if not count:
        return NOTHING
    try:
        roots = {name: Path(receipt["root"]) for name, receipt in corpora.corpora(data).items()}
        sound_tokenizer = SoundTokenizer.from_pretrained(tokenizer)
    except ValueError as error:
        return EmbeddedAudio([], {}, [" ".join(str(error).split())])
    samples = int(seconds * sound_tokenizer.sample_rate)

    def read(cut: Cut) -> Tensor:
        """Its beginning (C, T)."""
        root = roots[cut.custom["corpus"]]
        return load_sound(cut, root, sound_tokenizer.sample_rate, sound_tokenizer.channels)[:, :samples]

    missing: list[str] = []
    spent, clips = 0, []
    for cut in in_turn(cuts, count):
        clip = _reconstructed(sound_tokenizer, cut, read(cut), counts)
        spent += _size(clip.tracks)
        clips.append(clip)
    made = []
    for cut in in_turn([cut for cut in cuts if cut.id in written], count_written):
        clip = _made(sound_tokenizer, cut, read(cut), samples, written[cut.id])
        spent += _size(clip.tracks)
        made.append(clip)
    tracks: dict[str, Track] = {}
    for cut in recordings:
        if spent > max_bytes:
            missing.append(
                f"{len(recordings) - len(tracks)} recordings are left out: a page holds {max_bytes / 1e6:.0f} MB of sound"
            )
            break
        if cut.id not in tracks:
            sound = read(cut)
            tracks[cut.id] = _track("recording", sound, sound_tokenizer.sample_rate)
            spent += _size([tracks[cut.id]])
    return EmbeddedAudio(clips, tracks, missing, made)


def in_turn(cuts: Sequence[Cut], count: int) -> list[Cut]:
    """One of each group, then the second of each, ..."""
    groups: dict[str, list[Cut]] = {}
    for cut in choose_by_hash(cuts, len(cuts), lambda cut: cut.id):
        groups.setdefault(group_of(cut), []).append(cut)
    ranked = [choose_by_hash(group, count, lambda cut: cut.id) for _, group in sorted(groups.items())]
    return [group[rank] for rank in range(count) for group in ranked if rank < len(group)][:count]


@torch.no_grad()
def _reconstructed(sound_tokenizer: SoundTokenizer, cut: Cut, sound: Tensor, counts: Tensor) -> AudioClip:
    if len(sound) < sound_tokenizer.channels:
        sound = sound.expand(sound_tokenizer.channels, -1)
    samples = sound.shape[1]
    alone = sound_tokenizer.without_tokens(sound)
    codes = sound_tokenizer.encode([sound], sound_tokenizer.sample_rate)
    tokens = sound_tokenizer.decode(codes, [samples])[0]
    peak = float(sound.abs().max())
    note = ", ".join([group_of(cut), *cut.custom["labels"]])
    versions = {"recording": sound, "VAE alone": alone, f"{len(codes[0])} tokens": tokens}
    tracks = [_track(name, one, sound_tokenizer.sample_rate, peak) for name, one in versions.items() if one is not None]
    seconds, levels = samples / sound_tokenizer.sample_rate, sound_tokenizer.facts["levels"]
    codes_of_clip = pictures.raster(codes[0], sound_tokenizer.codebook_size, levels, seconds, counts)
    return AudioClip(cut.id, note, seconds, tracks, drawing("codes", codes_of_clip))


@torch.no_grad()
def _made(
    sound_tokenizer: SoundTokenizer, cut: Cut, sound: Tensor, samples: int, sounds: Sequence[WrittenSound]
) -> AudioClip:
    """sound: the recording; samples: of a written sound, at most."""
    tracks = [_track("recording", sound, sound_tokenizer.sample_rate)]
    for one in sounds:
        wave = sound_tokenizer.decode([one.codes], [max(1, samples)], seed=one.seed)[0]
        name = f"written, {len(one.codes)} tokens" + (f", {one.number + 1}." if len(sounds) > 1 else "")
        tracks.append(_track(name, wave, sound_tokenizer.sample_rate))
    return AudioClip(sounds[0].caption, group_of(cut), sound.shape[1] / sound_tokenizer.sample_rate, tracks)


def _track(name: str, sound: Tensor, rate: int, peak: float | None = None) -> Track:
    """sound (C, T); peak: of the recording, that all tracks of a clip are scaled and drawn by; None: of the sound itself.

    0 dB is its loudest bin.
    """
    mono = sound.mean(0).cpu() / max(float(sound.abs().max()) if peak is None else peak, 1e-5)
    drawn = drawing(name, pictures.spectrogram(mono, rate))
    return Track(name, mp3(mono, rate), *drawn[1:])


def _size(tracks: Sequence[Track]) -> int:
    return sum(len(track.audio) + len(track.picture) for track in tracks)


def mp3(sound: Tensor, rate: int) -> str:
    """sound (T), 1 is full scale -> data URI. A rate that MP3 has not is resampled to 44.1 kHz; what is louder is
    turned down.
    """
    if rate not in MP3_RATES:
        sound, rate = resample(sound[None], rate, 44100)[0], 44100
    wave = (0.9 * sound / sound.abs().max().clamp(min=1.0)).numpy()
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return _uri("audio/mpeg", file.getvalue())


def drawing(name: str, picture: Picture) -> Drawing:
    file = io.BytesIO()
    picture.image.save(file, format="PNG", optimize=True)
    return Drawing(name, _uri("image/png", file.getvalue()), picture.x, picture.y)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
