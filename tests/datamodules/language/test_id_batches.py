"""Conversations made from cuts, and batches of like length: nothing twice, nothing cut, little padding."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from lhotse import MonoCut, SupervisionSegment

from datamodules.language.buckets import bucket_ends
from datamodules.language.conversations import PAIR, Conversation, Mixture, Prompts, Turn, conversations
from datamodules.language.id_batches import DataPart, LanguageDataModule
from datamodules.language.packing import Encoded, collate, pack, packed_lengths
from models.language.vocabulary import Turn as ChatTurn
from models.language.vocabulary import Vocabulary
from stages.hub.weights import load_language_model

TO_TEXT = ["Describe this sound.", "What is happening?"]
TO_SOUND = ["Generate a sound: {caption}", "Make {caption}"]
NOTHING = Mixture(0, 0, 0, 0, 0)


def make_cut(number: int, captions: int = 1, questions: int = 0) -> MonoCut:
    """Codes begin with 0, which is a sound as any other."""
    cut = MonoCut(f"cut-{number}", 0, 1.0, 0, custom={"codes": [0, number, number + 1], "source": f"source-{number}"})
    texts = [(f"caption {k} of {number}", {"task": "caption"}) for k in range(captions)]
    texts += [
        (None, {"task": "question", "question": f"q{k}?", "answer": f"a{k}", "kind": "count"}) for k in range(questions)
    ]
    cut.supervisions = [
        SupervisionSegment(f"cut-{number}-{k}", cut.id, 0, 1.0, text=text, custom=custom)
        for k, (text, custom) in enumerate(texts)
    ]
    return cut


def make(cuts: list[MonoCut], mixture: Mixture, together: int = 1) -> list[Conversation]:
    return conversations(cuts, mixture, Prompts(TO_TEXT, TO_SOUND, together))


def encode(talks: list[list[Turn]]) -> list[Encoded]:
    return [encode_one(talk) for talk in talks]


def encode_one(turns: list[Turn]) -> Encoded:
    """One id a code and one a character; the assistant's have labels."""
    ids, labels = [], []
    for role, segments in turns:
        for segment in segments:
            new = [ord(sign) for sign in segment] if isinstance(segment, str) else [1000 + code for code in segment]
            ids += new
            labels += new if role == "assistant" else [-100] * len(new)
    return Encoded(ids, labels, [0 if label == -100 else 1 for label in labels])


def of_length(lengths: list[int]) -> list[Conversation]:
    """An entry each."""
    return [
        Conversation(f"item-{n}", "question", "s", [[("user", ["x" * (length - 1)]), ("assistant", ["y"])]])
        for n, length in enumerate(lengths)
    ]


class Entries(list[list[Conversation]]):
    def digest(self) -> str:
        return str(len(self))


def module(lengths: list[int], budget: int, num_buckets: int = 8, max_tokens: int = 10_000) -> LanguageDataModule:
    return LanguageDataModule(
        [DataPart(Entries([item] for item in of_length(lengths)), max_tokens, None)], DataPart(Entries(), max_tokens, None), encode, pad_id=7,
        tokens_per_batch=budget, num_buckets=num_buckets, seed=0, num_workers=0,
    )  # fmt: skip


def test_sound_to_text_gives_the_codes_and_asks_for_the_caption():
    (talk,) = make([make_cut(5)], Mixture(1, 0, 0, 0, 0))
    (((user, (codes, prompt)), (assistant, answer)),) = talk.dialogues
    assert (user, assistant, codes, answer) == ("user", "assistant", [0, 5, 6], ["caption 0 of 5"])
    assert prompt.strip() in TO_TEXT
    assert (talk.kind, talk.source) == ("sound_to_text", "source-5")


def test_text_to_sound_gives_the_caption_and_asks_for_the_codes():
    (talk,) = make([make_cut(5)], Mixture(0, 1, 0, 0, 0))
    (((user, (prompt,)), (assistant, (codes,))),) = talk.dialogues
    assert (user, assistant, codes, talk.kind) == ("user", "assistant", [0, 5, 6], "text_to_sound")
    assert prompt.strip() in [template.format(caption="caption 0 of 5") for template in TO_SOUND]


