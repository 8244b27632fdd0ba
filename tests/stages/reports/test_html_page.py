"""report.html: whole, by itself, harmless, and with every number of report.json's tables."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import pictures, spectrogram_image
from conf import compose
from models.language.vocabulary import Turn
from stages.reports import answer_examples, attention_drawing, confusion_matrix, embedded_audio, html_page
from stages.reports.embedded_audio import NOTHING, AudioClip, Drawing, EmbeddedAudio, Track
from stages.reports.formatting import percent
from stages.reports.run_curves import RunCurves
from tests.models.language.small_model import build

EVIL = '<script>alert("x")</script><img src=http://evil.example/x onerror=y>'
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Read(HTMLParser):
    """Every tag closed where it was opened; collects addresses, scripts and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data", "poster")
        ]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and {"td", "th"} & set(self.open):
            self.cells[-1] += data


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.0123, "high": value + 0.0321, "count": 7}


def task(evil: str) -> dict[str, Any]:
    """As stages/scoring/task_scores.py writes one."""
    with_sound = {
        "accuracy": interval(0.7111),
        "macro_f1": interval(0.6111),
        "coverage": 0.9555,
        "unread": {f"empty{evil}": 2},
    }
    matrix = {
        "labels": [f"cow{evil}", "hen"],
        "columns": [f"cow{evil}", "hen", "unread"],
        "counts": [[3, 1, 0], [0, 4, 0]],
    }
    missing = {"accuracy": interval(0.0911) | {"low": math.nan, "high": math.nan}, "coverage": 1.0, "unread": {}}
    return {
        "version": 1, "title": f"ESC-50{evil}", "source": f"its authors{evil}", "reading": "exact", "expected": 8, "scored": 7, "failed": 1,
        "conditions": {"with_sound": with_sound | {"confusion": matrix}, "without_sound": missing},
        "baselines": {"chance": 0.5, "majority": interval(0.5222) | {"label": "cow", "of": "train"}},
        "needs_sound": interval(0.4333),
        "groups": {"birds": {"conditions": {"with_sound": {"cider_d": interval(1.2341)}}, "baselines": {"chance": math.nan}}},
    }  # fmt: skip


def generation(evil: str) -> dict[str, Any]:
    """As stages/scoring/generation_scores.py writes one."""
    return {
        "llm": f"an LLM{evil}", "corpora": [f"a{evil}"], "codes_max": 20, "embedder": f"e{evil}", "expected": 27, "scored": 25,
        "settings": {"temperature": 1.0, "top_p": 1.0, "guidance": 1.0, "seeds": 2, "seconds_max": 1.0},
        "captions": 5, "recordings": {"test": 6, "train": 7}, "dimensions": 8,
        "sounds": [{"sounds": "caption", "count": 5, "repeats": 2, "kad": 3.2145, "kad_error": 0.4567, "fad": None}],
        "accuracy": {
            "rows": [{"codes": "caption", **interval(0.1711)}], "chance": 0.0833, "kinds": 12, "frequent": f"cow{evil}", "learnt": 33,
        },
        "diversity": [{"sounds": "caption", "seeds": interval(0.0512), "kind": None, "all": interval(0.0777)}],
        "kinds": [{
            "kind": f"cow{evil}", "captions": 5, "recordings": 6, "accuracy": {"caption": 0.2468}, "kad": {"caption": 9.87}, "seeds": 0.0511,
        }],
    }  # fmt: skip


def report_of_all(evil: str = "") -> dict[str, Any]:
    rows = [
        {
            "group": group,
            "decoder": name,
            "steps": steps,
            "condition": "sample",
            "latent_nmse": 0.1 * number + 0.0417,
            "mel": math.nan,
        }
        for number, group in enumerate((f"a{evil}", "b"))
        for name, steps in (("VAE alone", 0), ("flow matching", 1), ("MSE", 1))
    ]
    facts = {"token_rate": 17.69, "codebook_size": 8196, "num_codebooks": 1, "levels": [0], "bitrate": 230.0}
    return {
        "experiment": f"an experiment{evil}",
        "facts": facts,
        "reconstruction": {
            "clips": {f"a{evil}": 3, "b": 1},
            "rows": rows,
            "codebook": {"MSE": {"codebook_perplexity": 17.181, "codebook_used": 0.3941, "codebook_bits": 4.1028}},
            "probe": {"a": {"train": 11, "test": 13, "classes": 3, "latents": 0.975, "MSE": 0.8625}},
            "speed": {
                "rows": [{"part": "encode", "decoder": f"MSE{evil}", "steps": 1, "factor": 12.345}],
                "seconds": 5.0, "threads": 2, "device": f"cpu{evil}",
            },
        },
        "questions": {
            f"class{evil}": {
                "with_sound": interval(0.6), "without_sound": interval(0.25), "best_guess": interval(0.3),
                "chance": 0.3333, "above_both": True,
            },
            "free": {
                "with_sound": interval(0.5), "without_sound": interval(0.2), "best_guess": interval(0.1),
                "chance": math.nan, "above_both": False,
            },
        },
        "captions": {"count": 2} | {name: {"rouge_l": 0.2619 + n} for n, name in enumerate(("sound", "other", "text"))},
        "expected": 14,
        "scored": 12,
        "few_shot": {
            "llm": f"an LLM{evil}", "codes_are": "words", "corpora": ["a"], "recordings": 80, "classes": 10, "ways": 2, "expected": 9, "scored": 8,
            "table": [
                {"shots": 1, "answers": "codes", "mean": interval(0.5812), "sum": interval(0.5612)},
                {"shots": 5, "answers": "nearest", "mean": interval(0.8812)},
            ],
        },
        "generation": generation(evil),
        "tasks": {f"esc50{evil}": task(evil)},
        "added_later": {"silence": 0.7654, "rows": [1, 2.5]},
    }  # fmt: skip


