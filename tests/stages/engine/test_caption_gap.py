"""The caption gap: which clips it is of, that it is the difference of two plain likelihoods, and that it is in a receipt."""

import json
import math
from pathlib import Path

import pytest
import torch
from lhotse import MonoCut, SupervisionSegment

from datamodules.language.caption_pairs import CaptionPair, CaptionPairs, caption_pairs
from datamodules.language.conversations import Turn as Roles
from datamodules.language.packing import Encoded, LanguageBatch
from models.language.model import SoundLanguageModel
from models.language.vocabulary import Turn
from stages.engine.caption_gap import CaptionGap
from tests.models.language.test_model import build

WORDING = "Make {caption}, {seconds} s"
PAIRS = [
    CaptionPair("a", [0, 4, 2, 0], 0.8, "a dog", "rain on a roof"),
    CaptionPair("b", [1, 1], 0.4, "rain on a roof", "a dog"),
    CaptionPair("c", [3, 2, 2, 0, 0, 1], 1.2, "it thunders", "a dog"),
]


def cut(name: str, caption: str | None, *labels: str) -> MonoCut:
    made = MonoCut(name, 0, 1.0, 0, custom={"codes": [len(name)], "labels": list(labels)})
    made.supervisions = [SupervisionSegment(f"{name}-0", name, 0, 1.0, text=caption, custom={"task": "caption"})]
    return made


def test_the_other_caption_is_of_another_kind():
    cuts = [
        cut("1", "a dog", "dog"),
        cut("2", "barking", "dog"),
        cut("3", "rain", "rain"),
        cut("4", "both", "dog", "rain"),
    ]
    pairs, kinds = caption_pairs(cuts, 10)
    assert kinds == 2 and [pair.id for pair in pairs] == ["1", "2", "3"], "a clip of two labels has no kind"
    assert [pair.other_caption for pair in pairs] == ["rain", "rain", "a dog"]
    assert caption_pairs(cuts[::-1], 10).pairs == pairs
    assert caption_pairs(cuts, 0).pairs == [] and caption_pairs(cuts[:1], 10).pairs == []
    assert caption_pairs(cuts[:2], 10).kinds is None, "one kind is none"


def test_the_words_before_the_codes_are_those_of_the_caption():
    cuts = [cut("1", "barking", "dog"), cut("2", "it rains", "rain")]
    words = [(pair.words, pair.other_words) for pair in caption_pairs(cuts, 10, labels_before_sound=True).pairs]
    assert words == [("dog", "rain"), ("rain", "dog")]
    assert {(pair.words, pair.other_words) for pair in caption_pairs(cuts, 10).pairs} == {("", "")}


def test_without_labels_the_other_caption_is_another_text():
    pairs, kinds = caption_pairs([cut("1", "x"), cut("2", "x"), cut("3", "y"), cut("4", None)], 10)
    assert kinds is None and [(pair.caption, pair.other_caption) for pair in pairs] == [
        ("x", "y"),
        ("x", "y"),
        ("y", "x"),
    ]


@pytest.fixture(scope="module")
def model() -> SoundLanguageModel:
    return build("random:tiny", levels=(0,)).eval()


def gap_of(
    model: SoundLanguageModel, pairs: list[CaptionPair], tokens: int, rank: int = 0, world: int = 1
) -> list[float]:
    def encode(conversations: list[list[Roles]]) -> list[Encoded]:
        turns = [
            [Turn("user" if role == "user" else "assistant", parts) for role, parts in one] for one in conversations
        ]
        return [Encoded(*one) for one in model.vocabulary.render_all(turns)]

    def likelihood(batch: LanguageBatch) -> torch.Tensor:
        weights = {"audio_weight": 1.0, "text_weight": 0.0, "prompt_weight": 0.0, "z_loss_weight": 0.0}
        losses = model.loss(batch.input_ids, batch.attention_mask, batch.labels, batch.kinds, **weights)
        return losses.audio_loss * losses.audio_tokens

    gap = CaptionGap(CaptionPairs(pairs, 3), encode, WORDING, model.vocabulary.pad_id, tokens)
    assert gap.ceiling == math.log(3)
    return gap.sums(likelihood, rank, world, torch.device("cpu")).tolist()


