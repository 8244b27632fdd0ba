"""A sound under its neighbour's caption is that conversation's own ids; what has no neighbour is left without."""

import torch

from datamodules.language.conversations import Conversation, sound_answer
from datamodules.language.conversations import Turn as Roles
from datamodules.language.other_captions import with_other_captions
from datamodules.language.packing import Encoded, LanguageBatch, collate, pack
from models.language.vocabulary import LabelKind, Turn
from tests.models.language.small_model import build

VOCABULARY = build("random:tiny", levels=(0,)).vocabulary
QUESTION = Conversation(
    "q", "question", "", [[("user", [[1, 2], text]), ("assistant", ["No"])] for text in ("Rain?", "A dog?")]
)


def made(name: str, caption: str, codes: list[int], words: str = "") -> Conversation:
    dialogue: list[Roles] = [("user", [f"Sound: {caption}".strip()]), ("assistant", sound_answer(words, codes))]
    return Conversation(name, "text_to_sound", "", [dialogue], caption)


def batch(*items: Conversation) -> LanguageBatch:
    rows = []
    for item in items:
        turns = [
            [Turn("user" if role == "user" else "assistant", parts) for role, parts in one] for one in item.dialogues
        ]
        rows.append((item.id, pack([Encoded(*one) for one in VOCABULARY.render_all(turns)])))
    return collate(rows, VOCABULARY.pad_id)._replace(captions=[item.caption for item in items])


def test_sounds_change_their_captions():
    short, dropped = made("short", "a dog", [3]), made("dropped", "", [4, 4])
    long = made("long", "rain that falls for a long time on a roof", [1, 2, 3, 0])
    own = batch(short, QUESTION, dropped, long)
    actual = with_other_captions(own, VOCABULARY.pad_id, LabelKind.AUDIO)
    assert actual.signs.tolist() == [1, 0, 1, 1, -1, -1] and (actual.pairs, actual.items) == (2, 3)
    assert actual.batch.ids == ["short", "q", "dropped", "long", "short", "long"]
    swapped = [short._replace(dialogues=[[long.dialogues[0][0], short.dialogues[0][1]]]),
               long._replace(dialogues=[[short.dialogues[0][0], long.dialogues[0][1]]])]  # fmt: skip
    expected = batch(short, QUESTION, dropped, long, *swapped)
    for name in ("input_ids", "attention_mask", "labels", "kinds", "branches"):
        assert torch.equal(getattr(actual.batch, name), getattr(expected, name)), name
    valid = expected.attention_mask.bool()
    assert torch.equal(actual.batch.positions[valid], expected.positions[valid])


def test_the_neighbour_has_another_caption():
    items = [made(str(n), caption, [n]) for n, caption in enumerate(("a dog", "a dog", "rain", "a dog"))]
    others = ("rain", "rain", "a dog", "rain")
    swapped = [made(item.id, other, [int(item.id)]) for item, other in zip(items, others, strict=True)]
    actual = with_other_captions(batch(*items), VOCABULARY.pad_id, LabelKind.AUDIO)
    assert actual.pairs == 4 and torch.equal(actual.batch.input_ids, batch(*items, *swapped).input_ids)


def test_without_another_caption_there_is_no_such_row():
    for items in (
        [made("alone", "a dog", [1])],
        [made("one", "a dog", [1]), made("two", "a dog", [2]), made("dropped", "", [3])],
        [QUESTION],
    ):
        own = batch(*items)
        actual = with_other_captions(own, VOCABULARY.pad_id, LabelKind.AUDIO)
        assert actual.pairs == 0 and torch.equal(actual.batch.input_ids, own.input_ids)
        assert actual.signs.tolist() == [int(item.caption is not None) for item in items]


def test_words_before_a_sound_go_with_their_caption():
    """And with a caption whose recording has no label stand none, whatever labels this sound has."""
    items = [("dog", "a dog barks", "dog"), ("rain", "rain", "rain on a roof"), ("noise", "a noise", "")]
    own = [made(name, caption, [n, n], words) for n, (name, caption, words) in enumerate(items)]
    others = items[1:] + items[:1]
    swapped = [made(items[n][0], caption, [n, n], words) for n, (_, caption, words) in enumerate(others)]
    actual, expected = with_other_captions(batch(*own), VOCABULARY.pad_id, LabelKind.AUDIO), batch(*own, *swapped)
    assert actual.pairs == 3
    for name in ("input_ids", "attention_mask", "labels", "kinds"):
        assert torch.equal(getattr(actual.batch, name), getattr(expected, name)), name
