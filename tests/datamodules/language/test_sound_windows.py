"""What is longer than a sequence is used in part: windows of whole frames, a seeded one an epoch."""

from collections.abc import Sequence

import numpy as np
import pytest

from datamodules.language.conversations import Conversation, Turn
from datamodules.language.id_batches import DataPart, LanguageDataModule
from datamodules.language.packing import Encoded
from datamodules.language.sound_windows import codes_to_remove, window


def caption(name: str, codes: list[int], text: str = "rain") -> Conversation:
    dialogue: list[Turn] = [("user", [codes, "?"]), ("assistant", [text])]
    return Conversation(name, "sound_to_text", name, [dialogue])


class Entries(list[Sequence[Conversation]]):
    def digest(self) -> str:
        return "x"


def encode(dialogues: list[list[Turn]]) -> list[Encoded]:
    """A code is its id, a text one id."""
    ids = [
        [each for _, parts in turns for part in parts for each in (part if isinstance(part, list) else [9999])]
        for turns in dialogues
    ]
    return [Encoded(one, one, [0] * len(one)) for one in ids]


def module(items: list[Conversation], max_tokens: int, frame: int = 1, seed: int = 3) -> LanguageDataModule:
    part = DataPart(Entries([item] for item in items), max_tokens, None)
    return LanguageDataModule(
        [part],
        part,
        encode,
        pad_id=0,
        tokens_per_batch=max_tokens,
        num_buckets=2,
        seed=seed,
        num_workers=0,
        frame=frame,
    )


def epoch(data: LanguageDataModule, number: int, batch: int = 0) -> dict[str, list[int]]:
    """Id -> its codes, of an epoch's batches from one on."""
    sampler = data.train_sampler(0, 1)
    sampler.set_epoch(number)
    rows = {}
    for numbers in sampler.from_batch(batch):
        made = data.dataset[numbers]
        for name, ids, mask in zip(made.ids, made.input_ids, made.attention_mask, strict=True):
            rows[name] = [code for code in ids[mask.bool()].tolist() if code != 9999]
    return rows


def test_each_epoch_has_another_window_and_each_run_the_same():
    items = [caption("long", list(range(1, 101))), caption("short", list(range(1, 11)))]
    data, again = module(items, 22), module(items, 22)
    windows = [epoch(data, number) for number in range(12)]
    assert data.num_windows == 2 * 1 and not data.too_long, "of training and validation"
    for one in windows:
        assert one["short"] == list(range(1, 11))
        begin = one["long"][0]
        assert one["long"] == list(range(begin, begin + 20)), "20 codes fit beside two texts"
    assert len({one["long"][0] for one in windows}) > 3
    assert windows == [epoch(again, number) for number in range(12)]
    assert windows[7] | epoch(data, 7, 1) == windows[7], "entered at a batch"


def test_validation_has_one_window():
    data = module([caption("long", list(range(1, 101)))], 22)
    sampler = data.validation_sampler(0, 1)
    assert sampler is not None
    first = [data.dataset[numbers].input_ids.tolist() for numbers in sampler]
    sampler.set_epoch(5)
    assert [data.dataset[numbers].input_ids.tolist() for numbers in sampler] == first


@pytest.mark.parametrize("frame", [1, 3, 4])
def test_a_window_is_of_whole_frames_and_reaches_both_ends(frame: int):
    item = caption("a", list(range(12 * frame)))
    removed = codes_to_remove(item, 7 * frame - frame // 2, frame)
    assert removed == 7 * frame
    parts = [window(item, removed, frame, 0, number).dialogues[0][0][1][0] for number in range(200)]
    assert all(isinstance(part, list) and len(part) == 5 * frame and part[0] % frame == 0 for part in parts)
    assert {part[0] // frame for part in parts if isinstance(part, list)} == set(range(8))


def test_questions_that_share_a_sound_share_its_window():
    codes = list(range(50))
    dialogues: list[list[Turn]] = [[("user", [codes, text]), ("assistant", ["yes"])] for text in ("a?", "b?")]
    part = window(Conversation("q", "question", "q", dialogues), 40, 1, 0, 0)
    assert part.dialogues[0][0][1][0] == part.dialogues[1][0][1][0] and len(part.dialogues[0][0][1][0]) == 10


def test_what_has_no_window_is_left_out_and_listed():
    """Text that is too long by itself, two sounds, an answer that says when, no sound."""
    two: list[Turn] = [("user", [list(range(50)), list(range(60))]), ("assistant", ["the first"])]
    text: list[Turn] = [("user", ["a"] * 40), ("assistant", ["b"])]
    items = [
        caption("times", list(range(50)), "rain from 1.0 to 2.5 s"),
        Conversation("two", "conversation", "two", [two]),
        Conversation("text", "text", "text", [text]),
        Conversation("words", "sound_to_text", "words", [[("user", [[1, 2]]), ("assistant", ["b"] * 40)]]),
    ]
    data = module([*items, caption("fits", [1, 2])], 22)
    assert data.num_windows == 0 and np.shape(data.train_items[0].rows) == (1, 3)
    assert [item.id for item in data.too_long] == 2 * ["times", "two", "text", "words"]
