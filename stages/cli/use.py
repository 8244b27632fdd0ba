"""What a person does with a trained model: ask, generate, encode, decode, export. No torch until the model is found.

Each finds it by --experiment, by --model (an export or a run folder), or takes the only experiment that is trained.
"""

import argparse
import gc
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conf
from conf.errors import UsageError
from conf.schema import keys
from conf.sections.evaluation import AskConf, GenerateConf
from stages.cli.arguments import refuse
from stages.hub import export_format, find_model
from stages.runs.files import write_whole

if TYPE_CHECKING:
    import torch

    from models.language.vocabulary import Turn
    from stages.hub.sound_tokenizer import SoundTokenizer
    from stages.hub.trained_model import TrainedModel

log = logging.getLogger(__name__)
UNITS = ("ask", "generate")  # of conf/: their options' values and reasons
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")  # that are written
BATCH = 8  # sounds generated at a time
CODES = ("codes", "token_rate", "codebook_size", "levels", "num_samples", "sample_rate", "tokenizer")


def add(subparsers: Any) -> None:
    """The verbs' parsers, to the command's."""
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--experiment", metavar="NAME", help="of a finished openaqa or caption")
    where.add_argument(
        "--model",
        type=os.path.expanduser,
        metavar="DIR",
        help="a folder of `stage export`, or a run folder as runs/demo/openaqa",
    )
    where.add_argument("--runs", type=os.path.expanduser, metavar="DIR", help="where the experiments lie")
    computes = argparse.ArgumentParser(add_help=False)
    computes.add_argument("--device", help="as cuda:1, or cpu; the first GPU where there is one")
    writes = argparse.ArgumentParser(add_help=False)
    writes.add_argument(
        "--out", type=os.path.expanduser, required=True, metavar="FILE", help=f"one of {', '.join(SUFFIXES)}"
    )
    writes.add_argument("--spectrogram", action="store_true", help="a PNG beside each sound")
    writes.add_argument("--force", action="store_true", help="replace existing files")

    verb = subparsers.add_parser("ask", parents=[where, computes], help="a question about a sound", allow_abbrev=False)
    verb.add_argument(
        "words", nargs="+", metavar="CLIP", help="one clip or several, then the question; without one a conversation"
    )
    _option(verb, "ask", "max_new_tokens")
    _option(verb, "ask", "temperature")
    _option(verb, "ask", "seed")
    verb.set_defaults(verb=ask)

    verb = subparsers.add_parser(
        "generate", parents=[where, computes, writes], help="sound from words", allow_abbrev=False
    )
    verb.add_argument("caption", metavar="CAPTION")
    _option(verb, "generate", "n")
    _option(verb, "generate", "seconds_max")
    _option(verb, "generate", "temperature")
    _option(verb, "generate", "top_p")
    _option(verb, "generate", "guidance")
    _option(verb, "generate", "seed")
    verb.set_defaults(verb=generate)

    verb = subparsers.add_parser(
        "encode", parents=[where, computes], help="a sound to codes, as JSON", allow_abbrev=False
    )
    verb.add_argument("clip", metavar="CLIP")
    verb.add_argument("--out", type=os.path.expanduser, metavar="FILE", help="else they are printed")
    verb.add_argument("--force", action="store_true", help="replace an existing file")
    verb.set_defaults(verb=encode)

    verb = subparsers.add_parser(
        "decode", parents=[where, computes, writes], help="those codes to a sound", allow_abbrev=False
    )
    verb.add_argument("codes", metavar="CODES.json")
    verb.set_defaults(verb=decode)

    verb = subparsers.add_parser(
        "export", parents=[where], help="what plain transformers, or peft, loads", allow_abbrev=False
    )
    verb.add_argument("--to", type=os.path.expanduser, required=True, metavar="DIR")
    verb.add_argument("--adapter", action="store_true", help="LoRA and the new rows alone, as peft keeps them")
    verb.add_argument("--force", action="store_true", help="replace an earlier export")
    verb.set_defaults(verb=export)


