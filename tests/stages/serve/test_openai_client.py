"""A server on a port of this machine, called by the `openai` client: answers are those of `stage ask`, each to its own."""

import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import soundfile

import conf
import stages
from models.language.generation import Sampling
from models.language.vocabulary import Turn
from stages.serve.batching_queue import Job
from stages.serve.served_model import Caption, Clip, Question, ServedModel, SoundTurn
from tests.stages.cli.trained_run import QUESTION, answer, codes_of
from tests.stages.serve.conftest import KINDS, LIMITS, chat, listening, server_of

ASKED = (QUESTION, "What is it?")
TOKENS = 6
WARM = 1.5  # temperature
PATIENCE = 30.0


@pytest.fixture(scope="module")
def server(served: ServedModel) -> Iterator[Any]:
    one = server_of(served, "a key")
    with listening(one):
        yield one


@pytest.fixture
def client(server: Any) -> Any:
    openai = pytest.importorskip("openai")
    host, port = server.address
    return openai.OpenAI(base_url=f"http://{host}:{port}/v1", api_key="a key", max_retries=0)


def test_sixteen_clients_at_once_get_each_the_answer_to_their_clip(client, server, model, run, tones):
    """Each is drawn from a seed of its own, so that no two are alike; a clip is known by the tokens of its prompt, too."""
    clips = [path for path in sorted((tones / "recordings").iterdir()) if path.suffix in KINDS][:12]
    asked = [(clip, question, seed) for seed, (clip, question) in enumerate((c, q) for c in clips for q in ASKED)]
    turns = [[Turn("user", [codes_of(run, clip), "\n", question])] for clip, question, _ in asked]
    wanted = [
        (answer(model, one, TOKENS, Sampling(WARM, 1.0, [seed])), len(model.vocabulary.render(one, generate=True)[0]))
        for one, (_, _, seed) in zip(turns, asked, strict=True)
    ]
    assert len(set(wanted)) > 20, "else a mix-up would not be seen"

    def ask(one: tuple[Path, str, int]) -> tuple[str, int]:
        clip, question, seed = one
        body = chat(clip, question, max_tokens=TOKENS, temperature=WARM, seed=seed)
        actual = client.chat.completions.create(**body)
        return actual.choices[0].message.content, actual.usage.prompt_tokens

    sizes: list[int] = []
    run_batch = server.queue.run
    server.queue.run = lambda jobs: (sizes.append(len(jobs)), run_batch(jobs))
    with ThreadPoolExecutor(16) as clients:
        assert list(clients.map(ask, asked)) == wanted
    server.queue.run = run_batch
    assert sum(sizes) == len(asked) and max(sizes) > 1, "computed together"


def test_a_conversation_of_several_turns_and_sounds(client, model, run, tones, clip):
    other = tones / "recordings/01.flac"
    messages = [
        *chat(clip)["messages"],
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": [{"type": "text", "text": "And this?"}, *chat(other)["messages"][0]["content"]]},
    ]
    actual = client.chat.completions.create(model="used", messages=messages, max_tokens=TOKENS)
    turns = [
        Turn("user", [codes_of(run, clip), "\n", QUESTION]),
        Turn("assistant", ["no"]),
        Turn("user", ["And this?", "\n", codes_of(run, other), "\n", QUESTION]),
    ]
    assert actual.choices[0].message.content == answer(model, turns, TOKENS)
    assert actual.usage.prompt_tokens == len(model.vocabulary.render(turns, generate=True).input_ids)


def test_a_harness_asks_in_its_own_way(client, clip):
    """The text before the sound, as OpenAI's examples have it; a data URL, as vLLM's; keys that lmms-eval, NeMo-Skills and
    AU-Harness send."""
    wanted = client.chat.completions.create(**chat(clip)).choices[0].message.content
    sound, text = chat(clip)["messages"][0]["content"]
    address = f"data:audio/flac;base64,{sound['input_audio']['data']}"
    url = {"type": "audio_url", "audio_url": {"url": address}}
    typed = {
        "max_tokens": 4096,
        "temperature": 0.0,
        "top_p": 0.95,
        "presence_penalty": 0.0,
        "n": 1,
        "user": "me",
        "tools": None,
    }
    typed["extra_body"] = {
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "spaces_between_special_tokens": False,
        "stop": None,
    }
    for content in ([text, sound], [url, text], [text, url]):
        body = {"model": "used", "messages": [{"role": "user", "content": content}], **typed}
        actual = client.chat.completions.create(**body)
        assert actual.choices[0].message.content.startswith(wanted)
        assert actual.usage.completion_tokens <= LIMITS.new_tokens_max


