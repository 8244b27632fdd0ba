"""A server of the experiment that is trained, its clips, and what each of them is answered by itself."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import conf
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.trained_model import TrainedModel
from stages.serve.served_model import ServedModel
from tests.stages.cli.trained_run import QUESTION

LIMITS = conf.compose("serve", overrides=["seconds_max=10", "megabytes_max=2", "window_seconds=0.05"]).conf
KINDS = {".wav": "wav", ".flac": "flac", ".ogg": "ogg"}


@pytest.fixture(scope="session")
def served(run: Path, model: TrainedModel) -> ServedModel:
    return ServedModel("used", SoundTokenizer.from_pretrained(run / "tokenizer"), model, model)


def server_of(served: ServedModel, key: str | None = None) -> Any:
    """A server with these limits. Skips the test where FastAPI is not installed."""
    pytest.importorskip("fastapi")
    from stages.serve.app import Server

    return Server(served, LIMITS, conf.compose("ask").conf, conf.compose("generate").conf, key)


@contextlib.contextmanager
def listening(server: Any, with_page: bool = False) -> Iterator[str]:
    """Serves at a port of this machine, which is its attribute `address` from then on; gives its URL."""
    uvicorn = pytest.importorskip("uvicorn")
    from stages.serve.app import create_app

    app = create_app(server)
    if with_page:
        from stages.serve import page

        page.mount(app, server)
    listener = socket.create_server(("127.0.0.1", 0))
    web = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=web.run, kwargs={"sockets": [listener]})
    thread.start()
    server.address = listener.getsockname()
    try:
        yield "http://{}:{}".format(*server.address)
    finally:
        web.should_exit = True
        thread.join()


def audio(data: bytes, kind: str = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}


def chat(clip: Path | bytes, question: str = QUESTION, **more: Any) -> dict[str, Any]:
    """A request about a clip."""
    part = audio(clip) if isinstance(clip, bytes) else audio(clip.read_bytes(), KINDS[clip.suffix])
    content = [part, {"type": "text", "text": question}]
    return {"model": "used", "messages": [{"role": "user", "content": content}], **more}
