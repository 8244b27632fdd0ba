"""A page with three rooms, before the same queue as the endpoints: ask about clips, make sound from words, and listen to
a clip through the tokens. https://www.gradio.app

Clips come from a microphone or are uploaded: a path that a browser sends instead, gradio refuses. They and
the sounds that are made lie in gradio's folder for files, an hour at most.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from torch import Tensor

from callbacks.pictures import raster, spectrogram, with_axes
from conf.errors import UsageError
from conf.laws import problems
from conf.sections.evaluation import guidance_of
from datamodules.errors import DataError
from models.errors import ModelError
from stages.serve import received_sound
from stages.serve.app import Server
from stages.serve.batching_queue import Job, QueueFull
from stages.serve.errors import RefusedRequest
from stages.serve.served_model import Caption, Choice, Clip, Question, SoundTurn

KEPT_SECONDS = 3600  # of files
MOST_SOUNDS = 4  # made at a time
YES_NO = ("yes", "no")
MISTAKES = (RefusedRequest, QueueFull, UsageError, DataError, ModelError)
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # of this machine: none is fetched
CSS = ".gradio-container {width: 100%; max-width: 1100px !important; margin: auto} footer {display: none !important}"
BUTTON = 120  # pixels: four beside each other, and two on a telephone


def mount(app: Any, server: Server) -> None:
    """At /, behind the key as a password where there is one."""
    blocks = build(server)
    blocks.queue(default_concurrency_limit=server.limits.most_waiting, max_size=4 * server.limits.most_waiting)
    key = server.key
    gr.mount_gradio_app(
        app,
        blocks,
        "/",
        auth=None if key is None else [("stage", key)],
        auth_message="User: stage. Password: the key of this server.",
        max_file_size=int(server.limits.megabytes_max * 1e6),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        theme=gr.themes.Default(**FONTS),
        css=CSS,
    )


def build(server: Server) -> gr.Blocks:
    limits = server.limits
    with gr.Blocks(title="Make Some Noise", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as page:
        gr.Markdown(f"# Make Some Noise\n`{server.model.name}`: sounds up to {limits.seconds_max:g} s")
        with gr.Tab("Ask"):
            _ask_room(server)
        with gr.Tab("Make"):
            _make_room(server)
        with gr.Tab("Listen"):
            _listen_room(server)
    return page


def _ask_room(server: Server) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            clip = gr.Audio(type="filepath", label="Clip", sources=["upload", "microphone"], editable=False, buttons=[])
            more = gr.File(file_count="multiple", file_types=["audio"], label="More clips, if any", height=120)
        with gr.Column(scale=3, min_width=300):
            talk = gr.Chatbot(
                label="Conversation", height=320, feedback_options=None, buttons=["copy"],
                placeholder="Choose or record a clip, then ask about it.",
            )  # fmt: skip
            asked = gr.Textbox(label="Question", placeholder="What do you hear?", lines=1, max_length=2000)
            with gr.Row():
                ask = gr.Button("Ask", variant="primary", min_width=BUTTON)
                weigh = gr.Button("Yes or no?", min_width=BUTTON)
                cancel = gr.Button("Cancel", min_width=BUTTON)
                anew = gr.Button("Begin anew", min_width=BUTTON)
            contrast = gr.Slider(
                0, 3, server.ask.audio_contrast, step=0.25, label="Audio contrast",
                info="of audio-aware decoding: how much the sound is stressed against the words alone; 0: not",
            )  # fmt: skip
            odds = gr.Label(label="Yes or no, of these two answers", visible=False)

    async def sounds_of(clip: str | None, more: list[str] | None) -> list[Tensor]:
        paths = [path for path in (clip, *(more or [])) if path]
        if not paths:
            raise _mistake("No clip yet: record one, or choose a file.")
        if len(paths) > server.limits.clips_max:
            raise _mistake(f"{len(paths)} clips; {server.limits.clips_max} are allowed.")
        return [await _read(server, path) for path in paths]

    async def answer(
        clip: str | None, more: list[str] | None, question: str, talk: list[dict[str, Any]], contrast: float
    ) -> AsyncIterator[tuple[Any, ...]]:
        question = question.strip() or "What do you hear?"
        turns = _turns(await sounds_of(clip, more), talk, question)
        talk = [*talk, {"role": "user", "content": question}]
        yield [*talk, {"role": "assistant", "content": "..."}], "", gr.update(visible=False)
        async for text in _parts(
            server, server.model.job(Question(turns, replace(server.ask, audio_contrast=contrast)))
        ):
            if isinstance(text, str):
                yield [*talk, {"role": "assistant", "content": text}], gr.update(), gr.update()
            else:
                written = text.text or "(the model wrote no visible text)"
                yield [*talk, {"role": "assistant", "content": written}], gr.update(), gr.update()

    async def probabilities(
        clip: str | None, more: list[str] | None, question: str, talk: list[dict[str, Any]], contrast: float
    ) -> AsyncIterator[Any]:
        asked = [_text(one) for one in talk if one["role"] == "user"]
        question = question.strip() or (asked[-1] if asked else "")
        if not question:
            raise _mistake("No question yet: type one that yes or no answers.")
        turns = _turns(await sounds_of(clip, more), [], question)
        async for scores in _parts(server, server.model.job(Choice(turns, YES_NO, contrast))):
            shares = np.exp(np.array(scores) - max(scores))
            values = {name: float(share / shares.sum()) for name, share in zip(YES_NO, shares, strict=True)}
            yield gr.update(value=values, visible=True, label=f"Yes or no, of these two: {question}")

    inputs, outputs = [clip, more, asked, talk, contrast], [talk, asked, odds]
    running = [ask.click(answer, inputs, outputs), asked.submit(answer, inputs, outputs)]
    running.append(weigh.click(probabilities, inputs, odds))
    cancel.click(None, cancels=running)
    nothing: tuple[list[Any], str, Any] = ([], "", gr.update(visible=False))
    anew.click(lambda: nothing, None, outputs, cancels=running, queue=False, show_progress="hidden")
    for changed in (clip.change, more.change):  # in the browser, at once: what is typed meanwhile stays
        changed(None, None, [talk, odds], js="() => [[], null]")


def _make_room(server: Server) -> None:
    default, limits = server.generate, server.limits
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            caption = gr.Textbox(label="What shall be heard", placeholder="a dog barks twice", lines=2, max_length=2000)
            most = limits.seconds_max
            seconds = gr.Slider(0.5, most, min(default.seconds_max, most), step=0.5, label="Seconds, at most")
            guidance = gr.Slider(
                0, 10, guidance_of(default, server.model.writer.prompts), step=0.5, label="Guidance",
                info="1: none; more: nearer to the words",
            )  # fmt: skip
            count = gr.Slider(1, MOST_SOUNDS, 2, step=1, label="Sounds")
            best_of = gr.Slider(1, limits.best_of_max, 1, step=1, label="Best of", info="drawn for each that is kept")
            seed = gr.Number(default.seed, precision=0, label="Seed of the first", info="the next ones have the next")
            with gr.Row():
                make = gr.Button("Make", variant="primary", min_width=BUTTON)
                cancel = gr.Button("Cancel", min_width=BUTTON)
        with gr.Column(scale=3, min_width=300):
            progress = gr.Markdown("Sounds appear here.")
            with gr.Row():
                columns, players, pictures = [], [], []
                for number in range(MOST_SOUNDS):
                    with gr.Column(min_width=240, visible=False) as column:
                        players.append(gr.Audio(label=f"Sound {number + 1}", interactive=False, buttons=["download"]))
                        pictures.append(_picture("Spectrogram"))
                    columns.append(column)

    async def written(
        text: str, seconds: float, guidance: float, count: int, best_of: int, seed: int | None
    ) -> AsyncIterator[list[Any]]:
        if not text.strip():
            raise _mistake("No words yet: say what shall be heard, as: a dog barks.")
        chosen = replace(
            default, n=1, seconds_max=seconds, guidance=guidance, best_of=int(best_of), seed=int(seed or 0)
        )  # fmt: skip
        for problem in problems(chosen):
            raise _mistake(f"{problem.key}: {problem.text}")
        seeds = [chosen.seed + number for number in range(int(count))]
        jobs = [server.model.job(Caption(text, replace(chosen, seed=one))) for one in seeds]
        hidden = [gr.update(visible=False)] * MOST_SOUNDS
        empty: list[Any] = [gr.update(value=None)] * (2 * MOST_SOUNDS)
        yield ["Waiting ...", *hidden, *empty]
        async for part in _parts(server, *jobs):
            if isinstance(part, str):
                yield [f"Writing: {float(part):.0%} of the longest sound", *hidden, *empty]
            else:
                rate = server.model.tokenizer.sample_rate
                heard = [(_playable(one.sound, rate), _spectrogram(one.sound, rate)) for one in part]
                shown = [gr.update(visible=number < len(part)) for number in range(MOST_SOUNDS)]
                rest = [None] * (MOST_SOUNDS - len(part))
                about = ", ".join(
                    f"seed {one_seed}: {one.sound.shape[1] / rate:.1f} s, {len(one.codes)} codes"
                    for one_seed, one in zip(seeds, part, strict=True)
                )
                sounds, images = zip(*heard, strict=True)
                yield [about, *shown, *sounds, *rest, *images, *rest]

    inputs = [caption, seconds, guidance, count, best_of, seed]
    outputs = [progress, *columns, *players, *pictures]
    running = [event(written, inputs, outputs, show_progress="minimal") for event in (make.click, caption.submit)]
    cancel.click(lambda: "Cancelled.", None, progress, cancels=running, queue=False)


def _listen_room(server: Server) -> None:
    with gr.Row():
        clip = gr.Audio(type="filepath", label="Clip", sources=["upload", "microphone"], editable=False, buttons=[])
    with gr.Row():
        listen = gr.Button("Listen", variant="primary", min_width=BUTTON)
        cancel = gr.Button("Cancel", min_width=BUTTON)
    about = gr.Markdown("As recorded, through the VAE, and through the tokens.")
    with gr.Row():
        players, pictures = [], []
        for name in ("As recorded", "Through the VAE", "Through the tokens"):
            with gr.Column(min_width=240):
                players.append(gr.Audio(label=name, interactive=False, buttons=["download"]))
                pictures.append(_picture("Spectrogram"))
    gr.Markdown("The codes: time from left to right, the number of the code from the bottom to the top")
    codes = gr.Image(show_label=False, interactive=False, buttons=[])

    async def heard(clip: str | None) -> AsyncIterator[list[Any]]:
        if not clip:
            raise _mistake("No clip yet: record one, or choose a file.")
        sound, tokenizer = await _read(server, clip), server.model.tokenizer
        rate, seconds = tokenizer.sample_rate, sound.shape[1] / tokenizer.sample_rate
        async for part in _parts(server, server.model.job(Clip(sound))):
            bits = tokenizer.bitrate
            text = f"{seconds:.2f} s, {len(part.codes)} codes of {tokenizer.codebook_size}, {bits:.0f} bits a second"
            all_three = (sound, part.vae, part.tokens)
            sounds = [None if one is None else _playable(one, rate) for one in all_three]
            images = [None if one is None else _spectrogram(one, rate) for one in all_three]
            drawn = raster(part.codes, tokenizer.codebook_size, tokenizer.facts["levels"], seconds)
            yield [text, *sounds, *images, with_axes(drawn, 640, 200)]

    running = listen.click(heard, clip, [about, *players, *pictures, codes])
    cancel.click(None, cancels=[running])


def _mistake(text: str) -> gr.Error:
    """Shown to whoever made it; the server's log has none of it."""
    return gr.Error(text, print_exception=False)


