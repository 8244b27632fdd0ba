from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from models.errors import RefusedTurns, RewrittenTurns, TimestampsOff, TimestampTooLate, UnsupportedPromptFormat
from models.language.vocabulary import IGNORED, SOUND, LabelKind, Turn, Vocabulary

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ raise_exception('no system here') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
FORGETFUL = (  # as templates that drop the thoughts of earlier answers
    "{% for m in messages %}{{ m['role'] + ': ' }}"
    "{{ (m['content'] if loop.last or m['role'] == 'user' else '...') + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
CONVERSATION = [
    Turn("user", [[0, 4, 2, 0], "What is it?"]),
    Turn("assistant", ["A bell."]),
    Turn("user", ["Make it."]),
    Turn("assistant", ["Here: ", [1, 0]]),
]


def tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """Bytes, the merge ` A`, three special tokens, and a hole in the ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate([*alphabet, "ĠA"])} | {"z" * 9: 270}
    core = Tokenizer(BPE(ids, [("Ġ", "A")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = template
    return made


def build_vocabulary(
    template: str | None = CHATML,
    prompt_format: str = "chat",
    levels: Sequence[int] = (0, 1),
    system: str | None = None,
) -> Vocabulary:
    return Vocabulary(tokenizer(template), 5, levels, prompt_format=prompt_format, system=system)


def test_ids_are_text_then_markers_then_each_level():
    words = build_vocabulary()
    assert words.text_size == max(words.tokenizer.get_vocab().values()) + 1 > len(words.tokenizer)  # a hole
    a = words.text_size
    assert (words.start_id, words.end_id, words.size) == (a, a + 1, a + 2 + 10)
    assert words.sound_ids([0, 4, 2, 0]) == [a, a + 2, a + 2 + 5 + 4, a + 2 + 2, a + 2 + 5, a + 1]
    assert list(words.new_ids) == list(range(a, words.size))


@pytest.mark.parametrize("levels", [(0,), (0, 1), (0, 1, 2), (0, 1, 1, 2, 2, 2, 2)], ids=str)
def test_codes_invert_sound_ids(levels: tuple[int, ...]):
    words = build_vocabulary(levels=levels)
    codes = torch.randint(0, 5, (4 * len(levels),), generator=torch.Generator().manual_seed(0)).tolist()
    assert words.codes(words.sound_ids(codes)) == codes
    assert words.codes(words.sound_ids([])) == []


def test_a_level_may_have_several_codes_in_a_block():
    """Strides 2 and 1: one code of level 0, two of level 1, over two levels of ids."""
    words = build_vocabulary(levels=(0, 1, 1))
    first = words.first_code_id
    assert (words.num_codebooks, words.size) == (2, first + 10)
    ids = words.sound_ids([4, 0, 3, 1, 2, 2])
    assert ids[1:-1] == [first + 4, first + 5, first + 8, first + 1, first + 7, first + 7]
    with pytest.raises(ValueError, match=r"position 2 of the sound is no code of level 1"):
        words.codes([words.start_id, first, first + 1, first + 5, words.end_id])
    with pytest.raises(ValueError, match=r"2 codes are no whole number of blocks of 3, levels \[0, 1, 1\]"):
        words.codes([words.start_id, first, first + 5, words.end_id])


def test_bad_codes_and_ids_are_refused():
    words = build_vocabulary()
    a = words.text_size
    for codes, message in (([5, 0], "code 5"), ([-1, 0], "code -1"), ([0], "whole number")):
        with pytest.raises(ValueError, match=message):
            words.sound_ids(codes)
    for ids, message in (
        ([], "begins"),
        ([a, a + 2, a + 7], "ends"),
        ([a, a + 7, a + 2, a + 1], "level 0"),
        ([a, 3, a + 7, a + 1], "level 0"),
        ([a, a + 2, a + 1], "whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            words.codes(ids)
    with pytest.raises(ValueError, match="is sound"):
        words.decode([a])


@pytest.mark.parametrize(("template", "prompt_format"), [(CHATML, "chat"), (VICUNA, "chat"), (None, "ltu")])
def test_a_conversation_is_what_the_template_writes_with_the_ids_of_the_sounds(
    template: str | None, prompt_format: str
):
    words = build_vocabulary(template, prompt_format)
    actual = words.render(CONVERSATION)
    sounds = [
        words.sound_ids(segment) for turn in CONVERSATION for segment in turn.segments if not isinstance(segment, str)
    ]
    text = [token for token in actual.input_ids if token < words.text_size]
    if prompt_format == "chat":
        content = [
            {"role": t.role, "content": "".join("" if not isinstance(s, str) else s for s in t.segments)}
            for t in CONVERSATION
        ]
        expected = words.tokenizer.apply_chat_template(content, tokenize=False)
    else:
        expected = (
            "### Instruction:\nWhat is it?\n\n### Response:\nA bell.<|im_end|>"
            "### Instruction:\nMake it.\n\n### Response:\nHere: <|im_end|>"
        )
    assert words.tokenizer.decode(text, skip_special_tokens=False) == expected
    assert [token for token in actual.input_ids if token >= words.text_size] == sounds[0] + sounds[1]
    assert len(actual.input_ids) == len(actual.labels) == len(actual.kinds)


@pytest.mark.parametrize(("template", "prompt_format"), [(CHATML, "chat"), (VICUNA, "chat"), (None, "ltu")])
def test_the_assistants_turns_are_labelled_with_their_ends_of_turn(template: str | None, prompt_format: str):
    words = build_vocabulary(template, prompt_format)
    actual = words.render(CONVERSATION)
    end = words.tokenizer.eos_token_id
    labelled = [label for label in actual.labels if label != IGNORED]
    sound = words.sound_ids([1, 0])
    first, second = labelled[: labelled.index(end) + 1], labelled[labelled.index(end) + 1 :]
    assert words.decode(first) == "A bell." and first[-1] == end
    assert (
        second[-1] == end
        and second[-1 - len(sound) : -1] == sound
        and words.decode(second[: -1 - len(sound)]) == "Here:"
    )
    for token, label, kind in zip(*actual, strict=True):
        assert label in (IGNORED, token)
        assert kind == (
            LabelKind.PROMPT if label == IGNORED else LabelKind.AUDIO if token >= words.text_size else LabelKind.TEXT
        )
    assert words.stop_ids == [end]


@pytest.mark.parametrize(("template", "prompt_format"), [(CHATML, "chat"), (VICUNA, "chat"), (None, "ltu")])
def test_a_prompt_begins_the_conversation_and_ends_where_the_labels_begin(template: str | None, prompt_format: str):
    words = build_vocabulary(template, prompt_format)
    for turns in (1, 3):
        prompt = words.render(CONVERSATION[:turns], generate=True)
        whole = words.render(CONVERSATION[: turns + 1])
        n = len(prompt.input_ids)
        assert whole.input_ids[:n] == prompt.input_ids
        assert whole.labels[n - 1] == IGNORED and whole.labels[n] == whole.input_ids[n]


def test_the_system_message_is_passed_or_not():
    assert words_of(build_vocabulary(system=None)).startswith("<|im_start|>user\n")
    assert words_of(build_vocabulary(system="")).startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")
    with pytest.raises(RefusedTurns, match=r"refuses the turns system, user.*no system here"):
        build_vocabulary(VICUNA, system="Be brief.")


def words_of(words: Vocabulary) -> str:
    return words.tokenizer.decode(words.render([Turn("user", ["a"])], generate=True).input_ids)


def test_templates_and_turns_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedPromptFormat, match="no chat template"):
        build_vocabulary(None)
    with pytest.raises(UnsupportedPromptFormat, match="ends no answer"):
        build_vocabulary("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}")
    with pytest.raises(ValueError, match="stands for a sound"):
        build_vocabulary().render([Turn("user", [f"what is {SOUND}"])])
    with pytest.raises(RewrittenTurns, match="rewrites earlier turns"):
        build_vocabulary(FORGETFUL).render(CONVERSATION)


def timed(step: float = 0.1, prompt_format: str = "chat") -> Vocabulary:
    template = CHATML if prompt_format == "chat" else None
    return Vocabulary(tokenizer(template), 5, (0, 1), prompt_format, None, max_seconds=10.0, step=step)


def test_times_come_after_all_other_ids_and_move_none():
    plain, words = build_vocabulary(), timed()
    for name in ("text_size", "start_id", "end_id", "first_code_id", "stop_ids", "pad_id"):
        assert getattr(words, name) == getattr(plain, name)
    assert (words.first_time_id, words.num_times, words.size) == (plain.size, 101, plain.size + 101)
    assert plain.num_times == 0 and plain.new_ids == range(plain.text_size, plain.size)
    assert words.render(CONVERSATION) == plain.render(CONVERSATION)


@pytest.mark.parametrize("prompt_format", ["chat", "ltu"])
def test_a_time_in_a_text_is_one_token_of_it(prompt_format: str):
    """1.23 s is 1.20 on the grid: the 13th time. An answer says it as text; decode writes it back."""
    words = timed(prompt_format=prompt_format)
    actual = words.render(
        [Turn("user", ["What is at <|10.00|>?"]), Turn("assistant", ["A bell <|0.00|> to <|1.23|>."])]
    )
    times = [
        (token - words.first_time_id, kind) for token, _, kind in zip(*actual, strict=True) if token >= words.text_size
    ]
    assert times == [(100, LabelKind.PROMPT), (0, LabelKind.TIME), (12, LabelKind.TIME)]
    labelled = [label for label in actual.labels if label != IGNORED]
    assert words.decode(labelled) == "A bell <|0.00|> to <|1.20|>."
    running = words.render_text("rain <|0.30|> on")
    assert words.first_time_id + 3 in running.input_ids and words.decode(running.input_ids) == "rain <|0.30|> on"
    assert [kind == LabelKind.TIME for kind in running.kinds] == [
        token == words.first_time_id + 3 for token in running.input_ids
    ]


@pytest.mark.parametrize("step", [0.02, 0.04, 0.1, 0.5])
def test_every_time_of_the_grid_inverts(step: float):
    words = timed(step)
    ids = list(range(words.first_time_id, words.size))
    text = words.decode(ids)
    rendered = words.render_text(text).input_ids
    assert [token for token in rendered if token >= words.first_time_id] == ids and len(ids) == round(10 / step) + 1


@pytest.mark.parametrize(("every", "seconds"), [(1.0, [0, 1, 2]), (2.0, [0, 2]), (0.5, [0, 0.5, 1, 1.5, 2])])
def test_times_among_the_codes_of_a_request_stand_where_they_are(every: float, seconds: list[float]):
    """2.5 blocks of two codes a second, 6 blocks: those begin at 0, 0.4, 0.8, 1.2, 1.6 and 2 s, and a time stands at the nearest."""
    words = Vocabulary(tokenizer(CHATML), 5, (0, 1), "chat", None, max_seconds=10.0, every=every, codes_per_second=5.0)
    codes = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    ids = words.request_ids(codes)
    plain = [token for token in ids if token < words.first_time_id]
    assert words.codes(plain) == codes, "without the times it is the sound"
    places = [place for place, token in enumerate(ids) if token >= words.first_time_id]
    assert [0.1 * (ids[place] - words.first_time_id) for place in places] == pytest.approx(seconds)
    for number, (place, second) in enumerate(zip(places, seconds, strict=True)):
        blocks = (place - 1 - number) / 2
        assert blocks == int(blocks) and abs(blocks * 0.4 - second) <= 0.2 + 1e-9
    heard = words.render([Turn("user", [codes, "?"]), Turn("assistant", [codes])])
    text = "".join(map(chr, heard.input_ids))
    assert "".join(map(chr, ids)) in text and text.count("".join(map(chr, words.sound_ids(codes)))) == 1
    assert not any(kind == LabelKind.TIME for kind in heard.kinds), "a sound that is written has no times"
    none = Vocabulary(tokenizer(CHATML), 5, (0, 1), "chat", None, max_seconds=10.0)
    assert none.request_ids(codes) == none.sound_ids(codes) and none.fingerprint() != words.fingerprint()


def test_no_time_stands_beyond_the_last():
    words = Vocabulary(tokenizer(CHATML), 5, (0,), "chat", None, max_seconds=1.0, every=0.5, codes_per_second=2.0)
    times = [token - words.first_time_id for token in words.request_ids([0] * 9) if token >= words.first_time_id]
    assert times == [0, 5, 10]


def test_times_without_a_token_are_refused():
    conversation = [Turn("user", ["when"]), Turn("assistant", ["at <|12.50|>"])]
    with pytest.raises(TimestampTooLate, match=r"the time <\|12\.50\|>; times up to <\|10\.00\|> are allowed"):
        timed().render(conversation)
    with pytest.raises(TimestampsOff, match=r"the time <\|12\.50\|>, and this vocabulary has no times"):
        build_vocabulary().render(conversation)
    with pytest.raises(ValueError, match="no code of level"):
        timed().codes([timed().start_id, timed().first_time_id, timed().first_code_id + 5, timed().end_id])


def test_sounds_in_running_text_are_read_and_what_is_labelled_is_learned():
    """Parts have the ids that they have alone; a sound that is read may have times in it, one that is written has none."""
    words = Vocabulary(tokenizer(CHATML), 5, (0,), "chat", None, max_seconds=10.0, every=1.0, codes_per_second=1.0)
    codes = [3, 1]
    actual = words.render_running([(False, ["In: ", codes]), (True, [" A\n", codes])])
    text, end = words.tokenizer, [words.tokenizer.eos_token_id]
    learned = [*text(" A\n").input_ids, *words.sound_ids(codes), *end]
    assert actual.input_ids == [*text("In: ").input_ids, *words.request_ids(codes), *learned]
    read = len(actual.input_ids) - len(learned)
    assert actual.labels == [IGNORED] * read + learned
    kinds = [LabelKind.TEXT] * len(text(" A\n").input_ids) + [LabelKind.AUDIO] * 4 + [LabelKind.TEXT]
    assert actual.kinds == [LabelKind.PROMPT] * read + kinds
    assert words.render_running([(True, ["a"]), (False, ["b"])]).labels[-1] == IGNORED, (
        "nor is the end behind what is read"
    )


def test_running_text_is_labelled_to_its_end():
    words = build_vocabulary()
    actual = words.render_text("A bell.")
    assert words.decode(actual.input_ids) == "A bell." and actual.input_ids[-1] == words.tokenizer.eos_token_id
    assert actual.labels == actual.input_ids and set(actual.kinds) == {
        LabelKind.TEXT
    }  # this tokenizer begins no text with a token


@pytest.mark.parametrize("prompt_format", ["chat", "ltu"])
def test_conversations_rendered_together_are_those_rendered_alone(prompt_format: str):
    words = build_vocabulary(CHATML, prompt_format)
    conversations = [CONVERSATION, CONVERSATION[:2], [Turn("user", ["x"]), Turn("assistant", [[1, 2, 3, 4]])]]
    assert words.render_all(conversations) == [words.render(conversation) for conversation in conversations]
