"""What teaches the LLM to write the sound that a caption names, one change at a time; and how it is best asked for it.

    python -m tests.benchmarks.voice --run runs/demo --start openaqa [--steps 60 --points 2] [--change NAME] [--guidance 3]
    python -m tests.benchmarks.voice --run runs/demo --after text_to_sound --sweep

--run: a finished demo, for its tokenizer and codes. Trains the stage text_to_sound with each change, from nothing or
(--start) from a stage of the run on; with --after it asks the LLM of that stage. Prints the caption gap on validation
clips, in nats a clip, the share of sounds of test captions of one kind whose kind the probe of codes reads, and by how many
seconds on average a sound is longer or shorter than the caption's clip, with 95 % intervals by clip; where the clips are of
several lengths, each one's mean. --sweep, --draw: that share for several ways to draw. --cache: of other recordings, as of
scenes of several lengths.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch

from conf import compose, plain
from conf.sections.evaluation import GenerateConf, guidance_of
from conf.sections.language import LanguageConf
from datamodules.cuts import Cut
from datamodules.generation import caption_of, label_of
from datamodules.hashing import choose_by_hash
from datamodules.store import chunks
from stages.engine.devices import precision
from stages.engine.runner import _quiet
from stages.hub import artifacts, trained_model
from stages.hub.language_model import configuration_of
from stages.hub.text_to_sound import text_to_sound
from stages.language import Language
from stages.runs import graph
from stages.scoring.generation_scores import KindProbe
from stages.scoring.intervals import Interval, bootstrap, resampled

CHANGES = {
    "as it is": (),
    "captions of all scenes": ("text_to_sound_labels=null",),
    "audio weight 10": ("loss.audio_weight=10",),
    "rows 3e-3": ("embedding_learning_rate=3e-3",),
    "LoRA 1e-3": ("optimizer.learning_rate=1e-3",),
    "LoRA 4e-3": ("optimizer.learning_rate=4e-3",),
    "batches of 200 tokens": ("batching.tokens_per_batch=200",),
    "no caption dropped": ("caption_dropout=0",),
    "a longer prompt": ('prompts.text_to_sound=["Generate a sound: {caption}"]',),
    "questions among it": ("mixture.question=0.3", "kinds=[what,presence,count,order]"),
    "captions among it": ("mixture.sound_to_text=0.1",),
    "labels before sounds": ("prompts.labels_before_sound=true",),
    "seconds told": ('prompts.text_to_sound=["Sound, {seconds} s: {caption}"]',),
    "likelihood": ("loss.contrast.weight=0",),
    "contrast 0.3": ("loss.contrast.weight=0.3",),
}
AFTER = ("caption", "openaqa", "text_to_sound")
SWEEP = (
    [{"guidance": weight} for weight in (1.0, 1.5, 2.0, 3.0, 5.0)]
    + [{"temperature": value} for value in (0.7, 0.85)]
    + [{"top_k": value} for value in (20, 50)]
    + [{"guidance": 1.0, "best_of": 16}, {"best_of": 16}]
)


class Curve(L.Callback):
    """A line at every validation before the last one: processor seconds of the training, gap, kind found."""

    def __init__(self, found: Callable[[], Interval | None]) -> None:
        self.found, self.began = found, 0.0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gap, paused = trainer.callback_metrics.get("val/caption_gap"), time.process_time()
        if gap is not None and 0 < trainer.global_step < trainer.max_steps:
            line = f"step {trainer.global_step}, {paused - self.began:.0f} s: gap {float(gap):.2f} nats a clip, kind"
            print(line, f"found {_text(self.found())}", flush=True)
        self.began += time.process_time() - paused


class Judge(NamedTuple):
    """What reads the kind of written codes, and what is asked for."""

    probe: KindProbe
    asked: list[Cut]  # one label each; of a corpus that has none, any
    most: int  # codes of a sound
    codes_per_second: float

    def share(self, sounds: list[list[int]]) -> Interval | None:
        """sounds: one or more for each of `asked`, clip after clip. None where there are no two kinds, or none is asked for."""
        if len(set(self.probe.labels)) < 2 or not all(map(label_of, self.asked)):
            return None
        repeated = self._repeated(sounds)
        right = [kind == label_of(cut) for kind, cut in zip(self.probe.read(sounds), repeated, strict=True)]
        return bootstrap(right, [cut.id for cut in repeated], 1000, 0)

    def seconds_off(self, sounds: list[list[int]]) -> Interval:
        """Mean difference between a sound's length and its clip's, without its sign, s."""
        repeated = self._repeated(sounds)
        off = [abs(self._seconds(sound) - cut.duration) for sound, cut in zip(sounds, repeated, strict=True)]
        return resampled(off, [cut.id for cut in repeated], 1000, 0)

    def by_length(self, sounds: list[list[int]]) -> list[str]:
        """A line for each length of the clips asked for."""
        written: dict[float, list[float]] = {}
        for sound, cut in zip(sounds, self._repeated(sounds), strict=True):
            written.setdefault(cut.duration, []).append(self._seconds(sound))
        return [
            f"clips of {length:g} s: {len(each)} sounds of {sum(each) / len(each):.2f} s on average"
            for length, each in sorted(written.items())
        ]

    def _repeated(self, sounds: list[list[int]]) -> list[Cut]:
        return [cut for cut in self.asked for _ in range(len(sounds) // len(self.asked))]

    def _seconds(self, sound: list[int]) -> float:
        return len(sound) / self.codes_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="default: the run's")
    parser.add_argument("--after", choices=AFTER, help="ask this one, train nothing")
    parser.add_argument("--ear", choices=("openaqa", "text_to_sound"), default="openaqa", help="chooses in --sweep")
    parser.add_argument("--start", choices=AFTER, help="training goes on from this one")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--points", type=int, default=1, help="of the curve over the steps, the end among them")
    parser.add_argument("--change", action="append", choices=CHANGES, help="this one alone; again for more")
    parser.add_argument("--set", action="append", default=[], help="for all, as batching.tokens_per_batch=200")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument(
        "--draw", action="append", nargs="+", help="one more way: guidance=5 best_of=16; again for more"
    )
    parser.add_argument("--captions", type=int, default=200, help="of the test split, with one label, at most")
    parser.add_argument("--seeds", type=int, default=1, help="sounds of each caption")
    parser.add_argument("--guidance", type=float, help="default: what the stage was trained for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--preset", nargs="+", default=["demo"])
    parser.add_argument("--save", type=Path, help="folder for the adapter of the last change")
    parser.add_argument("--adapter", type=Path, help="ask this one, which --save wrote; train nothing")
    options = parser.parse_args()
    _quiet()
    torch.set_num_threads(options.threads)
    judge = _judge(options.run, options.captions, options.cache)
    real = judge.share([list(cut.custom["codes"])[: judge.most] for cut in judge.asked])
    print(f"real codes: {_text(real)}; chance {100 / len(set(judge.probe.labels)):.1f}", flush=True)
    print(
        "| change | seconds | gap, nats | ceiling | kind found, % | without a caption | s off |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for change in ["none"] if options.after or options.adapter else options.change or list(CHANGES):
        _row(options, judge, change)


def _row(options: argparse.Namespace, judge: Judge, change: str) -> None:
    conf = _configuration(options, CHANGES.get(change, ()))
    L.seed_everything(conf.seed, verbose=False)
    module = Language("caption", conf, graph.parents("caption", conf), options.run)
    if folder := _trained(options):
        module.language.load_trainable_state(artifacts.load(folder)[1])
    lm = module.language.lm
    model = trained_model.TrainedModel(lm, module.vocabulary, conf.prompts, trained_model.context(lm))
    asked_with = conf.prompts.guidance if options.guidance is None else options.guidance
    base: GenerateConf = compose("generate", overrides=[f"guidance={asked_with}"]).conf
    ways = [compose("generate", overrides=words).conf for words in options.draw or []]
    if options.sweep:
        ways += [dataclasses.replace(base, **values) for values in SWEEP]
    hears = options.after == "text_to_sound" and any(way.best_of > 1 for way in ways)
    ear = trained_model.load(options.run / options.ear, torch.device("cpu")) if hears else None

    def drawn(settings: GenerateConf, blind: bool = False) -> list[list[int]]:
        seeds = range(options.seeds)
        captions = [(caption_of(cut) or "") * (not blind) for cut in judge.asked for _ in seeds]
        numbers = [options.seeds * row + seed for row in range(len(judge.asked)) for seed in seeds]
        seconds = [cut.duration for cut in judge.asked for _ in seeds]
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            return text_to_sound(model, captions, judge.most, numbers, settings, ear, seconds=seconds)

    curve = Curve(lambda: judge.share(drawn(base)))
    trainer = L.Trainer(
        **plain(conf.trainer) | {"precision": precision(conf, options.run).value, "logger": False}, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        check_val_every_n_epoch=None, max_epochs=-1, inference_mode=False,
        callbacks=[curve],
    )  # fmt: skip
    curve.began = time.process_time()
    if change != "none":
        trainer.fit(module, datamodule=module.datamodule())
    else:
        trainer.validate(module, datamodule=module.datamodule(), verbose=False)
    seconds, metrics = time.process_time() - curve.began, trainer.callback_metrics
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        state = module.language.trainable_state()
        artifacts.save(options.save, {"conf": plain(conf), "facts": module.facts, "base": module.base}, state)
    module.language.eval()
    ceiling, sounds = metrics.get("val/caption_gap_ceiling"), drawn(base)
    blind, off = drawn(dataclasses.replace(base, guidance=1.0), blind=True), judge.seconds_off(sounds)
    print(
        f"| {change} | {seconds:.0f} | {float(metrics['val/caption_gap']):.2f} | "
        f"{'' if ceiling is None else f'{float(ceiling):.2f}'} | {_text(judge.share(sounds))} | {_text(judge.share(blind))} | "
        f"{off.value:.2f} [{off.low:.2f}, {off.high:.2f}] |",
        flush=True,
    )
    if len(lines := judge.by_length(sounds)) > 1:
        print("\n".join(lines), flush=True)
    if ways:
        print(
            f"{change}:\n| temperature | top_k | guidance | best of | kind found, % | seconds a sound |\n|---|---|---|---|---|---|"
        )
        for settings in ways:
            began = time.process_time()
            shared = judge.share(drawn(settings))
            each = (time.process_time() - began) / (len(judge.asked) * options.seeds)
            print(
                f"| {settings.temperature:g} | {settings.top_k or ''} | {guidance_of(settings, conf.prompts):g} | {settings.best_of} | "
                f"{_text(shared)} | {each:.2f} |",
                flush=True,
            )


def _configuration(options: argparse.Namespace, change: tuple[str, ...]) -> LanguageConf:
    words = [f"parents.{name}={options.run / name}" for name in ("tokenizer", "cache", "rehearsal")]
    steps = [f"trainer.max_steps={options.steps}", f"trainer.val_check_interval={options.steps // options.points}"]
    if options.start:
        words.append(f"init_from={options.run / options.start}")
    if options.cache:
        words.append(f"parents.cache={options.cache}")
    if folder := _trained(options):  # asked in the words that it was taught
        prompts = plain(configuration_of(artifacts.load(folder)[0]).prompts)
        words += [f"prompts.{key}={json.dumps(prompts[key])}" for key in ("text_to_sound", "labels_before_sound")]
    if not options.start:
        words.append("loss.contrast.weight=0")  # there is nothing to compare with
    words += [*steps, f"threads={options.threads}", *change, *options.set]
    conf: LanguageConf = compose("text_to_sound", options.preset, [], words).conf
    return conf


def _trained(options: argparse.Namespace) -> Path | None:
    """The artifact of what is asked without a training."""
    return options.adapter or (options.run / options.after / "artifact" if options.after else None)


def _judge(run: Path, captions: int, cache: Path | None = None) -> Judge:
    cuts, facts = chunks.read((cache or run / "cache") / "chunks"), graph.receipts.read(run / "tokenizer")
    assert facts is not None, f"{run}/tokenizer is not finished"
    learnt = [cut for cut in cuts.of_split("train") if label_of(cut) is not None]
    codes, labels = [list(cut.custom["codes"]) for cut in learnt], [str(label_of(cut)) for cut in learnt]
    captioned = [cut for cut in cuts.of_split("test") if caption_of(cut)]
    labelled = [cut for cut in captioned if label_of(cut) is not None]
    asked = choose_by_hash(labelled or captioned, captions, lambda cut: cut.id)
    probe = KindProbe(codes, labels, facts["facts"]["codebook_size"], facts["facts"]["levels"])
    codes_per_second = facts["facts"]["bitrate"] / math.log2(facts["facts"]["codebook_size"])
    return Judge(probe, asked, max(map(len, codes)), codes_per_second)


def _text(interval: Interval | None) -> str:
    if interval is None:
        return "no kinds"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


if __name__ == "__main__":
    main()
