"""Free Spoken Digit Dataset (Jackson): 3,000 takes of spoken English digits, 6 speakers, 8 kHz."""

import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.errors import DataError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ABOUT = About(
    "3,000 spoken digits, 6 speakers",
    ("recordings/7_jackson_32.wav",),
    "github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0)",
    "the publisher's: takes 0 to 4 of each digit and speaker are test, the others train, and validation held out of it",
    "Which digit is spoken?",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    folder = first(root, ["recordings", "audio"], ABOUT)
    for path in sorted(folder.glob("[!.]*.wav")):
        name = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", path.stem)
        if name is None:
            raise DataError(f"{path}: a name as 7_jackson_32.wav is expected: digit, speaker, take")
        digit, speaker, take = DIGITS[int(name[1])], name[2], int(name[3])
        yield Record(
            f"{folder.name}/{path.name}",
            path.stem,
            "test" if take < 5 else "train",
            str(path),
            labels=(digit,),
            captions=(f"a speaker saying the word {digit}",),
            metadata={"speaker": speaker, "take": str(take)},
        )
