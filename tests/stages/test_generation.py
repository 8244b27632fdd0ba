"""Stage `generation`: an LLM that writes the real codes scores like them, one that guesses like chance; a kill, two ranks, and what is refused."""

import importlib.util
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lhotse import MonoCut, SupervisionSegment
from lhotse.cut import Cut

import conf
from datamodules.generation import CAPTION, LEARNT, NOTHING, TEST, TOKENIZER, TRAIN, GenerationItem, choose_recordings
from datamodules.store import chunks
from datamodules.store.index import CachedCuts
from stages.generation import Generation
from stages.reports import generation_table
from stages.reports.formatting import ABSENT
from stages.runs import graph
from stages.runs.state import run_folder
from stages.scoring.generation_scores import RECORDED, CaptionedClip, KindProbe, generation_scores
from tests.interrupt import TWO_RANKS, run_smoke

KINDS = [f"kind {n}" for n in range(5)]
WRITTEN = ("report.json", "report.md", "predictions.jsonl")


def parents(*more: str) -> list[str]:
    return [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "openaqa", *more)]


def sound_of(kind: str, draw: random.Random) -> list[int]:
    """20 codes of 50, three quarters of them of the kind's own ten."""
    first = 10 * KINDS.index(kind)
    return [draw.randrange(first, first + 10) if draw.random() < 0.75 else draw.randrange(50) for _ in range(20)]


def vector_of(kind: str, draw: random.Random) -> torch.Tensor:
    values = torch.tensor([draw.gauss(0, 1) for _ in range(8)], dtype=torch.float64)
    values[KINDS.index(kind)] += 4
    return values


def made(write: Any, seeds: int = 2, clips: int = 100) -> dict[str, Any]:
    """The tables of a world of five kinds. write(kind, draw) -> the kind whose codes and sound the LLM writes."""
    draw = random.Random(0)
    chosen = {
        part: [CaptionedClip(f"{part}-{n}", f"{part}-{n}", KINDS[n % 5], KINDS[n % 5], "a sound") for n in range(clips)]
        for part in ("test", "train")
    }
    chosen["asked"] = chosen["test"]
    real = {clip.id: sound_of(clip.kind, draw) for clip in chosen["test"]}
    rows: dict[str, Any] = {}
    for part, condition, count in (
        ("asked", CAPTION, seeds), ("asked", NOTHING, 1), ("asked", TOKENIZER, seeds), ("test", TEST, 1), ("train", TRAIN, 1),
        ("train", LEARNT, 1),
    ):  # fmt: skip
        for clip in chosen[part]:
            for number in range(count):
                kind = {CAPTION: write, NOTHING: lambda *_: draw.choice(KINDS)}.get(condition, lambda kind, _: kind)
                written = kind(clip.kind, draw)
                name = GenerationItem(condition, clip.id, number, "").id
                rows[name] = (sound_of(written, draw), vector_of(written, draw))
    learnt = [KINDS[n % 5] for n in range(300)]
    probe = KindProbe([sound_of(kind, draw) for kind in learnt], learnt, 50, [0])
    return generation_scores(chosen, rows, real, probe, seeds, 200, 0)


def named(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}


