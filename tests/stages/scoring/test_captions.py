"""Caption scores are pycocoevalcap's own, and what shifts, hangs or crashes its clients gives right scores here."""

import csv
import io
import os
import tarfile
from pathlib import Path

import pytest
import torch

from stages.scoring.captions import coco
from stages.scoring.captions.java_programs import METEOR, Meteor, one_line, tokenize
from stages.scoring.metric_registry import METRICS, missing

UNAVAILABLE = missing([METRICS["meteor"]])
needs_java = pytest.mark.skipif(bool(UNAVAILABLE), reason="; ".join(UNAVAILABLE))

CAPTIONS = [
    "A dog barks twice, and then a man's laughter fills the room.",
    "rain is falling on a tin roof",
    "Someone can't stop the engine; it isn't running smoothly!",
    'a woman says "hello" (softly)',
    "birds are chirping",
    "An orchestra plays - loudly - in the U.S.A. at 3.5 dB",
    "wind",
    "dogs bark",
]
REFERENCES = [
    ["a dog is barking", "A dog barks while a man laughs.", "laughter and two barks"],
    ["rain falls hard on a roof", "It is raining on metal."],
    ["an engine stutters and will not stop", "a motor cannot be stopped"],
    ["A woman greets somebody.", "a person quietly says hello"],
    ["many birds chirp in a forest", "birds chirping"],
    ["the orchestra plays"],
    ["wind blows through leaves", "a storm"],
    ["a dog barks"],
]
SEPARATORS = ("\r", "\r\n", "\n", "\u2028", "\u2029", "\x0b", "\x0c", "\x85")


def package() -> Path:
    import pycocoevalcap

    return Path(next(iter(pycocoevalcap.__path__)))


@pytest.fixture(scope="module")
def theirs():
    """pycocoevalcap as it is."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    truth = tokenizer.tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(REFERENCES)})
    answers = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(CAPTIONS)})
    scores = {name: scorer.compute_score(truth, answers) for name, scorer in
              (("bleu", Bleu(4)), ("cider_d", Cider()), ("rouge_l", Rouge()), ("meteor", Meteor()))}  # fmt: skip
    return truth, answers, scores


@needs_java
def test_scores_and_tokens_are_pycocoevalcaps(theirs):
    truth, answers, scores = theirs
    words = coco.tokens(package(), CAPTIONS, REFERENCES)
    assert words.captions == [answers[n][0] for n in range(len(CAPTIONS))]
    assert words.references == [truth[n] for n in range(len(CAPTIONS))]
    actual = {"cider_d": coco.cider_d(words), "rouge_l": coco.rouge_l(words)}
    for name, ours in actual.items():
        assert ours.corpus == pytest.approx(scores[name][0], abs=1e-12)
        assert ours.items == pytest.approx(list(scores[name][1]), abs=1e-12)
    for n, ours in enumerate(coco.bleu(words).values()):
        assert ours.corpus == pytest.approx(scores["bleu"][0][n], abs=1e-12)
        assert ours.items == pytest.approx(scores["bleu"][1][n], abs=1e-12)


@needs_java
@pytest.mark.slow
def test_clips_that_are_drawn_again_score_as_a_corpus_of_them_does():
    """Its first clip twice, its last not at all, then every one once: what the scorers say of such a corpus itself. The
    first is a reference, word for word.
    """
    words = coco.tokens(package(), [REFERENCES[0][0], *CAPTIONS], [REFERENCES[0], *REFERENCES])
    count = len(words.captions)
    times = torch.ones(2, count, dtype=torch.float64)
    times[0, 0], times[0, -1] = 2, 0
    chosen = [0, *range(count - 1)]
    again = coco.Tokens([words.captions[n] for n in chosen], [words.references[n] for n in chosen])
    actual = coco.bleu(words, times) | {"meteor": coco.meteor(package(), words, times)}
    wanted = coco.bleu(again) | {"meteor": coco.meteor(package(), again)}
    for name, one in actual.items():
        assert one.resamples is not None and wanted[name].resamples is None
        assert one.resamples.tolist() == pytest.approx([wanted[name].corpus, one.corpus], abs=1e-12)
    assert actual["bleu_4"].resamples[0] != actual["bleu_4"].corpus != 0


@needs_java
@pytest.mark.slow
def test_meteor_is_the_same_with_every_input_that_breaks_its_client(theirs, monkeypatch: pytest.MonkeyPatch):
    """Line ends, "|||" and a locale that writes 0,5; an empty caption is 0."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE")
    broken = [text.replace(" ", f" {SEPARATORS[n]} ", 1) for n, text in enumerate(CAPTIONS)]
    barred = [[text.replace(" ", " ||| ", 1) for text in texts] for texts in REFERENCES]
    words = coco.tokens(package(), [*broken, "", " \n"], [*barred, ["a dog barks"], ["a dog barks"]])
    actual = coco.meteor(package(), words)
    assert actual.items == pytest.approx([*theirs[2]["meteor"][1], 0.0, 0.0], abs=1e-12)


@needs_java
def test_nothing_that_ends_a_line_puts_a_caption_on_another_clip():
    plain = tokenize(package() / "tokenizer" / coco.PTB, ["a dog barks", "", "rain falls"])
    assert plain == ["a dog barks", "", "rain falls"]
    for separator in SEPARATORS:
        assert (
            tokenize(package() / "tokenizer" / coco.PTB, [f"a dog{separator}barks", separator, "rain falls"]) == plain
        )
    assert one_line("a ||| b\r\nc\ud800") == "a b c?"


