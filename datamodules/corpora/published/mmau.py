"""MMAU (Sakshi et al. 2024, arXiv:2410.19168): questions with choices about sound, music and speech; the 1,000 of
test-mini have answers.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, QuestionAnswer, Record, first
from datamodules.errors import DataError

ABOUT = About(
    "1,000 questions with choices (test-mini), to be tested on alone",
    ("mmau-test-mini.json", "test-mini-audios/<id>.wav"),
    "github.com/Sakshi113/MMAU and huggingface.co/datasets/gamma-lab-umd/MMAU-test-mini (Apache 2.0); "
    "the answers of its 9,000 others are not published",
    "all test",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    path = first(root, ["mmau-test-mini.json"], ABOUT)
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: no JSON ({error})") from None
    for number, item in enumerate(items, 1):
        where = f"{path}, record {number}"
        if lacking := [key for key in ("id", "audio_id", "question", "choices", "answer", "task") if not item.get(key)]:
            raise DataError(f"{where}: no {lacking[0]}; it has {', '.join(item)}")
        choices, answer = tuple(map(str, item["choices"])), str(item["answer"])
        if answer not in choices:
            raise DataError(
                f"{where}: the answer {answer!r} is none of its choices. "
                "Version 05.15.25 has no such record: take that one"
            )
        question = f"{item['question'].strip()} Choose one of: {'; '.join(choices)}."
        yield Record(
            item["audio_id"],
            item["id"],
            "test",
            where,
            questions=(QuestionAnswer(item["task"], question, answer, choices),),
            metadata={key: str(item.get(key, "")) for key in ("category", "sub-category", "difficulty", "dataset")},
        )
