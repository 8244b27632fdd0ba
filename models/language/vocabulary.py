"""One id space for text, sounds, their markers and times, and conversations written in it.

    0 ............ text_size - 1   text: every id that the LLM's tokenizer knows
    text_size                      start of sound  ┐
    text_size + 1                  end of sound    │ the new ids, each with a new row of the embedding and of the head
    text_size + 2 ...              level 0, code 0 │
      + level x codebook_size      level 1, code 0 │ codes; every level of a residual quantiser has its own
    first_time_id ...              0, step, ...    │ times in seconds, where they are on: none of the ids above moves for them
    size                                           ┘

    a sound of levels (0, 1), codes 7 3 7 5:   start, level 0 code 7, level 1 code 3, level 0 code 7, level 1 code 5, end

A time is text that is written `<|1.20|>`, in captions, questions and answers; it is one token, of the kind TEXT, and no part of a sound.

The text ids end where the tokenizer's end. An embedding with more rows than that (many are padded to a round number)
keeps them unused.
"""

import copy
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedTokenizerBase

from models.errors import (
    ModelError,
    RefusedTurns,
    RewrittenTurns,
    TimestampsOff,
    TimestampTooLate,
    UnsupportedPromptFormat,
    UnsupportedTokenizer,
)

PROMPT, TEXT, AUDIO, KEPT = (
    0,
    1,
    2,
    3,
)  # kind of a position's label; markers are AUDIO; KEPT: what the base LLM says of it is to stay
IGNORED = -100
SOUND = "<|a sound stands here|>"  # in the text that the template renders, until its ids are put there
TIME = re.compile(r"<\|(\d+(?:\.\d+)?)\|>")

Segment = str | Sequence[int]  # text, or the codes of a sound


class Turn(NamedTuple):
    role: Literal["user", "assistant"]
    segments: Sequence[Segment]  # written one after the other, nothing between them


class TokenSequence(NamedTuple):
    """All of length S. labels[s] is input_ids[s] where the model shall say it, else -100: nothing is shifted here."""

    input_ids: list[int]
    labels: list[int]
    kinds: list[int]  # PROMPT, TEXT, AUDIO or KEPT


class Rendered(NamedTuple):
    text: str
    answers: list[tuple[int, int]]  # from, to: characters that the assistant says, its end of turn included


