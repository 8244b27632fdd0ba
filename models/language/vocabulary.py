"""One id space for text, sounds, their markers and times, and conversations written in it.

    0 ............ text_size - 1   text: every id that the LLM's tokenizer has
    text_size                      start of sound  ┐
    text_size + 1                  end of sound    │ the new ids, each with a new row of the embedding and of the head
    text_size + 2 ...              level 0, code 0 │
      + level x codebook_size      level 1, code 0 │ codes; every level of a residual quantiser has its own ids
    first_time_id ...              0, step, ...    │ times in seconds, if there are any: the ids above stay as they are
    size                                           ┘

    a sound of levels (0, 1), codes 7 3 7 5:
    start, level 0 code 7, level 1 code 3, level 0 code 7, level 1 code 5, end
    in a request, where times stand among the codes (SpotSound, arXiv:2604.13023): start, <|0.00|>, code, ..., <|1.00|>, code, ...

A time is text that is written `<|1.20|>`, in captions, questions and answers; it is one token, in an answer of the kind
TIME, and no part of a sound. The text ids end where the tokenizer's end: rows that pad an embedding to a round number stay unused.
"""

import copy
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from transformers import AddedToken, PreTrainedTokenizerBase

from models.errors import ModelError, TimestampsOff, TimestampTooLate, UnsupportedPromptFormat, UnsupportedTokenizer
from models.language.prompt_template import Message, PromptFormat, PromptTemplate, Span

IGNORED = -100
SOUND = "<|a sound stands here|>"  # stands for a sound in the text that the template renders
TIME = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")
RENDERING = 1  # to be raised when the ids of a conversation change: it is part of `Vocabulary.fingerprint`

Segment = str | Sequence[int]  # text, or the codes of a sound


class LabelKind(IntEnum):
    """What a position's label is, which decides its weight in the loss."""

    PROMPT = 0
    TEXT = 1
    AUDIO = 2  # codes and markers
    DISTILLED = 3  # not a label: the base LLM's distribution is the target
    TIME = 4  # text that is a time


class Turn(NamedTuple):
    """What one side says."""

    role: Literal["user", "assistant"]
    segments: Sequence[Segment]  # joined with nothing between them


def without_sound(turns: Sequence[Turn]) -> list[Turn]:
    """The same conversation with its texts alone, and no line break where a sound stood before one."""
    return [
        Turn(turn.role, ["".join(part for part in turn.segments if isinstance(part, str)).lstrip("\n")])
        for turn in turns
    ]


def has_sound(turns: Iterable[tuple[str, Sequence[Segment]]]) -> bool:
    """turns: of a conversation."""
    return any(not isinstance(part, str) for _, segments in turns for part in segments)


class TokenSequence(NamedTuple):
    """A conversation in ids. All of length S; labels are not shifted."""

    input_ids: list[int]
    labels: list[int]  # input_ids[s] where the model is to predict it, else IGNORED
    kinds: list[int]  # of LabelKind


