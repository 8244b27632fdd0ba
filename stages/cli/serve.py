"""`stage serve`: a page and OpenAI's endpoints for a trained model."""

import argparse
import ipaddress
import logging
import os
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

import conf
from conf.errors import UsageError
from conf.sections.serving import ServeConf
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse

if TYPE_CHECKING:
    from stages.serve.served_model import ServedModel

log = logging.getLogger(__name__)
KEY = "MSN_SERVE_KEY"  # a variable, for other users see what is typed


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser(
        "serve", parents=[model_verbs.computes()], help="a page, and endpoints that OpenAI's clients call"
    )
    model_verbs.add_keys(verb, "serve")
    verb.set_defaults(verb=serve)


def serve(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    limits: ServeConf = model_verbs.settings("serve", arguments)
    key = os.environ.get(KEY) or None
    if not _is_local(limits.host) and key is None:
        raise UsageError(
            f"--host {limits.host}: other machines reach it, so it asks them for a key. Set one:   export {KEY}=... "
            "Without one, 127.0.0.1 is allowed"
        )
    if missing := [
        name for name in ("fastapi", "uvicorn", *(["gradio"] if limits.page else [])) if not find_spec(name)
    ]:
        raise UsageError(f"`stage serve` needs {', '.join(missing)}. Install:   pip install 'make-some-noise[serve]'")
    listener = _listen(limits)
    model = load(arguments)
    import uvicorn

    from stages.serve.app import Server, create_app

    server = Server(model, limits, conf.compose("ask").conf, conf.compose("generate").conf, key)
    app = create_app(server)
    if limits.page:
        from stages.serve import page

        page.mount(app, server)
    host, port = listener.getsockname()[:2]
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    rooms = f"a page at {where}/ and " if limits.page else ""
    print(f"serving {model.name}: {rooms}OpenAI's endpoints at {where}/v1; Ctrl-C ends it", flush=True)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(settings).run(sockets=[listener])
    return 0


def load(arguments: argparse.Namespace) -> "ServedModel":
    """The LLM that answers and the one that writes sound, which may be one."""
    listens = model_verbs.load(arguments)
    writes = model_verbs.find(arguments, writes=True)
    from stages.serve.served_model import ServedModel

    listener, folder = listens.language(), listens.folders.language
    assert folder is not None
    writer = listener if writes.language == folder else listens._replace(folders=writes).language()
    name = folder.parent.name if (folder / "receipt.json").is_file() else folder.name
    return ServedModel(name, listens.tokenizer, listener, writer)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(limits: ServeConf) -> socket.socket:
    """Before the model is loaded: a port that is taken is known at once."""
    try:
        return socket.create_server(
            (limits.host, limits.port), family=socket.AF_INET6 if ":" in limits.host else socket.AF_INET
        )
    except OSError as error:
        raise UsageError(
            f"--host {limits.host} --port {limits.port}: {error.strerror}. Another port, or 0 for any that is free"
        ) from None
