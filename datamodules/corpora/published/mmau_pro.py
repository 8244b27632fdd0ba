"""MMAU-Pro (Kumar et al. 2025, arXiv:2508.13992): 5,305 questions; prepared are those with choices, and the open ones, about
one recording.

Left out, and counted: instructions to follow, which rules of form score, and questions about several recordings.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.choice_questions import choice_question, open_question
from datamodules.corpora.published.records import About, Options, Record, first
from datamodules.json_records import read_json_records

ABOUT = About(
    "questions about one recording, with choices or open, of 5,305, to be tested on alone",
    ("test.parquet (or test.json, test.jsonl)", "data/..., of data.zip, as its audio_path says"),
    "github.com/sonalkum/MMAUPro and huggingface.co/datasets/gamma-lab-umd/MMAU-Pro (CC BY-NC 4.0)",
    "all test",
)
FILES = ["test.parquet", "data/test-00000-of-00001.parquet", "test.json", "test.jsonl"]
OPEN, INSTRUCTIONS = "open", "instruction following"  # categories

log = logging.getLogger(__name__)


def records(root: Path, options: Options) -> Iterator[Record]:
    left_out: Counter[str] = Counter()
    for where, item in read_json_records(first(root, FILES, ABOUT)):
        paths, choices = item.get("audio_path") or [], item.get("choices") or ()
        paths = [paths] if isinstance(paths, str) else list(paths)
        category = item.get("category")
        if category == INSTRUCTIONS:
            left_out["instructions to follow"] += 1
        elif len(paths) != 1:
            left_out[f"about {len(paths)} recordings"] += 1
        elif category == OPEN:
            question = open_question(item, where, "category")
            yield Record(str(paths[0]), str(item["id"]), "test", where, questions=(question,))
        elif len(choices) < 2:  # its authors leave them out too
            left_out["without choices"] += 1
        else:
            question = choice_question(item, where, "category", choices, item.get("answer"))
            yield Record(str(paths[0]), str(item["id"]), "test", where, questions=(question,))
    if left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        log.warning("mmau-pro: questions that are left out: %s", counts)