def row(number: int, kind: str, answer: str, predicted: str, condition: str = "sound") -> dict[str, Any]:
    return {
        "id": f"q{number}:{condition}", "source": "s", "kind": kind, "condition": condition, "question": f"What is {predicted}?",
        "references": [answer], "prediction": predicted,
    }  # fmt: skip


def render(report: dict[str, Any], rows: list[dict[str, Any]], audio: EmbeddedAudio = NOTHING) -> str:
    chosen = answer_examples.choose(rows, 3)
    return html_page.render(report, rows, ["a corpus"], answer_examples.with_audio(chosen, {}, audio), audio)


def test_every_number_of_the_tables_is_there():
    report = report_of_all()
    read = Read(render(report, []))
    cells = [" ".join(cell.split()) for cell in read.cells]
    for kind, values in report["questions"].items():
        at = cells.index(kind)
        wanted = [
            f"{100 * one['value']:.1f} [{100 * one['low']:.1f}, {100 * one['high']:.1f}]"
            for one in (values["with_sound"], values["without_sound"], values["best_guess"])
        ]
        assert cells[at + 1 : at + 7] == [
            "7",
            *wanted,
            percent(values["chance"]),
            "yes" if values["above_both"] else "no",
        ]
    for one in report["reconstruction"]["rows"]:
        assert f"{one['latent_nmse']:.3f}" in cells
    for wanted in ("3.21", "0.46", "0.0512 [0.0389, 0.0833]", "24.7", "9.9", "0.0511", "12.3", "0.073"):
        assert wanted in cells, wanted
    assert "25 of 27 sounds scored" in read.text and "one window of 5.0 s at a time in float32 on cpu" in read.text
    for wanted in ("17.181", "39.4", "4.103", "97.5", "86.2", "11", "13", "0.262", "1.262", "2.262", "n/a", "0.765"):
        assert wanted in cells, wanted
    for value in (0.5812, 0.5612, 0.8812):
        assert f"{100 * value:.1f} [{100 * (value - 0.0123):.1f}, {100 * (value + 0.0321):.1f}]" in cells
    assert "8 of 9 prompts scored" in read.text
    text = " ".join(read.text.split())
    for wanted in (
        "the LLM, with the caption 17.1 15.9 to 20.3",
        "71.1 69.9 to 74.3",
        "61.1 59.9 to 64.3",
        "9.1",
        "majority 52.2 51.0 to 55.4",
        "needs the sound 43.3 42.1 to 46.5",
        "95.5 % of the answers",
    ):
        assert wanted in text, wanted
    assert cells[cells.index("1.234") + 1] == "1.222 to 1.266"
    assert "8 items expected, 7 scored, 1 failed" in text and "birds: cider d 7 items" in text
    at = cells.index("cow")
    assert cells[at - 1 : at + 8] == ["", "cow", "hen", "cow", "3", "1", "hen", "", "4"]
    assert "12 of 14 answers scored, 2 failed" in read.text
    assert "0.067" in read.text  # 0.0417 of 3 windows and 0.1417 of one


def test_the_papers_numbers_stand_beside_ours_only_where_they_are_of_one_thing():
    cells = Read(render(report_of_all(), [])).cells
    assert cells[cells.index("0.636") + 2] == "0.067"
    assert "gtzan is not in this run" in cells
    report = report_of_all() | {"questions": {"class": report_of_all()["questions"]["class"]}}
    text = html_page.render(report, [], ["gtzan"], {}, NOTHING)
    cells = Read(text).cells
    assert cells[cells.index("61.2") + 2] == "60.0"


