"""What is longer than a sequence may be is used in part: a window of its sound, another one each epoch.

    codes   |--------------------------------------|
    epoch 0            |=============|                 as many as fit beside the text; where they begin is a hash of
    epoch 1   |=============|                          (seed, epoch, id): the same on every rank and run

A caption or a question about the whole is then about its part; what names times is not, nor a prompt that tells the
sound's length, and both stay left out.
"""

import re

from datamodules.hashing import hash_number
from datamodules.language.conversations import PAIR, Conversation, Turn

TIMES = re.compile(r"\d+\.\d+")  # an answer that says when is true of the whole alone


def codes_of(item: Conversation) -> list[int] | None:
    """The codes of a conversation about one sound; None where there are several, or none, or an answer names times or
    the prompt the length, or answers are compared: what a part has not, the whole may have.
    """
    if item.kind == PAIR or item.tells_seconds:
        return None
    sounds: list[list[int]] = []
    for dialogue in item.dialogues:
        mine = [part for _, parts in dialogue for part in parts if isinstance(part, list)]
        texts = [part for role, parts in dialogue if role == "assistant" for part in parts if isinstance(part, str)]
        if len(mine) != 1 or any(TIMES.search(text) for text in texts):
            return None
        sounds += mine
    return sounds[0] if sounds and all(sound == sounds[0] for sound in sounds) else None


def codes_to_remove(item: Conversation, excess: int, frame: int) -> int:
    """The fewest codes, whole frames of `frame` codes, without which a conversation is `excess` ids shorter; 0 where no
    window of its sound does it.
    """
    codes, count = codes_of(item), -(-excess // frame) * frame
    return count if codes is not None and len(codes) - count >= frame else 0


def window(item: Conversation, removed: int, frame: int, seed: int, epoch: int) -> Conversation:
    """The conversation with a window of its sound, `removed` codes shorter."""
    codes = codes_of(item)
    assert codes is not None and 0 < removed < len(codes)
    begin = hash_number(f"{seed} {epoch} {item.id}") % (removed // frame + 1) * frame
    part = codes[begin : begin + len(codes) - removed]

    def cropped(turn: Turn) -> Turn:
        return turn[0], [part if isinstance(segment, list) else segment for segment in turn[1]]

    return item._replace(dialogues=[[cropped(turn) for turn in dialogue] for dialogue in item.dialogues])
