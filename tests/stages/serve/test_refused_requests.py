"""Broken requests: each is refused by a status of 4xx and one sentence, and the server lives."""

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import soundfile

from stages.serve.served_model import ServedModel
from tests.stages.serve.conftest import audio, chat, server_of

SOUND = np.sin(np.arange(8000) / 20).astype(np.float32) / 2


def written(sound: np.ndarray, rate: int = 16000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format=kind, subtype=subtype)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", written(SOUND))
    return file.getvalue()


def about(*content: object) -> dict[str, object]:
    return {"model": "used", "messages": [{"role": "user", "content": list(content)}]}


WAV = written(SOUND)
GOOD = chat(WAV)
TEXT = {"type": "text", "text": "Is it noise?"}
NAN = np.where(np.arange(8000) == 4000, np.nan, SOUND).astype(np.float32)
CHAT, SPEECH = "/v1/chat/completions", "/v1/audio/speech"
SAID = {"role": "assistant", "content": "a"}
RAIN = {"model": "used", "input": "rain", "voice": "any"}

# what is sent -> status, and a part of the sentence
BROKEN: dict[str, tuple[str, object, int, str]] = {
    "no sound in the part": (CHAT, about({"type": "input_audio"}, TEXT), 400, "input_audio"),
    "an empty sound": (CHAT, chat(b""), 400, "0 bytes"),
    "a sound of no samples": (CHAT, chat(written(SOUND[:0])), 400, "the sound: has no samples"),
    "two hours": (CHAT, chat(written(np.zeros(7200 * 100), 1000, "FLAC")), 413, "720.0 s long; 10 s are allowed"),
    "a zip": (CHAT, chat(zipped()), 400, "cannot be decoded"),
    "a text file": (CHAT, chat(b"no sound at all"), 400, "cannot be decoded"),
    "half a sound": (CHAT, chat(WAV[:5000]), 400, "truncated"),
    "two sounds in one file": (CHAT, chat(WAV + WAV), 400, "several files"),
    "NaN in the sound": (CHAT, chat(written(NAN, subtype="FLOAT")), 400, "NaN or infinite"),
    "sixteen channels": (CHAT, chat(written(np.stack([SOUND] * 16, 1))), 400, "16 channels"),
    "two billion hertz": (CHAT, chat(written(SOUND, 2_000_000_000)), 400, "2000000000 Hz"),
    "a path as data": (CHAT, about({**audio(b""), "input_audio": {"data": "/etc/passwd", "format": "wav"}}, TEXT), 400, "no base64"),
    "a path as content": (CHAT, about({"type": "input_audio", "input_audio": "/etc/passwd"}, TEXT), 400, "/etc/passwd"),
    "a key that names a file": (CHAT, about({"type": "input_audio", "input_audio": {"path": "/etc/passwd", "format": "wav"}}, TEXT), 400, "input_audio"),
    "wrong base64": (CHAT, about({**audio(b""), "input_audio": {"data": "@@@@", "format": "wav"}}, TEXT), 400, "no base64"),
    "an address as data": (CHAT, about({**audio(b""), "input_audio": {"data": "data:audio/wav;base64,AAAA", "format": "wav"}}, TEXT), 400, "no base64"),
    "an unknown format": (CHAT, about(audio(WAV, "exe"), TEXT), 400, "'exe'"),
    "a picture": (CHAT, about({"type": "image_url", "image_url": {"url": "http://a"}}, TEXT), 400, "image_url"),
    "no question": (CHAT, about(audio(WAV)), 400, "what is asked about the sound?"),
    "an empty question": (CHAT, chat(WAV, "  "), 400, "has no text"),
    "nine sounds": (CHAT, about(*[audio(WAV)] * 9, TEXT), 413, "9 sounds in one request; 8 are allowed"),
    "no messages": (CHAT, {"model": "used", "messages": []}, 400, "messages"),
    "no model": (CHAT, {"messages": GOOD["messages"]}, 400, "model"),
    "another model": (CHAT, {**GOOD, "model": "gpt-4o"}, 404, "here is 'used'"),
    "a system message": (CHAT, {"model": "used", "messages": [{"role": "system", "content": "x"}]}, 400, "role"),
    "the assistant's turn last": (CHAT, {"model": "used", "messages": [*GOOD["messages"], SAID]}, 400, "the last one must be"),
    "two turns of one side": (CHAT, {"model": "used", "messages": GOOD["messages"] * 2}, 400, "take turns"),
    "a time that the model has not": (CHAT, chat(WAV, "at <|1.20|>?"), 400, "no times"),
    "a mark of sound in the text": (CHAT, chat(WAV, "<|a sound stands here|>"), 400, "stands for a sound"),
    "a question of 90,000 letters": (CHAT, chat(WAV, "noise " * 15_000), 400, "too long"),
    "a question of 200,000 letters": (CHAT, chat(WAV, "noisy " * 34_000), 413, "letters"),
    "an answer of no tokens": (CHAT, {**GOOD, "max_tokens": 0}, 400, "1 or more is allowed"),
    "a nucleus of text": (CHAT, {**GOOD, "temperature": 1, "top_p": 0.5}, 400, "top_p 0.5; 1 is allowed"),
    "a penalty": (CHAT, {**GOOD, "presence_penalty": 1}, 400, "presence_penalty"),
    "an address to fetch a sound from": (CHAT, about({"type": "audio_url", "audio_url": {"url": "http://127.0.0.1/a.wav"}}, TEXT), 400, "nothing is fetched"),
    "a file's address": (CHAT, about({"type": "audio_url", "audio_url": {"url": "file:///etc/passwd"}}, TEXT), 400, "nothing is fetched"),
    "a data URL of nothing": (CHAT, about({"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,"}}, TEXT), 400, "0 bytes"),
    "a negative temperature": (CHAT, {**GOOD, "temperature": -1}, 400, "temperature"),
    "two answers": (CHAT, {**GOOD, "n": 2}, 400, "n: "),
    "a tool": (CHAT, {**GOOD, "tools": []}, 400, "tools"),
    "a seed that is no number": (CHAT, {**GOOD, "seed": "x"}, 400, "seed"),
    "an empty body": (CHAT, b"", 400, "the body"),
    "half of JSON": (CHAT, json.dumps(GOOD)[:300].encode(), 400, "Invalid JSON"),
    "NaN as temperature": (CHAT, json.dumps({**GOOD, "temperature": float("nan")}).encode(), 400, "temperature"),
    "bytes that are no UTF-8": (CHAT, b'{"model": "\xff\xfe"}', 400, "the body"),
    "a list a hundred thousand deep": (CHAT, b"[" * 100_000, 400, "the body"),
    "a number": (CHAT, b"7", 400, "the body"),
    "three megabytes": (CHAT, b" " * 3_000_000, 413, "larger than 2 MB"),
    "another address": ("/v1/completions", GOOD, 404, "/v1/completions"),
    "no caption": (SPEECH, {**RAIN, "input": " "}, 400, "say what shall be heard"),
    "an hour of sound": (SPEECH, {**RAIN, "seconds_max": 3600}, 400, "up to 10 is allowed"),
    "a thousand to choose from": (SPEECH, {**RAIN, "best_of": 1000}, 400, "up to 16 is allowed"),
    "a nucleus of 2": (SPEECH, {**RAIN, "top_p": 2}, 400, "top_p"),
    "no temperature and a choice": (SPEECH, {**RAIN, "temperature": 0, "best_of": 2}, 400, "would be the same"),
    "a sound as a program": (SPEECH, {**RAIN, "response_format": "exe"}, 400, "response_format"),
    "a file to write to": (SPEECH, {**RAIN, "out": "/tmp/a.wav"}, 400, "known are"),
}  # fmt: skip


