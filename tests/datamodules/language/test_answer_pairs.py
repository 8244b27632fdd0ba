"""Pairs of answers: what is chosen is right and what is rejected is wrong, by hand; lines of a file that are no pairs are named."""

import json
from pathlib import Path

import pytest
from lhotse import SupervisionSegment

from datamodules.errors import DataError
from datamodules.language import answer_pairs
from datamodules.language.answer_pairs import (
    AnswerPair,
    CutPairs,
    FilePairs,
    Making,
    answers_of,
    read_pair,
    wrong_answer,
)
from datamodules.language.conversations import PAIR
from datamodules.language.sound_windows import codes_to_remove
from tests.datamodules.language.test_absent_sounds import made

LINE = {"sound": "a", "prompt": "What?", "chosen": "A dog.", "rejected": "Rain."}
SOUNDS = LINE | {"chosen": [1, 2], "rejected": [3], "tokenizer": "t"}


class Cuts(list):
    """What pairs ask of a view of the cache."""

    def digest(self) -> str:
        return str([cut.id for cut in self])

    def find(self, name: str):
        return next((cut for cut in self if cut.id == name), None)


def cuts(*names: str) -> Cuts:
    both = (("presence", "Is there a dog?", "yes"), ("order", "Which comes first, the dog or the rain?", "rain"))
    available = {
        "a": made("a", "dog", questions=both[:1]),
        "b": made("b", "rain", "dog", questions=(both[1], ("count", "How many sounds?", "two"))),
        "c": made("c", "bell"),
        "d": made("d"),
    }
    for number, cut in enumerate(available.values()):
        cut.custom |= {"codes": [number, 1], "source": cut.id}
    return Cuts(available[name] for name in names)


def pairs_of(source: CutPairs, index: int) -> list[AnswerPair]:
    """Whose prompts are read back from the dialogues."""
    made_pairs = []
    for item in source[index]:
        assert item.kind == PAIR and len(item.dialogues) <= 2 * source.making.together
        texts = answers_of(item)
        prompts = [dialogue[0][1][1].removeprefix("\n") for dialogue in item.dialogues]
        assert prompts[::2] == prompts[1::2], "both answers are to one request"
        made_pairs += [AnswerPair(*one) for one in zip(prompts[::2], texts[::2], texts[1::2], strict=True)]
    return made_pairs


def test_pairs_of_labels_ask_alike_for_what_is_there_and_for_what_is_not():
    making = Making(["random", "frequent", "cooccurring"], [], "Is there the sound of {label}?", 2)
    source = CutPairs(cuts("a", "b", "c", "d"), cuts("a", "b", "c"), making)
    for index, own in enumerate((["dog"], ["rain", "dog"], ["bell"])):
        wordings = {
            label: source.wordings.get(label, [f"Is there the sound of {label}?"]) for label in ("dog", "rain", "bell")
        }
        present = {text for label in own for text in wordings[label]}
        for pair in pairs_of(source, index):
            assert (pair.chosen, pair.rejected) == (("yes", "no") if pair.prompt in present else ("no", "yes"))
        assert {pair.chosen for pair in pairs_of(source, index)} == {"yes", "no"}
    assert any(pair.prompt == "Is there a dog?" for pair in pairs_of(source, 0)), "in the corpus' own wording"
    assert source[3] == [], "nothing is known of what it has"


def test_pairs_of_questions_are_of_the_kinds_that_are_asked_for():
    source = CutPairs(cuts("a", "b"), cuts("a"), Making([], ["presence", "order"], "{label}?", 4))
    assert pairs_of(source, 0) == [AnswerPair("Is there a dog?", "yes", "no")]
    assert pairs_of(source, 1) == [AnswerPair("Which comes first, the dog or the rain?", "rain", "dog")]


def test_pairs_of_swapped_clips_reject_what_is_right_of_another_recording_and_wrong_of_this_one():
    what = "What is heard?"
    available = [
        made("a", "dog", questions=(("what", what, "dog"), ("presence", "Is there a dog?", "yes"))),
        made("b", "dog", "rain", questions=(("what", what, "dog"), ("what", "What is last?", "rain"))),
        made("c", "bell", questions=(("what", what, "bell"),)),
        made("d", questions=(("count", "How many?", "two"),)),
    ]
    for number, cut in enumerate(available):
        cut.custom |= {"codes": [number], "source": cut.id}
        if labels := cut.custom["labels"]:
            own = {"task": "caption"}
            cut.supervisions.append(
                SupervisionSegment(f"{cut.id}-caption", cut.id, 0, 1.0, text=" and ".join(labels), custom=own)
            )
    making = Making([], [], "{label}?", 4, ["what", "presence", "caption"], ["Describe it."])
    source = CutPairs(Cuts(available), Cuts(available), making)
    got = [pairs_of(source, index) for index in range(4)]
    assert [{(pair.prompt, pair.chosen) for pair in pairs} for pairs in (got[0], got[2])] == [
        {(what, "dog"), ("Describe it.", "dog")},
        {(what, "bell"), ("Describe it.", "bell")},
    ], "yes and no are never swapped"
    assert {pair.rejected for pair in got[0] if pair.prompt == what} <= {"rain", "bell"}, "nothing that it has"
    assert {pair.rejected for pair in got[0] if pair.prompt != what} <= {"dog and rain", "bell"}
    assert {pair.rejected for pair in got[1]} == {"bell"}, "a dog is heard here too, so its caption is no wrong one"
    assert not got[3], "the other recordings have no answer of such a kind"


