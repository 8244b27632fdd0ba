"""Cached cuts and lines of text files to conversations, turns of text and sound.

    caption ──────► sound to text, and text to sound (the paper's two directions)
    questions ────► several dialogues on one sound that share its tokens in one sequence, each blind to the others
    conversation ─► several turns and several sounds, as the corpus has them
    labels ───────► several sounds in a row in one text, each with its label (examples.py)
    text files ───► no sound: the LLM keeps its text

How often an item comes, its wording and its order depend on its id alone: the same on every rank and every run.
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.corpora.turns import SELF, read_turns
from datamodules.cuts import Cut, Supervision, captions, questions
from datamodules.errors import DataError
from datamodules.hashing import digest, hash_number, in_share

Segment = str | list[int]  # text, or the codes of a sound
# ("user" | "assistant", segments), or parts of a running text alone: (TEXT | CONTEXT, segments)
Turn = tuple[str, list[Segment]]

TEXT, CONTEXT = "text", "context"  # a part of a running text that is trained, and one that is read alone
PAIR = "pair"


class Conversation(NamedTuple):
    id: str
    kind: str  # a field of Mixture, or PAIR: answers that are compared (answer_pairs.py)
    source: str
    dialogues: list[list[Turn]]  # several share their beginning, the sound, and are blind to each other
    caption: str | None = None  # of an item from text to sound; "" where it was dropped
    tells_seconds: bool = False  # its prompt says how long its sound is


class Mixture(NamedTuple):
    """How often an item of each kind comes in one epoch: 1 once, 0 never, 2 twice, 0.25 for a quarter of the items."""

    sound_to_text: float
    text_to_sound: float
    question: float
    conversation: float
    text: float
    examples: float = 0.0


class Prompts(NamedTuple):
    """How captions and questions become conversations."""

    sound_to_text: Sequence[str]  # what a caption answers; one is taken by the hash of its id
    text_to_sound: Sequence[str]  # with {caption}, and {seconds} where the sound's length is told
    questions_together: int  # dialogues in one sequence at most
    kinds: Sequence[str] = ()  # of question; all where it is empty
    # share of the text-to-sound items whose caption is empty, for classifier-free guidance (Ho and Salimans 2022,
    # arXiv:2207.12598)
    caption_dropout: float = 0.0
    text_to_sound_labels: int | None = None  # text-to-sound items are of cuts with at most so many labels; None: of all
    labels_before_sound: bool = False  # a sound that is asked for has its labels in words before it


def conversations(
    cuts: Iterable[Cut],
    mixture: Mixture,
    prompts: Prompts,
    sounds: Mapping[str, Sequence[int]] | None = None,
    weights: Mapping[str, float] = {},
) -> list[Conversation]:
    """All conversations with sound of one epoch. Those of a cut do not depend on its neighbours.

    sounds: codes by cut id, for conversations that name other recordings. weights: corpus -> factor of all of its
    items' weights in the mixture, 1 for others. Raises DataError for a sound that is not available.
    """
    made: list[Conversation] = []
    for cut in cuts:
        factor = weights.get(cut.custom["corpus"], 1.0) if weights else 1.0
        scaled = Mixture(*(weight * factor for weight in mixture))
        codes = list(cut.custom["codes"])
        for caption in captions(cut):
            made += _of_caption(cut, caption, codes, scaled, prompts)
        made += _of_questions(cut, codes, scaled.question, prompts)
        for supervision in cut.supervisions:
            if supervision.custom["task"] == "conversation":
                made += _of_turns(cut, supervision, codes, sounds or {}, scaled)
    return made


def _of_caption(
    cut: Cut, caption: Supervision, codes: list[int], mixture: Mixture, prompts: Prompts
) -> Iterator[Conversation]:
    source, text = cut.custom["source"], str(caption.text)
    for copy in range(copies(mixture.sound_to_text, f"{caption.id}>text")):
        prompt = prompts.sound_to_text[hash_number(f"{caption.id}>{copy}") % len(prompts.sound_to_text)]
        dialogue: list[Turn] = [("user", [codes, f"\n{prompt}"]), ("assistant", [text])]
        yield Conversation(f"{caption.id}-text-{copy}", "sound_to_text", source, [dialogue])
    most = prompts.text_to_sound_labels
    is_asked_for = most is None or len(cut.custom.get("labels") or []) <= most
    for copy in range(copies(mixture.text_to_sound if is_asked_for else 0.0, f"{caption.id}>sound")):
        template = prompts.text_to_sound[hash_number(f"{caption.id}<{copy}") % len(prompts.text_to_sound)]
        dropped = in_share(prompts.caption_dropout, f"{caption.id}<{copy}~")
        asked = "" if dropped else text
        words = label_words(cut) if prompts.labels_before_sound and not dropped else ""
        request = sound_request(template, asked, cut.duration)
        dialogue = [("user", [request]), ("assistant", sound_answer(words, codes))]
        tells_seconds = "{seconds}" in template
        yield Conversation(f"{caption.id}-sound-{copy}", "text_to_sound", source, [dialogue], asked, tells_seconds)


def _of_questions(cut: Cut, codes: list[int], weight: float, prompts: Prompts) -> Iterator[Conversation]:
    asked = [(question, copies(weight, f"{question.id}?")) for question in questions(cut, prompts.kinds)]
    for copy in range(max((count for _, count in asked), default=0)):
        chosen = [question for question, count in asked if copy < count]
        random.Random(hash_number(f"{cut.id}?{copy}")).shuffle(chosen)
        for begin in range(0, len(chosen), prompts.questions_together):
            dialogues: list[list[Turn]] = [
                [("user", [codes, f"\n{question.custom['question']}"]), ("assistant", [question.custom["answer"]])]
                for question in chosen[begin : begin + prompts.questions_together]
            ]
            yield Conversation(f"{cut.id}-questions-{copy}-{begin}", "question", cut.custom["source"], dialogues)


def _of_turns(
    cut: Cut, supervision: Supervision, codes: list[int], sounds: Mapping[str, Sequence[int]], mixture: Mixture
) -> Iterator[Conversation]:
    count = copies(mixture.conversation, f"{supervision.id}:")
    dialogue = _dialogue(supervision, codes, sounds) if count else []
    for copy in range(count):
        yield Conversation(f"{supervision.id}-turns-{copy}", "conversation", cut.custom["source"], [dialogue])


def _dialogue(supervision: Supervision, self_codes: list[int], sounds: Mapping[str, Sequence[int]]) -> list[Turn]:
    turns: list[Turn] = []
    for turn in supervision.custom["turns"]:
        segments: list[Segment] = []
        for part in turn["content"]:
            if isinstance(part, str):
                segments.append(part)
                continue
            # `get` reads the sound from the cache once, `in` would read it too
            codes = self_codes if part["sound"] == SELF else sounds.get(part["sound"])
            if codes is None:
                raise DataError(
                    f"{supervision.id}: its conversation names the sound {part['sound']!r}, which this split of the "
                    f"corpora does not have. Prepare the recording too, or write {SELF!r} for the conversation's own"
                )
            segments.append(list(codes))
        turns.append((turn["role"], segments))
    return turns


def sound_request(template: str, caption: str, seconds: float) -> str:
    """The prompt of a sound of this length; without a caption what `caption_dropout` trains, and guidance subtracts.

    template: with {caption}, and {seconds} where the LLM is told the length.
    """
    prompt = template.format(caption=caption, seconds=f"{seconds:.1f}")
    return prompt if caption else prompt.strip()


def sound_answer(words: str, codes: list[int]) -> list[Segment]:
    """What the assistant writes where a sound is asked for. words: before it; "": none."""
    return [words, codes] if words else [codes]


def label_words(cut: Cut) -> str:
    """Its labels, as the answer to a question about them; "" where it has none."""
    return "; ".join(cut.custom.get("labels") or [])


def text_conversations(path: Path, number: int, text: str, weight: float) -> list[Conversation]:
    """The conversations of one line of a text file, `number` from 1; none of an empty one. A line is {"text": running
    text} or {"messages": [{"role": "user", "content": "..."}, ...]}. Raises DataError that names the file and the line.
    """
    if not text.strip():
        return []
    where = f"{path}, line {number}"
    turns = _text_turns(text, where)
    name = f"text-{digest(text)[:12]}-{number}"
    return [
        Conversation(f"{path.stem}-{name}-{copy}", "text", str(path), [turns]) for copy in range(copies(weight, name))
    ]


def _text_turns(line: str, where: str) -> list[Turn]:
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
                f"{where}: a text item holds no sound; conversations with sound belong to a corpus "
                "(column conversation)"
            )
        return [(turn["role"], list(turn["content"])) for turn in turns]
    if not isinstance(values["text"], str) or not values["text"].strip():
        raise DataError(f"{where}: 'text' is a string that is not empty, here {values['text']!r}")
    return [(TEXT, [values["text"]])]


def copies(weight: float, name: str) -> int:
    """How often an item of this weight comes in an epoch: its whole part, and once more for the fractional share of
    names.
    """
    whole = int(weight)
    return whole + in_share(weight - whole, name)