@contextmanager
def client_of(served: ServedModel, key: str | None = None) -> Iterator[Any]:
    testclient = pytest.importorskip("fastapi.testclient")
    from stages.serve.app import create_app

    app = create_app(server_of(served, key))
    with testclient.TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as one:
        yield one


@pytest.fixture(scope="module")
def client(served: ServedModel) -> Iterator[Any]:
    with client_of(served) as one:
        yield one


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_request_is_refused_by_one_sentence(client, what: str):
    path, body, status, words = BROKEN[what]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=data, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"] and "\n" not in error["message"] and len(error["message"]) < 400
    assert "/tmp" not in error["message"] or "out" in error["message"], "no path of the server"
    assert client.get("/health").json() == {"status": "ok", "model": "used", "waiting": 0, "running": 0}


def test_after_all_of_them_a_good_one_is_answered(client):
    assert client.post(CHAT, json=GOOD).status_code == 200


def test_other_kinds_of_contents_methods_and_hosts(client):
    body = json.dumps(GOOD)
    for kind in ("text/plain", "multipart/form-data", ""):  # what a page of another origin may send
        assert client.post(CHAT, content=body, headers={"Content-Type": kind}).status_code == 415
    assert client.get(CHAT).status_code == 405 and client.delete(SPEECH).status_code == 405
    assert client.get("/v1/models/other").status_code == 404 and client.get("/docs").status_code == 404
    assert client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 400
    assert (
        client.post(
            CHAT, content=b"{}", headers={"Content-Length": "x", "Content-Type": "application/json"}
        ).status_code
        == 413
    )


def test_a_body_in_pieces_is_not_read_beyond_its_limit(client):
    taken = 0

    def pieces():
        nonlocal taken
        for _ in range(1000):
            taken += 1
            yield b" " * 100_000

    answer = client.post(CHAT, content=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_the_key_is_asked_for(served):
    wrong = [{}, *({"Authorization": text} for text in ("Bearer other", "Bearer ", "secr\xe9t".encode("latin-1")))]
    with client_of(served, "secret") as client:
        for headers in wrong:
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.post(CHAT, json=GOOD, headers=headers).status_code == 401
        listed = client.get("/v1/models", headers={"Authorization": "Bearer secret"}).json()
        assert listed["data"][0]["id"] == "used" and client.get("/health").status_code == 200
