"""One id space for text, sounds and markers, and how a conversation becomes ids.

    0 ........ text_size - 1 | text_size   | text_size + 1 | text_size + 2 ... + codebook_size x num_codebooks
    the LLM's own tokens     | <sound>     | </sound>      | codes of level 0, of level 1, ...

A sound is <sound> codes </sound>; code 0 is a sound like any other, padding is told by masks. Residual codes (N, Q) stand flattened, level by level within
a step, each level with an offset of its own (Llama-Mimi's way).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

PROMPT, TEXT, AUDIO = 0, 1, 2  # kinds of a token, for the loss
OPEN, CLOSE, SOUND = "\u27ea{}\u27eb", "\u27ec{}\u27ed", "\u2985{}\u2986"  # stand in the template's output where ids will be


class Turn(NamedTuple):
    role: str  # user | assistant
    segments: Sequence[str | Sequence[int]]  # text, or the codes of a sound


class TokenSequence(NamedTuple):
    input_ids: list[int]
    labels: list[int]  # the id itself; -100 nowhere: `kinds` says what counts, and padding comes later
    kinds: list[int]  # PROMPT, TEXT or AUDIO


class Vocabulary:
    """The LLM's tokenizer and the new ids behind its embedding rows."""

    def __init__(self, tokenizer: Any, text_size: int, codebook_size: int, num_codebooks: int, prompt_format: str, system: str | None) -> None:
        """text_size: rows of the LLM's embedding, which may be more than its tokenizer has.

        prompt_format: chat (the LLM's own template) or ltu ("### Instruction:", Gong et al. 2023, arXiv:2305.10790). system: text of a system turn, or
        None for what the template does by itself. Raises ValueError where there is no template.
        """
        if len(tokenizer) > text_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} tokens and the LLM {text_size} embedding rows: they do not belong together")
        if prompt_format == "chat" and not tokenizer.chat_template:
            raise ValueError("this LLM's tokenizer has no chat template. Type --prompts.format=ltu, or give an instruction-tuned LLM")
        self.tokenizer, self.text_size = tokenizer, text_size
        self.codebook_size, self.num_codebooks = codebook_size, num_codebooks
        self.prompt_format, self.system = prompt_format, system
        self.start, self.end, self.first_code = text_size, text_size + 1, text_size + 2
        self.new_ids = 2 + codebook_size * num_codebooks
        self.size = text_size + self.new_ids
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._ids = lru_cache(maxsize=1 << 16)(lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids))
        self.stop_ids = self._stop_ids()

    def sound_ids(self, codes: Sequence[int]) -> list[int]:
        """Flattened codes -> ids with both markers. Raises ValueError for a code outside the codebook."""
        if codes and not (0 <= min(codes) and max(codes) < self.codebook_size):
            raise ValueError(f"codes from {min(codes)} to {max(codes)}; 0 to {self.codebook_size - 1} are allowed. Were they made by another tokenizer?")
        if len(codes) % self.num_codebooks:
            raise ValueError(f"{len(codes)} codes are no multiple of the {self.num_codebooks} codebooks")
        flat = [self.first_code + code + self.codebook_size * (number % self.num_codebooks) for number, code in enumerate(codes)]
        return [self.start, *flat, self.end]

    def codes(self, ids: Sequence[int]) -> list[int]:
        """Inverse of `sound_ids`; the markers may be missing at either end. Raises ValueError for a text id."""
        inner = [token for token in ids if token not in (self.start, self.end)]
        found = []
        for number, token in enumerate(inner):
            code = token - self.first_code - self.codebook_size * (number % self.num_codebooks)
            if not 0 <= code < self.codebook_size:
                raise ValueError(f"id {token} at place {number} is no code of level {number % self.num_codebooks}")
            found.append(code)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer, without special tokens and sounds."""
        return self.tokenizer.decode([token for token in ids if token < self.text_size], skip_special_tokens=True).strip()

    def render(self, turns: Sequence[Turn], generate: bool = False) -> TokenSequence:
        """A conversation as ids. What the assistant says, its end-of-turn token included, is TEXT or AUDIO; all else is PROMPT.

        generate: ends where the assistant begins to speak. Text beside a sound is tokenised by itself, so training and prompts meet at the same ids.
        """
        sounds: list[Sequence[int]] = []
        text = self._template([(turn.role, self._content(turn, number, sounds)) for number, turn in enumerate(turns)], generate)
        ids: list[int] = []
        kinds: list[int] = []
        speaking, ending = False, False
        for piece in re.split("(\u27ea\\d+\u27eb|\u27ec\\d+\u27ed|\u2985\\d+\u2986)", text):
            if piece[:1] == OPEN[0]:
                speaking = True
            elif piece[:1] == CLOSE[0]:
                speaking, ending = False, True
            elif piece[:1] == SOUND[0]:
                found = self.sound_ids(sounds[int(piece[1:-1])])
                ids += found
                kinds += [AUDIO if speaking else PROMPT] * len(found)
            elif piece:
                found = list(self._ids(piece))
                ids += found
                kinds += [TEXT if speaking else PROMPT] * len(found)
                if ending and found:
                    kinds[-len(found)] = TEXT
                    ending = False
        return TokenSequence(ids, list(ids), kinds)

    def _content(self, turn: Turn, number: int, sounds: list[Sequence[int]]) -> str:
        """A turn's text with a place-holder for each sound; a sound and the text after it stand on lines of their own."""
        parts = []
        for segment in turn.segments:
            if isinstance(segment, str):
                parts.append(re.sub("[\u27ea-\u27ed\u2985\u2986]", "", segment))
            else:
                parts.append(SOUND.format(len(sounds)))
                sounds.append(segment)
        content = "\n".join(parts)
        return f"{OPEN.format(number)}{content}{CLOSE.format(number)}" if turn.role == "assistant" else content

    def _template(self, turns: list[tuple[str, str]], generate: bool) -> str:
        if self.prompt_format == "ltu":
            end = self.tokenizer.eos_token or ""
            said = [f"### Instruction:\n{content}\n\n### Response:\n" if role == "user" else f"{content}{end}" for role, content in turns]
            return "".join(said)
        messages = [{"role": role, "content": content} for role, content in turns]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)

    def _stop_ids(self) -> list[int]:
        """The token that ends an assistant's turn in the template, and the LLM's end of sequence."""
        found = self.render([Turn("user", ["a"]), Turn("assistant", ["b"])])
        said = [token for token, kind in zip(found.input_ids, found.kinds, strict=True) if kind == TEXT]
        return sorted({said[-1], self.tokenizer.eos_token_id} - {None})
