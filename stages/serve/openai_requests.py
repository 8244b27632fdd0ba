"""Requests of OpenAI's endpoints, checked: what is not known, or cannot be done here, is refused by one sentence.

https://platform.openai.com/docs/api-reference/chat and /audio/createSpeech. Keys that only a bill or a log reads are
taken and change nothing (IGNORED); the keys of `stage ask` and `stage generate` are taken beside OpenAI's.
"""

from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class InputAudio(_Strict):
    data: str
    format: Literal["wav", "flac", "mp3", "ogg"]


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class AudioPart(_Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | AudioPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["user", "assistant"]
    content: str | list[Part]
    name: str | None = None


class StreamOptions(_Strict):
    include_usage: bool = False


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
    top_p: Literal[1] | None = None
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
    clips = sum(isinstance(part, AudioPart) for part in parts)
    if clips > limits.clips_max:
        raise RefusedRequest(413, f"{clips} sounds in one request; {limits.clips_max} are allowed (clips_max)")
    letters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    if letters > LETTERS:
        raise RefusedRequest(413, f"{letters} letters of text in one request; {LETTERS} are allowed")
    for number, message in enumerate(asked.messages):
        if not any(isinstance(part, TextPart) and part.text.strip() for part in _parts(message)):
            raise RefusedRequest(400, f"messages.{number} has no text: what is asked about the sound?")
    most = asked.max_completion_tokens if asked.max_completion_tokens is not None else asked.max_tokens
    if most is not None and not 1 <= most <= limits.new_tokens_max:
        raise RefusedRequest(400, f"max_tokens {most}; 1 to {limits.new_tokens_max} are allowed (new_tokens_max)")
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
                else received_sound.from_base64(part.input_audio.data, tokenizer, limits)
                for part in _parts(message)
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


def _parts(message: Message) -> list[TextPart | AudioPart]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return message.content
