"""The embedded corpus: sounds that differ, legible timelines, answers that cannot be guessed, equal bytes."""

import ctypes
import gzip
import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.diagnostic import describe, effects, music, render, speech
from datamodules.diagnostic.captions_and_questions import TEMPLATES, Question, captions, questions
from datamodules.diagnostic.scene import (
    GRID,
    JITTER,
    KINDS,
    LOUDNESS,
    NOISE_FLOOR,
    SPLITS,
    VOICE_CARDS,
    Event,
    NoiseFloor,
    Scene,
    loudness,
    mix,
    plan,
    take,
)

ROOT = Path(__file__).parents[2]
RATE = 22050


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


@pytest.fixture(scope="session")
def sound_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SoundFont 2.01 file of one looped sawtooth, played by every program and by the percussion bank."""
    period, sample_rate = 100, 22050
    wave = (np.tile(np.linspace(-0.5, 0.5, period), 40) * 32767).astype("<i2")
    wave = np.concatenate([wave, np.zeros(46, "<i2")])
    presets = [(0, program) for program in range(128)] + [(128, 0)]
    phdr = b"".join(struct.pack("<20sHHHIII", b"saw", p, bank, k, 0, 0, 0) for k, (bank, p) in enumerate(presets))
    phdr += struct.pack("<20sHHHIII", b"EOP", 0, 0, len(presets), 0, 0, 0)
    pbag = b"".join(struct.pack("<HH", k, 0) for k in range(len(presets) + 1))
    pgen = struct.pack("<HH", 41, 0) * len(presets) + b"\0" * 4  # 41: instrument
    inst = struct.pack("<20sH", b"saw", 0) + struct.pack("<20sH", b"EOI", 1)
    ibag = struct.pack("<HHHH", 0, 0, 2, 0)
    igen = struct.pack("<HHHH", 54, 1, 53, 0) + b"\0" * 4  # 54: loop, 53: sample
    shdr = struct.pack("<20sIIIIIBbHH", b"saw", 0, 4000, period, 3900, sample_rate, 57, 0, 0, 1)
    shdr += struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    tables = {b"phdr": phdr, b"pbag": pbag, b"pmod": b"\0" * 10, b"pgen": pgen, b"inst": inst, b"ibag": ibag}
    tables |= {b"imod": b"\0" * 10, b"igen": igen, b"shdr": shdr}
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"test\0\0")
    body = chunk(b"LIST", b"INFO" + info) + chunk(b"LIST", b"sdta" + chunk(b"smpl", wave.tobytes()))
    body += chunk(b"LIST", b"pdta" + b"".join(chunk(name, data) for name, data in tables.items()))
    path = tmp_path_factory.mktemp("font") / "saw.sf2"
    path.write_bytes(chunk(b"RIFF", b"sfbk" + body))
    return path


def event(kind: str, onset: float, gain_db: float = -1.0, seconds: float = 1.0, **values: object) -> Event:
    return Event(
        **(
            {"kind": kind, "onset": onset, "seconds": seconds, "gain_db": gain_db, "pan": 0.0}
            | {"seed": 1, "word": None}
            | values
        )
    )


# ---- sounds


@pytest.mark.parametrize("kind", effects.KINDS)
def test_an_effect_is_finite_audible_at_once_and_another_at_every_take(kind: str) -> None:
    for sample_rate in (16000, 44100):
        takes = [effects.KINDS[kind].synthesize(np.random.default_rng(seed), sample_rate, 0.8) for seed in (0, 0, 1)]
        assert all(
            x.shape == (round(0.8 * sample_rate),) and x.dtype == np.float32 and np.isfinite(x).all() for x in takes
        )
        assert np.array_equal(takes[0], takes[1]) and not np.allclose(takes[0], takes[2])
        start = np.abs(takes[2][: sample_rate // 10]).max()
        assert start > 0.1 * np.abs(takes[2]).max()


def log_mel_statistics(waveform: np.ndarray) -> np.ndarray:
    """(2 * 40,) mean and deviation over the active frames of 40 log bands."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform / waveform.std(), 512), 1024)[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(1024))) ** 2
    edges = np.unique(np.geomspace(2, 513, 41).astype(int))
    levels = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3)
    active = levels[levels.mean(1) > levels.mean(1).max() - 6]
    return np.concatenate([active.mean(0), levels.std(0)])


