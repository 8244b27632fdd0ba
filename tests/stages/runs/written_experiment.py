"""Run folders that are written by hand, without running a stage."""

import dataclasses
import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import conf
from conf.sections.common import StageConf
from stages import STAGES
from stages.runs import graph, receipts
from stages.runs.state import State, begin_run, state_of


@functools.cache
def composed(stage: str, overrides: tuple[str, ...]) -> StageConf:
    return conf.compose(stage, ["demo"], overrides=overrides).conf


class WrittenExperiment:
    """An experiment whose run folders are written by hand, a file or two each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def conf(self, stage: str, *overrides: str) -> StageConf:
        values = composed(stage, overrides)
        data = dataclasses.replace(values.data, root=str(self.root / "data"))
        return dataclasses.replace(values, runs=str(self.root / "runs"), data=data)

    def corpus(self, content: str) -> None:
        folder = self.root / "data" / "diagnostic"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "receipt.json").write_text(json.dumps({"hash": content}))

    def make(self, stage: str, content: str, *overrides: str, steps: int = 0) -> dict[str, Any]:
        """A finished stage whose artifact is one file."""
        configuration = self.conf(stage, *overrides)
        parents = graph.parents(stage, configuration)
        folder = begin_run(
            stage, configuration, restart=False, identity=receipts.identity_of(stage, configuration, parents)
        )
        (folder / "artifact").mkdir()
        (folder / "artifact" / "weights").write_text(content)
        return receipts.finish(stage, configuration, folder, parents, {"fact": content}, {"loss": 1.0}, steps, 2.34)

    def make_all(self) -> None:
        self.corpus("first")
        for stage in STAGES:
            self.make(stage, f"{stage} weights")

    def checkpoint(self, stage: str, step: int, *overrides: str) -> Path:
        configuration = self.conf(stage, *overrides)
        path = begin_run(stage, configuration, restart=False) / "checkpoints" / f"step-{step:06d}.ckpt"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as file:  # what torch.save writes
            file.writestr("archive/data.pkl", b"weights" * 1000)
        return path

    def state(self, stage: str, *overrides: str, compare: bool = True) -> State:
        return state_of(stage, self.conf(stage, *overrides), compare)
