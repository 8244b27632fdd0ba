"""`stage encode` and `stage decode`: a sound to codes, as JSON, and back."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from conf.errors import UsageError
from datamodules.atomic_files import write_whole
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse

FIELDS = ("codes", "token_rate", "codebook_size", "levels", "num_samples", "sample_rate", "tokenizer")


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser("encode", parents=[model_verbs.computes()], help="a sound to codes, as JSON")
    verb.add_argument("clip", metavar="CLIP")
    verb.add_argument("--out", type=os.path.expanduser, metavar="FILE", help="else they are printed")
    verb.add_argument("--force", action="store_true", help="replace an existing file")
    verb.set_defaults(verb=encode)

    verb = subparsers.add_parser("decode", parents=[model_verbs.writes_sound()], help="those codes to a sound")
    verb.add_argument("codes", metavar="CODES.json")
    verb.set_defaults(verb=decode)


def encode(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    out = Path(arguments.out) if arguments.out else None
    if out is not None:
        model_verbs.check_free([out], arguments.force)
    clip = Path(arguments.clip)
    if not clip.is_file():
        raise UsageError(f"no file {clip}")
    tokenizer = model_verbs.load(arguments, language=False).tokenizer
    from stages.hub import sound_files

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
    (target,) = model_verbs.sound_targets(arguments, 1)
    encoded = _read(Path(arguments.codes))
    folders, tokenizer, _ = model_verbs.load(arguments, language=False)
    if encoded["tokenizer"] != tokenizer.hash:
        raise UsageError(
            f"{arguments.codes} was made by the tokenizer {encoded['tokenizer'][:12]}, and {folders.tokenizer} is "
            f"{tokenizer.hash[:12]}: its codes mean other sounds. Name the right one with --experiment or --model"
        )
    codes, samples = encoded["codes"], encoded["num_samples"]
    least, most = tokenizer.num_samples(len(codes))
    if encoded["sample_rate"] != tokenizer.sample_rate or not least <= samples <= most:
        raise UsageError(
            f"{arguments.codes} says {samples} samples at {encoded['sample_rate']} Hz; its {len(codes)} codes stand for "
            f"{least} to {most} at {tokenizer.sample_rate}. `stage encode CLIP --out codes.json` writes what belongs together"
        )
    model_verbs.write_sound(target, tokenizer, codes, samples, 0, arguments.spectrogram)
    return 0


def _read(path: Path) -> dict[str, Any]:
    """Raises UsageError for a file that `stage encode` did not write."""
    try:
        encoded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as codes ({error}). `stage encode CLIP --out codes.json` writes them"
        ) from error
    missing = [key for key in FIELDS if not isinstance(encoded, dict) or key not in encoded]
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
