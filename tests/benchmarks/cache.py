"""Seconds of sound a second that the stages `latents` and `cache` take in, against a plain loop over the recordings: load, resample, encode,
save; then load, encode, save.

    python -m tests.benchmarks.cache [--codec mel|oobleck] [--recordings 96] [--seconds 10] [--turns 5] [--threads 2]

Both on the same recordings (FLAC, WAV and Ogg of 44.1, 32 and 16 kHz, mono and stereo, 0.4 to 1.6 times `--seconds`, and as many that are
just `--seconds` long), codec, weights and number of torch's threads. mel: the embedded codec, fitted before; oobleck: Stable Audio Open's sizes
(156 M, random weights). The tokenizer is the demo's beside mel
and the base preset's, the paper's size, beside oobleck (random weights). The loop encodes each recording whole, in windows of 10 s, with no padding at
all, and saves a .npy and a .json. Turn by turn ours and the loop alternate which goes first; printed are medians of the wall clock and of
the process' own seconds (which other work on the machine disturbs less), and the median of the turns' ratios. The share of the model is what codec and
tokenizer take of the wall clock of ours, while reading and writing go on beside them.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

import conf
from callbacks.ranks import RankWatch
from callbacks.stop import Stop
from datamodules.windows import WindowRule
from models.tokenizer.grid import TokenGrid
from models.tokenizer.tokenizer import LatentTokenizer
from stages.engine import devices, runner
from stages.hub import artifacts
from stages.launch import prepare
from stages.runs import corpora, graph, receipts
from stages.runs.receipts import FinishedRun
from stages.runs.state import run_folder

KINDS = (("flac", 44100, 2), ("wav", 32000, 1), ("ogg", 44100, 1), ("flac", 16000, 1))


class Spent(NamedTuple):
    wall: float
    own: float
    model: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", choices=("mel", "oobleck"), default="mel")
    parser.add_argument("--recordings", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="data.num_workers of ours")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="cache-"))
    os.chdir(scratch)
    try:
        _measure(options)
    finally:
        shutil.rmtree(scratch)


def _measure(options: argparse.Namespace) -> None:
    sound = _recordings(Path("recordings"), options.recordings, options.seconds)
    _quietly(lambda: prepare.prepare("folder", _folder_conf()))
    confs = {name: _conf(name, options) for name in ("latents", "tokenizer", "cache")}
    runner._quiet()
    torch.set_num_threads(options.threads)
    if options.codec == "oobleck":
        _random_oobleck()
    stop = Stop(None, 0.0, time.monotonic())
    _quietly(
        lambda: runner.run("latents", confs["latents"], stop)
    )  # fits the codec; the first run of everything is not timed
    _random_tokenizer(confs["tokenizer"])
    turns: dict[str, list[Spent]] = {"ours": [], "loop": []}
    methods = {"ours": lambda: _ours(confs), "loop": lambda: _loop(confs)}
    for turn in range(options.turns + 1):
        for name in sorted(methods, reverse=bool(turn % 2)):
            spent = methods[name]()
            if turn:  # the first one warms up
                turns[name].append(spent)
    print(
        f"{options.codec}, {options.recordings} recordings, {sound:.0f} s of sound, {options.threads} threads, {options.turns} turns, "
        f"data.num_workers {options.workers}"
    )
    print("| | sound, s a second | wall, s | own, s | model, % of the wall |")
    print("|---|---|---|---|---|")
    for name, results in turns.items():
        wall, own, share = (
            statistics.median(values)
            for values in zip(
                *((spent.wall, spent.own, 100 * spent.model / spent.wall) for spent in results), strict=True
            )
        )
        print(f"| {name} | {sound / wall:.1f} | {wall:.2f} | {own:.2f} | {share:.0f} |")
    for field in ("wall", "own"):
        ratios = sorted(
            getattr(theirs, field) / getattr(ours, field)
            for ours, theirs in zip(turns["ours"], turns["loop"], strict=True)
        )
        print(f"loop / ours, {field}: median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


def _ours(confs: dict[str, Any]) -> Spent:
    """Both stages from a whole codec on: planning, reading, encoding, writing; not the statistics and hashes afterwards."""
    for name in ("latents", "cache"):
        shutil.rmtree(Path("runs/bench") / name / "chunks", ignore_errors=True)
    wall = own = model = 0.0
    for name in ("latents", "cache"):
        folder = run_folder(confs[name], name)
        parents = {
            parent: _parent(confs, parent) for parent in (*graph.required(name, confs[name]), *graph.optional(name))
        }
        module = _module(name)(name, confs[name], parents, folder)
        stop, watch = Stop(None, 0.0, time.monotonic()), RankWatch(name)
        chosen = devices.precision(confs[name], folder).value
        trainer = runner._trainer(name, confs[name], folder, module, stop, watch, chosen)
        timed = _Timed(module)
        begun, used = time.perf_counter(), time.process_time()
        _quietly(lambda t=trainer, m=module: t.predict(m, datamodule=m.datamodule(), return_predictions=False))
        wall, own, model = wall + time.perf_counter() - begun, own + time.process_time() - used, model + timed.seconds
    return Spent(wall, own, model)


def _loop(confs: dict[str, Any]) -> Spent:
    """What one writes first: recording by recording."""
    from torchaudio.transforms import Resample

    out = Path("loop")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    codec = artifacts.load_codec(Path("runs/bench/latents/codec"))
    tokenizer = artifacts.load_tokenizer(Path("runs/bench/tokenizer/artifact"))
    rule, model = WindowRule.from_facts(_parent(confs, "latents").facts), 0.0
    cuts = corpora.recordings("latents", confs["latents"].data).cuts
    resamplers: dict[int, Any] = {}
    begun, used = time.perf_counter(), time.process_time()
    for cut in cuts:
        sound, rate = soundfile.read(
            Path("recordings") / cut.recording.sources[0].source, dtype="float32", always_2d=True
        )
        waveform = torch.from_numpy(sound.T)
        waveform = waveform.mean(0, keepdim=True) if codec.channels == 1 else waveform
        if rate not in resamplers:
            resamplers[rate] = Resample(rate, codec.sample_rate)
        waveform = resamplers[rate](waveform).expand(codec.channels, -1)[None]
        results = []
        lengths = rule.lengths(-(-waveform.shape[-1] // codec.hop_length))
        for start, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
            part = waveform[..., start * codec.hop_length : (start + length) * codec.hop_length]
            before = time.perf_counter()
            results.append(codec.encode(part).mean[0].half().numpy())
            model += time.perf_counter() - before
        np.save(out / f"{cut.id}.npy", np.concatenate(results))
    for cut in cuts:
        latents = torch.from_numpy(np.load(out / f"{cut.id}.npy").astype("float32"))
        codes: list[int] = []
        for part in latents.split(rule.lengths(len(latents))):
            before = time.perf_counter()
            codes += tokenizer.encode(part[None], torch.tensor([len(part)])).codes[0].tolist()
            model += time.perf_counter() - before
        (out / f"{cut.id}.json").write_text(json.dumps(cut.to_dict() | {"codes": codes}))
    return Spent(time.perf_counter() - begun, time.process_time() - used, model)


class _Timed:
    """Seconds inside the codec and the tokenizer of a stage."""

    def __init__(self, module: Any) -> None:
        self.seconds = 0.0
        self._wrap(module.tokenizer if hasattr(module, "tokenizer") else None)
        if hasattr(module, "codec"):
            setup = module.setup

            def timed_setup(stage: str) -> None:
                setup(stage)
                self._wrap(module.codec)

            module.setup = timed_setup

    def _wrap(self, model: Any) -> None:
        if model is None:
            return
        encode = model.encode

        def timed(*arguments: Any) -> Any:
            before = time.perf_counter()
            try:
                return encode(*arguments)
            finally:
                self.seconds += time.perf_counter() - before

        model.encode = timed


def _recordings(root: Path, count: int, seconds: float) -> float:
    """Coloured noise with gaps, half of it of random length; returns the seconds of sound."""
    root.mkdir()
    draw, rows, total = np.random.default_rng(0), ["path,caption,split"], 0.0
    for number in range(count):
        kind, rate, channels = KINDS[number % len(KINDS)]
        length = int(rate * seconds * (1.0 if number % 2 else draw.uniform(0.4, 1.6)))
        sound = np.cumsum(draw.normal(size=(length, channels)), 0)
        sound -= np.linspace(0, 1, length)[:, None] * sound[-1]
        soundfile.write(root / f"{number}.{kind}", (0.3 * sound / np.abs(sound).max()).astype(np.float32), rate)
        rows.append(f"{number}.{kind},noise,{'test' if number % 8 == 0 else 'train'}")
        total += length / rate
    (root / "table.csv").write_text("\n".join(rows))
    return total


def _folder_conf() -> Any:
    words = ["root=recordings", "metadata=recordings/table.csv", "name=bench", "data.root=data"]
    return conf.compose("folder", [], [], words).conf


def _conf(name: str, options: argparse.Namespace) -> Any:
    words = ["experiment=bench", "data.corpora=[bench]", "data.root=data", f"data.num_workers={options.workers}"]
    words += [f"threads={options.threads}", "trainer.accelerator=cpu", "trainer.devices=1"]
    words += ["trainer.precision=32-true"] if name != "tokenizer" else []
    if name == "latents":
        words += ["window_seconds=10"]
        words += [] if options.codec == "mel" else ["codec.source=oobleck", "codec.subfolder=null", "batch_size=4"]
    return conf.compose(name, ["demo"] if options.codec == "mel" else [], [], words).conf


def _random_oobleck() -> None:
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    AutoencoderOobleck(
        encoder_hidden_size=128, downsampling_ratios=[2, 4, 4, 8, 8], channel_multiples=[1, 2, 4, 8, 16], decoder_channels=128,
        decoder_input_channels=64, audio_channels=2, sampling_rate=44100,
    ).save_pretrained("oobleck")  # fmt: skip


def _random_tokenizer(configuration: Any) -> None:
    """The stage's artifact and receipt, untrained."""
    parents = graph.parents("tokenizer", configuration)
    facts = parents["latents"].facts
    torch.manual_seed(0)
    tokenizer = artifacts.build_tokenizer(configuration, facts)
    assert isinstance(tokenizer, LatentTokenizer) and isinstance(tokenizer.grid, TokenGrid)
    folder = run_folder(configuration, "tokenizer")
    artifacts.save_tokenizer(folder / "artifact", configuration, facts, tokenizer)
    quantizer = tokenizer.quantizer
    known = facts | {"codebook_size": quantizer.codebook_size, "levels": list(quantizer.levels)}
    receipts.finish("tokenizer", configuration, folder, parents, known, {}, 0, 0.0)


def _parent(confs: dict[str, Any], name: str) -> FinishedRun:
    folder = run_folder(confs[name], name)
    receipt = receipts.read(folder)
    assert receipt is not None
    return FinishedRun(folder, receipt)


def _module(name: str) -> Any:
    from stages.cache import Cache
    from stages.latents import Latents

    return {"latents": Latents, "cache": Cache}[name]


def _quietly(call: Callable[[], object]) -> None:
    """Progress lines go to stderr's side of the world."""
    out = sys.stdout
    with open(os.devnull, "w") as sys.stdout:
        try:
            call()
        finally:
            sys.stdout = out


if __name__ == "__main__":
    main()