def test_what_the_model_and_the_corpus_say_is_escaped():
    rows = [row(number, f"class{EVIL}", EVIL, EVIL) for number in range(4)]
    rows += [row(9, f"class{EVIL}", "b", "b"), row(10, f"class{EVIL}", "b", "c")]
    evil = EmbeddedAudio(
        [AudioClip(EVIL, EVIL, 1.0, [Track(EVIL, "data:audio/mpeg;base64,", "data:image/png;base64,")])], {}, [EVIL]
    )
    harmless = Read(render(report_of_all(), []))
    read = Read(render(report_of_all(EVIL), rows, evil))
    assert read.tags.count("script") == harmless.tags.count("script") == 1
    assert not read.handlers
    assert all(address.startswith(("data:", "#")) for address in read.addresses)
    assert read.text.count(EVIL) > 10


def test_nothing_is_fetched():
    read = Read(render(report_of_all(), []))
    assert read.addresses and all(address.startswith(("data:", "#")) for address in read.addresses)
    assert not re.search(r"url\(|@import|fetch\(|https?://", render(report_of_all(), []))


def test_confusions_count_what_was_said_for_what():
    """dog, dog, cat heard as dog, cat, a cow: one right, one taken for a cat, one beyond the labels."""
    rows = [
        row(0, "class", "dog", "A dog."),
        row(1, "class", "dog", "cat"),
        row(2, "class", "cat", "cow"),
        row(3, "class", "cat", "cat"),
    ]
    rows += [row(4, "class", "cat", "dog", "text")]
    matrix = confusion_matrix.of_kind(rows, "class")
    assert matrix is not None and matrix.labels == ["cat", "dog"]
    assert matrix.columns == ["cat", "dog", confusion_matrix.OTHER]
    assert matrix.counts == [[1, 0, 1], [1, 1, 0]] and matrix.totals == [2, 2]
    assert matrix.worst == [("cat", confusion_matrix.OTHER, 1), ("dog", "cat", 1)]
    assert confusion_matrix.of_kind([row(n, "free", f"text {n}", "b") for n in range(9)], "free") is None


def test_a_tasks_rows_are_judged_by_its_own_rule_and_find_their_recording():
    asked = row(1, "label", "dog", "it is a dog") | {"id": "esc50:clip-7:sound", "task": "esc50"}
    failed = row(2, "label", "dog", "dog") | {"id": "esc50:clip-8:sound", "task": "esc50", "prediction": None}
    assert {answer_examples.exact(one) for one in (asked, failed)} == {None}
    chosen = answer_examples.choose([asked, failed], 2, lambda one: one["prediction"] is not None)
    track = Track("recording", "data:audio/mpeg;base64,QUJD", "data:image/png;base64,QUJD")
    listening = EmbeddedAudio([], {"clip-7": track}, [])
    shown = answer_examples.with_audio(
        chosen, {"clip-7": SimpleNamespace(id="clip-7")}, listening, lambda one: one["prediction"] is not None
    )
    first, second = shown["esc50: label"]
    assert (first.sound, first.right, second.sound, second.right, second.answer) == (track, True, None, False, "")


def test_examples_are_right_and_wrong_ones_and_always_the_same():
    rows = [row(number, "class", "dog", "dog" if number % 3 else "cat") for number in range(30)]
    rows += [row(number, "class", "dog", "dog", "text") for number in range(30, 40)]
    chosen = answer_examples.choose(rows, 4)
    assert chosen == answer_examples.choose(rows[::-1], 4)
    shown = answer_examples.with_audio(chosen, {}, NOTHING)["class"]
    assert [one.right for one in shown] == [True] * 4 + [False] * 4
    cut = SimpleNamespace(id="the recording")
    track = Track("recording", "data:audio/mpeg;base64,QUJD", "data:image/png;base64,QUJD")
    audible = answer_examples.with_audio(
        chosen[:1], {chosen[0]["id"].split(":")[0]: cut}, EmbeddedAudio([], {cut.id: track}, [])
    )
    assert audible["class"][0].sound == track


