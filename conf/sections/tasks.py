"""What an evaluation task file (conf/tasks/*.yaml, or one of your own) says."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from conf.laws import Problem, about

CHOOSES_LABEL = ("whole_word", "nearest", "named", "likelihood", "ltu")  # readings that choose among labels

CHOOSES_CHOICE = ("choice", "likelihood", "mmau", "mmsu")


@dataclass
class EvaluationTask:
    name: str = about("of the file, without its ending")
    version: int = about("raised when anything below changes: scores of two versions are of two tasks")
    title: str = about("of the table")
    source: str = about("whose data and whose protocol it is")
    corpora: list[str] | None = about("prepared corpora that it is about; null: any")
    ask: Literal["captions", "labels", "questions", "choices"] = about("what is asked of a recording")
    kinds: list[str] = about("kinds of question; []: all")
    groups: list[str] = about(
        "fields of the publisher's records, as difficulty: accuracy is reported for each value too"
    )
    prompt: str | None = about(
        "the request, with {question}, and {labels} or {lettered} (A. ..., B. ..., a line each) in it; null: that of the "
        "training, or the corpus' question"
    )
    labels: Any = about("null; corpus: all that the prepared corpora have; a list; or label -> other ways to say it")
    reading: Literal[
        "exact", "whole_word", "choice", "nearest", "named", "likelihood", "ltu", "mmau", "mmsu", "none"
    ] = about("how an answer becomes a label: stages/scoring/reading_rules.py")
    encoder: str | None = about("encoder of sentences, for the readings nearest and ltu")
    template: str = about("text that answer and label are put into, at {}, before they are embedded")
    cut: Literal["none", "colon", "colon_drop", "caption"] = about(
        "what LTU removes of an answer: stages/scoring/published_protocols.py"
    )
    metrics: list[str] = about(
        "`stage metrics` lists them; [] for questions that are asked and written, and scored by others alone"
    )

    def laws(self) -> Iterable[Problem]:
        ask, reading = self.ask, self.reading
        if not self.metrics and not (ask == "questions" and reading == "none"):
            yield Problem("metrics", "none are named; `stage metrics` lists them")
        if ask == "captions" and reading != "none":
            yield Problem("reading", f"{reading!r}; captions are not read: none")
        if ask in ("labels", "choices") and reading == "none":
            yield Problem("reading", "none; captions alone are not read, and questions that are not scored here")
        if ask == "questions" and self.metrics and reading == "none":
            yield Problem("reading", f"none; {', '.join(self.metrics)} need an answer that is read")
        if ask == "labels" and not self.labels:
            yield Problem("labels", "a list, names with aliases, or corpus for what the corpus has")
        if ask == "labels" and reading not in CHOOSES_LABEL and reading != "exact":
            yield Problem("reading", f"{reading!r}; labels are read by exact, {', '.join(CHOOSES_LABEL)}")
        if ask == "choices" and reading not in CHOOSES_CHOICE:
            yield Problem("reading", f"{reading!r}; choices are read by {', '.join(CHOOSES_CHOICE)}")
        if ask == "questions" and reading not in ("exact", "nearest", "whole_word", "none"):
            yield Problem("reading", f"{reading!r}; questions are read by exact, whole_word or nearest")
        if reading in ("nearest", "ltu") and not self.encoder:
            yield Problem("encoder", f"{reading} needs an encoder of sentences, as all-MiniLM-L6-v2")
        others = [name for name in self.metrics if name != "accuracy" and not name.startswith("similarity[")]
        if ask in ("questions", "choices") and others:
            yield Problem(
                "metrics", f"{', '.join(others)}; questions are scored by accuracy, open ones by similarity[...] too"
            )
        if "mean_average_precision" in self.metrics and len(self.metrics) > 1:
            yield Problem("metrics", "mean_average_precision is of recordings with several labels and stands alone")
        if "{}" not in self.template:
            yield Problem("template", f"{self.template!r} has no {{}} in it")
