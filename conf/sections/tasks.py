"""What an evaluation task file (conf/tasks/*.yaml, or one of your own) says."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass
class Task:
    version: int  # raised when anything below changes: scores of two versions are of two tasks
    title: str
    source: str  # whose data, whose protocol
    corpora: list[str] | None  # prepared corpora it is about; null: any
    ask: Literal["captions", "labels", "questions", "choices"]
    kinds: list[str]  # of questions; empty: all
    prompt: (
        str | None
    )  # null: what the model was trained with, or the corpus' own question; {labels} and {question} may stand in it
    labels: Any  # null; corpus: all that the prepared corpora have; a list; or label: [other ways to say it]
    reading: Literal["exact", "whole_word", "choice", "nearest", "named", "likelihood", "ltu", "mmau", "none"]
    encoder: str | None  # of sentences, for nearest and ltu
    template: str  # what answer and label are set into before they are embedded
    cut: Literal["none", "colon", "colon_drop", "caption"]  # what LTU takes of an answer: stages/scoring/protocols.py
    metrics: list[str]