@pytest.mark.parametrize("rate", [44100, 16000, 96000])
def test_a_sound_in_the_page_is_the_sound(rate: int):
    """A tone of 1 kHz comes back from the MP3 as that tone, and is a line in the picture, above silence."""
    sound = 0.5 * torch.sin(2 * math.pi * 1000 * torch.arange(rate) / rate)
    sound[: rate // 2] = 0
    encoded = base64.b64decode(embedded_audio.mp3(sound, rate).split(",")[1])
    wave, played = soundfile.read(io.BytesIO(encoded))
    assert played == (rate if rate < 48000 else 44100) and abs(len(wave) / played - 1) < 0.1
    tail = wave[-played // 4 : -played // 8]
    peak = np.abs(np.fft.rfft(tail * np.hanning(len(tail)))).argmax() * played / len(tail)
    assert abs(peak - 1000) < 20 and abs(np.abs(tail).max() - 0.45) < 0.1
    drawing = embedded_audio.drawing("a tone", pictures.spectrogram(sound, rate))
    image = Image.open(io.BytesIO(base64.b64decode(drawing.picture.split(",")[1])))
    levels = np.asarray(image).astype(int)
    assert levels.shape[0] == spectrogram_image.BANDS and levels[:, 2].max() == 0
    middle = levels[:, -levels.shape[1] // 4]
    tick = next(position for position, text in drawing.y if text == "1 kHz")
    assert middle.max() > 200 and abs(middle.argmax() - (1 - tick) * spectrogram_image.BANDS) < 2
    assert drawing.x[-1] == (1.0, "1 s")


def test_a_run_whose_sound_is_gone_says_so(tmp_path: Path, caplog):
    overrides = [f"data.root={tmp_path}", "data.corpora=[gone]", "examples.clips=1"]
    html_page.write(tmp_path, report_of_all(), [], [], tmp_path, compose("evaluate", overrides=overrides).conf)
    assert "there is no corpus 'gone'" in caplog.text
    read = Read((tmp_path / "report.html").read_text())
    assert "there is no corpus 'gone'" in read.text and "audio" not in read.tags


def test_pictures_stand_with_their_axes_and_their_sound():
    """Attention under the clip of its answer, codes under theirs, use and curves beside no sound."""
    drawn = Drawing(f"attention{EVIL}", "data:image/png;base64,QUJD", [(0.5, "2 s")], [(0.25, f"bell{EVIL}")])
    track = Track("recording", "data:audio/mpeg;base64,QUJD", "data:image/png;base64,QUJD", [(1.0, "5 s")])
    audio = EmbeddedAudio([AudioClip("clip", "note", 5.0, [track], drawn)], {"clip-1": track}, [])
    rows = [row(number, kind, "dog", "dog") for number, kind in enumerate(("class", "class", "order"))]
    assert [one["id"] for one in answer_examples.in_turn_of_kind(rows)] == ["q0:sound", "q2:sound", "q1:sound"]
    cuts = {"q0": SimpleNamespace(id="clip-1")}
    examples = answer_examples.with_audio(rows, cuts, audio, attention={"q0:sound": drawn})
    curve = RunCurves("tokenizer", pictures.curves([[(0.0, 1.0), (9.0, 0.5)]]), [(f"train/loss{EVIL}", "#ffffff")])
    text = html_page.render(report_of_all(), [], [], examples, audio, drawn, [curve])
    read = Read(text)
    assert read.tags.count("script") == 1 and not read.handlers and read.tags.count("audio") == 2
    assert all(address.startswith(("data:", "#")) for address in read.addresses)
    assert read.text.count(f"attention{EVIL}") == 3 and f"train/loss{EVIL}" in read.text
    assert "bottom:25.0%" in text and "left:50.0%" in text and read.text.count("2 s") == 3


def test_attention_is_drawn_over_the_clip_a_row_a_token():
    model = build("random:tiny", levels=(0, 1))
    turns = [Turn("user", [[0, 4, 2, 0, 1, 1], "What?"])]
    drawing = attention_drawing.draw(model.lm, model.vocabulary, turns, "A bell.", token_rate=1.5)
    assert drawing is not None and drawing.x[-1] == (1.0, "2 s"), "3 blocks at 1.5 a second"
    assert "".join(word for _, word in drawing.y) == "Abell."
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawing.picture.split(",")[1]))))
    assert image.shape == (len(drawing.y), 3) and image.max() == 255
    for nothing in ([Turn("user", ["What?"])], "A bell."), (turns, ""):
        assert attention_drawing.draw(model.lm, model.vocabulary, *nothing, 1.5) is None
    longer = [Turn("user", [[0, 1] * attention_drawing.MOST, "What?"])]
    assert attention_drawing.draw(model.lm, model.vocabulary, longer, "A bell.", 1.5) is None


def test_a_run_shows_codes_their_use_and_its_curves(whole: Path):
    page = Read((whole / "evaluate" / "artifact" / "report.html").read_text())
    for stage in ("tokenizer", "tokenizer_mse", "caption", "openaqa"):
        assert re.search(rf"\n{stage} .*train/loss", page.text), stage
    assert "Use of the codebook" in page.text and "rank 1" in page.text
    events = EventAccumulator(str(whole / "tokenizer" / "tensorboard"), {"images": 0}).Reload()
    tags = events.Tags()["images"]
    clip = next(tag for tag in tags if tag.endswith("/codes"))
    assert "codebook_use" in tags and f"{clip.removesuffix('/codes')}/tokens" in tags
