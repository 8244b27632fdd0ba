"""The page: its rooms answer before the same queue, and it reads and gives no file of the machine."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.language.vocabulary import Turn
from tests.stages.cli.trained_run import QUESTION, answer, codes_of
from tests.stages.serve.conftest import server_of

API = "/gradio_api"


@pytest.fixture(autouse=True, scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """gradio's folder for files is one of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        yield


@pytest.fixture(scope="module")
def client(served, files) -> Iterator[Any]:
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from stages.serve import page
    from stages.serve.app import create_app

    server = server_of(served)
    app = create_app(server)
    page.mount(app, server)
    with TestClient(app, base_url="http://127.0.0.1") as one:
        yield one


def uploaded(client: Any, clip: Path) -> dict[str, Any]:
    (path,) = client.post(f"{API}/upload", files={"files": (clip.name, clip.read_bytes())}).json()
    return {"path": path, "orig_name": clip.name, "meta": {"_type": "gradio.FileData"}}


def called(client: Any, room: str, *values: Any) -> list[Any]:
    """What a room's button gives at last; the event's name and data where it ends with an error."""
    began = client.post(f"{API}/call/{room}", json={"data": list(values)})
    assert began.status_code == 200, began.text
    events = client.get(f"{API}/call/{room}/{began.json()['event_id']}").text.strip().split("\n\n")
    name, _, data = events[-1].partition("\n")
    assert name == "event: complete", events[-1]
    return json.loads(data.removeprefix("data: "))


def test_ask_answers_as_the_verb_does(client, model, run, clip):
    talk, asked, _ = called(client, "answer", uploaded(client, clip), None, QUESTION, [], 0)
    wanted = answer(model, [Turn("user", [codes_of(run, clip), "\n", QUESTION])])
    texts = [part["text"] for message in talk for part in message["content"]]
    assert texts == [QUESTION, wanted or "(the model wrote no visible text)"] and "value" not in asked
    (odds,) = called(client, "probabilities", uploaded(client, clip), None, QUESTION, [], 0)
    shares = {one["label"]: one["confidence"] for one in odds["value"]["confidences"]}
    assert shares.keys() == {"yes", "no"} and sum(shares.values()) == pytest.approx(1)


def test_make_gives_as_many_sounds_as_were_asked_for(client):
    about, *shown = called(client, "written", "a low sound", 1.0, 2.0, 2, 1, 5)
    assert about.startswith("seed 5: ") and "seed 6: " in about
    players = [one for one in shown if isinstance(one, dict) and str(one.get("path", "")).endswith(".wav")]
    assert len(players) == 2
    assert client.get(f"{API}/file={players[0]['path']}").content[:4] == b"RIFF"


def test_listen_gives_three_sounds_and_the_codes(client, run, clip):
    about, *shown = called(client, "heard", uploaded(client, clip))
    assert f" s, {len(codes_of(run, clip))} codes of " in about
    suffixes = [Path(one["path"]).suffix for one in shown]
    assert suffixes[:3] == [".wav"] * 3 and len(suffixes) == 7


@pytest.mark.parametrize("room", ["answer", "heard"])
def test_no_path_can_be_sent(client, room: str, tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF")
    file = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    values = [file, None, QUESTION, [], 0] if room == "answer" else [file]
    began = client.post(f"{API}/call/{room}", json={"data": values})
    events = client.get(f"{API}/call/{room}/{began.json()['event_id']}").text
    assert "event: error" in events and "event: complete" not in events
    for path in (secret, "/etc/passwd", Path.cwd() / "pyproject.toml"):
        assert client.get(f"{API}/file={path}").status_code in (403, 404)


def test_the_key_is_the_password_of_the_page(served):
    pytest.importorskip("gradio")
    from fastapi.testclient import TestClient

    from stages.serve import page
    from stages.serve.app import create_app

    server = server_of(served, "secret")
    app = create_app(server)
    page.mount(app, server)
    with TestClient(app, base_url="http://127.0.0.1") as one:
        assert one.post(f"{API}/call/heard", json={"data": [None]}).status_code == 401
        assert one.post(f"{API}/upload", files={"files": ("a.wav", b"RIFF")}).status_code == 401
        assert one.post("/login", data={"username": "stage", "password": "wrong"}).status_code == 400
        assert one.post("/login", data={"username": "stage", "password": "secret"}).status_code == 200
        assert one.post(f"{API}/upload", files={"files": ("a.wav", b"RIFF")}).status_code == 200