def test_a_caption_with_braces_is_taken_as_it_is():
    cut = make_cut(1)
    cut.supervisions[0].text = "a {strange} caption"
    (talk,) = make([cut], Mixture(0, 1, 0, 0, 0))
    assert "a {strange} caption" in talk.dialogues[0][0][1][0]


@pytest.mark.parametrize("together", [1, 2, 3, 10])
def test_several_questions_go_together(together: int):
    """Seven questions, `together` to a sequence: each asked once with its own answer, as a talk of its own."""
    actual = make([make_cut(1, captions=0, questions=7)], Mixture(0, 0, 1, 0, 0), together)
    assert len(actual) == math.ceil(7 / together)
    assert len({item.id for item in actual}) == len(actual)
    asked = []
    for item in actual:
        for (user, (codes, question)), (assistant, (answer,)) in item.dialogues:
            assert (user, assistant, codes) == ("user", "assistant", [0, 1, 2])
            asked.append((question.strip(), answer))
    assert sorted(asked) == [(f"q{k}?", f"a{k}") for k in range(7)]


def test_only_the_kinds_that_are_named_are_asked():
    cut = make_cut(1, captions=0, questions=3)
    cut.supervisions[1].custom["kind"] = "order"
    for kinds, asked in (
        (("order",), ["q1?"]),
        (("count",), ["q0?", "q2?"]),
        ((), ["q0?", "q1?", "q2?"]),
        (("when",), []),
    ):
        actual = conversations([cut], Mixture(0, 0, 1, 0, 0), Prompts(TO_TEXT, TO_SOUND, 1, kinds))
        assert sorted(item.dialogues[0][0][1][1].strip() for item in actual) == asked


def test_pack_writes_the_shared_beginning_once():
    """Worked by hand: 1 2 is shared; positions begin again after it; labels stay with their ids."""
    one, two = (
        Encoded([1, 2, 3, 4], [-100, -100, -100, 4], [0, 0, 0, 1]),
        Encoded([1, 2, 5], [-100, -100, 5], [0, 0, 1]),
    )
    packed = pack([one, two])
    assert packed.input_ids == [1, 2, 3, 4, 2, 5]  # 2 tells the second's label, so it is the second's own
    assert packed.labels == [-100, -100, -100, 4, -100, 5]
    assert packed.positions == [0, 1, 2, 3, 1, 2]
    assert packed.branches == [0, 1, 1, 1, 2, 2]
    assert pack([one]).branches == [0, 0, 0, 0]


def test_each_talk_can_be_read_back_from_its_pack():
    generator = np.random.default_rng(0)
    for _ in range(50):
        talks = []
        for _ in range(generator.integers(1, 5)):
            reply = generator.integers(1, 3, generator.integers(1, 8)).tolist()
            ids = [7, 7, 7, *reply, 9]
            talks.append(Encoded(ids, [-100] * (len(ids) - 1) + [9], [0] * (len(ids) - 1) + [1]))
        packed = pack(talks)
        for number, talk in enumerate(talks, 1):
            branch_positions = [n for n, branch in enumerate(packed.branches) if branch in (0, number)]
            assert [packed.input_ids[n] for n in branch_positions] == talk.input_ids
            assert [packed.labels[n] for n in branch_positions] == talk.labels
            assert [packed.positions[n] for n in branch_positions] == list(range(len(branch_positions)))


@pytest.mark.parametrize("weight", [0, 1, 2])
def test_a_whole_weight_is_a_number_of_copies(weight: int):
    cuts = [make_cut(number, captions=2, questions=3) for number in range(20)]
    for mixture in (Mixture(weight, 0, 0, 0, 0), Mixture(0, weight, 0, 0, 0)):
        talks = make(cuts, mixture)
        assert len(talks) == weight * 40 and len({talk.id for talk in talks}) == len(talks)
    questions = make(cuts, Mixture(0, 0, weight, 0, 0), together=3)
    assert len(questions) == weight * 20 and sum(len(talk.dialogues) for talk in questions) == weight * 60
    assert len({talk.id for talk in questions}) == len(questions)


