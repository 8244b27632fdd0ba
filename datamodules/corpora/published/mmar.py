"""MMAR (Ma et al. 2025, arXiv:2505.13032): 1,000 questions that need several steps, about sound, music, speech and their
mixes. Four answers are none of their choices: its authors' match finds them right, and no letter does.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.choice_questions import choice_question
from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.json_records import read_json_records

ABOUT = About(
    "1,000 questions with choices, to be tested on alone",
    ("MMAR-meta.json, or .jsonl", "audio/<id>.wav, of mmar-audio.tar.gz"),
    "github.com/ddlBoJack/MMAR and huggingface.co/datasets/BoJack/MMAR",
    "all test",
)
VIDEO = re.compile(r"youtu(?:be\.com/.*[?&]v=|\.be/|be\.com/shorts/)([\w-]{11})")


def records(root: Path, options: Options) -> Iterator[Record]:
    for where, item in read_json_records(first(root, ["MMAR-meta.json", "MMAR-meta.jsonl"], ABOUT)):
        question = choice_question(
            item, where, "modality", item.get("choices") or (), item.get("answer"), ("id", "audio_path")
        )
        video = VIDEO.search(str(item.get("url") or ""))
        yield Record(
            str(item["audio_path"]),
            str(item["id"]),
            "test",
            where,
            f"youtube:{video[1]}" if video else "",
            questions=(question,),
            metadata={key: str(item.get(key, "")) for key in ("category", "sub-category", "language")},
        )