def test_a_stream_is_the_answer_in_pieces(client, clip):
    whole = client.chat.completions.create(**chat(clip, max_tokens=40)).choices[0]
    events = list(
        client.chat.completions.create(**chat(clip, max_tokens=40), stream=True, stream_options={"include_usage": True})
    )
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == whole.message.content and events[0].choices[0].delta.role == "assistant"
    assert [event.choices[0].finish_reason for event in events[:-1]][-1] == whole.finish_reason
    assert events[-1].usage.completion_tokens <= 40
    import openai

    with pytest.raises(openai.BadRequestError, match="no times"):  # a stream that cannot begin has a status too
        client.chat.completions.create(**chat(clip, "at <|1.20|>?"), stream=True)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg"])
def test_sound_from_words_in_each_format(client, served, kind: str):
    options = {"seconds_max": 1.0, "seed": 3, "top_k": 4}
    data = client.audio.speech.create(
        model="used", input="a low sound", voice="any", response_format=kind, extra_body=options
    ).content
    sound, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    job = served.job(
        Caption("a low sound", conf.compose("generate", overrides=[f"{k}={v}" for k, v in options.items()]).conf)
    )
    served.run([job])
    wanted = job.result.result().sound
    assert rate == served.tokenizer.sample_rate and abs(len(sound) - wanted.shape[1]) <= (2304 if kind == "mp3" else 0)


def test_the_example_of_the_readme(client, server, clip, tmp_path):
    page = (Path(stages.__file__).parent / "README.md").read_text()
    (code,) = (one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "openai" in one)
    host, port = server.address
    soundfile.write("clip.wav", *soundfile.read(clip))
    names: dict[str, Any] = {}
    exec(
        code.replace("127.0.0.1:8000", f"{host}:{port}")
        .replace('"any")\nsound', '"a key")\nsound')
        .replace('"demo"', '"used"'),
        names,
    )
    assert names["answer"].choices[0].finish_reason in ("stop", "length")
    assert soundfile.info("dog.wav").duration > 0


def test_a_broken_connection_is_nothing_to_the_others(client, server, clip):
    for begun in (
        b"\x16\x03\x01\x00",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n",
        _headers(1000) + b'{"model"',
    ):
        with socket.create_connection(server.address) as half:
            half.sendall(begun)
    assert client.chat.completions.create(**chat(clip, max_tokens=2)).usage.completion_tokens <= 2


def test_a_full_queue_is_a_429_and_a_client_that_leaves_makes_room(client, server, clip):
    import openai

    run_batch, began, may = server.queue.run, threading.Event(), threading.Event()

    def slowly(jobs: Sequence[Job]) -> None:
        began.set()
        assert may.wait(PATIENCE)
        run_batch(jobs)

    server.queue.run, server.queue.most_waiting = slowly, 1
    body = client.chat.completions.create
    impatient = client.with_options(timeout=0.5)
    with ThreadPoolExecutor(2) as others:
        try:
            first = others.submit(body, **chat(clip, max_tokens=2))
            assert began.wait(PATIENCE)
            with pytest.raises(openai.APITimeoutError):  # waits, and leaves
                impatient.chat.completions.create(**chat(clip, max_tokens=3))
            _until(lambda: not server.queue.waiting)
            second = others.submit(body, **chat(clip, max_tokens=3))
            _until(lambda: len(server.queue.waiting) == 1)
            with pytest.raises(openai.RateLimitError, match="1 requests wait"):
                body(**chat(clip, max_tokens=2))
        finally:
            may.set()
        assert first.result(PATIENCE).usage.completion_tokens <= 2
        assert second.result(PATIENCE).usage.completion_tokens <= 3
    server.queue.run, server.queue.most_waiting = run_batch, LIMITS.most_waiting


def test_an_answer_that_nobody_waits_for_is_ended_and_those_beside_it_are_not(served, model, run, clip):
    sound = served.tokenizer.decode([codes_of(run, clip)])[0]

    def job(most: int) -> Job:
        settings = conf.compose("ask", overrides=[f"max_new_tokens={most}"]).conf
        return served.job(Question([SoundTurn("user", [sound, QUESTION])], settings))

    alone, leaves, stays = job(9), job(400), job(9)
    served.run([alone])
    leaves.on_part = lambda _: setattr(leaves, "has_left", True)
    served.run([leaves, stays])
    assert leaves.result.result().num_tokens == 1
    assert stays.result.result() == alone.result.result()
    last = served.job(Caption("a low sound", conf.compose("generate").conf))
    last.on_part = lambda _: setattr(last, "has_left", True)
    with pytest.raises(CancelledError):
        served.run([last])


def test_a_clip_is_heard_through_the_vae_and_through_the_tokens(served, run, clip, tones):
    from stages.hub import sound_files

    sound = sound_files.read(clip, served.tokenizer.sample_rate, served.tokenizer.channels)
    job = served.job(Clip(sound))
    served.run([job])
    heard = job.result.result()
    assert heard.codes == codes_of(run, clip)
    assert heard.tokens.shape[1] == heard.vae.shape[1] == sound.shape[1]
    assert not heard.tokens.equal(heard.vae)


def _headers(length: int) -> bytes:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer a key"]
    return "\r\n".join([*lines, "Content-Type: application/json", f"Content-Length: {length}", "", ""]).encode()


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
