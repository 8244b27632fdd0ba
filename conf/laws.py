"""What values may stand together: laws that a type cannot say. Each is told with the key it is about and what to type."""

import difflib
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from conf.schema import UNITS
from conf.sections.common import StageConf


def check(unit: str, conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Laws between values: yields (key, what is wrong and what to type)."""
    if "parents" in conf:
        stages = [name for name, (schema, _) in UNITS.items() if issubclass(schema, StageConf)]
        for name in set(conf["parents"]) - set(stages):
            near = difflib.get_close_matches(name, stages, n=1)
            yield (
                f"parents.{name}",
                f"no stage is called {name!r}. "
                + (f"Did you mean: 'parents.{near[0]}'?" if near else f"There are: {', '.join(stages)}"),
            )
    if "experiment" in conf and not re.fullmatch(r"[^./\s][^/\n]*", conf["experiment"]):
        yield (
            "experiment",
            f"{conf['experiment']!r} is to name a folder: no / in it, no . and no space at its beginning",
        )
    if "rate" in conf:
        given = {key: value for key, value in conf["rate"].items() if value is not None}
        if len(given) != 1:
            yield (
                "rate",
                f"exactly one of token_rate, stride and bitrate is given, here {given or 'none'}; set the others to null",
            )
    for section in ("encoder", "decoder"):
        if section in conf and conf[section]["width"] % (2 * conf[section]["heads"]):
            width, heads = conf[section]["width"], conf[section]["heads"]
            yield (
                f"{section}.width",
                f"{width} is no multiple of 2 x heads = {2 * heads} (rotary positions need an even head width)",
            )
    if unit == "vae":
        sizes = conf["codec"]["oobleck"]
        if conf["codec"]["source"] is None and sizes["encoder_hidden_size"] != 2 * sizes["decoder_input_channels"]:
            yield (
                "codec.oobleck.encoder_hidden_size",
                f"{sizes['encoder_hidden_size']} is not 2 x decoder_input_channels = "
                f"{2 * sizes['decoder_input_channels']}: the encoder ends with means and deviations",
            )
        if len(sizes["downsampling_ratios"]) != len(sizes["channel_multiples"]):
            yield "codec.oobleck.channel_multiples", "one is given for each of downsampling_ratios"
    if unit == "latents" and conf["codec"]["kind"] == "oobleck" and not conf["codec"]["source"]:
        yield "codec.source", "oobleck needs a hub id or a folder, as --codec.source=stabilityai/stable-audio-open-1.0"
    if unit == "latents" and conf["codec"]["mel"]["hop_length"] % conf["codec"]["mel"]["mel_hop"]:
        yield (
            "codec.mel.hop_length",
            "a latent frame holds a whole number of mel frames: hop_length is a multiple of mel_hop",
        )
    if "trainer" in conf and "max_steps" in conf["trainer"] and conf["trainer"]["max_steps"] < 1:
        yield "trainer.max_steps", f"{conf['trainer']['max_steps']} steps; at least 1 is allowed"
    if "quantizer" in conf:
        yield from _check_quantizer(conf["quantizer"])
    for key, low, high in _RANGES:
        value = _get(conf, key)
        if isinstance(value, int | float) and not low <= value <= high:
            yield key, f"{value} is outside {low} to {high}"
    if unit == "generate" and conf["n"] > 1 and conf["temperature"] == 0:
        yield "temperature", f"at 0 all {conf['n']} sounds would be the same; more than 0, or --n=1"
    if unit == "generation":
        yield from _check_generation(conf)
    if "corpus_weights" in conf:
        yield from _check_weights(conf["corpus_weights"], conf["data"]["corpora"])
    if "mixture" in conf:
        yield from _check_curriculum(conf)
        yield from _check_mixtures(conf)
        yield from _check_timestamps(conf["timestamps"])
    if unit == "evaluate" and conf["tasks"] is not None:
        yield from _check_tasks(conf["tasks"])
    if "batching" in conf and conf["batching"]["max_tokens"] > conf["batching"]["tokens_per_batch"]:
        most = conf["batching"]["tokens_per_batch"]
        yield (
            "batching.max_tokens",
            f"{conf['batching']['max_tokens']} is more than a batch holds: tokens_per_batch is {most}",
        )
    if unit == "reconstruct":
        yield from _check_signal(conf)
    if unit == "fewshot":
        yield from _check_fewshot(conf)
    if "prompts" in conf:
        for text in conf["prompts"]["text_to_sound"]:
            if "{caption}" not in text:
                yield "prompts.text_to_sound", f"{text!r} has no {{caption}} in it"


def _check_tasks(names: list[str]) -> Iterable[tuple[str, str]]:
    from conf import evaluation_tasks

    if not names or len(set(names)) < len(names):
        yield "tasks", f"{names}; one or more, each once, or null. There are: {', '.join(evaluation_tasks.names())}"
    for name in names:
        try:
            evaluation_tasks.task(name)
        except ValueError as error:
            yield "tasks", str(error).removeprefix("tasks: ")


def _check_fewshot(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if not conf["shots"] or min(conf["shots"]) < 1 or len(set(conf["shots"])) < len(conf["shots"]):
        yield (
            "shots",
            f"{conf['shots']}; one number of at least 1 or several different ones are allowed, as --shots=[1,5]",
        )
    known = ("shuffled_codes", "shuffled_labels")
    for name in conf["controls"]:
        if name not in known:
            yield "controls", f"no control is called {name!r}. {nearest(name, known)}"
    if len(set(conf["controls"])) < len(conf["controls"]):
        yield "controls", f"{conf['controls']}: each comes once"


def _check_signal(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    known = ("si_sdr", "pesq", "stoi")
    for name in conf["signal"]:
        if name not in known:
            yield "signal", f"no metric of sound against sound is called {name!r}. {nearest(name, known)}"
    if conf["signal"] and not conf["sound"]:
        yield "signal", f"{', '.join(conf['signal'])} need sound: type --sound=true, and --sound_steps=[10]"


def _check_generation(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    if conf["captions"] < 1:
        yield "captions", f"{conf['captions']}; at least 1 is allowed"
    if conf["seeds"] > 1 and conf["temperature"] == 0:
        yield (
            "temperature",
            f"at 0 all {conf['seeds']} sounds of a caption would be the same; more than 0, or --seeds=1",
        )
    if conf["recordings"] < conf["captions"]:
        yield (
            "recordings",
            f"{conf['recordings']} are fewer than captions={conf['captions']}; a caption's own recording is among them",
        )
    if not conf["probe_recordings"] and conf["embedder"] is None:
        yield "embedder", "without an embedder and with probe_recordings=0 nothing would be measured"


def _check_mixtures(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Of the stage and of each entry of its curriculum; what an entry says is told with the key `curriculum`."""
    named = [
        ("mixture", conf["mixture"]),
        *((f"curriculum {entry['name']}: mixture", entry["mixture"]) for entry in conf["curriculum"]),
    ]
    for place, mixture in named:
        key = place.split()[0]
        for name, weight in mixture.items():
            if not 0 <= weight <= 1000:
                yield key, f"{place}.{name} is {weight}; 0 to 1000 is allowed"
        if not any(mixture.values()):
            yield key, f"{place} has no weight above 0: nothing would be trained"
    if conf["text"]["files"] and not any(mixture["text"] for _, mixture in named):
        yield "text.files", "no mixture takes them: give mixture.text a weight, as --mixture.text=0.1"


def _check_weights(weights: dict[str, float], corpora: list[str]) -> Iterable[tuple[str, str]]:
    for name, weight in weights.items():
        if name not in corpora:
            yield "corpus_weights", f"data.corpora has no {name!r}. {nearest(name, corpora)}"
        if not 0 <= weight <= 1000:
            yield "corpus_weights", f"{name} weighs {weight}; 0 to 1000 is allowed"
    if corpora and not any(weights.get(name, 1) for name in corpora):
        yield "corpus_weights", "no corpus has a weight above 0: nothing would be trained"


def _check_curriculum(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    entries, corpora = conf["curriculum"], conf["data"]["corpora"]
    names = [entry["name"] for entry in entries]
    for number, entry in enumerate(entries):
        if missing := [key for key, value in entry.items() if value == "???"]:
            yield (
                "curriculum",
                f"entry {number + 1} says nothing of {', '.join(missing)}; every entry gives all of {', '.join(entry)}",
            )
        here = f"entry {entry['name']!r}"
        if entry["name"] in names[:number]:
            yield "curriculum", f"two entries are called {entry['name']!r}; each needs a name of its own"
        if entry["steps"] < 1:
            yield "curriculum", f"{here}: {entry['steps']} steps; at least 1 is allowed"
        for key in ("learning_rate", "embedding_learning_rate"):
            if entry[key] < 0:
                yield "curriculum", f"{here}: {key} is {entry[key]}; 0 or more is allowed"
        most = conf["batching"]["tokens_per_batch"]
        if entry["max_tokens"] is not None and not 1 <= entry["max_tokens"] <= most:
            yield (
                "curriculum",
                f"{here}: max_tokens is {entry['max_tokens']}; 1 to batching.tokens_per_batch={most} is allowed",
            )
        for name in set(entry["corpora"]) - set(corpora):
            yield "curriculum", f"{here}: data.corpora has no {name!r}. {nearest(name, corpora)}"
    total, most = sum(entry["steps"] for entry in entries), conf["trainer"]["max_steps"]
    if entries and total != most:
        yield (
            "curriculum",
            f"its steps add up to {total} and trainer.max_steps is {most}. Type --trainer.max_steps={total}",
        )


def _check_timestamps(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    step, most = conf["step"], conf["max_seconds"]
    if step < 0.01 or abs(100 * step - round(100 * step)) > 1e-6:
        yield "timestamps.step", f"{step} s; a whole number of hundredths is allowed, for times are written <|0.00|>"
    elif most is not None and (not 0 < most <= 3600 or abs(most / step - round(most / step)) > 1e-6):
        yield "timestamps.max_seconds", f"{most} s; a multiple of timestamps.step={step} up to 3600 is allowed"


def nearest(name: str, there: Iterable[str]) -> str:
    there = sorted(there)
    near = difflib.get_close_matches(name, there, n=1)
    return (
        f"Did you mean {near[0]!r}? There are: {', '.join(there)}"
        if near
        else f"There are: {', '.join(there) or 'none'}"
    )


def _check_quantizer(conf: dict[str, Any]) -> Iterable[tuple[str, str]]:
    kind, strides, levels = conf["kind"], conf["strides"], conf["levels"]
    if kind == "lexical" and not conf["words_from"]:
        yield (
            "quantizer.words_from",
            "lexical needs the LLM whose words are the codes, as --quantizer.words_from=smollm2-135m-instruct",
        )
    if kind == "residual" and (not strides or min(strides) < 1):
        yield "quantizer.strides", f"{strides}; one of at least 1 a level is allowed, as --quantizer.strides=[4,2,1]"
    elif kind == "residual" and any(coarse % fine for coarse, fine in pairwise(strides)):
        yield "quantizer.strides", f"{strides}: each must divide the one before it, as 4, 2, 1"
    if kind == "fsq" and (not levels or min(levels) < 2 or max(levels) > 1000):
        yield "quantizer.levels", f"{levels}; one dimension or more of 2 to 1000 values each is allowed"
    if conf["variational"] != "none" and kind not in ("vq", "residual"):
        yield (
            "quantizer.variational",
            f"{conf['variational']} is of the kinds vq and residual, here {kind}; set it to none",
        )


_RANGES = (
    ("ema_decay", 0.0, 1.0),
    ("quantizer.decay", 0.0, 1.0),
    ("flow.token_dropout", 0.0, 1.0),
    ("flow.logit_normal_share", 0.0, 1.0),
    ("quantizer.codebook_size", 2, 1 << 20),
    ("quantizer.words", 2, 1 << 20),
    ("quantizer.kl_weight", 0.0, 1e6),
    ("quantizer.temperature", 1e-4, 1e4),
    ("batch_size", 1, 1 << 20),
    ("crop_samples", 1, 1 << 30),
    ("discriminator_warmup", 0, 1 << 30),
    ("codec.oobleck.audio_channels", 1, 2),
    ("recordings_per_chunk", 1, 1 << 20),
    ("window_seconds", 0.1, 3600.0),
    ("lora.rank", 1, 4096),
    ("lora.dropout", 0.0, 1.0),
    ("caption_dropout", 0.0, 1.0),
    ("batching.max_tokens", 1, 1 << 30),
    ("batching.num_buckets", 1, 10_000),
    ("batching.questions_together", 1, 10_000),
    ("data.num_workers", 0, 1024),
    ("checkpoints.every_n_steps", 1, 1 << 30),
    ("checkpoints.keep", 1, 1000),
    ("limits.seconds", 1.0, 1e9),
    ("limits.margin", 0.0, 1e6),
    ("limits.nan_in_a_row", 1, 10_000),
    ("validation_fraction", 0.0, 0.9),
    ("max_new_tokens", 1, 1 << 20),
    ("examples.clips", 0, 1000),
    ("examples.answers", 0, 1000),
    ("examples.seconds", 0.1, 3600.0),
    ("examples.megabytes", 0.0, 1000.0),
    ("ways", 2, 1000),
    ("repeats", 1, 100),
    ("episodes", 1, 1 << 20),
    ("max_codes", 1, 1 << 20),
    ("n", 1, 1000),
    ("speed_repeats", 0, 1000),
    ("seeds", 1, 1000),
    ("recordings", 1, 1 << 20),
    ("probe_recordings", 0, 1 << 24),
    ("seconds_max", 0.01, 3600.0),
    ("temperature", 0.0, 100.0),
    ("top_p", 1e-6, 1.0),
    ("guidance", 0.0, 100.0),
)


def _get(conf: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        if not isinstance(conf, dict) or part not in conf:
            return None
        conf = conf[part]
    return conf