class Vocabulary:
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        codebook_size: int,
        levels: Sequence[int],
        prompt_format: Literal["chat", "ltu"],
        system: str | None,
        template_options: Mapping[str, Any] = {},
        text_size: int | None = None,
        max_seconds: float | None = None,
        step: float = 0.1,
    ) -> None:
        """levels: of each code of one block, as `Quantizer.levels` gives them.

        text_size: of a tokenizer that has the new ids as tokens already, as that of an export; None counts it.

        prompt_format: `chat`, the tokenizer's own template, or `ltu` (Gong et al. 2023, arXiv:2305.10790).

        system: the system message of a chat; None passes none, and the template's own default stands, where it has one.
        template_options: variables of the chat template, as enable_thinking.

        max_seconds, step: times from 0 to max_seconds (s), a token each, `step` (s) apart; None: no times.

        Raises ModelError for a tokenizer without the template, or whose template does not end a turn.
        """
        self.template_options = dict(template_options)
        self.tokenizer, self.prompt_format, self.system = tokenizer, prompt_format, system
        self.codebook_size, self.levels = codebook_size, tuple(levels)
        self.num_codebooks = max(levels) + 1
        # ids may have holes: not the number of tokens
        self.text_size = text_size or max(tokenizer.get_vocab().values()) + 1
        self.start_id, self.end_id, self.first_code_id = self.text_size, self.text_size + 1, self.text_size + 2
        self.first_time_id = self.first_code_id + self.num_codebooks * codebook_size
        self.max_seconds, self.step = max_seconds, step
        self.num_times = 0 if max_seconds is None else round(max_seconds / step) + 1
        self.size = self.first_time_id + self.num_times
        self._check_template()
        self._has_bos = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        self._reader = copy.deepcopy(tokenizer)
        self._reader.add_tokens([SOUND], special_tokens=True)
        self._reader.backend_tokenizer.no_truncation()  # as transformers' own call sets it each time
        self._reader.backend_tokenizer.no_padding()
        self._sound_id = self._reader.convert_tokens_to_ids(SOUND)
        labels = self.token_names()[len(self.new_ids) - self.num_times :]
        self._reader.add_tokens([AddedToken(label, normalized=False) for label in labels])
        known = self._reader.convert_tokens_to_ids(labels)
        self._time_ids = {reader: self.first_time_id + number for number, reader in enumerate(known)}
        self._reader_ids = {own: reader for reader, own in self._time_ids.items()}
        probe = self.render([Turn("user", ["a"]), Turn("assistant", ["b"])])
        ending = next(label for label in reversed(probe.labels) if label != IGNORED)
        if ending not in (*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder):
            raise UnsupportedPromptFormat(
                "the chat template ends no answer with a special token, so no answer would end"
            )
        self.stop_ids = sorted({ending} | ({tokenizer.eos_token_id} - {None}))
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ending

    @property
    def new_ids(self) -> range:
        return range(self.text_size, self.size)

    def fingerprint(self) -> str:
        """Of all that decides how many ids a conversation has: the tokenizer, the prompts, the times; and of this file, which joins them."""
        probe = [[Turn("user", ["a\n", [0] * len(self.levels)]), Turn("assistant", ["b"])]]
        told = [self.prompt_format, self.system, self.template_options, self.levels, self.max_seconds, self.step]
        digest = hashlib.sha256(self._reader.backend_tokenizer.to_str().encode() + Path(__file__).read_bytes())
        digest.update(repr([told, self.tokenizer.chat_template, self.render_all(probe)]).encode())
        return digest.hexdigest()

    def token_names(self) -> list[str]:
        """The new ids as tokens of text, in their order: <|sound_start|>, <|sound_end|>, <|sound_17|>; with levels <|sound_1_17|>."""
        several = self.num_codebooks > 1
        codes = [
            f"<|sound_{level}_{code}|>" if several else f"<|sound_{code}|>"
            for level in range(self.num_codebooks)
            for code in range(self.codebook_size)
        ]
        times = [_time(number * self.step) for number in range(self.num_times)]
        return ["<|sound_start|>", "<|sound_end|>", *codes, *times]

    def sound_ids(self, codes: Sequence[int]) -> list[int]:
        """Flat codes, block after block -> start, codes, end. Inverse: `codes`. Raises ModelError."""
        self._check_blocks(codes)
        wrong = [code for code in codes if not 0 <= code < self.codebook_size]
        if wrong:
            raise ModelError(f"code {wrong[0]} is outside the codebook of {self.codebook_size}")
        ids = [
            self.first_code_id + self.levels[n % len(self.levels)] * self.codebook_size + int(code)
            for n, code in enumerate(codes)
        ]
        return [self.start_id, *ids, self.end_id]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """start, codes, end -> flat codes. Raises ModelError for a missing marker, no code, or levels out of turn."""
        if len(ids) < 2 or ids[0] != self.start_id or ids[-1] != self.end_id:
            raise ModelError(
                f"a sound begins with {self.start_id} and ends with {self.end_id}; "
                f"here {list(ids[:1])} and {list(ids[-1:])}"
            )
        found = []
        for n, token in enumerate(ids[1:-1]):
            level, code = divmod(int(token) - self.first_code_id, self.codebook_size)
            wanted = self.levels[n % len(self.levels)]
            if level != wanted:
                raise ModelError(f"id {token} at position {n + 1} of the sound is no code of level {wanted}")
            found.append(code)
        self._check_blocks(found)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The words of text ids, times as `<|1.20|>`. Raises ModelError for a sound among them."""
        sound = [token for token in ids if self.text_size <= token < self.first_time_id]
        if sound:
            raise ModelError(f"id {sound[0]} is sound, not text; text ids are below {self.text_size}")
        return self._reader.decode(
            [self._reader_ids.get(token, token) for token in ids], skip_special_tokens=True
        ).strip()

    def time(self, seconds: float) -> str:
        """1.23 -> `<|1.20|>`: the nearest time, for the text of a caption or an answer. Raises ModelError beyond the last, or where times are off."""
        if self.max_seconds is None:
            raise TimestampsOff(f"the text has the time {_time(seconds)}, and this vocabulary has no times")
        number = round(seconds / self.step)
        if number >= self.num_times:
            raise TimestampTooLate(
                f"the text has the time {_time(seconds)}; times up to {_time(self.max_seconds)} are allowed"
            )
        return _time(number * self.step)

    def render_text(self, text: str) -> TokenSequence:
        """Running text, without a template: every token is labelled, to the end-of-text token, but the one that begins all texts."""
        text = self._timed(text)
        ids = [self.tokenizer.bos_token_id] if self._has_bos else []
        begin = len(ids)
        ids += self._own(self._reader(text, add_special_tokens=False)["input_ids"])
        ids += [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        return TokenSequence(ids, [IGNORED] * begin + ids[begin:], [PROMPT] * begin + [TEXT] * (len(ids) - begin))

    def render(self, turns: Sequence[Turn], generate: bool = False) -> TokenSequence:
        """A conversation in ids: what the template writes, with a sound's ids in its place.

        The assistant's turns are labelled, to their end of turn. generate=True adds the head of an answer; these ids
        begin those of the same conversation with an answer. Raises ModelError for turns that the template refuses.
        """
        return self.render_all([turns], generate)[0]

    def render_all(self, conversations: Sequence[Sequence[Turn]], generate: bool = False) -> list[TokenSequence]:
        """`render` of each, the tokenizer called once: its own threads share the work."""
        written = [
            self._ltu(turns, generate) if self.prompt_format == "ltu" else self._chat(turns, generate)
            for turns in conversations
        ]
        encoded = self._reader.backend_tokenizer.encode_batch([one.text for one in written], add_special_tokens=False)
        found = zip(conversations, written, encoded, strict=True)
        return [self._assemble(turns, one.answers, ids.ids, ids.offsets) for turns, one, ids in found]

    def _assemble(
        self, turns: Sequence[Turn], answers: list[tuple[int, int]], tokens: list[int], offsets: list[tuple[int, int]]
    ) -> TokenSequence:
        sounds = self._sounds(turns)
        ids, labels, kinds = [], [], []
        if self.prompt_format == "ltu" and self._has_bos:
            ids, labels, kinds = [self.tokenizer.bos_token_id], [IGNORED], [PROMPT]
        for token, own, (start, end) in zip(tokens, self._own(tokens), offsets, strict=True):
            said = False
            for begin, to in answers:
                said = said or (start < to and end > begin)
            new = self.sound_ids(next(sounds)) if token == self._sound_id else [own]
            ids += new
            labels += new if said else [IGNORED] * len(new)
            kinds += [(AUDIO if token == self._sound_id else TEXT) if said else PROMPT] * len(new)
        assert next(sounds, None) is None, "the template lost a sound"
        return TokenSequence(ids, labels, kinds)

    def _own(self, reader_ids: Sequence[int]) -> list[int]:
        """The reader knows times by ids of its own."""
        return [self._time_ids.get(token, token) for token in reader_ids] if self._time_ids else list(reader_ids)

    def _timed(self, text: str) -> str:
        """Every time of a text on the grid."""
        return TIME.sub(lambda found: self.time(float(found[1])), text)

    def _written(self, turn: Turn) -> str:
        for segment in turn.segments:
            if isinstance(segment, str) and SOUND in segment:
                raise ModelError(f"the text {segment!r} holds {SOUND}, which stands for a sound")
        return "".join(self._timed(segment) if isinstance(segment, str) else SOUND for segment in turn.segments)

    def _chat(self, turns: Sequence[Turn], generate: bool) -> Rendered:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = system + [{"role": turn.role, "content": self._written(turn)} for turn in turns]
        text = self._template(messages, generate)
        answers = []
        for n, message in enumerate(messages):
            if message["role"] == "assistant":
                head = self._template(messages[:n], True)
                last = n + 1 == len(messages) and not generate
                whole = text if last else self._template(messages[: n + 1], False)
                whole = whole.rstrip()  # what follows the end of turn is the next turn's
                if not (whole.startswith(head) and text.startswith(whole)):
                    raise RewrittenTurns(
                        "the chat template rewrites earlier turns (one for thoughts, as Qwen 3's, does)"
                    )
                answers.append((len(head), len(whole)))
        return Rendered(text, answers)

    def _ltu(self, turns: Sequence[Turn], generate: bool) -> Rendered:
        text, answers = "", []
        for turn in turns:
            if turn.role == "user":
                text += f"### Instruction:\n{self._written(turn)}\n\n### Response:\n"
            else:
                answer = self._written(turn) + self.tokenizer.eos_token
                answers.append((len(text), len(text) + len(answer)))
                text += answer
        assert not generate or turns[-1].role == "user", "an answer follows a user's turn"
        return Rendered(text, answers)

    def _template(self, messages: list[dict[str, str]], generate: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **self.template_options
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise RefusedTurns(f"the chat template refuses the turns {roles}: {error}") from error

    def _check_blocks(self, codes: Sequence[int]) -> None:
        if len(codes) % len(self.levels):
            raise ModelError(
                f"{len(codes)} codes are no whole number of blocks of {len(self.levels)}, levels {list(self.levels)}"
            )

    def _check_template(self) -> None:
        if not self.tokenizer.is_fast:
            raise UnsupportedTokenizer(f"{type(self.tokenizer).__name__} gives no offsets; fast tokenizers do")
        if SOUND in self.tokenizer.get_vocab():
            raise UnsupportedTokenizer(f"the tokenizer has a token {SOUND}, which stands for a sound here")
        if self.prompt_format == "chat" and not self.tokenizer.chat_template:
            raise UnsupportedPromptFormat(
                "the tokenizer has no chat template (a base model?), which the format chat needs"
            )
        if self.prompt_format == "ltu" and self.tokenizer.eos_token is None:
            raise UnsupportedPromptFormat("the tokenizer has no end-of-text token, which the format ltu needs")

    @staticmethod
    def _sounds(turns: Sequence[Turn]) -> Iterator[Sequence[int]]:
        return (segment for turn in turns for segment in turn.segments if not isinstance(segment, str))


def _time(seconds: float) -> str:
    return f"<|{seconds:.2f}|>"
