"""The sound of the report: a few clips as the recording, through the VAE and through the tokens, as MP3 and spectrograms that stand in the page itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from torch import Tensor

from callbacks import spectrogram
from conf.sections.common import DataConf
from datamodules.audio import load_sound, resample
from datamodules.hashing import choose_by_hash
from datamodules.reconstruction import group_of
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import corpora

MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)  # Hz


class Track(NamedTuple):
    name: str
    audio: str  # data URI, MP3
    picture: str  # data URI, PNG


class Clip(NamedTuple):
    name: str
    note: str  # its group and labels
    seconds: float  # that are heard
    tracks: list[Track]


class Listening(NamedTuple):
    reconstructed: list[Clip]
    recordings: dict[str, Track]  # by id of a cut
    missing: list[str]  # why something is not there to be heard
    written: Sequence[Clip] = ()  # what the LLM made of captions, beside the recording that each is of


class Written(NamedTuple):
    """A sound of the stage `generation`."""

    caption: str
    number: int
    seed: int
    codes: list[int]


NOTHING = Listening([], {}, [])


def listen(
    tokenizer: Path,
    data: DataConf,
    cuts: Sequence[Any],
    heard: Sequence[Any],
    count: int,
    seconds: float,
    most_bytes: int,
    written: Mapping[str, Sequence[Written]],
) -> Listening:
    """tokenizer: a run folder; data: the section; cuts: of the test split, `count` of which are reconstructed, from all groups in turn; heard: those
    whose recording alone is wanted; written: by id of a cut, `count` of which are heard too. The first `seconds` of each. What would make the page
    larger than most_bytes is left out, and said.
    """
    if not count:
        return NOTHING
    try:
        roots = {name: Path(receipt["root"]) for name, receipt in corpora.corpora(data).items()}
        codec = SoundTokenizer.from_pretrained(tokenizer)
    except ValueError as error:
        return Listening([], {}, [" ".join(str(error).split())])
    missing: list[str] = []
    spent, clips = 0, []
    for cut in _in_turn(cuts, count):
        clip = _reconstructed(codec, cut, roots[cut.custom["corpus"]], seconds)
        spent += _size(clip.tracks)
        clips.append(clip)
    made = []
    for cut in _in_turn([cut for cut in cuts if cut.id in written], count):
        clip = _made(codec, cut, roots[cut.custom["corpus"]], seconds, written[cut.id])
        spent += _size(clip.tracks)
        made.append(clip)
    recordings: dict[str, Track] = {}
    for cut in heard:
        if spent > most_bytes:
            missing.append(
                f"{len(heard) - len(recordings)} recordings are left out: a page holds {most_bytes / 1e6:.0f} MB of sound"
            )
            break
        if cut.id not in recordings:
            sound = _first(
                load_sound(cut, roots[cut.custom["corpus"]], codec.sample_rate, codec.channels),
                codec.sample_rate,
                seconds,
            )
            recordings[cut.id] = _track("recording", sound, codec.sample_rate, float(sound.abs().max()))
            spent += _size([recordings[cut.id]])
    return Listening(clips, recordings, missing, made)


def _in_turn(cuts: Sequence[Any], count: int) -> list[Any]:
    """One of each group, then the second of each, ..."""
    groups: dict[str, list[Any]] = {}
    for cut in choose_by_hash(cuts, len(cuts), lambda cut: cut.id):
        groups.setdefault(group_of(cut), []).append(cut)
    ranked = [choose_by_hash(found, count, lambda cut: cut.id) for _, found in sorted(groups.items())]
    return [found[place] for place in range(count) for found in ranked if place < len(found)][:count]


@torch.no_grad()
def _reconstructed(codec: SoundTokenizer, cut: Any, root: Path, seconds: float) -> Clip:
    sound = _first(load_sound(cut, root, codec.sample_rate, codec.channels), codec.sample_rate, seconds)
    if len(sound) < codec.channels:
        sound = sound.expand(codec.channels, -1)
    samples = sound.shape[1]
    alone = codec.codec.decode(codec.codec.encode(sound[None].to(codec.device)).mean)[0, :, :samples]
    codes = codec.encode([sound], codec.sample_rate)
    tokens = codec.decode(codes, [samples])[0]
    peak = float(sound.abs().max())
    note = ", ".join([group_of(cut), *cut.custom["labels"]])
    names = ("recording", "VAE alone", f"{len(codes[0])} tokens")
    tracks = [
        _track(name, one, codec.sample_rate, peak) for name, one in zip(names, (sound, alone, tokens), strict=True)
    ]
    return Clip(cut.id, note, samples / codec.sample_rate, tracks)


@torch.no_grad()
def _made(codec: SoundTokenizer, cut: Any, root: Path, seconds: float, sounds: Sequence[Written]) -> Clip:
    sound = _first(load_sound(cut, root, codec.sample_rate, codec.channels), codec.sample_rate, seconds)
    tracks = [_track("recording", sound, codec.sample_rate, float(sound.abs().max()))]
    most = [max(1, int(seconds * codec.sample_rate))]
    for one in sounds:
        wave = codec.decode([one.codes], most, seed=one.seed)[0]
        name = f"written, {len(one.codes)} tokens" + (f", {one.number + 1}." if len(sounds) > 1 else "")
        tracks.append(_track(name, wave, codec.sample_rate, float(wave.abs().max())))
    return Clip(sounds[0].caption, group_of(cut), sound.shape[1] / codec.sample_rate, tracks)


def _first(sound: Tensor, rate: int, seconds: float) -> Tensor:
    return sound[:, : int(seconds * rate)]


def _track(name: str, sound: Tensor, rate: int, peak: float) -> Track:
    """sound (C, T); peak: of the recording, that all tracks of a clip are scaled and drawn by. 0 dB is its loudest bin."""
    mono = sound.mean(0).cpu() / max(peak, 1e-5)
    return Track(name, mp3(mono, rate), picture(mono, rate))


def _size(tracks: Sequence[Track]) -> int:
    return sum(len(track.audio) + len(track.picture) for track in tracks)


def mp3(sound: Tensor, rate: int) -> str:
    """sound (T), 1 is full scale -> data URI. A rate that MP3 has not is resampled to 44.1 kHz; what is louder is turned down."""
    if rate not in MP3_RATES:
        sound, rate = resample(sound[None], rate, 44100)[0], 44100
    wave = (0.9 * sound / sound.abs().max().clamp(min=1.0)).numpy()
    held = io.BytesIO()
    soundfile.write(held, wave, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    return _uri("audio/mpeg", held.getvalue())


def picture(sound: Tensor, rate: int) -> str:
    """sound (T), 1 is full scale -> data URI of `spectrogram.image`."""
    held = io.BytesIO()
    spectrogram.image(sound, rate).save(held, format="PNG", optimize=True)
    return _uri("image/png", held.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def cut_of(cuts: Sequence[Any]) -> dict[str, Any]:
    """id of what was asked, without its condition -> the recording that it was asked about."""
    found = {sup.id: cut for cut in cuts for sup in cut.supervisions}
    return found | {cut.id: cut for cut in cuts} | {f"{cut.id}:caption": cut for cut in cuts}
