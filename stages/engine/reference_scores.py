"""What the model that a training starts from says of pairs of answers: each log-probability is computed once, and kept.

    <run>/reference-<hash of the parent's artifact>/predictions-<rank>.jsonl     {"id": ..., "log_p": [...]}

A line is written before the step that needed it ends, so that a run that goes on reads the numbers that it was begun
with. Another parent has another folder.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stages.runs import row_files


class ReferenceScores:
    def __init__(self, run: Path, parent_hash: str) -> None:
        self.folder = run / f"reference-{parent_hash[:16]}"
        self.scores: dict[str, list[float]] = {row["id"]: row["log_p"] for row in row_files.rows(self.folder)}
        self.appends = False

    def of(self, ids: Sequence[str], counts: Sequence[int]) -> Tensor:
        """ids of items, counts: answers of each -> (sum of counts), NaN where it is not known."""
        known = [self.scores.get(name, [torch.nan] * count) for name, count in zip(ids, counts, strict=True)]
        return torch.tensor([score for scores in known for score in scores])

    def keep(self, rank: int, ids: Sequence[str], counts: Sequence[int], scores: Tensor) -> None:
        """scores (sum of counts): what `of` says of these items from now on, where it did not know it."""
        if all(name in self.scores for name in ids):
            return
        parts = torch.split(scores.cpu(), list(counts))
        new = {name: part.tolist() for name, part in zip(ids, parts, strict=True) if name not in self.scores}
        if not self.appends:
            self.folder.mkdir(exist_ok=True)
            row_files.mend(self.folder, rank)
            self.appends = True
        row_files.append(self.folder, rank, [{"id": name, "log_p": values} for name, values in new.items()])
        self.scores |= new