def test_an_llm_that_writes_real_codes_scores_like_them_and_one_that_guesses_is_at_chance():
    good = made(lambda kind, _: kind)
    guessed = made(lambda _, draw: draw.choice(KINDS))
    stuck = made(lambda *_: KINDS[0])
    accuracy = {name: named(report["accuracy"]["rows"], "codes") for name, report in
                (("good", good), ("guessed", guessed), ("stuck", stuck))}  # fmt: skip
    ceiling = accuracy["good"]["real"]["value"]
    assert ceiling > 0.95 and abs(accuracy["good"][CAPTION]["value"] - ceiling) < 0.04
    assert accuracy["good"][CAPTION]["count"] == 200 and accuracy["good"]["real"]["count"] == 100
    for condition, clips in ((CAPTION, 200), (NOTHING, 100)):  # within five standard deviations of chance
        row = accuracy["guessed"][condition]
        assert abs(row["value"] - 0.2) < 5 * (0.2 * 0.8 / clips) ** 0.5 and row["low"] < row["value"] < row["high"]
    assert accuracy["stuck"][CAPTION]["value"] == pytest.approx(0.2, abs=0.02)
    assert accuracy["stuck"]["frequent"]["value"] == 0.2 == good["accuracy"]["chance"]

    # Another probe reads the sound.
    sound = {name: named(report["accuracy_of_sound"]["rows"], "codes") for name, report in
             (("good", good), ("guessed", guessed))}  # fmt: skip
    assert all(sound["good"][name]["value"] > 0.9 for name in (TEST, TOKENIZER, CAPTION, RECORDED))
    assert sound["good"][RECORDED]["count"] == 100
    assert abs(sound["guessed"][CAPTION]["value"] - 0.2) < 5 * (0.2 * 0.8 / 200) ** 0.5
    assert good["accuracy_of_sound"]["learnt"] == 100 and sound["good"][CAPTION]["count"] == 200

    # What differs kind by kind is one distribution over all kinds, but for the one that says one thing alone.
    distances = {name: named(report["sounds"], "sounds") for name, report in
                 (("good", good), ("guessed", guessed), ("stuck", stuck))}  # fmt: skip
    for name in (TRAIN, TOKENIZER, CAPTION):
        assert abs(distances["good"][name]["kad"]) < 1.5 and 0 < distances["good"][name]["kad_error"] < 1.5
        assert distances["good"][name]["fad"] == pytest.approx(distances["good"][TRAIN]["fad"], abs=2.0)
    assert distances["guessed"][CAPTION]["kad"] < 2 < 10 < distances["stuck"][CAPTION]["kad"]
    assert distances["stuck"][CAPTION]["fad"] > 5 * distances["good"][CAPTION]["fad"]
    of_kind = {
        name: named(report["kinds"], "kind")[KINDS[1]] for name, report in (("good", good), ("guessed", guessed))
    }
    assert of_kind["good"]["accuracy"][CAPTION] > 0.9 and of_kind["good"]["captions"] == 20
    assert of_kind["good"]["kad"][CAPTION] < of_kind["guessed"]["kad"][CAPTION]

    spread = named(good["diversity"], "sounds")
    assert spread[CAPTION]["seeds"]["value"] == pytest.approx(spread[TEST]["kind"]["value"], abs=0.15)
    assert spread[TEST]["seeds"] is None and spread[NOTHING]["kind"] is None
    assert all(row["all"]["value"] > row["kind"]["value"] for row in good["diversity"] if row["kind"])
    assert named(guessed["diversity"], "sounds")[CAPTION]["seeds"]["value"] > spread[CAPTION]["seeds"]["value"] + 0.2


def test_captions_of_recordings_with_one_label_alone_may_be_asked_for():
    """All test recordings stay what sounds are compared with."""
    cuts = []
    for number in range(6):
        labels = ["dog", "rain"][: 1 + number % 2]
        cut = MonoCut(f"c{number}", 0, 1.0, 0, custom={"labels": labels})
        cut.supervisions = [SupervisionSegment("s", f"c{number}", 0, 1.0, text="a sound", custom={"task": "caption"})]
        cuts.append(cut)
    every, single = (choose_recordings(cuts, cuts, 6, 6, one_label) for one_label in (False, True))
    assert every.asked == every.test == single.test == cuts and single.asked == cuts[::2]


def test_what_there_is_too_little_of_has_no_number():
    report = made(lambda kind, _: kind, seeds=1, clips=5)
    distances = named(report["sounds"], "sounds")
    assert distances[CAPTION]["fad"] is None and distances[CAPTION]["kad"] is not None  # 8 dimensions, 5 clips
    assert all(row["seeds"] is None and row["kind"] is None for row in report["diversity"])  # one clip a kind
    assert all(row["kad"] == {} for row in report["kinds"])
    printed = "\n".join(generation_table.body({
        **report, "llm": "it", "corpora": ["c"], "codes_max": 20, "embedder": "e-1", "expected": 25, "scored": 25,
        "settings": {"temperature": 0.0, "top_p": 1.0, "guidance": 1.0, "seeds": 1, "seconds_max": 1.0},
    }))  # fmt: skip
    assert f"| {generation_table.NAMES[CAPTION]} | {ABSENT} | {ABSENT} |" in printed
    assert "KAD[e-1] x 100 | FAD[e-1]" in printed and "over seeds |" not in printed.splitlines()[-7]