def test_kinds_of_effect_are_told_apart_by_the_nearest_centroid() -> None:
    kinds = list(effects.KINDS)
    assert len(kinds) >= 20
    lengths = np.random.default_rng(0).uniform(0.8, 2, 24)
    found = np.array(
        [
            [
                log_mel_statistics(effects.KINDS[kind].synthesize(np.random.default_rng(s), RATE, x))
                for s, x in enumerate(lengths)
            ]
            for kind in kinds
        ]
    )
    found /= found[:, :16].std((0, 1)) + 1e-6
    distances = ((found[:, 16:, None] - found[:, :16].mean(1)) ** 2).sum(-1)
    assert (distances.argmin(-1) == np.arange(len(kinds))[:, None]).mean() >= 0.9


def test_a_phrase_of_music_is_a_function_of_its_seed(sound_font: Path) -> None:
    for instrument in music.INSTRUMENTS:
        a, b, c = (music.play(np.random.default_rng(s), RATE, 1.5, instrument, sound_font) for s in (0, 0, 1))
        assert a.shape == (round(1.5 * RATE),) and np.array_equal(a, b) and not np.allclose(a, c)
        assert np.abs(a[: RATE // 10]).max() > 0.05 * np.abs(a).max() > 0


def test_a_word_does_not_depend_on_what_was_said_before() -> None:
    script = (
        "import sys; from datamodules.diagnostic.speech import speak; sys.stdout.buffer.write(speak(*{}).tobytes())"
    )
    wanted = ("seven", "en-us+m3", 150, 50, 50)
    fresh = subprocess.run(
        [sys.executable, "-c", script.format(wanted)], capture_output=True, check=True, cwd=ROOT
    ).stdout
    assert len(fresh) > 4 * 0.3 * speech.SAMPLE_RATE
    for other in ("tiger", "blue"):
        speech.speak(other, "en-us+f2", 140, 70, 40)
        assert speech.speak(*wanted).tobytes() == fresh


def test_a_library_of_speech_that_is_in_use_is_refused() -> None:
    import _ctypes

    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        with pytest.raises(RuntimeError, match="already loaded"):
            speech.speak("red", "en-us+m1", 150, 50, 50)
    finally:
        _ctypes.dlclose(library._handle)
    with pytest.raises(ValueError, match="no voice 'nowhere\\+m1'"):
        speech.speak("red", "nowhere+m1", 150, 50, 50)


def test_every_voice_sounds_different() -> None:
    names = [f"{accent}+{v}" for accent in speech.ACCENTS for voice in speech.VOICES.values() for v in voice.variants]
    assert len({speech.speak("yellow", name, 150, 50, 50).tobytes() for name in names}) == len(names)


@pytest.mark.parametrize("voice", speech.VOICES)
def test_every_word_fits_its_event_at_the_slowest_speed(voice: str) -> None:
    for variant in speech.VOICES[voice].variants:
        for word in speech.WORDS:
            samples = np.abs(speech.speak(word, f"en-us+{variant}", speech.SPEED[0], 50, 50))
            loud = np.flatnonzero(samples > 0.02 * samples.max())
            assert (loud[-1] - loud[0]) / speech.SAMPLE_RATE < speech.VOICES[voice].seconds[0]


def test_resampling_keeps_a_tone() -> None:
    t = np.arange(2205) / 22050
    expected = np.sin(2 * np.pi * 440 * np.arange(4410) / 44100)
    assert np.allclose(speech.resample(np.sin(2 * np.pi * 440 * t), 4410), expected, atol=1e-5)


def test_loudness_of_a_sine_is_the_standards() -> None:
    """BS.1770: a full-scale 997 Hz sine in one channel reads -3.01 after the offset of -0.691, so -2.32 before it."""
    sine = np.sin(2 * np.pi * 997 * np.arange(48000) / 48000).astype(np.float32)
    assert loudness(sine, 48000) == pytest.approx(-3.01 + 0.691, abs=0.03)
    assert loudness(0.5 * sine, 48000) == pytest.approx(loudness(sine, 48000) - 6.02, abs=0.01)
    silence = np.zeros(96000, np.float32)
    assert loudness(np.concatenate([sine, silence]), 48000) == pytest.approx(loudness(sine, 48000), abs=0.01)


# ---- scenes


@pytest.mark.parametrize("scene_seconds", [4.0, 5.0, 10.0])
def test_scenes_are_legible(scene_seconds: float) -> None:
    for scene in plan(3, "train", 300, [scene_seconds]):
        onsets = np.array([e.onset for e in scene.events])
        assert 1 <= onsets.size <= 4 and (np.diff(onsets) >= 2 * GRID - 2 * JITTER - 1e-6).all()
        assert all(abs(e.onset - e.second) <= JITTER + 1e-9 for e in scene.events)
        assert all(e.seconds >= 0.8 - 1e-6 and e.onset + e.seconds <= scene_seconds + 1e-6 for e in scene.events)
        assert len({e.kind for e in scene.events}) == len(scene.events)
        gaps = [abs(a.gain_db - b.gain_db) for a in scene.events for b in scene.events]
        assert all(gap <= 2 or gap >= 6 for gap in gaps)
        assert all((e.word in speech.WORDS) == (e.kind in speech.VOICES) for e in scene.events)


def test_no_event_shares_its_seed_and_a_shorter_plan_begins_a_longer_one() -> None:
    seeds = [e.seed for split in SPLITS for scene in plan(0, split, 700, [5.0]) for e in scene.events]
    assert len(set(seeds)) == len(seeds) > 3000
    assert plan(0, "test", 50, [5.0]) == plan(0, "test", 80, [5.0])[:50]
    assert plan(0, "test", 50, [5.0]) != plan(1, "test", 50, [5.0])


def test_scenes_have_their_lengths_in_turn() -> None:
    mixed, short, long = (plan(0, "train", 20, lengths) for lengths in ([10.0, 30.0], [10.0], [30.0]))
    assert [scene.seconds for scene in mixed] == [10.0, 30.0] * 10
    for mixed_scene, *alone in zip(mixed, short, long, strict=True):
        kinds = [{event.kind for event in scene.events} for scene in (mixed_scene, *alone)]
        assert kinds[0] == kinds[1] == kinds[2], "what is heard does not depend on the length"
    assert max(event.onset for scene in mixed for event in scene.events) > 10


def test_kinds_and_numbers_of_events_are_balanced() -> None:
    scenes = plan(0, "train", 400, [5.0])
    drawn = Counter(e.kind for scene in scenes for e in scene.events)
    shares = [drawn[kind] / (VOICE_CARDS if kind in speech.VOICES else 1) for kind in KINDS]
    assert max(shares) - min(shares) <= 2
    assert Counter(len(scene.events) for scene in scenes) == {1: 160, 2: 100, 3: 80, 4: 60}


def test_the_mix_puts_an_event_where_and_as_loud_as_the_timeline_says(sound_font: Path) -> None:
    for kind in ("rain", "clock", "horn", "piano", "man"):
        placed = event(
            kind if kind != "horn" else "car horn", 1.0, gain_db=-9.0, pan=0.5, word="seven" if kind == "man" else None
        )
        heard = mix(Scene("train", 0, 4.0, (placed,)), RATE, sound_font)
        assert heard.shape == (2, 4 * RATE) and heard.dtype == np.float32
        assert not heard[:, :RATE].any() and not heard[:, 2 * RATE :].any() and heard[:, RATE : RATE + RATE // 10].any()
        assert np.allclose(
            heard[0] * np.tan(1.5 * np.pi / 4), heard[1], atol=1e-6
        )  # constant power: cos and sin of one angle
        power = np.hypot(heard[0], heard[1]) * np.sign(heard[1])
        assert loudness(power[RATE : 2 * RATE], RATE) == pytest.approx(LOUDNESS - 9.0, abs=0.05)


def test_too_loud_a_scene_is_turned_down_as_a_whole(sound_font: Path) -> None:
    quiet, loud = event("gunshot", 0.0, gain_db=0.0, seed=5), event("gunshot", 2.0, gain_db=40.0, seed=5)
    heard = mix(Scene("train", 0, 4.0, (quiet, loud)), RATE, sound_font)
    assert np.abs(heard).max() == pytest.approx(0.97, abs=1e-5)
    assert np.allclose(heard[:, 2 * RATE : 3 * RATE], 100 * heard[:, :RATE], atol=1e-5)


def test_a_noise_floor_is_below_the_events_at_its_level_and_changes_none(sound_font: Path) -> None:
    rain = event("rain", 1.0, gain_db=-9.0)
    alone = mix(Scene("train", 0, 4.0, (rain,)), RATE, sound_font)
    for slope in (0.0, 0.5, 1.0):
        floor = NoiseFloor(level_db=-52.0, slope=slope, seed=3)
        heard = mix(Scene("train", 0, 4.0, (rain,), floor), RATE, sound_font)
        noise = heard - alone
        levels = 20 * np.log10(np.sqrt((noise**2).mean(1)))
        assert heard.dtype == np.float32 and levels == pytest.approx([-52.0, -52.0], abs=1.0)
        assert abs(np.corrcoef(noise)[0, 1]) < 0.1
        power = np.abs(np.fft.rfft(noise[0])) ** 2
        low, high = (power[round(f * 4) : round(2 * f * 4)].mean() for f in (200, 3200))  # bins of a quarter Hz
        assert 10 * np.log10(low / high) == pytest.approx(slope * 20 * np.log10(16), abs=1.5)


def test_as_many_scenes_have_a_noise_floor_as_was_asked_and_the_timeline_is_the_same() -> None:
    quiet, some, every = (plan(0, "train", 400, [5.0], noise_floor_share=share) for share in (0.0, 0.75, 1.0))
    assert quiet == plan(0, "train", 400, [5.0]) and not any(scene.noise_floor for scene in quiet)
    assert [scene.events for scene in quiet] == [scene.events for scene in some] == [scene.events for scene in every]
    assert 270 < sum(scene.noise_floor is not None for scene in some) < 330
    floors = [scene.noise_floor for scene in every if scene.noise_floor is not None]
    assert len({floor.seed for floor in floors}) == len(floors) == 400
    assert all(NOISE_FLOOR[0] <= floor.level_db <= NOISE_FLOOR[1] and 0 <= floor.slope <= 1 for floor in floors)
    assert captions(some[0], 0) == captions(quiet[0], 0) and questions(some, 0) == questions(quiet, 0)


# ---- words


def test_questions_of_a_scene_worked_out_by_hand() -> None:
    bell, rain = event("bell", 0.46, gain_db=-9.5), event("rain", 2.04, gain_db=-0.5)
    man, violin = event("man", 3.0, gain_db=-9.0, word="tiger"), event("violin", 3.9, gain_db=-9.1)
    allowed = {
        "what": {"bell", "violin"},
        "presence": {"yes"},
        "order": {"bell", "rain", "man"},
        "when": {"0.5", "2", "3", "4"},
        "loudness": {"rain"},
        "instrument": {"violin"},
        "word": {"tiger"},
    }
    for seed in range(20):
        found = questions([Scene("train", 0, 5.0, (bell, rain, man, violin))], seed)[0]
        assert {q.kind for q in found} == set(allowed) and all(q.answer in allowed[q.kind] for q in found)
        for q in found:
            named = sorted((name for name in KINDS if f"the {name}" in q.question), key=q.question.index)
            if q.kind == "order":
                assert q.answer == min(named, key=["bell", "rain", "man", "violin"].index) and len(named) == 2
            if q.kind == "when":
                assert q.answer == {"bell": "0.5", "rain": "2", "man": "3", "violin": "4"}[named[0]]
            if q.kind == "what":
                assert q.answer == ("violin" if "last" in q.question else "bell")
    assert [q.answer for q in questions([Scene("train", 0, 5.0, (bell,))], 0)[0]] == ["bell", "yes", "0.5"]


def test_captions_name_every_event_in_order() -> None:
    rain, man = event("rain", 0.5), event("man", 2.0, word="tiger")
    found = {text for seed in range(40) for text in captions(Scene("test", 0, 5.0, (rain, man)), seed)}
    assert 'Rain falls, then a man says "tiger".' in found and len(TEMPLATES) >= 6 and len(found) > 20
    assert all(text.lower().index("rain") < text.index("tiger") for text in found)
    for scene in plan(0, "train", 100, [5.0]):
        texts = captions(scene, 0)
        assert len(set(texts)) == 3 and all(text.endswith(".") and "{" not in text for text in texts)


def ask(split: str, scenes: int) -> list[Question]:
    return [question for asked in questions(plan(0, split, scenes, [5.0]), 0) for question in asked]


def test_yes_and_no_are_asked_equally_often_about_every_kind_and_every_count_equally_often() -> None:
    asked, scenes = questions(plan(0, "test", 300, [5.0]), 0), plan(0, "test", 300, [5.0])
    answers: dict[str, Counter] = {kind: Counter() for kind in KINDS}
    for scene, found in zip(scenes, asked, strict=True):
        present = {e.kind for e in scene.events}
        assert Counter(q.answer for q in found if q.kind == "presence") == {"yes": 1, "no": 1}
        for q in (q for q in found if q.kind == "presence"):
            kind = next(k for k in KINDS if KINDS[k].phrases.noun in q.question)
            assert (kind in present) == (q.answer == "yes")
            answers[kind][q.answer] += 1
    assert all(count["yes"] == count["no"] for count in answers.values())
    counts = Counter(q.answer for found in asked for q in found if q.kind == "count")
    assert set(counts) == {"one", "two", "three", "four"} and len(set(counts.values())) == 1
    assert all(len(q.answer.split()) <= 2 for found in asked for q in found)


def test_answers_cannot_be_guessed_from_the_text() -> None:
    """Guess: the most frequent answer in train to the exact text, else to the kind; or the one of two named first."""
    by_text: dict[str, Counter] = {}
    for q in ask("train", 3000):
        by_text.setdefault(q.question, Counter())[q.answer] += 1
        by_text.setdefault(q.kind, Counter())[q.answer] += 1
    right, first, total = Counter(), Counter(), Counter()
    for q in ask("test", 1000):
        total[q.kind] += 1
        right[q.kind] += by_text.get(q.question, by_text[q.kind]).most_common(1)[0][0] == q.answer
        first[q.kind] += q.question.partition(f"the {q.answer}")[0].count("the ") == 0
    ceilings = {"what": 0.1, "presence": 0.55, "count": 0.31, "order": 0.55, "when": 0.2}
    ceilings |= {"loudness": 0.55, "instrument": 0.17, "word": 0.15}
    assert set(total) == set(ceilings) and min(total.values()) > 100
    assert all(right[kind] / total[kind] <= ceiling for kind, ceiling in ceilings.items()), (right, total)
    assert all(0.44 < first[kind] / total[kind] < 0.56 for kind in ("order", "loudness"))


def test_scenes_hold_only_the_kinds_that_were_asked_for() -> None:
    only = ["bell", "rain", "violin", "man", "drums"]
    scenes = plan(0, "train", 200, [5.0], only)
    assert {event.kind for scene in scenes for event in scene.events} == set(only)
    asked = [q for found in questions(scenes, 0) for q in found if q.kind == "what"]
    assert {q.answer for q in asked} == set(only)
    with pytest.raises(ValueError, match="kinds: zebra not among bell"):
        plan(0, "train", 1, [5.0], ["zebra", *only])
    with pytest.raises(ValueError, match="kinds: 3 given; more than 4"):
        plan(0, "train", 1, [5.0], only[:3])


# ---- files

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
        for k, said in enumerate(cut.supervisions):
            assert said.id == f"{cut.id}-{k}" and said.duration == 4.0 and said.channel == [0, 1]
            fields = {"task"} if said.custom["task"] == "caption" else {"task", "kind", "question", "answer"}
            assert set(said.custom) == fields and (said.text is None) == (said.custom["task"] == "question")


def test_processes_write_the_same_bytes(corpus: Path, tmp_path: Path, sound_font: Path) -> None:
    told: list[tuple[int, int]] = []
    render(tmp_path, **SIZES, sound_font=sound_font, workers=2, progress=lambda done, total: told.append((done, total)))
    assert told == [(k, 10) for k in range(1, 11)]
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
    with gzip.open(corpus / "cuts.jsonl.gz", "rt") as stream:
        cuts = [json.loads(line) for line in stream]
    for cut in cuts:
        waveform, sample_rate = soundfile.read(corpus / cut["recording"]["sources"][0]["source"])
        last = cut["custom"]["metadata"]["events"][-1]
        first = cut["custom"]["metadata"]["events"][0]
        assert not waveform[: int(first["onset"] * sample_rate)].any()
        alone = take(Event(**{field: last[field] for field in Event._fields}), sample_rate, sound_font)
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