def ask(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    settings: AskConf = _settings("ask", arguments)
    clips, question = _clips(arguments.words)
    trained = _trained(arguments)
    device = _device(arguments.device)
    from models.language.vocabulary import Turn
    from stages.cli import sound_files
    from stages.hub import trained_model
    from stages.hub.sound_tokenizer import SoundTokenizer

    _quiet()
    tokenizer = SoundTokenizer.from_pretrained(trained.tokenizer).to(device)
    sounds = [sound_files.read(clip, tokenizer.sample_rate, tokenizer.channels) for clip in clips]
    heard: list[Any] = [part for codes in tokenizer.encode(sounds, tokenizer.sample_rate) for part in (codes, "\n")]
    assert trained.language is not None
    model = trained_model.load(trained.language, device)
    if question is not None:
        print(_answer(model, [Turn("user", [*heard, question])], settings))
        return 0
    if sys.stdin.isatty():
        import readline  # noqa: F401  what input() edits lines with

        print("ask; an empty line ends it")
    turns: list[Turn] = []
    while question := _line():
        turns.append(Turn("user", [question] if turns else [*heard, question]))
        answer = _answer(model, turns, settings)
        print(answer, flush=True)
        turns.append(Turn("assistant", [answer]))
    return 0


def generate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    settings: GenerateConf = _settings("generate", arguments)
    if not arguments.caption.strip():
        raise UsageError('an empty caption; type what shall be heard, as   stage generate "a dog barks" --out dog.wav')
    targets = _targets(arguments, settings.n)
    trained = _trained(arguments)
    device = _device(arguments.device)
    from callbacks.progress import ProgressLine
    from stages.hub import trained_model
    from stages.hub.sound_tokenizer import SoundTokenizer
    from stages.hub.text_to_sound import text_to_sound

    _quiet()
    tokenizer = SoundTokenizer.from_pretrained(trained.tokenizer).to(device)
    assert trained.language is not None
    model = trained_model.load(trained.language, device)
    seeds = [settings.seed + number for number in range(settings.n)]
    most = tokenizer.num_codes(settings.seconds_max)
    line = ProgressLine("generate", len(seeds), "sounds", len(seeds) > 1)
    line.start()
    codes: list[list[int]] = []
    try:
        for start in range(0, len(seeds), BATCH):
            few = seeds[start : start + BATCH]
            codes += text_to_sound(model, [arguments.caption] * len(few), most, few, settings)
            line.update(len(codes))
    finally:
        line.stop()
    for target, one, seed in zip(targets, codes, seeds, strict=True):
        longest = max(1, int(settings.seconds_max * tokenizer.sample_rate))  # the last code may reach beyond it
        _write_sound(target, tokenizer, one, seed, arguments.spectrogram, longest)
    if cut := sum(len(one) + len(model.vocabulary.levels) > most for one in codes):
        log.warning("%d of %d sounds reached --seconds_max=%g", cut, len(codes), settings.seconds_max)
    return 0


def encode(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        _check_free([out], arguments.force)
    clip = Path(arguments.clip)
    if not clip.is_file():
        raise UsageError(f"no file {clip}")
    trained = _trained(arguments, language=False)
    device = _device(arguments.device)
    from stages.cli import sound_files
    from stages.hub.sound_tokenizer import SoundTokenizer

    tokenizer = SoundTokenizer.from_pretrained(trained.tokenizer).to(device)
    sound = sound_files.read(clip, tokenizer.sample_rate, tokenizer.channels)
    encoded = {
        "codes": tokenizer.encode([sound], tokenizer.sample_rate)[0],
        "token_rate": tokenizer.token_rate,
        "codebook_size": tokenizer.codebook_size,
        "levels": list(tokenizer.facts["levels"]),
        "num_samples": sound.shape[1],
        "sample_rate": tokenizer.sample_rate,
        "tokenizer": tokenizer.hash,
    }
    text = json.dumps(encoded)
    if out is None:
        print(text)
        return 0
    write_whole(out, text + "\n")
    print(f"{out}: {len(encoded['codes'])} codes, {sound.shape[1] / tokenizer.sample_rate:.2f} s")
    return 0


def decode(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    (target,) = _targets(arguments, 1)
    encoded = _read_codes(Path(arguments.codes))
    trained = _trained(arguments, language=False)
    device = _device(arguments.device)
    from stages.hub.sound_tokenizer import SoundTokenizer

    tokenizer = SoundTokenizer.from_pretrained(trained.tokenizer).to(device)
    if encoded["tokenizer"] != tokenizer.hash:
        raise UsageError(
            f"{arguments.codes} was made by the tokenizer {encoded['tokenizer'][:12]}, and {trained.tokenizer} is "
            f"{tokenizer.hash[:12]}: its codes mean other sounds. Name the right one with --experiment or --model"
        )
    samples, most = encoded["num_samples"], tokenizer.num_samples(len(encoded["codes"]))
    if encoded["sample_rate"] != tokenizer.sample_rate or not most[0] <= samples <= most[1]:
        raise UsageError(
            f"{arguments.codes} says {samples} samples at {encoded['sample_rate']} Hz; its {len(encoded['codes'])} codes stand for "
            f"{most[0]} to {most[1]} at {tokenizer.sample_rate}. `stage encode CLIP --out codes.json` writes what belongs together"
        )
    _write_sound(target, tokenizer, encoded["codes"], 0, arguments.spectrogram, samples)
    return 0


def export(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    trained = _trained(arguments)
    export_format.check_target(Path(arguments.to), arguments.force)
    from stages.hub import export as exporting

    _quiet()
    exporting.export(trained, Path(arguments.to), arguments.adapter, arguments.force)
    print(f"{arguments.to}: see its README.md")
    return 0


def _option(verb: argparse.ArgumentParser, unit: str, key: str) -> None:
    """An option whose value, type and help stand in conf/."""
    spellings = dict.fromkeys((f"--{key.replace('_', '-')}", f"--{key}"))
    text = keys(unit)[key].metadata["help"]
    verb.add_argument(*spellings, dest=key, metavar="VALUE", help=f"{text} (`stage show {unit}`)")


def _settings(unit: str, arguments: argparse.Namespace) -> Any:
    """The unit's dataclass."""
    given = {key: getattr(arguments, key) for key in vars(conf.compose(unit).conf)}
    return conf.compose(unit, overrides=[f"{key}={value}" for key, value in given.items() if value is not None]).conf


def _trained(arguments: argparse.Namespace, language: bool = True) -> find_model.ModelFolders:
    base = conf.compose("caption").conf
    return find_model.find(
        arguments.runs or base.runs, base.experiment, arguments.experiment, arguments.model, language
    )


def _device(name: str | None) -> "torch.device":
    """As `trained_model.choose_device`. It is called before the long imports, and makes them cheaper."""
    gc.set_threshold(100_000, 50, 100)  # else the collector takes a fifth of the import of transformers
    # idle threads sleep: on a busy machine they else spin for three times as long as they compute; read when torch is
    # imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from stages.hub.trained_model import choose_device

    return choose_device(name)


def _clips(words: Sequence[str]) -> tuple[list[Path], str | None]:
    """The clips, and the question behind them, if any. Raises UsageError for a clip that does not exist."""
    last = Path(words[-1])
    asked = len(words) > 1 and not (last.suffix.lower() in SUFFIXES and " " not in words[-1]) and not _is_file(last)
    clips = [Path(word) for word in (words[:-1] if asked else words)]
    for clip in clips:
        if clip.is_dir():
            raise UsageError(f"{clip} is a folder; a sound file is asked about")
        if not _is_file(clip) and _is_file(last):
            raise UsageError(f'the clips come first, then the question:   stage ask {last} "{clip}"')
        if not _is_file(clip):
            raise UsageError(f'no file {clip}. Type   stage ask CLIP "QUESTION", the question in quotation marks')
    return clips, words[-1] if asked else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a question may be longer than a file name
        return False


def _line() -> str:
    """The next line of a conversation; empty at its end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _answer(model: "TrainedModel", turns: Sequence["Turn"], settings: AskConf) -> str:
    from models.language.generation import Sampling, generate, pad_left
    from stages.hub.text_to_sound import check_context

    words = model.vocabulary
    ids, mask = pad_left([words.render(turns, generate=True).input_ids], words.pad_id)
    check_context(
        model, ids.shape[1], settings.max_new_tokens, "ask less, begin anew, or type a smaller --max-new-tokens"
    )
    sampling = Sampling(settings.temperature, 1.0, [settings.seed]) if settings.temperature else None
    answer = generate(model.lm, words, ids, mask, settings.max_new_tokens, "text", sampling)[0]
    if len(answer) == settings.max_new_tokens:  # its end would have been one more
        log.warning("the answer stopped at --max_new_tokens=%d", len(answer))
    text = words.decode(answer)
    if not text.strip():
        print("the answer is empty: the model wrote no visible text", file=sys.stderr)
    return text


def _targets(arguments: argparse.Namespace, n: int) -> list[Path]:
    """The sound files to write. Raises UsageError for one that cannot be, before anything long is begun."""
    out = Path(arguments.out)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out}: a sound file ends with {', '.join(SUFFIXES)}")
    targets = [out] if n == 1 else [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in range(1, n + 1)]
    pictures = [path.with_suffix(".png") for path in targets] if arguments.spectrogram else []
    _check_free([*targets, *pictures], arguments.force)
    return targets


def _check_free(paths: Sequence[Path], force: bool) -> None:
    for path in paths:
        if not path.absolute().parent.is_dir():
            raise UsageError(f"--out {path}: no folder {path.parent}")
        if path.exists() and not force:
            raise UsageError(f"{path} exists; --force replaces it")


def _write_sound(
    target: Path,
    tokenizer: "SoundTokenizer",
    codes: list[int],
    seed: int,
    picture: bool,
    num_samples: int | None = None,
) -> None:
    from stages.cli import sound_files

    sound = tokenizer.decode([codes], None if num_samples is None else [num_samples], seed=seed)[0].cpu()
    note = sound_files.write(target, sound, tokenizer.sample_rate)
    print(f"{target}: {sound.shape[1] / tokenizer.sample_rate:.2f} s, {len(codes)} codes{note}")
    if picture:
        sound_files.write_spectrogram(target.with_suffix(".png"), sound, tokenizer.sample_rate)


def _read_codes(path: Path) -> dict[str, Any]:
    """Raises UsageError for a file that `stage encode` did not write."""
    try:
        encoded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as codes ({error}). `stage encode CLIP --out codes.json` writes them"
        ) from error
    missing = [key for key in CODES if not isinstance(encoded, dict) or key not in encoded]
    if missing:
        raise UsageError(f"{path} has no {', '.join(missing)}. `stage encode CLIP --out {path}` writes what is needed")
    size = encoded["codebook_size"]
    wrong = [code for code in encoded["codes"] if not (isinstance(code, int) and 0 <= code < size)]
    if wrong or not encoded["codes"] or len(encoded["codes"]) % len(encoded["levels"]):
        what = f"holds {wrong[0]!r}" if wrong else f"has {len(encoded['codes'])} codes"
        raise UsageError(
            f"{path} {what}; one or more codes from 0 to {size - 1} are allowed, in blocks of {len(encoded['levels'])}"
        )
    return encoded


def _quiet() -> None:
    """transformers' bars and hints, which do not concern who asks."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
