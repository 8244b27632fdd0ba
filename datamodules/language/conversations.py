"""What an epoch holds: cached cuts and text files to conversations, turns of text and sound.

    caption ──────► sound to text, and text to sound (the paper's two directions)
    questions ────► talks on one sound that share its tokens in one sequence, each blind to the others
    conversation ─► several turns and several sounds, as a corpus tells them
    text files ───► no sound: the LLM keeps its text

Shares, wordings and orders hang on an item's id alone: the same on every rank and every run.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.corpora.turns import SELF, read_turns
from datamodules.errors import DataError

Segment = str | list[int]  # text, or the codes of a sound
Turn = tuple[str, list[Segment]]  # ("user" | "assistant", segments); ("text", [running text]) alone


class Conversation(NamedTuple):
    id: str
    kind: str  # a field of Mixture
    source: str
    talks: list[list[Turn]]  # several share their beginning, the sound, and are blind to each other


class Mixture(NamedTuple):
    """How often an item of each kind comes in one epoch: 1 once, 0 never, 2 twice, 0.25 for a quarter of the items."""

    sound_to_text: float
    text_to_sound: float
    question: float
    conversation: float
    text: float


def conversations(
    cuts: Iterable[Any],
    mixture: Mixture,
    sound_to_text: Sequence[str],
    text_to_sound: Sequence[str],
    questions_together: int,
    kinds: Sequence[str] = (),
    caption_dropout: float = 0.0,
    sounds: Mapping[str, Sequence[int]] | None = None,
    weights: Mapping[str, float] = {},
) -> list[Conversation]:
    """All conversations with sound of one epoch; of the questions those of `kinds`, or all where it is empty. A cut's do not hang on its neighbours.

    caption_dropout: share of the text-to-sound items whose caption is empty, for classifier-free guidance (Ho and Salimans 2022,
    arXiv:2207.12598). sounds: codes by recording, that the cuts' conversations name beside their own. Raises DataError for one
    that is not there. weights: corpus -> what its items' weights in the mixture are multiplied by; 1 for others.
    """
    found: list[Conversation] = []
    whole = mixture
    for cut in cuts:
        scale = weights.get(cut.custom["corpus"], 1.0) if weights else 1.0
        mixture = Mixture(*(weight * scale for weight in whole))
        codes, source = list(cut.custom["codes"]), cut.custom["source"]
        told = [sup for sup in cut.supervisions if sup.custom["task"] == "conversation"]
        captions = [sup for sup in cut.supervisions if sup.custom["task"] == "caption"]
        questions = [sup for sup in cut.supervisions if is_asked(sup, kinds)]
        for sup in captions:
            for copy in range(copies(mixture.sound_to_text, f"{sup.id}>text")):
                prompt = sound_to_text[_number(f"{sup.id}>{copy}") % len(sound_to_text)]
                turn = [("user", [codes, f"\n{prompt}"]), ("assistant", [sup.text])]
                found.append(Conversation(f"{sup.id}-text-{copy}", "sound_to_text", source, [turn]))
            for copy in range(copies(mixture.text_to_sound, f"{sup.id}>sound")):
                template = text_to_sound[_number(f"{sup.id}<{copy}") % len(text_to_sound)]
                dropped = _chosen(caption_dropout, f"{sup.id}<{copy}~")
                prompt = without_caption(template) if dropped else template.format(caption=sup.text)
                turn = [("user", [prompt]), ("assistant", [codes])]
                found.append(Conversation(f"{sup.id}-sound-{copy}", "text_to_sound", source, [turn]))
        for copy in range(max(copies(mixture.question, f"{sup.id}?") for sup in questions) if questions else 0):
            asked = [sup for sup in questions if copy < copies(mixture.question, f"{sup.id}?")]
            random.Random(_number(f"{cut.id}?{copy}")).shuffle(asked)
            for begin in range(0, len(asked), questions_together):
                talks: list[list[Turn]] = [
                    [("user", [codes, f"\n{sup.custom['question']}"]), ("assistant", [sup.custom["answer"]])]
                    for sup in asked[begin : begin + questions_together]
                ]
                found.append(Conversation(f"{cut.id}-questions-{copy}-{begin}", "question", source, talks))
        for sup in told:
            talk = None
            for copy in range(copies(mixture.conversation, f"{sup.id}:")):
                talk = talk or _told(sup, {**(sounds or {}), SELF: codes})
                found.append(Conversation(f"{sup.id}-turns-{copy}", "conversation", source, [talk]))
    return found


def without_caption(template: str) -> str:
    """The prompt of a sound that nothing is said about: what `caption_dropout` trains, and guidance takes away from the others."""
    return template.format(caption="").strip()


def texts(files: Sequence[str | Path], weight: float) -> list[Conversation]:
    """Items without sound. A file is JSONL: {"text": running text}, or {"messages": [{"role": "user", "content": "..."}, ...]}, one a line.

    Raises DataError that names the file and the line.
    """
    found = []
    for path in map(Path, files):
        check_text_file(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                found += text_items(path, number, line, weight)
    return found


def check_text_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            f'text.files: {path}: no such file. It is JSONL, one {{"text": ...}} or {{"messages": [...]}} a line'
        )


def text_items(path: Path, number: int, line: bytes, weight: float) -> list[Conversation]:
    """The items of one line, `number` from 1; none of an empty one."""
    if not line.strip():
        return []
    text = line.rstrip(b"\r\n").decode()
    turns = _text(text, f"{path}, line {number}")
    name = f"text-{hashlib.sha256(text.encode()).hexdigest()[:12]}-{number}"
    return [
        Conversation(f"{path.stem}-{name}-{copy}", "text", str(path), [turns]) for copy in range(copies(weight, name))
    ]


def is_asked(supervision: Any, kinds: Sequence[str]) -> bool:
    """Whether it is a question of one of the kinds; of any where `kinds` is empty."""
    return supervision.custom["task"] == "question" and (not kinds or supervision.custom["kind"] in kinds)


def copies(weight: float, name: str) -> int:
    """How often an item of this weight comes in an epoch: its whole part, and once more for the fractional share of the names."""
    whole = int(weight)
    return whole + _chosen(weight - whole, name)


def _told(supervision: Any, sounds: Mapping[str, Sequence[int]]) -> list[Turn]:
    turns: list[Turn] = []
    for turn in supervision.custom["turns"]:
        segments: list[Segment] = []
        for part in turn["content"]:
            if isinstance(part, str):
                segments.append(part)
            elif part["sound"] in sounds:
                segments.append(list(sounds[part["sound"]]))
            else:
                raise DataError(
                    f"{supervision.id}: its conversation names the sound {part['sound']!r}, which this split of the corpora does not "
                    f"have. Prepare the recording too, or write {SELF!r} for the conversation's own"
                )
        turns.append((turn["role"], segments))
    return turns


def _text(line: str, where: str) -> list[Turn]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: no JSON ({error})") from None
    keys = {"text", "messages"} & set(values) if isinstance(values, dict) else set()
    if len(keys) != 1:
        raise DataError(f"{where}: one of the keys 'text' and 'messages' is expected, here {line[:60]!r}")
    if "messages" in keys:
        turns = read_turns(values["messages"], where)
        if any(not isinstance(part, str) for turn in turns for part in turn["content"]):
            raise DataError(
                f"{where}: a text item holds no sound; conversations with sound belong to a corpus (column conversation)"
            )
        return [(turn["role"], list(turn["content"])) for turn in turns]
    if not isinstance(values["text"], str) or not values["text"].strip():
        raise DataError(f"{where}: 'text' is a string that is not empty, here {values['text']!r}")
    return [("text", [values["text"]])]


def _chosen(share: float, name: str) -> bool:
    return _number(name) % 10_000 < 10_000 * share


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