def test_a_quarter_takes_a_quarter_and_always_the_same():
    """800 items: 200 within three standard deviations of 12.2; 1.25 is one each and the same quarter again."""
    cuts = [make_cut(number, captions=1, questions=1) for number in range(800)]
    for mixture in (Mixture(0.25, 0, 0, 0, 0), Mixture(0, 0.25, 0, 0, 0), Mixture(0, 0, 0.25, 0, 0)):
        talks = make(cuts, mixture)
        assert abs(len(talks) - 200) < 37
        assert make(cuts[::-1], mixture)[::-1] == talks, "the share hangs on the items, not on their order"
    quarter = {talk.source for talk in make(cuts, Mixture(0.25, 0, 0, 0, 0))}
    counts = Counter(talk.source for talk in make(cuts, Mixture(1.25, 0, 0, 0, 0)))
    assert {source for source, count in counts.items() if count == 2} == quarter and len(counts) == 800


def test_conversations_do_not_hang_on_their_neighbours():
    cuts = [make_cut(number, captions=2, questions=4) for number in range(30)]
    mixture = Mixture(1.5, 0.5, 2, 0, 0)
    together = make(cuts, mixture, 3)
    apart = [talk for cut in cuts for talk in make([cut], mixture, 3)]
    assert together == apart == make(cuts, mixture, 3)
    assert make(cuts, NOTHING) == []
    assert len({talk.id for talk in together}) == len(together)


def test_every_wording_is_used():
    talks = make([make_cut(number) for number in range(40)], Mixture(1, 1, 0, 0, 0))
    prompts = Counter(
        segment.strip() for talk in talks for segment in talk.dialogues[0][0][1] if isinstance(segment, str)
    )
    assert all(5 < prompts[wording] < 35 for wording in TO_TEXT)


def test_collate_pads_to_the_right_and_hides_the_padding():
    """Worked by hand: lengths 3 and 1."""
    batch = collate(
        [("a", pack([Encoded([5, 6, 7], [-100, 6, 7], [0, 1, 2])])), ("b", pack([Encoded([8], [8], [1])]))], pad_id=9
    )
    assert batch.ids == ["a", "b"]
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[-100, 6, 7], [8, -100, -100]]
    assert batch.kinds.tolist() == [[0, 1, 2], [1, 0, 0]]
    assert batch.positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert batch.branches.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert {part.dtype for part in batch if isinstance(part, torch.Tensor)} == {torch.int64}


def test_a_batch_from_the_loader_is_its_items_one_by_one():
    data = module([5, 9, 3, 12, 7], budget=24)
    encoded = {item.id: pack(encode(item.dialogues)) for item in of_length([5, 9, 3, 12, 7])}
    seen = []
    for batch in data.train_dataloader():
        for row, name in enumerate(batch.ids):
            length = int(batch.attention_mask[row].sum())
            assert batch.input_ids[row, :length].tolist() == list(encoded[name].input_ids)
            assert batch.labels[row, :length].tolist() == list(encoded[name].labels)
            assert (batch.labels[row, length:] == -100).all() and (batch.input_ids[row, length:] == 7).all()
            seen.append(name)
    assert sorted(seen) == sorted(encoded)


def test_what_is_too_long_is_counted_and_never_cut():
    data = module([5, 20, 21, 22, 6], budget=100, max_tokens=20)
    assert data.too_long == [("item-2", "question", 21), ("item-3", "question", 22)]
    assert sorted(name for batch in data.train_dataloader() for name in batch.ids) == ["item-0", "item-1", "item-4"]


def epoch(data: LanguageDataModule) -> tuple[float, int, int]:
    """(share of padding, most positions of a batch, items) of an epoch's real batches."""
    real = padded = most = seen = 0
    for batch in data.train_dataloader():
        mask = batch.attention_mask
        real, padded, most, seen = (
            real + int(mask.sum()),
            padded + mask.numel(),
            max(most, mask.numel()),
            seen + len(mask),
        )
    return 1 - real / padded, most, seen


@pytest.mark.parametrize(("budget", "buckets"), [(16384, 30), (4000, 30)])
def test_log_normal_lengths_pad_less_than_a_twentieth(budget: int, buckets: int):
    """4,000 items, median 200, a tail to 2,000; the base configuration's buckets. No batch is above the budget."""
    lengths = np.clip(np.exp(np.random.default_rng(0).normal(5.3, 0.5, 4000)), 16, 2048).astype(int).tolist()
    fraction, most, seen = epoch(module(lengths, budget=budget, num_buckets=buckets))
    assert fraction < 0.05 and most <= budget and seen == 4000