@pytest.fixture
def done(stage: Any, tones: Path, whole: Path) -> Path:
    """One run of it, in an experiment of its own."""
    folder = tones / "runs/generated/generation"
    if not (folder / "receipt.json").is_file():
        assert stage("run", "generation", "--experiment=generated", *parents()) == 0
    return folder


def test_it_makes_what_it_says(done: Path, tones: Path, stage: Any, capsys: Any):
    report = json.loads((done / "artifact/report.json").read_text())
    assert report["scored"] == report["expected"] == 4 * (2 + 1 + 2 + 1 + 1 + 1)
    assert [row["sounds"] for row in report["sounds"]] == [TRAIN, TOKENIZER, CAPTION, NOTHING]
    assert all(
        row["count"] == 4 and row["kad"] is None and row["fad"] is None for row in report["sounds"]
    )  # all test tones are one
    rows = [json.loads(line) for line in (done / "artifact/predictions.jsonl").read_text().splitlines()]
    cuts = {cut.id: cut for cut in chunks.read(tones / "runs/whole/cache/chunks")}
    for row in rows:
        cut = cuts[row["cut"]]
        assert cut.custom["split"] == ("train" if row["condition"] in (TRAIN, LEARNT) else "test")
        if row["condition"] == CAPTION:
            assert row["caption"] == f"a {cut.custom['labels'][0]} sound"
        elif row["condition"] != NOTHING:
            assert row["codes"] == cut.custom["codes"][: report["codes_max"]]
        assert 1 <= len(row["codes"]) <= report["codes_max"] and all(0 <= code < 16 for code in row["codes"])
    first, second = (
        [row["codes"] for row in rows if row["condition"] == CAPTION and row["number"] == n] for n in (0, 1)
    )
    assert len(first) == 4 and first != second
    assert stage("run", "generation", "--experiment=generated", *parents()) == 0
    assert "sound from captions" in capsys.readouterr().out  # what is done is shown again


def test_a_killed_run_goes_on_to_the_same_report(stage: Any, done: Path, tones: Path, capsys: Any):
    whole = {name: (done / "artifact" / name).read_bytes() for name in WRITTEN}
    lines = (done / "predictions-0.jsonl").read_text().splitlines()
    (done / "receipt.json").unlink()
    (done / "predictions-0.jsonl").write_text("\n".join(lines[:7]) + "\n" + lines[9][:50])
    assert stage("status", "--experiment=generated") == 0
    assert "7 rows" in capsys.readouterr().out
    assert stage("run", "generation", "--experiment=generated", *parents()) == 0
    assert {name: (done / "artifact" / name).read_bytes() for name in WRITTEN} == whole
    assert len((done / "predictions-0.jsonl").read_text().splitlines()) == len(lines)


def test_two_ranks_write_what_one_writes(done: Path, tones: Path):
    run_smoke(tones, "run", "generation", "--experiment=generated-2", *parents(), *TWO_RANKS)
    two = tones / "runs/generated-2/generation"
    assert len(list(two.glob("predictions-*.jsonl"))) == 2
    for name in WRITTEN:
        assert (two / "artifact" / name).read_text().replace("generated-2", "generated") == (
            done / "artifact" / name
        ).read_text()


