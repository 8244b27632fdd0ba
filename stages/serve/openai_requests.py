"""Requests of OpenAI's endpoints, checked: what is not known, or cannot be done here, is refused by one sentence.

https://platform.openai.com/docs/api-reference/chat and /audio/createSpeech. Keys that only a bill or a log reads are
taken and change nothing (IGNORED); an answer has at most the server's most tokens; the keys of `stage ask` and
`stage generate` are taken beside OpenAI's.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from conf.laws import problems
from conf.sections.evaluation import AskConf, GenerateConf
from conf.sections.serving import ServeConf
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.serve import received_sound
from stages.serve.errors import RefusedRequest
from stages.serve.served_model import Caption, Question, SoundTurn

IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
LETTERS = 100_000  # of all texts of a request; what the LLM takes is checked in tokens, later
FORMATS = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg"}


# what harnesses send where they ask for nothing
_Zero = Annotated[float, Field(ge=0, le=0)]
_One = Annotated[float, Field(ge=1, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, body: Any) -> Any:
        """A key that is null is one that was not sent: AU-Harness sends `tools` so."""
        if not isinstance(body, dict):
            return body
        return {key: value for key, value in body.items() if value is not None and key not in IGNORED}


class InputAudio(_Strict):
    data: str
    format: Literal["wav", "flac", "mp3", "ogg"]


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class AudioPart(_Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrl(_Strict):
    url: str


class AudioUrlPart(_Strict):
    """vLLM's and lmms-eval's way: a data URL."""

    type: Literal["audio_url"]
    audio_url: AudioUrl


Part = Annotated[TextPart | AudioPart | AudioUrlPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[Part]
    name: str | None = None


class StreamOptions(_Strict):
    include_usage: bool = False


class TextFormat(_Strict):
    type: Literal["text"]


class ChatRequest(_Strict):
    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    audio_contrast: float | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None
    top_p: float | None = None
    presence_penalty: _Zero = 0.0
    frequency_penalty: _Zero = 0.0
    repetition_penalty: _One = 1.0
    min_p: _Zero = 0.0
    logprobs: Literal[False] = False
    spaces_between_special_tokens: Literal[False] = False
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None


class SpeechRequest(_Strict):
    model: str
    input: str
    voice: Any = None  # a caption has none
    response_format: Literal["wav", "flac", "mp3", "ogg"] = "mp3"
    speed: Literal[1] | None = None
    stream_format: Literal["audio"] | None = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    seconds_max: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    guidance: float | None = None
    best_of: int | None = None


Schema = TypeVar("Schema", bound=_Strict)


def parse(schema: type[Schema], body: bytes) -> Schema:
    """Raises RefusedRequest that names the first mistake."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        first = max(
            errors, key=lambda one: len(one["loc"])
        )  # a content is a text or a list: the longest way in is meant
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        came = "" if first["type"] in ("missing", "json_invalid") else f", here {str(first['input'])[:60]!r}"
        known = f"; known are {', '.join(schema.model_fields)}" if first["type"] == "extra_forbidden" else ""
        raise RefusedRequest(400, f"{where}: {first['msg']}{came}{known}") from None


def question(asked: ChatRequest, tokenizer: SoundTokenizer, defaults: AskConf, limits: ServeConf) -> Question:
    """With its sounds read. Raises RefusedRequest."""
    if asked.messages[-1].role != "user":
        raise RefusedRequest(400, "the last message is the assistant's; the last one must be the user's")
    if any(message.role == before.role for before, message in pairwise(asked.messages)):
        raise RefusedRequest(400, "two messages of one side come one after another; user and assistant take turns")
    parts = [part for message in asked.messages for part in _parts(message)]
    clips = sum(not isinstance(part, TextPart) for part in parts)
    if clips > limits.clips_max:
        raise RefusedRequest(413, f"{clips} sounds in one request; {limits.clips_max} are allowed (clips_max)")
    letters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    if letters > LETTERS:
        raise RefusedRequest(413, f"{letters} letters of text in one request; {LETTERS} are allowed")
    for number, message in enumerate(asked.messages):
        if not any(isinstance(part, TextPart) and part.text.strip() for part in _parts(message)):
            raise RefusedRequest(400, f"messages.{number} has no text: what is asked about the sound?")
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    if most is not None and most < 1:
        raise RefusedRequest(400, f"max_tokens {most}; 1 or more is allowed")
    if asked.top_p not in (None, 1) and asked.temperature:
        raise RefusedRequest(400, f"top_p {asked.top_p:g}; 1 is allowed, for a text is sampled from all tokens")
    changed: dict[str, Any] = {"max_new_tokens": most, "temperature": asked.temperature, "seed": asked.seed}
    changed["audio_contrast"] = asked.audio_contrast
    settings = _checked(replace(defaults, **{key: value for key, value in changed.items() if value is not None}))
    settings.max_new_tokens = min(settings.max_new_tokens, limits.new_tokens_max)
    turns = [
        SoundTurn(
            message.role,
            [
                part.text
                if isinstance(part, TextPart)
                else received_sound.from_base64(_base64(part), tokenizer, limits)
                for part in _as_trained(_parts(message))
            ],
        )
        for message in asked.messages
    ]
    return Question(turns, settings)


def caption(asked: SpeechRequest, defaults: GenerateConf, limits: ServeConf) -> Caption:
    """Raises RefusedRequest."""
    if not asked.input.strip():
        raise RefusedRequest(400, "input is empty; say what shall be heard, as 'a dog barks'")
    if len(asked.input) > LETTERS:
        raise RefusedRequest(413, f"{len(asked.input)} letters of input; {LETTERS} are allowed")
    names = ("seed", "seconds_max", "temperature", "top_p", "top_k", "guidance", "best_of")
    typed = {name: value for name in names if (value := getattr(asked, name)) is not None}
    settings = _checked(replace(defaults, n=1, **typed))
    settings.seconds_max = (
        min(settings.seconds_max, limits.seconds_max) if "seconds_max" not in typed else settings.seconds_max
    )
    for name, most in (("seconds_max", limits.seconds_max), ("best_of", limits.best_of_max)):
        if getattr(settings, name) > most:
            raise RefusedRequest(400, f"{name} {getattr(settings, name):g}; up to {most:g} is allowed")
    return Caption(asked.input, settings)


Settings = TypeVar("Settings", AskConf, GenerateConf)


def _checked(settings: Settings) -> Settings:
    for problem in problems(settings):
        raise RefusedRequest(400, f"{problem.key}: {problem.text}")
    return settings


def _as_trained(parts: list[Part]) -> list[Part]:
    """Where all texts of a message come before its sounds, as OpenAI's examples and lmms-eval have it: the sounds first, as
    the LLM was trained. Otherwise as they are.
    """
    texts = [part for part in parts if isinstance(part, TextPart)]
    return [*parts[len(texts) :], *texts] if parts[: len(texts)] == texts else parts


def _base64(part: AudioPart | AudioUrlPart) -> str:
    """Raises RefusedRequest for an address that something would have to be fetched from."""
    if isinstance(part, AudioPart):
        return part.input_audio.data
    kind, is_data, data = part.audio_url.url.partition(";base64,")
    if not is_data or not kind.startswith("data:"):
        text = f"audio_url.url {part.audio_url.url[:60]!r}; only data:audio/...;base64,... is taken: nothing is fetched"
        raise RefusedRequest(400, text)
    return data


def _parts(message: Message) -> list[Part]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return message.content