class Vocabulary:
    """Ids of text, sounds and times, and how conversations are written in them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        codebook_size: int,
        levels: Sequence[int],
        prompt_format: PromptFormat,
        system: str | None,
        template_options: Mapping[str, Any] | None = None,
        text_size: int | None = None,
        max_seconds: float | None = None,
        step: float = 0.1,
        every: float | None = None,
        codes_per_second: float = 0.0,
    ) -> None:
        """levels: of each code of one block, as `Quantizer.levels` gives them.

        prompt_format, system, template_options: see `PromptTemplate`. text_size: of a tokenizer that has the new ids as
        tokens already, as that of an export; None counts its ids. max_seconds, step: there is a token for each time
        from 0 to max_seconds (s), `step` (s) apart; None: no times. every: in a request a time stands among the codes of a
        sound, so often (s), of which there are codes_per_second; None: none does.

        Raises UnsupportedTokenizer for one without offsets, and UnsupportedPromptFormat for one without what the format
        needs, or whose template does not end a turn.
        """
        if not tokenizer.is_fast:
            raise UnsupportedTokenizer(f"{type(tokenizer).__name__} gives no offsets; fast tokenizers do")
        if SOUND in tokenizer.get_vocab():
            raise UnsupportedTokenizer(f"the tokenizer has a token {SOUND}, which stands for a sound here")
        self.template = PromptTemplate(tokenizer, prompt_format, system, template_options or {})
        self.tokenizer, self.codebook_size, self.levels = tokenizer, codebook_size, tuple(levels)
        self.num_codebooks = max(levels) + 1
        # ids may have holes: this is not the number of tokens
        self.text_size = text_size or max(tokenizer.get_vocab().values()) + 1
        self.start_id, self.end_id, self.first_code_id = self.text_size, self.text_size + 1, self.text_size + 2
        self.first_time_id = self.first_code_id + self.num_codebooks * codebook_size
        self.max_seconds, self.step, self.every, self.codes_per_second = max_seconds, step, every, codes_per_second
        self.num_times = 0 if max_seconds is None else round(max_seconds / step) + 1
        self.size = self.first_time_id + self.num_times
        self._has_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        self._build_reader()
        self._find_stops()

    @property
    def new_ids(self) -> range:
        """All ids but the text's."""
        return range(self.text_size, self.size)

    def fingerprint(self) -> str:
        """Hash of all that the ids of a conversation depend on: the tokenizer, the prompts, the times."""
        block, time = [0] * len(self.levels), _time(0) if self.num_times else ""
        asked, made = [Turn("user", ["a\n", block]), Turn("assistant", [f"b{time}"])], [Turn("assistant", [block])]
        rendered = self.render_all([asked, [Turn("user", ["a"]), *made]])
        settings = [self.template.prompt_format, self.template.system, self.template.options]
        numbers = [RENDERING, self.levels, self.max_seconds, self.step, self.text_size, self.codebook_size]
        numbers += [] if self.every is None else [self.every, self.codes_per_second]
        probe = [[list(map(int, column)) for column in one] for one in (*rendered, self.render_text(f"a\nb{time}"))]
        digest = hashlib.sha256(self._reader.backend_tokenizer.to_str().encode())
        digest.update(repr([settings, numbers, self.tokenizer.chat_template, probe]).encode())
        return digest.hexdigest()

    def token_names(self) -> list[str]:
        """The new ids as tokens of text, in order: <|sound_start|>, <|sound_end|>, <|sound_17|>, <|1.20|>.

        With several levels a code is <|sound_1_17|>: level 1, code 17.
        """
        several = self.num_codebooks > 1
        codes = [
            f"<|sound_{level}_{code}|>" if several else f"<|sound_{code}|>"
            for level in range(self.num_codebooks)
            for code in range(self.codebook_size)
        ]
        return ["<|sound_start|>", "<|sound_end|>", *codes, *self._time_names()]

    def sound_ids(self, codes: Sequence[int]) -> list[int]:
        """Flat codes, block after block -> start, codes, end. Inverse: `codes`.

        Raises ModelError for a code outside the codebook, or part of a block.
        """
        self._check_blocks(codes)
        wrong = [code for code in codes if not 0 <= code < self.codebook_size]
        if wrong:
            raise ModelError(f"code {wrong[0]} is outside the codebook of {self.codebook_size}")
        ids = [
            self.first_code_id + self.levels[n % len(self.levels)] * self.codebook_size + int(code)
            for n, code in enumerate(codes)
        ]
        return [self.start_id, *ids, self.end_id]

    def request_ids(self, codes: Sequence[int]) -> list[int]:
        """`sound_ids` with the times among them, each before the block that begins next to it; none beyond the last time."""
        ids, width = self.sound_ids(codes), len(self.levels)
        if self.every is None:
            return ids
        steps = round(self.every / self.step)  # from one of these times to the next
        blocks_per_time = self.every * self.codes_per_second / width
        times = {math.floor(n * blocks_per_time + 0.5): n * steps for n in range((self.num_times - 1) // steps + 1)}
        blocks = [ids[1 + place : 1 + place + width] for place in range(0, len(codes), width)]
        stamped = [[self.first_time_id + times[n], *block] if n in times else block for n, block in enumerate(blocks)]
        return [self.start_id, *itertools.chain.from_iterable(stamped), self.end_id]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """start, codes, end -> flat codes. Raises ModelError for a missing marker, or a code of another level."""
        if len(ids) < 2 or ids[0] != self.start_id or ids[-1] != self.end_id:
            raise ModelError(
                f"a sound begins with {self.start_id} and ends with {self.end_id}; "
                f"here {list(ids[:1])} and {list(ids[-1:])}"
            )
        codes = []
        for n, token in enumerate(ids[1:-1]):
            level, code = divmod(int(token) - self.first_code_id, self.codebook_size)
            expected = self.levels[n % len(self.levels)]
            if level != expected:
                raise ModelError(f"id {token} at position {n + 1} of the sound is no code of level {expected}")
            codes.append(code)
        self._check_blocks(codes)
        return codes

    def decode(self, ids: Sequence[int]) -> str:
        """Text of text ids, times as `<|1.20|>`. Raises ModelError for a sound among them."""
        sound = [token for token in ids if self.text_size <= token < self.first_time_id]
        if sound:
            raise ModelError(f"id {sound[0]} is sound, not text; text ids are below {self.text_size}")
        reader_ids = [self._reader_ids.get(token, token) for token in ids]
        return str(self._reader.decode(reader_ids, skip_special_tokens=True)).strip()

    def time(self, seconds: float) -> str:
        """1.23 -> `<|1.20|>`, the nearest time. Raises TimestampsOff, or TimestampTooLate beyond the last time."""
        if self.max_seconds is None:
            raise TimestampsOff(f"the text has the time {_time(seconds)}, and this vocabulary has no times")
        number = round(seconds / self.step)
        if number >= self.num_times:
            last = _time(self.max_seconds)
            raise TimestampTooLate(f"the text has the time {_time(seconds)}; times up to {last} are allowed")
        return _time(number * self.step)

    def render_text(self, text: str) -> TokenSequence:
        """Running text, without a template, and end-of-text. Labels: all but a token that begins every text."""
        return self.render_running([(True, [text])])

    def render_running(self, parts: Sequence[tuple[bool, Sequence[Segment]]]) -> TokenSequence:
        """Running text with sounds in it, and end-of-text. parts: whether it is labelled, and its segments, whose ids do not
        depend on their neighbours.
        """
        texts = [self._with_times(part) for _, segments in parts for part in segments if isinstance(part, str)]
        read = iter(self._reader.backend_tokenizer.encode_batch(texts, add_special_tokens=False))
        sequence = TokenSequence([], [], [])

        def add(ids: Sequence[int], kinds: Sequence[int], labelled: bool) -> None:
            sequence.input_ids.extend(ids)
            sequence.labels.extend(ids if labelled else [IGNORED] * len(ids))
            sequence.kinds.extend(kinds if labelled else [LabelKind.PROMPT] * len(ids))

        for labelled, segments in parts:
            for segment in segments:
                if isinstance(segment, str):
                    ids = self._vocabulary_ids(next(read).ids)
                    add(ids, [self._kind(token) for token in ids], labelled)
                else:
                    ids = (self.sound_ids if labelled else self.request_ids)(segment)
                    add(ids, [LabelKind.AUDIO] * len(ids), labelled)
        if self.tokenizer.eos_token_id is not None:
            add([self.tokenizer.eos_token_id], [LabelKind.TEXT], parts[-1][0])
        return self._with_bos(sequence) if self._has_bos else sequence

    def render(self, turns: Sequence[Turn], generate: bool = False) -> TokenSequence:
        """A conversation in ids: what the template writes, with the ids of the sounds.

        The assistant's turns are labelled, with their ends of turn. generate=True adds the head of an answer; these ids
        begin those of the same conversation with an answer. Raises ModelError for turns that the template refuses.
        """
        return self.render_all([turns], generate)[0]

    def render_all(self, conversations: Sequence[Sequence[Turn]], generate: bool = False) -> list[TokenSequence]:
        """`render` of each conversation. The tokenizer is called once, and its threads share the work."""
        messages = [[Message(turn.role, self._text(turn)) for turn in turns] for turns in conversations]
        rendered = [self.template.render(part, generate) for part in messages]
        encoded = self._reader.backend_tokenizer.encode_batch([one.text for one in rendered], add_special_tokens=False)
        return [
            self._assemble(turns, one.answers, encoding.ids, encoding.offsets)
            for turns, one, encoding in zip(conversations, rendered, encoded, strict=True)
        ]

    def _assemble(
        self, turns: Sequence[Turn], answers: Sequence[Span], tokens: Sequence[int], offsets: Sequence[tuple[int, int]]
    ) -> TokenSequence:
        """tokens: the reader's ids of the rendered turns, at these characters of the text."""
        sounds = _sounds(turns)
        sequence = TokenSequence([], [], [])
        for token, text_id, (start, stop) in zip(tokens, self._vocabulary_ids(tokens), offsets, strict=True):
            is_sound, is_answer = token == self._sound_id, False
            for span in answers:
                is_answer = is_answer or (start < span.stop and stop > span.start)
            ids = (self.sound_ids if is_answer else self.request_ids)(next(sounds)) if is_sound else [text_id]
            kind = LabelKind.PROMPT if not is_answer else LabelKind.AUDIO if is_sound else self._kind(text_id)
            sequence.input_ids.extend(ids)
            sequence.labels.extend(ids if is_answer else [IGNORED] * len(ids))
            sequence.kinds.extend([kind] * len(ids))
        assert next(sounds, None) is None, "the template lost a sound"
        return self._with_bos(sequence) if self.template.prompt_format == "ltu" and self._has_bos else sequence

    def _with_bos(self, sequence: TokenSequence) -> TokenSequence:
        """With the token that begins every text, which is no label."""
        bos = self.tokenizer.bos_token_id
        return TokenSequence(
            [bos, *sequence.input_ids], [IGNORED, *sequence.labels], [LabelKind.PROMPT, *sequence.kinds]
        )

    def _text(self, turn: Turn) -> str:
        """A turn's segments as one text, with SOUND for its sounds."""
        for segment in turn.segments:
            if isinstance(segment, str) and SOUND in segment:
                raise ModelError(f"the text {segment!r} has {SOUND}, which stands for a sound")
        return "".join(self._with_times(segment) if isinstance(segment, str) else SOUND for segment in turn.segments)

    def _with_times(self, text: str) -> str:
        """Every time of a text moved to the nearest one that there is."""
        return TIME.sub(lambda match: self.time(float(match[1])), text)

    def _vocabulary_ids(self, reader_ids: Sequence[int]) -> list[int]:
        return [self._time_ids.get(token, token) for token in reader_ids] if self._time_ids else list(reader_ids)

    def _kind(self, text_id: int) -> LabelKind:
        return LabelKind.TIME if text_id >= self.first_time_id else LabelKind.TEXT

    def _time_names(self) -> list[str]:
        return [_time(number * self.step) for number in range(self.num_times)]

    def _check_blocks(self, codes: Sequence[int]) -> None:
        if len(codes) % len(self.levels):
            raise ModelError(
                f"{len(codes)} codes are no whole number of blocks of {len(self.levels)}, levels {list(self.levels)}"
            )

    def _build_reader(self) -> None:
        """A copy of the tokenizer that has SOUND and the times as tokens, with ids of its own."""
        self._reader = copy.deepcopy(self.tokenizer)
        self._reader.add_tokens([SOUND], special_tokens=True)
        # as transformers' own call sets it each time
        self._reader.backend_tokenizer.no_truncation()
        self._reader.backend_tokenizer.no_padding()
        names = self._time_names()
        self._reader.add_tokens([AddedToken(name, normalized=False) for name in names])
        reader_ids = self._reader.get_vocab()
        self._sound_id = reader_ids[SOUND]
        self._time_ids = {reader_ids[name]: self.first_time_id + number for number, name in enumerate(names)}
        self._reader_ids = {time_id: token for token, time_id in self._time_ids.items()}

    def _find_stops(self) -> None:
        """Reads the ids that end an answer from a rendered one."""
        labels = self.render([Turn("user", ["a"]), Turn("assistant", ["b"])]).labels
        last = next(label for label in reversed(labels) if label != IGNORED)
        if last not in (*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder):
            raise UnsupportedPromptFormat(
                "the chat template ends no answer with a special token, so no answer would end"
            )
        self.stop_ids = sorted({last} | ({self.tokenizer.eos_token_id} - {None}))
        self.pad_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else last


def _sounds(turns: Sequence[Turn]) -> Iterator[Sequence[int]]:
    return (segment for turn in turns for segment in turn.segments if not isinstance(segment, str))


def _time(seconds: float) -> str:
    return f"<|{seconds:.2f}|>"
