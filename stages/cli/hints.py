"""What to type when a model refuses: the keys of the command, which models/ does not know."""

from models import errors

HINTS: dict[type[Exception], str] = {
    errors.UnsupportedLanguageModel: "Choose another model.source (Llama, Vicuna, Qwen, SmolLM, Gemma)",
    errors.UnsupportedTokenizer: "Choose another model.source, one that has a tokenizer.json",
    errors.UnsupportedPromptFormat: "Choose another model.source (a chat model), or another prompts.format: ltu, chat",
    errors.RefusedTurns: "Set prompts.system=null if it takes no system message, or prompts.format=ltu",
    errors.RewrittenTurns: "Ask one question at a time, choose a model.source that does not think (Qwen3-4B-Instruct-2507), "
    "or set prompts.format=ltu",
    errors.SharedPrefixUnsupported: "Set batching.questions_together=1",
    errors.TimestampsOff: "Turn them on, as --timestamps.max_seconds=10, or take it out of the text",
    errors.TimestampTooLate: "Raise --timestamps.max_seconds to it, or cut the sound",
    errors.MissingProbe: "Or go without it: --probe=false",
}


def with_hint(error: Exception) -> str:
    """The message of an error, and what to type, where that is known."""
    hint = HINTS.get(type(error))
    return f"{error}. {hint}" if hint else str(error)