def test_of_a_large_corpus_as_many_recordings_are_read_as_say_what_is_usual(monkeypatch: pytest.MonkeyPatch):
    """However many there are: 20 of 95, evenly spread, and none for pairs that do not ask what is usual."""
    monkeypatch.setattr(answer_pairs, "MOST_READ", 20)
    read: list[str] = []

    class Many(Cuts):
        def digest(self) -> str:
            return "many"

        def __getitem__(self, index):
            return Many(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

        def __iter__(self):
            for cut in super().__iter__():
                read.append(cut.id)
                yield cut

    train = Many(made(str(number), f"label {number % 7}") for number in range(95))
    source = CutPairs(cuts("a"), train, Making(["random"], [], "{label}?", 2))
    assert read == 2 * [str(number) for number in range(0, 95, 5)] and sum(source.usual.counts.values()) == 19
    CutPairs(cuts("a"), train, Making([], ["order"], "{label}?", 2))
    assert len(read) == 2 * 19


@pytest.mark.parametrize(
    ("question", "answer", "wrong"),
    [
        ("Is it loud?", "Yes", {"no"}),
        ("How many?", "one", {"two"}),
        ("How many?", "three", {"two", "four"}),
        ("At what second?", "7", {"6", "8"}),
        ("At what second?", "0.5", {None}),
        ("Which is first, the dog or the rain?", "dog", {"rain"}),
        ("Which is first?", "dog", {None}),
        ("What is it?", "a long story", {None}),
    ],
)
def test_a_wrong_answer_follows_from_the_right_one(question: str, answer: str, wrong: set[str | None]):
    assert {wrong_answer(question, answer, ["dog", "rain"], str(n)) for n in range(40)} == wrong


def test_the_pairs_of_a_file_are_of_the_split_that_has_their_sound(tmp_path: Path):
    lines = [LINE, LINE | {"sound": "c", "chosen": "A bell."}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    source = FilePairs(tmp_path / "pairs.jsonl", cuts("c", "d"), cuts("a", "b", "c", "d"), "t")
    assert [len(source[n]) for n in range(len(source))] == [0, 1, 0]
    (item,) = source[1]
    assert answers_of(item) == ["A bell.", "Rain."] and item.dialogues[0][0][1] == [[2, 1], "\nWhat?"]
    assert codes_to_remove(item, 1, 1) == 0, "no part of it stands for the whole"
    with pytest.raises(DataError, match=r"pairs.jsonl, line 1: no recording has the id 'a'\. One that there is: c"):
        FilePairs(tmp_path / "pairs.jsonl", cuts("c"), cuts("c"), "t")[0]
    with pytest.raises(DataError, match=r"pairs\.files: .*gone\.jsonl: no such file"):
        FilePairs(tmp_path / "gone.jsonl", cuts("c"), cuts("c"), "t")


def test_a_pair_of_two_sounds_is_of_its_prompt_alone(tmp_path: Path):
    (tmp_path / "pairs.jsonl").write_text(json.dumps(SOUNDS))
    (item,) = FilePairs(tmp_path / "pairs.jsonl", cuts("a"), cuts("a"), "t")[0]
    assert item.dialogues == [[("user", ["What?"]), ("assistant", [codes])] for codes in ([1, 2], [3])]
    assert answers_of(item) == ["", ""]
    named = FilePairs(tmp_path / "pairs.jsonl", cuts("a"), cuts("a"), "t", labels_before_sound=True)
    words = "; ".join(cuts("a")[0].custom["labels"])
    assert [dialogue[1] for dialogue in named[0][0].dialogues] == [("assistant", [words, one]) for one in ([1, 2], [3])]
    with pytest.raises(DataError, match=r"line 1: codes of the tokenizer t, and this stage's is u\. `stage pairs`"):
        FilePairs(tmp_path / "pairs.jsonl", cuts("a"), cuts("a"), "u")[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1", "no JSON"),
        (json.dumps(SOUNDS | {"rejected": [1, 2]}), "'chosen' and 'rejected' are the same sound"),
        (json.dumps(SOUNDS | {"rejected": "Rain."}), "the keys sound, prompt, chosen, rejected are expected"),
        (json.dumps(SOUNDS | {"rejected": []}), "the keys sound, prompt, chosen, rejected are expected"),
        (json.dumps(LINE | {"chosen": [1], "rejected": [2]}), "or tokenizer too, and the codes of a sound"),
        (json.dumps(LINE | {"tokenizer": "t"}), "the keys sound, prompt, chosen, rejected are expected"),
        ("[1]", "the keys sound, prompt, chosen, rejected are expected"),
        (json.dumps(LINE | {"label": "dog"}), "the keys sound, prompt, chosen, rejected are expected"),
        (json.dumps(LINE | {"rejected": 3}), "each a text"),
        (json.dumps(LINE | {"rejected": "A dog."}), "'chosen' and 'rejected' are the same text, 'A dog.'"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line: str, message: str):
    with pytest.raises(DataError, match=rf"^here: {message}|^here: .*{message}"):
        read_pair(line, "here")
