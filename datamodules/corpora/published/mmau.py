"""MMAU (Sakshi et al. 2024, arXiv:2410.19168): questions with choices about sound, music and speech; the 1,000 of
test-mini have answers.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.choice_questions import choice_question
from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.errors import DataError
from datamodules.json_records import read_json_records

ABOUT = About(
    "1,000 questions with choices (test-mini), to be tested on alone",
    ("mmau-test-mini.json", "test-mini-audios/<id>.wav"),
    "github.com/Sakshi113/MMAU and huggingface.co/datasets/gamma-lab-umd/MMAU-test-mini (Apache 2.0); "
    "the answers of its 9,000 others are not published",
    "all test",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    for where, item in read_json_records(first(root, ["mmau-test-mini.json"], ABOUT)):
        question = choice_question(
            item, where, "task", item.get("choices") or (), item.get("answer"), ("id", "audio_id")
        )
        if question.answer not in question.choices:
            raise DataError(
                f"{where}: the answer {question.answer!r} is none of its choices. "
                "Version 05.15.25 has no such record: take that one"
            )
        metadata = {key: str(item.get(key, "")) for key in ("category", "sub-category", "difficulty", "dataset")}
        yield Record(item["audio_id"], item["id"], "test", where, questions=(question,), metadata=metadata)