def plain(model: SoundLanguageModel, caption: str, pair: CaptionPair, words: str = "") -> float:
    """One sequence, whole, without a batch: nats of the sound with its two marks, after the words."""
    prompt = model.vocabulary.render([Turn("user", [f"Make {caption}, {pair.seconds} s"])], generate=True).input_ids
    prompt = prompt + (model.vocabulary.tokenizer(words, add_special_tokens=False).input_ids if words else [])
    sound = model.vocabulary.sound_ids(pair.codes)
    ids = torch.tensor([prompt + sound])
    with torch.no_grad():
        log_p = model.logits(ids, torch.ones_like(ids))[0].double().log_softmax(-1)
    return -float(sum(log_p[len(prompt) - 1 + n, token] for n, token in enumerate(sound)))


def test_it_is_the_difference_of_two_plain_likelihoods(model: SoundLanguageModel):
    expected = sum(plain(model, pair.other_caption, pair) - plain(model, pair.caption, pair) for pair in PAIRS)
    assert abs(expected) > 1e-2, "this model heeds the prompt"
    for tokens in (10_000, 80):  # in one batch; one clip a batch
        assert gap_of(model, PAIRS, tokens) == pytest.approx([expected, 3], abs=1e-3)
    by_rank = [gap_of(model, PAIRS, 10_000, rank, 2) for rank in range(2)]
    assert [sum(column) for column in zip(*by_rank, strict=True)] == pytest.approx([expected, 3], abs=1e-3)
    assert gap_of(model, PAIRS[:1], 10_000, 1, 2) == [0.0, 0.0], "a rank without a clip"


def test_words_before_the_codes_are_read_and_do_not_count(model: SoundLanguageModel):
    pairs = [pair._replace(words="dog", other_words="rain") for pair in PAIRS]
    expected = sum(
        plain(model, pair.other_caption, pair, "rain") - plain(model, pair.caption, pair, "dog") for pair in PAIRS
    )
    assert gap_of(model, pairs, 10_000) == pytest.approx([expected, 3], abs=1e-3)
    assert abs(expected - gap_of(model, PAIRS, 10_000)[0]) > 1e-2, "this model heeds the words"


def test_a_caption_that_is_not_another_has_no_gap(model: SoundLanguageModel):
    same = [pair._replace(other_caption=pair.caption) for pair in PAIRS]
    assert gap_of(model, same, 10_000) == pytest.approx([0.0, 3], abs=1e-6)


def test_it_grows_with_what_is_trained():
    """A small step that makes the codes more probable under their own caption, and less under the other."""
    model = build("random:tiny", levels=(0,)).eval()
    before = gap_of(model, PAIRS, 10_000)[0]
    rows = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = torch.zeros(())
    for pair in PAIRS:
        for caption, sign in ((pair.caption, 1), (pair.other_caption, -1)):
            turns = [Turn("user", [f"Make {caption}, {pair.seconds} s"]), Turn("assistant", [pair.codes])]
            ids, labels, kinds = (torch.tensor([part]) for part in model.vocabulary.render(turns))
            losses = model.loss(
                ids, torch.ones_like(ids), labels, kinds,
                audio_weight=1.0, text_weight=0.0, prompt_weight=0.0, z_loss_weight=0.0,
            )  # fmt: skip
            total = total + sign * losses.loss * losses.audio_tokens
    gradients = torch.autograd.grad(total, rows, allow_unused=True)
    length = math.sqrt(sum(float(one.square().sum()) for one in gradients if one is not None))
    with torch.no_grad():
        for parameter, gradient in zip(rows, gradients, strict=True):
            if gradient is not None:
                parameter -= 1e-2 / length * gradient
    assert gap_of(model, PAIRS, 10_000)[0] > before + 2e-3 * length


def test_it_stands_in_the_receipt_of_a_language_stage(whole: Path):
    for stage in ("caption", "openaqa"):
        metrics = json.loads((whole / stage / "receipt.json").read_text())["metrics"]
        assert math.isfinite(metrics["val/caption_gap"]), stage
        kinds = math.exp(metrics["val/caption_gap_ceiling"])
        assert kinds == pytest.approx(round(kinds)) and round(kinds) >= 2
    report = json.loads((whole / "evaluate/artifact/report.json").read_text())
    assert report["caption_gap"]["nats"] == metrics["val/caption_gap"]
    for name in ("report.md", "report.html"):
        assert f"Caption gap: {metrics['val/caption_gap']:.2f} nats" in (whole / "evaluate/artifact" / name).read_text()
