"""Scenes to disk: FLAC and a Lhotse manifest, the same bytes whatever the workers and however often it was killed.

folder/
    cuts.jsonl.gz          written last: where it is, the corpus is whole
    audio/
        settings.json      what the files were rendered with; files of other settings are rendered again
        train-000000.flac  ...
"""

import gzip
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from datamodules.atomic_files import whole_file, write_whole
from datamodules.cuts import SPLITS
from datamodules.diagnostic.captions_and_questions import Question, captions, questions
from datamodules.diagnostic.extras import enrich, extra_questions
from datamodules.diagnostic.held_out import MINIMAL_PAIRS, Twins, twins
from datamodules.diagnostic.music import require_sound_font
from datamodules.diagnostic.scene import Scene, mix, plan
from datamodules.errors import DataError
from datamodules.hashing import file_digest

CORPUS = "diagnostic"


def render(
    folder: Path,
    *,
    train_scenes: int,
    validation_scenes: int,
    test_scenes: int,
    scene_seconds: Sequence[float],
    sample_rate: int,
    seed: int,
    kinds: Sequence[str],
    noise_floor_share: float,
    extras: Sequence[str] = (),
    axis: str | None = None,
    sound_font: Path,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Writes 16-bit stereo FLAC and cuts.jsonl.gz; keeps files that exist. progress: called with (done, total).

    extras: of extras.NAMES. axis: of scene.AXES; then the test split alone is written, `test_scenes` scenes that differ
    from ordinary ones along it (of minimal pairs as many of both). Returns the lengths (s) of the scenes of each split.
    Raises DataError before the first file: no sound font, scenes under 4 s, a sample rate under 16 kHz.
    """
    if sample_rate < 16000:
        raise DataError(f"sample_rate: {sample_rate} Hz cannot carry a cricket or a bird; type 16000 or more.")
    require_sound_font(sound_font)
    numbers = {"train": train_scenes, "validation": validation_scenes, "test": test_scenes}
    apart = "apart" in extras
    splits = {
        split: plan(seed, split, numbers[split], scene_seconds, kinds, noise_floor_share, apart) for split in SPLITS
    }
    if axis is None:
        splits = {split: [enrich(scene, extras, seed) for scene in scenes] for split, scenes in splits.items()}
        asked = {split: _questions(scenes, extras, seed) for split, scenes in splits.items()}
    else:
        made = twins(axis, seed, test_scenes, scene_seconds, kinds, splits["train"], noise_floor_share)
        pairs = [scene_and_questions for pair in made for scene_and_questions in _of_axis(axis, pair)]
        splits, asked = {"test": [scene for scene, _ in pairs]}, {"test": [questions for _, questions in pairs]}
    scenes = [scene for split in splits.values() for scene in split]
    audio = folder / "audio"
    (folder / "cuts.jsonl.gz").unlink(missing_ok=True)
    settings = _settings(scene_seconds, sample_rate, seed, kinds, noise_floor_share, extras, axis, sound_font)
    _prepare(audio, scenes, settings)

    waiting = [scene for scene in scenes if not (audio / _name(scene)).exists()]
    write = partial(_write_scene, audio=audio, sample_rate=sample_rate, sound_font=sound_font)
    for done, _ in enumerate(_each(write, waiting, workers), len(scenes) - len(waiting) + 1):
        if progress is not None:
            progress(done, len(scenes))
    name = CORPUS if axis is None else f"{CORPUS}-{axis}"
    _write_cuts(folder, name, splits, asked, sample_rate, seed)
    return {split: [scene.seconds for scene in splits.get(split, [])] for split in SPLITS}


def _questions(scenes: list[Scene], extras: Sequence[str], seed: int) -> list[list[Question]]:
    return [a + b for a, b in zip(questions(scenes, seed), extra_questions(scenes, extras, seed), strict=True)]


def _of_axis(axis: str, pair: Twins) -> list[tuple[Scene, list[Question]]]:
    """What a corpus has of twins: the one that differs; of a minimal pair both, one after the other."""
    if axis not in MINIMAL_PAIRS:
        return [(pair.other, pair.other_questions)]
    both = ((pair.usual, pair.usual_questions), (pair.other, pair.other_questions))
    return [(scene._replace(number=2 * scene.number + side), asked) for side, (scene, asked) in enumerate(both)]


def _each(write: Callable[[Scene], None], scenes: list[Scene], workers: int) -> Iterator[None]:
    """Here or in processes. They are spawned: the fork of a process that holds torch's threads or CUDA may hang."""
    if workers <= 1 or not scenes:
        yield from map(write, scenes)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(scenes))) as pool:
        yield from pool.imap_unordered(write, scenes, chunksize=8)