def test_an_llm_that_is_given_the_codes_is_as_good_as_they_are(
    stage: Any, tones: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    """Codes of the caption's recording, or of a recording of another kind, in place of the LLM's. Of the training split, which has three kinds."""
    of_split = CachedCuts.of_split
    monkeypatch.setattr(CachedCuts, "of_split", lambda cuts, split: of_split(cuts, "train"))
    words = ["--after=none", "--temperature=0", "--seeds=1", "--guidance=2", "--captions=12", "--recordings=12"]
    words += [f"--parents.{name}=whole" for name in ("tokenizer", "cache", "caption")]

    def report(name: str, recording: Callable[[Generation, Cut], Cut]) -> dict[str, Any]:
        def codes(self: Generation, batch: list[GenerationItem]) -> list[list[int]]:
            cuts = [self.cuts[item.cut] for item in batch]
            cuts = [
                recording(self, cut) if item.condition == CAPTION else cut
                for item, cut in zip(batch, cuts, strict=True)
            ]
            return [list(cut.custom["codes"])[: self.most] for cut in cuts]

        monkeypatch.setattr(Generation, "codes", codes)
        assert stage("run", "generation", f"--experiment={name}", *words) == 0
        return json.loads((tones / f"runs/{name}/generation/artifact/report.json").read_text())

    def of_another_kind(self: Generation, cut: Cut) -> Cut:
        return next(other for other in self.cuts.values() if other.custom["labels"] != cut.custom["labels"])

    right, wrong = report("codes-right", lambda self, cut: cut), report("codes-wrong", of_another_kind)
    accuracy = [{row["codes"]: row["value"] for row in each["accuracy"]["rows"]} for each in (right, wrong)]
    assert accuracy[0][CAPTION] == accuracy[0]["real"] == accuracy[1]["real"] > accuracy[1][CAPTION]
    kad = [{row["sounds"]: row["kad"] for row in each["sounds"]} for each in (right, wrong)]
    assert (
        kad[0][TOKENIZER] == kad[1][TOKENIZER] and kad[0][TRAIN] == kad[1][TRAIN] and kad[0][CAPTION] != kad[1][CAPTION]
    )
    assert all(row["seeds"] is None for row in right["diversity"]) and "untrained" in right["llm"]


def test_evaluate_shows_the_table(stage: Any, done: Path, tones: Path):
    words = ["--experiment=generated", "--questions_per_kind=1", "--captions=1", "--examples.clips=1"]
    assert stage("run", "evaluate", *words, *parents()) == 0
    artifact = tones / "runs/generated/evaluate/artifact"
    report = json.loads((artifact / "report.json").read_text())
    assert report["generation"] == json.loads((done / "artifact/report.json").read_text())
    table = (done / "artifact/report.md").read_text().split("\n\n")[2]
    assert table.startswith("| sounds |") and table in (artifact / "report.md").read_text()
    page = (artifact / "report.html").read_text()
    assert 'id="generation"' in page and page.count("<figcaption>written, ") == 2  # of one caption, two seeds
    for row in report["generation"]["sounds"]:
        assert f">{generation_table.NAMES[row['sounds']]}</th><td>4</td><td>{row['repeats']}</td>" in page


def test_what_cannot_be_measured_is_refused(stage: Any, tones: Path, whole: Path, monkeypatch: pytest.MonkeyPatch):
    def build(*words: str) -> Generation:
        given = ["data.root=data", "data.corpora=[tones]", "experiment=whole", *words]
        composed = conf.compose("generation", ["smoke"], [], given).conf
        folder = run_folder(composed, "generation")
        return Generation("generation", composed, graph.parents("generation", composed), folder)

    with pytest.raises(ValueError, match=r"no embedder 'vggish'. Allowed: aisfx-0.1.2, logmel-64"):
        build("embedder=vggish")
    find_spec = importlib.util.find_spec
    with monkeypatch.context() as patched:
        patched.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find_spec(name, *rest)
        )
        with pytest.raises(ValueError, match=r"needs scikit-learn: pip install scikit-learn, or --probe_recordings=0"):
            build()
    with monkeypatch.context() as patched:
        patched.setattr("datamodules.generation.caption_of", lambda cut: None)
        with pytest.raises(ValueError, match=r"no recording of tones in the split 'test' has a caption"):
            build()
    codes_alone = build("embedder=null", "probe_recordings=20")
    assert {item.condition for item in codes_alone.items} == {CAPTION, NOTHING}
