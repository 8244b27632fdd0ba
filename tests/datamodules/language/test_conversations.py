"""What an epoch holds beside captions and questions: no caption at all, several turns and sounds, texts."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from lhotse import MonoCut, SupervisionSegment

from datamodules.corpora.turns import read_turns
from datamodules.language.conversation_sources import TextConversations
from datamodules.language.conversations import Conversation, Mixture, Prompts, conversations, sound_request
from datamodules.language.sound_windows import codes_of

NO_PROMPTS = Prompts([], [], 1)
TO_SOUND = ["Generate a sound: {caption}", "{caption}, please"]


def make_cut(name: str, **custom: object) -> MonoCut:
    cut = MonoCut(name, 0, 1.0, 0, custom={"codes": [len(name), 0], "source": name})
    text = custom.pop("text", None)
    cut.supervisions = [SupervisionSegment(f"{name}-0", name, 0, 1.0, text=text, custom=custom)]
    return cut


def test_a_tenth_of_the_captions_is_left_out_and_always_the_same():
    """2,000 captions: 200 within three standard deviations of 13.4; the prompt is then the template with nothing in it."""
    cuts = [make_cut(f"c{n}", task="caption", text=f"caption {n}") for n in range(2000)]
    make = lambda share: conversations(cuts, Mixture(0, 1, 0, 0, 0), Prompts([], TO_SOUND, 1, caption_dropout=share))  # noqa: E731
    prompts = [item.dialogues[0][0][1][0] for item in make(0.1)]
    empty = [prompt for prompt in prompts if "caption" not in prompt]
    assert abs(len(empty) - 200) < 41 and set(empty) == {"Generate a sound:", ", please"}
    assert set(empty) == {sound_request(template, "", 1.0) for template in TO_SOUND}
    assert make(0.1) == make(0.1) and not [item for item in make(0) if "caption" not in item.dialogues[0][0][1][0]]
    assert [item.dialogues[0][1] for item in make(0.1)] == [item.dialogues[0][1] for item in make(0)], "the sound stays"
    assert all("caption" not in item.dialogues[0][0][1][0] for item in make(1.0))


def test_a_prompt_tells_the_length_where_its_template_has_it():
    """With the caption and without; a window of the sound would have another length, so there is none."""
    cut = make_cut("c", task="caption", text="rain {a}")
    told, silent = "{seconds} s of {caption}", "Make {caption}"
    for template, dropout, prompt, window in (
        (told, 0.0, "1.0 s of rain {a}", None),
        (told, 1.0, "1.0 s of", None),
        (silent, 0.0, "Make rain {a}", [1, 0]),
        (silent, 1.0, "Make", [1, 0]),
    ):
        prompts = Prompts([], [template], 1, caption_dropout=dropout)
        (item,) = conversations([cut], Mixture(0, 1, 0, 0, 0), prompts)
        assert item.dialogues == [[("user", [prompt]), ("assistant", [[1, 0]])]]
        assert codes_of(item) == window


def test_sounds_are_asked_for_of_recordings_with_few_labels_alone():
    """Captions to text are of all recordings; one that names no label is of any number of events."""
    cuts = [make_cut("c" * (1 + n), task="caption", text=f"caption {n}") for n in range(3)]
    for number, one in enumerate(cuts):
        one.custom["labels"] = ["dog", "rain"][:number]
    for most, expected in ((None, 3), (1, 2), (2, 3)):
        prompts = Prompts(["What?"], TO_SOUND, 1, text_to_sound_labels=most)
        kinds = [item.kind for item in conversations(cuts, Mixture(1, 1, 0, 0, 0), prompts)]
        assert kinds.count("text_to_sound") == expected and kinds.count("sound_to_text") == 3


def test_labels_stand_before_a_sound_that_is_asked_for():
    """Not where the caption was dropped, nor where there is no label, nor in what is written of a sound."""
    cuts = [make_cut("c" * (1 + n), task="caption", text=f"caption {n}") for n in range(3)]
    for number, one in enumerate(cuts):
        one.custom["labels"] = ["dog", "rain"][:number]
    del cuts[0].custom["labels"]
    for dropout, named, expected in (
        (0.0, True, [[[1, 0]], ["dog", [2, 0]], ["dog; rain", [3, 0]]]),
        (1.0, True, [[[1, 0]], [[2, 0]], [[3, 0]]]),
        (0.0, False, [[[1, 0]], [[2, 0]], [[3, 0]]]),
    ):
        prompts = Prompts(["What?"], TO_SOUND, 1, caption_dropout=dropout, labels_before_sound=named)
        made = conversations(cuts, Mixture(1, 1, 0, 0, 0), prompts)
        answers = {kind: [item.dialogues[0][1][1] for item in made if item.kind == kind] for kind in Mixture._fields}
        assert answers["text_to_sound"] == expected
        assert answers["sound_to_text"] == [[f"caption {n}"] for n in range(3)]
        assert [codes_of(item) for item in made if item.kind == "text_to_sound"] == [[1, 0], [2, 0], [3, 0]]


def test_a_conversation_has_several_turns_and_sounds():
    turns = read_turns(
        [
            {"role": "user", "content": [{"sound": "self"}, {"sound": "other"}, "Which is louder?"]},
            {"role": "assistant", "content": "The second."},
            {"role": "user", "content": "Make it louder."},
            {"role": "assistant", "content": ["Here: ", {"sound": "other"}]},
        ],
        "here",
    )
    cut = make_cut("one", task="conversation", turns=turns)
    (item,) = conversations([cut], Mixture(1, 1, 1, 1, 0), NO_PROMPTS, {"other": [7]})
    assert (item.kind, item.source) == ("conversation", "one")
    assert item.dialogues == [
        [
            ("user", [[3, 0], [7], "Which is louder?"]),
            ("assistant", ["The second."]),
            ("user", ["Make it louder."]),
            ("assistant", ["Here: ", [7]]),
        ]
    ]
    assert len(conversations([cut], Mixture(0, 0, 0, 2, 0), NO_PROMPTS, {"other": [7]})) == 2
    assert conversations([cut], Mixture(1, 1, 1, 0, 0), NO_PROMPTS) == []
    with pytest.raises(ValueError, match="one-0: its conversation names the sound 'other', which this split"):
        conversations([cut], Mixture(0, 0, 0, 1, 0), NO_PROMPTS)


def texts(file: Path, weight: float) -> list[Conversation]:
    source = TextConversations(file, weight)
    return [item for line in range(len(source)) for item in source[line]]


def test_texts_are_running_or_chats(tmp_path: Path):
    chat = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"text": "It rains."}) + "\n\n" + json.dumps({"messages": chat}) + "\n")
    running, spoken = texts(file, 1)
    assert running.dialogues == [[("text", ["It rains."])]]
    assert spoken.dialogues == [[("user", ["Hello."]), ("assistant", ["Good day."])]]
    assert {item.kind for item in (running, spoken)} == {"text"} and running.id != spoken.id
    assert len(texts(file, 2)) == 4 and texts(file, 0) == []
    changed = running.id
    file.write_text(json.dumps({"text": "It snows."}))
    assert texts(file, 1)[0].id != changed, "a checkpoint knows its texts by their ids"
    file.write_text("".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(800)))
    assert abs(len(texts(file, 0.25)) - 200) < 37


@pytest.mark.parametrize(
    "line, message",
    [
        ("rain", "line 1: no JSON"),
        ('"rain"', "one of the keys 'text' and 'messages'"),
        ('{"caption": "rain"}', "one of the keys 'text' and 'messages'"),
        ('{"text": ""}', "not empty"),
        ('{"messages": []}', "a list of turns"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "the assistant has the last turn"),
        (
            '{"messages": [{"role": "system", "content": "a"}]}',
            "turn 1: the role is 'system'; user is expected.*prompts.system",
        ),
        ('{"messages": [{"role": "user"}]}', "turn 1: role and content"),
        ('{"messages": [{"role": "user", "content": ""}]}', "turn 1: content is text"),
        (
            '{"messages": [{"role": "user", "content": [{"sound": "a"}]}, {"role": "assistant", "content": "b"}]}',
            "a text item holds no sound",
        ),
    ],
)
def test_a_line_that_is_no_text_item_is_named(tmp_path: Path, line: str, message: str):
    file = tmp_path / "mine.jsonl"
    file.write_text(line)
    with pytest.raises(ValueError, match=f"mine.jsonl, line 1.*{message}" if "line 1" not in message else message):
        texts(file, 1)
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file"):
        texts(tmp_path / "gone.jsonl", 1)


def test_a_file_in_another_encoding_is_named(tmp_path: Path):
    file = tmp_path / "mine.jsonl"
    file.write_bytes(b'{"text": "rain"}\n' + '{"text": "Gewässer"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"mine\.jsonl, line 2 is not UTF-8 .* Save it as UTF-8"):
        texts(file, 1)


def test_a_sound_of_another_recording_is_read_once_and_no_other():
    """From a cache a look at `in` or at all names would read cuts."""
    asked = []

    class Sounds(dict):
        def __getitem__(self, name: str) -> list[int]:
            asked.append(name)
            return super().__getitem__(name)

        def get(self, name: str, default: object = None) -> object:
            return Mapping.get(self, name, default)

        def __contains__(self, name: object) -> bool:
            return Mapping.__contains__(self, name)

        def keys(self):
            raise AssertionError("all names are read")

    turns = [{"role": "user", "content": [{"sound": "other"}, "?"]}, {"role": "assistant", "content": ["!"]}]
    cut = make_cut("one", task="conversation", turns=turns)
    conversations([cut], Mixture(0, 0, 0, 1, 0), NO_PROMPTS, Sounds(other=[7], more=[8]))
    assert asked == ["other"]
