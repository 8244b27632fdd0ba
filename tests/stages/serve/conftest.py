"""A server of the experiment that is trained, its clips, and what each of them is answered by itself."""

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import conf
from conf.sections.serving import ServeConf
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.trained_model import TrainedModel
from stages.serve.served_model import ServedModel
from tests.stages.cli.trained_run import QUESTION

LIMITS = conf.compose("serve", overrides=["seconds_max=10", "megabytes_max=2", "window_seconds=0.05"]).conf
KINDS = {".wav": "wav", ".flac": "flac", ".ogg": "ogg"}


@pytest.fixture(scope="session")
def served(run: Path, model: TrainedModel) -> ServedModel:
    return ServedModel("used", SoundTokenizer.from_pretrained(run / "tokenizer"), model, model)


@pytest.fixture
def client_of(served: ServedModel) -> Iterator[Callable[..., Any]]:
    """client_of(key=None, most_waiting=2) -> a client of a server with these limits, in this process; .server is it."""
    testclient = pytest.importorskip("fastapi.testclient")
    from stages.serve.app import Server, create_app

    opened: list[Any] = []

    def client(key: str | None = None, **limits: Any) -> Any:
        chosen: ServeConf = replace(LIMITS, **limits)
        server = Server(served, chosen, conf.compose("ask").conf, conf.compose("generate").conf, key)
        one = testclient.TestClient(create_app(server), base_url="http://127.0.0.1", raise_server_exceptions=False)
        one.server = server
        opened.append(one.__enter__())
        return one

    yield client
    for one in opened:
        one.__exit__(None, None, None)


def audio(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def chat(clip: Path | bytes, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    """A request about a clip."""
    part = audio(clip) if isinstance(clip, bytes) else audio(clip.read_bytes(), KINDS[clip.suffix])
    content = [part, {"type": "text", "text": question}]
    return {"model": "used", "messages": [{"role": "user", "content": content}], **more}
