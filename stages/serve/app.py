"""OpenAI's endpoints before one queue: /v1/chat/completions, /v1/audio/speech, /v1/models, and /health.

    request ──limits, key──► checked ──sounds read, by few threads──► queue ──► answer, or pieces of it as it is written

A mistake of a request is a 4xx with one sentence, in OpenAI's form. Nothing is written to disk but a sound while it is
decoded, and no request names a file. A server that listens to this machine alone answers only to its names, and only
JSON: a page of another origin cannot ask it.
"""

import asyncio
import contextlib
import hmac
import io
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from conf.errors import UsageError
from conf.sections.evaluation import AskConf, GenerateConf
from conf.sections.serving import ServeConf
from datamodules.errors import DataError
from models.errors import ModelError
from stages.hub import sound_files
from stages.hub.text_answers import TextAnswer
from stages.serve import openai_requests
from stages.serve.batching_queue import BatchingQueue, Job, QueueFull
from stages.serve.errors import RefusedRequest
from stages.serve.served_model import ServedModel, WrittenSound

log = logging.getLogger(__name__)
LOCAL = ["127.0.0.1", "localhost"]
READERS = 2  # sounds decoded at a time: each may take some hundred megabytes
PATIENCE = 60.0  # seconds for a body to arrive
LEFT = 499  # nobody reads it
Result = TypeVar("Result")


