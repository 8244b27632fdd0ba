"""`stage ask`: a question about a sound, or a conversation about it."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import UsageError
from conf.sections.evaluation import AskConf
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse

if TYPE_CHECKING:
    from models.language.vocabulary import Turn
    from stages.hub.trained_model import TrainedModel

log = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser("ask", parents=[model_verbs.computes()], help="a question about a sound")
    verb.add_argument(
        "words", nargs="+", metavar="CLIP", help="one clip or several, then the question; without one a conversation"
    )
    model_verbs.add_keys(verb, "ask")
    verb.set_defaults(verb=ask)


def ask(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    settings: AskConf = model_verbs.settings("ask", arguments)
    clips, question = _clips(arguments.words)
    loaded = model_verbs.load(arguments)
    from models.language.vocabulary import Turn
    from stages.hub import sound_files

    tokenizer = loaded.tokenizer
    sounds = [sound_files.read(clip, tokenizer.sample_rate, tokenizer.channels) for clip in clips]
    heard: list[Any] = [part for codes in tokenizer.encode(sounds, tokenizer.sample_rate) for part in (codes, "\n")]
    model = loaded.language()
    if question is not None:
        print(answer_text(model, [Turn("user", [*heard, question])], settings))
        return 0
    if sys.stdin.isatty():
        import readline  # noqa: F401  what input() edits lines with

        print("ask; an empty line ends it")
    turns: list[Turn] = []
    while question := _line():
        turns.append(Turn("user", [question] if turns else [*heard, question]))
        answer = answer_text(model, turns, settings)
        print(answer, flush=True)
        turns.append(Turn("assistant", [answer]))
    return 0


def _clips(words: Sequence[str]) -> tuple[list[Path], str | None]:
    """The clips, and the question behind them, if any. Raises UsageError for a clip that does not exist."""
    last = Path(words[-1])
    is_clip = _is_file(last) or (last.suffix.lower() in model_verbs.SUFFIXES and " " not in words[-1])
    asked = len(words) > 1 and not is_clip
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


def answer_text(model: "TrainedModel", turns: Sequence["Turn"], settings: AskConf) -> str:
    from stages.hub.text_answers import Answering, check_prompt, text_answers

    most = settings.max_new_tokens
    check_prompt(model, turns, most, "ask less, begin anew, or type a smaller --max-new-tokens")
    (answer,) = text_answers(model, [Answering(turns, settings.seed, most)], settings)
    if answer.is_cut:  # its end would have been one more
        log.warning("the answer stopped at --max_new_tokens=%d", answer.num_tokens)
    if not answer.text.strip():
        log.warning("the answer is empty: the model wrote no visible text")
    return answer.text