def _name(scene: Scene) -> str:
    return f"{scene.split}-{scene.number:06d}.flac"


def _write_scene(scene: Scene, audio: Path, sample_rate: int, sound_font: Path) -> None:
    waveform = mix(scene, sample_rate, sound_font)
    samples = np.round(waveform.T * 32767).astype(np.int16)
    # a killed run's workers may outlive it for a moment
    with whole_file(audio / _name(scene)) as part:
        soundfile.write(part, samples, sample_rate, format="FLAC", subtype="PCM_16")


def _settings(
    scene_seconds: Sequence[float],
    sample_rate: int,
    seed: int,
    kinds: Sequence[str],
    noise_floor_share: float,
    extras: Sequence[str],
    axis: str | None,
    sound_font: Path,
) -> str:
    """All that a file's samples depend on, the source of this package and its libraries included."""
    source = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
    font = file_digest(sound_font)
    values = {"scene_seconds": list(scene_seconds), "sample_rate": sample_rate, "seed": seed, "kinds": list(kinds)}
    values |= {"noise_floor_share": noise_floor_share, "extras": list(extras), "axis": axis}
    values |= {package: version(package) for package in ("numpy", "symusic", "espeakng-loader", "soundfile")}
    return json.dumps(values | {"sound_font": font, "source": source.hexdigest()}, indent=2) + "\n"


def _prepare(audio: Path, scenes: list[Scene], settings: str) -> None:
    """Leaves in the folder only whole files of these scenes and settings."""
    audio.mkdir(parents=True, exist_ok=True)
    written = audio / "settings.json"
    same = written.exists() and written.read_text() == settings
    wanted = {_name(scene) for scene in scenes} if same else set()
    for path in audio.iterdir():
        if path.name not in wanted and path != written:
            path.unlink()
    write_whole(written, settings)


def _write_cuts(
    folder: Path,
    corpus: str,
    splits: Mapping[str, list[Scene]],
    asked: Mapping[str, list[list[Question]]],
    sample_rate: int,
    seed: int,
) -> None:
    # no name and no time in the header: equal corpora are equal bytes
    with (
        whole_file(folder / "cuts.jsonl.gz") as part,
        part.open("wb") as raw,
        gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as stream,
    ):
        for split, scenes in splits.items():
            for scene, of_scene in zip(scenes, asked[split], strict=True):
                cut = _cut(corpus, split, scene, captions(scene, seed), of_scene, sample_rate, seed)
                cut["custom"]["sha256"] = file_digest(folder / "audio" / _name(scene))
                stream.write(json.dumps(cut, ensure_ascii=False).encode() + b"\n")


def _cut(
    corpus: str, split: str, scene: Scene, texts: list[str], asked: list[Question], sample_rate: int, seed: int
) -> dict[str, Any]:
    """A MultiCut as a dict, its recording's path relative to the corpus' root."""
    from lhotse import AudioSource, Recording, SupervisionSegment

    name, samples = f"{CORPUS}-{scene.split}-{scene.number:06d}", round(scene.seconds * sample_rate)
    sources = [AudioSource(type="file", channels=[0, 1], source=f"audio/{_name(scene)}")]
    recording = Recording(name, sources, sample_rate, samples, samples / sample_rate, channel_ids=[0, 1])
    cut = recording.to_cut().with_id(name)
    annotations: list[tuple[str | None, dict[str, Any]]] = [(text, {"task": "caption"}) for text in texts]
    annotations += [(None, {"task": "question"} | question._asdict()) for question in asked]
    cut.supervisions = [
        SupervisionSegment(f"{name}-{k}", name, 0, recording.duration, channel=[0, 1], text=text, custom=custom)
        for k, (text, custom) in enumerate(annotations)
    ]
    pair = scene.number // 2 if scene.split in MINIMAL_PAIRS else scene.number
    cut.custom = {
        "split": split,
        "corpus": corpus,
        "source": f"{seed}-{scene.split}-{pair:06d}",
        "labels": [event.kind for event in scene.events],
        "metadata": {"events": [event.as_dict() for event in scene.events]},
    }
    if scene.noise_floor is not None:
        cut.custom["metadata"]["noise_floor"] = scene.noise_floor._asdict()
    return cut.to_dict()
