"""The corpus on disk: equal bytes whatever the workers and kills, and a manifest that says what is heard."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.diagnostic import describe, render
from datamodules.diagnostic.scene import (
    Event,
    plan,
    take,
)

ROOT = Path(__file__).parents[3]
SIZES = {
    "train_scenes": 6,
    "validation_scenes": 2,
    "test_scenes": 2,
    "kinds": [],
    "noise_floor_share": 0.0,
    "scene_seconds": [4.0],
    "sample_rate": 16000,
    "seed": 5,
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress((folder / "cuts.jsonl.gz").read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sound_font: Path) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    render(folder, **SIZES, sound_font=sound_font, workers=1)
    return folder


def test_the_manifest_keeps_the_contract(corpus: Path) -> None:
    from lhotse import CutSet, validate

    cuts = CutSet.from_file(corpus / "cuts.jsonl.gz").with_recording_path_prefix(corpus).to_eager()
    assert Counter(cut.custom["split"] for cut in cuts) == {"train": 6, "validation": 2, "test": 2}
    assert len({cut.id for cut in cuts}) == len({cut.custom["source"] for cut in cuts}) == 10
    for cut in cuts:
        validate(cut)
        assert cut.load_audio().shape == (2, 64000) and cut.id.startswith("diagnostic-") and cut.corpus == "diagnostic"
        assert soundfile.info(cut.recording.sources[0].source).subtype == "PCM_16"
        assert cut.custom["labels"] == [e["kind"] for e in cut.custom["metadata"]["events"]]
        tasks = Counter(s.custom["task"] for s in cut.supervisions)
        assert tasks["caption"] == 3 and tasks["question"] >= 3
        for k, supervision in enumerate(cut.supervisions):
            assert supervision.id == f"{cut.id}-{k}" and supervision.duration == 4.0 and supervision.channel == [0, 1]
            fields = {"task"} if supervision.custom["task"] == "caption" else {"task", "kind", "question", "answer"}
            assert set(supervision.custom) == fields and (supervision.text is None) == (
                supervision.custom["task"] == "question"
            )


def test_processes_write_the_same_bytes(corpus: Path, tmp_path: Path, sound_font: Path) -> None:
    given: list[tuple[int, int]] = []
    render(
        tmp_path, **SIZES, sound_font=sound_font, workers=2, progress=lambda done, total: given.append((done, total))
    )
    assert given == [(k, 10) for k in range(1, 11)]
    assert files(tmp_path) == files(corpus)


def test_a_killed_render_goes_on_where_it_was(corpus: Path, tmp_path: Path, sound_font: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from datamodules.diagnostic import render
kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 4 else None
render(Path({str(tmp_path)!r}), **{SIZES!r}, sound_font=Path({str(sound_font)!r}), workers=1, progress=kill)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -9
    audio = tmp_path / "audio"
    kept = {path: path.stat().st_mtime_ns for path in audio.glob("*.flac")}
    assert len(kept) == 4 and not (tmp_path / "cuts.jsonl.gz").exists()
    (audio / "train-000005.flac.part").write_bytes(b"half a file")
    render(tmp_path, **SIZES, sound_font=sound_font, workers=1)
    assert files(tmp_path) == files(corpus) and all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_files_of_other_settings_are_rendered_again(corpus: Path, tmp_path: Path, sound_font: Path) -> None:
    render(tmp_path, **SIZES | {"seed": 6, "train_scenes": 8}, sound_font=sound_font, workers=1)
    assert files(tmp_path)["audio/train-000000.flac"] != files(corpus)["audio/train-000000.flac"]
    render(tmp_path, **SIZES, sound_font=sound_font, workers=1)
    assert files(tmp_path) == files(corpus)


def test_a_corpus_with_a_noise_floor_says_so_and_has_the_same_answers(
    corpus: Path, tmp_path: Path, sound_font: Path
) -> None:
    render(tmp_path, **SIZES | {"noise_floor_share": 1.0}, sound_font=sound_font, workers=1)
    manifests = [gzip.decompress((folder / "cuts.jsonl.gz").read_bytes()).splitlines() for folder in (corpus, tmp_path)]
    for before, after in zip(*(map(json.loads, lines) for lines in manifests), strict=True):
        floor = after["custom"]["metadata"].pop("noise_floor")
        waveform, _ = soundfile.read(tmp_path / after["recording"]["sources"][0]["source"])
        onset = round(after["custom"]["metadata"]["events"][0]["onset"] * SIZES["sample_rate"])
        if onset > 4000:
            level = 10 * np.log10((waveform[:onset] ** 2).mean())
            assert level == pytest.approx(floor["level_db"], abs=3.0)  # brown noise wanders
        assert before["custom"].pop("sha256") != after["custom"].pop("sha256")
        assert before == after


def test_the_timeline_in_the_manifest_is_the_sound_in_the_file(corpus: Path, sound_font: Path) -> None:
    for cut in manifest(corpus):
        waveform, sample_rate = soundfile.read(corpus / cut["recording"]["sources"][0]["source"])
        last = cut["custom"]["metadata"]["events"][-1]
        first = cut["custom"]["metadata"]["events"][0]
        assert not waveform[: int(first["onset"] * sample_rate)].any()
        alone = take(Event.of_dict(last), sample_rate, sound_font)
        heard = waveform[round(last["onset"] * sample_rate) :][: alone.size].sum(1)
        assert np.corrcoef(heard, alone)[0, 1] > (0.999 if first is last else 0.2)


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, sound_font: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*missing\.sf2.*TimGM6mb"):
        render(tmp_path / "a", **SIZES, sound_font=tmp_path / "missing.sf2", workers=1)
    with pytest.raises(ValueError, match="too short for four sounds; type 4 or more"):
        render(tmp_path / "a", **SIZES | {"scene_seconds": [3.0]}, sound_font=sound_font, workers=1)
    with pytest.raises(ValueError, match=r"sample_rate: 8000 .* type 16000 or more"):
        render(tmp_path / "a", **SIZES | {"sample_rate": 8000}, sound_font=sound_font, workers=1)
    with pytest.raises(ValueError, match="'dev' is not one of train, validation, test"):
        plan(0, "dev", 1, [5.0])
    assert not (tmp_path / "a").exists()


def test_planning_and_describing_import_no_torch() -> None:
    script = """
import sys
from datamodules.diagnostic import describe
from datamodules.diagnostic.scene import plan
plan(0, "train", 20, [5.0])
assert set(describe()) == {"effect", "instrument", "voice", "kind", "word"}, describe()
assert not {"torch", "lhotse", "symusic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert describe()["kind"] == [*describe()["effect"], *describe()["instrument"], *describe()["voice"]]
