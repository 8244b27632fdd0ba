"""How a kind of sound is put into words; the kinds are in effects.KINDS, music.INSTRUMENTS and speech.VOICES."""

from typing import NamedTuple


class Phrases(NamedTuple):
    """A kind's canonical name is its registry key ("bell"): one or two words, the answer, said as "the bell"."""

    noun: str  # "Is there ...?": "a bell", "rain"
    clauses: tuple[str, ...]  # a sentence without its full stop: "a bell rings"; "{word}" stands for a spoken word
    nominals: tuple[str, ...]  # the same as a noun: "a bell ringing"
