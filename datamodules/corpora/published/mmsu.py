"""MMSU (Wang et al. 2025, arXiv:2506.04779): 5,000 questions about speech, 47 tasks; 453 have two choices, the others
four.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.choice_questions import choice_question
from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.errors import DataError
from datamodules.json_records import read_json_records

ABOUT = About(
    "5,000 questions with choices about speech, to be tested on alone",
    ("question/mmsu.jsonl", "audio/..., as its audio_path says"),
    "github.com/dingdongwang/MMSU_Bench and huggingface.co/datasets/ddwang2000/MMSU",
    "all test",
)
CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def records(root: Path, options: Options) -> Iterator[Record]:
    for where, item in read_json_records(first(root, ["question/mmsu.jsonl", "mmsu.jsonl"], ABOUT)):
        question = choice_question(
            item, where, "task_name", [item.get(key) for key in CHOICES], item.get("answer_gt"), ("id", "audio_path")
        )
        if question.answer not in question.choices:
            raise DataError(f"{where}: the answer {question.answer!r} is none of {', '.join(question.choices)}")
        fields = tuple((key, value) for key, value in question.fields if key not in (*CHOICES, "answer_gt"))
        path = str(item["audio_path"]).lstrip("/")  # theirs is joined to the root as text
        if not (root / path).is_file():
            path = options.files.find([Path(path).stem, str(item["id"])])
        yield Record(path, str(item["id"]), "test", where, questions=(question._replace(fields=fields),))