def test_the_demos_lengths_pad_less_than_a_twentieth():
    """As its captions (49 to 85 tokens) and its packs of questions (two kinds of scene, near 83 and near 130) come,
    with its budget and buckets.
    """
    generator = np.random.default_rng(0)
    captions = generator.integers(49, 86, 1500).tolist()
    packs = [*generator.integers(78, 90, 400).tolist(), *generator.integers(110, 148, 600).tolist()]
    for lengths in (captions, packs):
        fraction, most, seen = epoch(module(lengths, budget=400, num_buckets=8))
        assert fraction < 0.05 and most <= 400 and seen == len(lengths)


def test_bucket_ends_are_the_best_of_all():
    """Against every choice of ends; and few lengths make few buckets."""
    generator = np.random.default_rng(1)
    for count in (1, 2, 3, 4):
        for _ in range(20):
            lengths = generator.integers(1, 12, 15).tolist()
            values = sorted(set(lengths))
            padded = {
                ends: sum(min(end for end in ends if end >= length) - length for length in lengths)
                for chosen in itertools.combinations(values[:-1], min(count, len(values)) - 1)
                for ends in [(*chosen, values[-1])]
            }
            assert padded[tuple(bucket_ends(lengths, count))] == min(padded.values())
    assert bucket_ends([3, 3, 3], 8) == [3] and bucket_ends([3, 5], 8) == [3, 5]
    many = np.arange(1, 100_001)
    assert len(bucket_ends(many.tolist(), 4)) == 4 and bucket_ends(many.tolist(), 4)[-1] == 100_000


def test_lengths_are_counted_as_they_are_packed():
    """Without writing a code: every kind of item, questions that share their sound, several sounds, no sound."""
    cuts = [make_cut(number, captions=2, questions=5) for number in range(12)]
    items = make(cuts, Mixture(1, 1, 1, 0, 0), 3)
    turns = [
        ("user", [[1, 2, 3], [4, 5], "one?"]),
        ("assistant", ["no"]),
        ("user", ["make"]),
        ("assistant", ["so: ", [9] * 7]),
    ]
    items += [
        Conversation("told", "conversation", "s", [turns]),
        Conversation("text", "text", "s", [[("text", ["It rains."])]]),
        Conversation("examples", "examples", "s", [[("context", ["In: ", [1, 2, 3]]), ("text", [" rain"])]]),
        Conversation("sounds", PAIR, "s", [[("user", ["rain"]), ("assistant", [[9] * n])] for n in (5, 3)]),
    ]
    _, tokenizer = load_language_model("random:tiny", None, "float32")
    for prompt_format in ("chat", "ltu"):
        words = Vocabulary(tokenizer, 20, [0], prompt_format, None)
        counted = packed_lengths(items, lambda talks, words=words: render(words, talks))
        assert counted == [len(pack(render(words, item.dialogues)).input_ids) for item in items]
        times = Vocabulary(tokenizer, 20, [0], prompt_format, None, max_seconds=10.0, every=0.5, codes_per_second=4.0)
        longer = packed_lengths(items, lambda talks, words=times: render(words, talks), times_in_sounds=True)
        assert longer == [len(pack(render(times, item.dialogues)).input_ids) for item in items] and longer > counted


def render(words: Vocabulary, talks: list[list[Turn]]) -> list[Encoded]:
    return [
        Encoded(
            *(
                words.render_running([(role == "text", segments) for role, segments in talk])
                if talk[0][0] in ("text", "context")
                else words.render([ChatTurn(*turn) for turn in talk])
            )
        )
        for talk in talks
    ]


@pytest.mark.parametrize("lengths", [[10] * 7, [10, 10, 10, 11], [4]])
def test_few_different_lengths_make_batches_all_the_same(lengths: list[int]):
    data = module(lengths, budget=30)
    actual = [batch.ids for batch in data.train_dataloader()]
    assert sorted(name for batch in actual for name in batch) == sorted(f"item-{n}" for n in range(len(lengths)))
    assert all(len(batch) <= 3 or lengths == [4] for batch in actual)
