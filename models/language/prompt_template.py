"""Conversations as text: the tokenizer's chat template, or LTU's instruction format, and where the answers are.

chat   <|im_start|>user\\nWhat is it?<|im_end|>\\n<|im_start|>assistant\\nA dog.<|im_end|>      (as the template has it)
ltu    ### Instruction:\\nWhat is it?\\n\\n### Response:\\nA dog.</s>      (Gong et al. 2023, arXiv:2305.10790)
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from models.errors import RefusedTurns, RewrittenTurns, UnsupportedPromptFormat

PromptFormat = Literal["chat", "ltu"]
Role = Literal["system", "user", "assistant"]


class Message(NamedTuple):
    """One turn, as text."""

    role: Role
    text: str


class Span(NamedTuple):
    """Characters start to stop - 1 of a text."""

    start: int
    stop: int


class Rendered(NamedTuple):
    """A conversation as one text."""

    text: str
    answers: list[Span]  # the assistant's turns, with their ends of turn


class PromptTemplate:
    """Renders conversations in one format of one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_format: PromptFormat,
        system: str | None,
        options: Mapping[str, Any],
    ) -> None:
        """system: the system message of a chat; with None the template writes its default, where it has one.

        options: variables of the chat template, as enable_thinking. Raises UnsupportedPromptFormat for a
        tokenizer without a chat template, or for `ltu` without an end-of-text token.
        """
        if prompt_format == "chat" and not tokenizer.chat_template:
            raise UnsupportedPromptFormat(
                "the tokenizer has no chat template (a base model?), which the format chat needs"
            )
        if prompt_format == "ltu" and tokenizer.eos_token is None:
            raise UnsupportedPromptFormat("the tokenizer has no end-of-text token, which the format ltu needs")
        self.tokenizer, self.prompt_format = tokenizer, prompt_format
        self.system, self.options = system, dict(options)

    def render(self, messages: Sequence[Message], generate: bool) -> Rendered:
        """generate: with the head of an answer behind the last message.

        Raises RefusedTurns or RewrittenTurns for messages that the chat template does not fit.
        """
        return self._ltu(messages, generate) if self.prompt_format == "ltu" else self._chat(messages, generate)

    def _chat(self, messages: Sequence[Message], generate: bool) -> Rendered:
        if self.system is not None:
            messages = [Message("system", self.system), *messages]
        text = self._template(messages, generate)
        answers = []
        for n, message in enumerate(messages):
            if message.role == "assistant":
                head = self._template(messages[:n], True)
                last = n + 1 == len(messages) and not generate
                whole = text if last else self._template(messages[: n + 1], False)
                whole = whole.rstrip()  # what follows the end of turn belongs to the next turn
                if not (whole.startswith(head) and text.startswith(whole)):
                    raise RewrittenTurns(
                        "the chat template rewrites earlier turns (one for thoughts, as Qwen 3's, does)"
                    )
                answers.append(Span(len(head), len(whole)))
        return Rendered(text, answers)

    def _ltu(self, messages: Sequence[Message], generate: bool) -> Rendered:
        assert not generate or messages[-1].role == "user", "an answer follows a user's turn"
        text, answers = "", []
        for message in messages:
            if message.role == "user":
                text += f"### Instruction:\n{message.text}\n\n### Response:\n"
            else:
                answer = f"{message.text}{self.tokenizer.eos_token}"
                answers.append(Span(len(text), len(text) + len(answer)))
                text += answer
        return Rendered(text, answers)

    def _template(self, messages: Sequence[Message], generate: bool) -> str:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=generate, **self.options
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise RefusedTurns(f"the chat template refuses the turns {roles}: {error}") from error
        assert isinstance(text, str), "not tokenized"
        return text