class Server:
    """The endpoints' state: a model, its queue, its limits."""

    def __init__(
        self,
        model: ServedModel,
        limits: ServeConf,
        ask: AskConf,
        generate: GenerateConf,
        key: str | None,
    ) -> None:
        """ask, generate: what a request does not say. key: what each request needs; None: none."""
        self.model, self.limits, self.ask, self.generate, self.key = model, limits, ask, generate, key
        self.queue = BatchingQueue(model.run, limits.batch_size, limits.most_waiting, limits.window_seconds)
        self.readers = ThreadPoolExecutor(READERS, "reads")
        self.began = int(time.time())

    async def read(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """In a thread of the few that decode and write sound."""
        return await asyncio.get_running_loop().run_in_executor(self.readers, work, *arguments)

    def close(self) -> None:
        self.readers.shutdown(cancel_futures=True)
        self.queue.close()


def create_app(server: Server) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(title="Make Some Noise", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    if server.key is None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
    app.add_exception_handler(RefusedRequest, _refused)
    app.add_exception_handler(QueueFull, _full)
    app.add_exception_handler(HTTPException, _http_error)

    @app.get("/health")
    async def health() -> Response:
        queue = server.queue
        alive = queue.thread.is_alive()
        about = {"status": "ok" if alive else "the model's thread has ended", "model": server.model.name}
        return JSONResponse(
            {**about, "waiting": len(queue.waiting), "running": len(queue.running)}, 200 if alive else 503
        )

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        _check_key(server, request)
        return JSONResponse({"object": "list", "data": [_model(server)]})

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> Response:
        _check_key(server, request)
        _check_model(server, name)
        return JSONResponse(_model(server))

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await _body(server, request)
        asked = openai_requests.parse(openai_requests.ChatRequest, body)
        _check_model(server, asked.model)
        question = await server.read(
            openai_requests.question, asked, server.model.tokenizer, server.ask, server.limits
        )  # fmt: skip
        job = server.model.job(question)
        if asked.stream:
            return await _streamed(server, request, job, asked)
        answer = await _result(server, request, job)
        return JSONResponse(_completion(server, answer))

    @app.post("/v1/audio/speech")
    async def speech(request: Request) -> Response:
        body = await _body(server, request)
        asked = openai_requests.parse(openai_requests.SpeechRequest, body)
        _check_model(server, asked.model)
        job = server.model.job(openai_requests.caption(asked, server.generate, server.limits))
        written: WrittenSound = await _result(server, request, job)
        rate = server.model.tokenizer.sample_rate
        data = await server.read(_file, written, rate, asked.response_format)
        return Response(data, media_type=openai_requests.FORMATS[asked.response_format])

    return app


def _file(written: WrittenSound, sample_rate: int, kind: str) -> bytes:
    file = io.BytesIO()
    sound_files.write_to(file, written.sound, sample_rate, kind)
    return file.getvalue()


async def _body(server: Server, request: Request) -> bytes:
    """The whole body. Raises RefusedRequest: no key, no JSON, too large, or a full queue, before much of it is read."""
    _check_key(server, request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedRequest(415, f"content-type {kind or 'missing'}; application/json is taken")
    server.queue.check_room()
    most = int(server.limits.megabytes_max * 1e6)
    too_large = RefusedRequest(413, f"the request is larger than {server.limits.megabytes_max:g} MB (megabytes_max)")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise RefusedRequest(408, f"the body did not arrive within {PATIENCE:g} s") from None
    except ClientDisconnect:
        raise RefusedRequest(LEFT, "the client left") from None
    return bytes(body)


def _check_key(server: Server, request: Request) -> None:
    if server.key is None:
        return
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), server.key.encode()):
        raise RefusedRequest(401, "this server asks for its key: Authorization: Bearer KEY")


def _check_model(server: Server, name: str) -> None:
    if name != server.model.name:
        raise RefusedRequest(404, f"no model {name[:60]!r}; here is {server.model.name!r}")


async def _result(server: Server, request: Request, job: Job) -> Any:
    """What the queue makes of a job, unless the client leaves before."""
    server.queue.submit(job)
    future, left = asyncio.wrap_future(job.result), asyncio.ensure_future(_has_left(request))
    try:
        await asyncio.wait({future, left}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise RefusedRequest(LEFT, "the client left")
        return _value(future)
    finally:
        left.cancel()
        future.cancel()
        server.queue.leave(job)


def _value(result: "asyncio.Future[Any] | Future[Any]") -> Any:
    """Raises RefusedRequest for what only the model could see: turns that are too long, times that it has not."""
    try:
        return result.result()
    except (UsageError, DataError, ModelError) as error:
        raise RefusedRequest(400, str(error).splitlines()[0]) from None


async def _has_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _streamed(
    server: Server, request: Request, job: Job, asked: openai_requests.ChatRequest
) -> StreamingResponse:
    """Server-sent events. The status is decided when the first token is written, or the job has failed."""
    loop, parts = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def put(part: str | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
            loop.call_soon_threadsafe(parts.put_nowait, part)

    job.on_part = put
    job.result.add_done_callback(lambda _: put(None))
    server.queue.submit(job)
    left = asyncio.ensure_future(_has_left(request))
    left.add_done_callback(lambda _: server.queue.leave(job))
    try:
        first = await parts.get()
        if first is None:
            _value(job.result)
    except BaseException:
        server.queue.leave(job)
        left.cancel()
        raise
    return StreamingResponse(_events(server, job, asked, first, parts, left), media_type="text/event-stream")


async def _events(
    server: Server,
    job: Job,
    asked: openai_requests.ChatRequest,
    part: str | None,
    parts: "asyncio.Queue[str | None]",
    left: "asyncio.Future[None]",
) -> AsyncIterator[str]:
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    head["model"] = server.model.name

    def event(delta: dict[str, str], reason: str | None = None) -> str:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    try:
        yield event({"role": "assistant", "content": ""})
        sent = ""
        while part is not None:
            # a letter may come in several tokens: what is no letter yet is not sent
            if part.startswith(sent) and len(part) > len(sent) and not part.endswith("\N{REPLACEMENT CHARACTER}"):
                yield event({"content": part[len(sent) :]})
                sent = part
            part = await parts.get()
        try:
            answer: TextAnswer = _value(job.result)
        except Exception:  # its status was sent long ago
            yield _event(_error(500, "the answer ended with an error"))
            return
        if answer.text.startswith(sent) and len(answer.text) > len(sent):
            yield event({"content": answer.text[len(sent) :]})
        yield event({}, _reason(answer))
        if asked.stream_options is not None and asked.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": _usage(answer)})
        yield "data: [DONE]\n\n"
    finally:
        left.cancel()
        server.queue.leave(job)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _model(server: Server) -> dict[str, Any]:
    return {"id": server.model.name, "object": "model", "created": server.began, "owned_by": "make-some-noise"}


def _completion(server: Server, answer: TextAnswer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(answer)}
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": server.model.name,
        "choices": [choice],
        "usage": _usage(answer),
    }


def _reason(answer: TextAnswer) -> str:
    return "length" if answer.is_cut else "stop"


def _usage(answer: TextAnswer) -> dict[str, int]:
    total = answer.num_prompt_tokens + answer.num_tokens
    return {
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_tokens,
        "total_tokens": total,
    }


def _error(status: int, text: str) -> dict[str, Any]:
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return {"error": {"message": text, "type": kind, "param": None, "code": None}}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedRequest)
    return JSONResponse(_error(error.status, error.text), error.status)


async def _full(_: Request, error: Exception) -> Response:
    return JSONResponse(_error(429, str(error)), 429, {"Retry-After": "1"})


async def _http_error(request: Request, error: Exception) -> Response:
    """A path or a method that is not there."""
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path[:60]}: {error.detail}"
    return JSONResponse(_error(error.status_code, text), error.status_code, error.headers)