@needs_java
def test_the_published_example_of_aac_metrics():
    """Its own tests expect 0.9614, [1.3641, 0.5587] and 0.4278."""
    references = [
        ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the background"],
        ["rain is falling hard on a surface"],
    ]
    words = coco.tokens(package(), ["a man is speaking", "rain falls"], references)
    assert coco.cider_d(words).corpus == pytest.approx(0.9614, abs=5e-5)
    assert coco.cider_d(words).items == pytest.approx([1.3641, 0.5587], abs=5e-5)
    assert coco.bleu(words)["bleu_1"].corpus == pytest.approx(0.4278, abs=5e-5)


EXAMPLES = os.environ.get("MSN_AAC_METRICS", "")
ASK = "MSN_AAC_METRICS names no aac-metrics-0.5.4.tar.gz (pip download --no-deps --no-binary :all: aac-metrics==0.5.4)"


@needs_java
@pytest.mark.skipif(not Path(EXAMPLES).is_file(), reason=ASK)
@pytest.mark.parametrize(
    ("number", "cider", "meteor", "bleu", "rouge"),
    [
        (1, 0.4017237346, 0.1788399937, 0.1449174503, 0.3958084294),
        (2, 0.6342852252, 0.2251670616, 0.2488223884, 0.4653665940),
    ],
)
def test_the_examples_that_aac_metrics_ships(number: int, cider: float, meteor: float, bleu: float, rouge: float):
    """464 and 912 captions; the numbers are what pycocoevalcap and aac-metrics 0.5.4 both print."""
    with tarfile.open(EXAMPLES) as archive:
        file = archive.extractfile(f"aac-metrics-0.5.4/data/example_{number}.csv")
        assert file is not None
        rows = list(csv.DictReader(io.TextIOWrapper(file, "utf-8")))
    keys = [key for key in rows[0] if key.startswith("caption_") and key != "caption_predicted"]
    references = [[row[key] for key in keys if row[key]] for row in rows]
    words = coco.tokens(package(), [row["caption_predicted"] for row in rows], references)
    actual = [coco.cider_d(words), coco.meteor(package(), words), coco.bleu(words)["bleu_4"], coco.rouge_l(words)]
    assert [one.corpus for one in actual] == pytest.approx([cider, meteor, bleu, rouge], abs=1e-9)


def test_without_java_there_is_one_error_that_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"did not start.*apt-get install default-jre-headless"):
        tokenize(tmp_path / "no.jar", ["a dog"])
    with pytest.raises(ValueError, match=r"METEOR did not start.*apt-get"), Meteor(tmp_path / METEOR):
        pass
    problems = missing([METRICS["meteor"], METRICS["cider_d"]])
    assert len([text for text in problems if "java" in text]) == 1  # one need, said once
    assert "No other metric is computed in its place" in problems[-1]


def test_meteor_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\nexec sleep 600\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Meteor(tmp_path / METEOR, seconds=0.2) as meteor, pytest.raises(ValueError, match="did not answer within"):
        meteor.counted(["a"], [["b"]])
    assert meteor.process.poll() is not None
    java.write_text("#!/bin/sh\necho broken jar >&2\nexit 1\n")
    with (
        Meteor(tmp_path / METEOR, seconds=20) as meteor,
        pytest.raises(ValueError, match=r"ended by itself.*broken jar"),
    ):
        meteor.counted(["a"], [["b"]])


def test_one_clip_has_no_cider():
    with pytest.raises(ValueError, match="CIDEr-D of 1 clips is always 0"):
        coco.cider_d(coco.Tokens(["a dog"], [["a dog"]]))


@needs_java
def test_a_clip_without_a_reference_is_refused():
    with pytest.raises(ValueError, match="caption 1: no reference"):
        coco.tokens(package(), ["a", "b"], [["a"], [" "]])


def test_fense_is_a_tenth_of_the_similarity_where_the_checker_finds_an_error(tmp_path: Path):
    """The authors' checkpoint is not here: its layout, with random weights, and a head that always or never finds one."""
    import torch
    from transformers import BertConfig, BertModel

    from models.metrics.fluency import FluencyChecker
    from stages.scoring.captions.fense import fense

    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)

    def backbone(name: str) -> BertModel:
        assert name == "a-bert"
        return BertModel(config)

    def tokenize(texts: list[str]) -> dict[str, torch.Tensor]:
        assert texts == ["a dog barks", "rain"]
        return {
            "input_ids": torch.tensor([[1, 2, 3], [1, 2, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        }

    for bias, factor in ((50.0, 0.1), (-50.0, 1.0)):
        state = FluencyChecker(BertModel(config), 16, 6).state_dict()
        state["clf.bias"][-1] = bias
        state["encoder.embeddings.position_ids"] = torch.arange(512)[None]  # as transformers saved it until 4.31
        torch.save({"model_type": "a-bert", "num_classes": 6, "state_dict": state}, tmp_path / "checker.ckpt")
        checker, name = FluencyChecker.from_checkpoint(tmp_path / "checker.ckpt", backbone)
        actual = fense([0.8, 0.4], ["A dog barks!", "rain"], checker, tokenize)
        assert name == "a-bert" and actual.items == pytest.approx([0.8 * factor, 0.4 * factor])
        assert actual.corpus == pytest.approx(0.6 * factor)