async def _read(server: Server, path: str) -> Tensor:
    try:
        return await server.read(received_sound.read, Path(path), server.model.tokenizer, server.limits)
    except RefusedRequest as error:
        raise _mistake(error.text) from None


async def _parts(server: Server, *jobs: Job) -> AsyncIterator[Any]:
    """What the first job has so far, then the result (of several, a list). Leaves the queue where it is cancelled."""
    loop, parts = asyncio.get_running_loop(), asyncio.Queue[str | None]()

    def put(part: str | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(parts.put_nowait, part)

    jobs[0].on_part = put
    for job in jobs:
        job.result.add_done_callback(lambda _: put(None))
    try:
        for job in jobs:
            server.queue.submit(job)
        left = len(jobs)
        while left:
            part = await parts.get()
            left -= part is None
            if part is not None and parts.empty():  # a browser gets what is newest
                yield part
        results = [job.result.result() for job in jobs]
        yield results if len(jobs) > 1 or isinstance(jobs[0].request, Caption) else results[0]
    except MISTAKES as error:
        raise _mistake(str(error).splitlines()[0]) from None
    finally:
        for job in jobs:
            server.queue.leave(job)


def _turns(sounds: Sequence[Tensor], talk: Sequence[dict[str, Any]], question: str) -> list[SoundTurn]:
    """The clips stand in the first turn."""
    texts = [(one["role"], _text(one)) for one in talk] + [("user", question)]
    return [SoundTurn(role, [*sounds, text] if number == 0 else [text]) for number, (role, text) in enumerate(texts)]


def _text(message: dict[str, Any]) -> str:
    """Of a message as gradio gives it back: a text, or parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _playable(sound: Tensor, rate: int) -> tuple[int, np.ndarray]:
    """sound (C, T) -> 16 bits, turned down to full scale where it is above."""
    wave = (sound / max(1.0, float(sound.abs().max()))).T.numpy()
    return rate, (32767 * wave).astype(np.int16)


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, interactive=False, buttons=[], height=200)


def _spectrogram(sound: Tensor, rate: int) -> Image.Image:
    peak = sound.abs().max().clamp(min=1e-5)
    return with_axes(spectrogram(sound.mean(0) / peak, rate), 360, 180)
