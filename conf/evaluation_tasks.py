"""Evaluation tasks: by name, of conf/tasks/, or from a YAML file of your own. No torch here."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import yaml_files
from conf.errors import UsageError
from conf.laws import problems
from conf.sections.tasks import EvaluationTask
from conf.suggest import allowed
from conf.typed_values import as_written

ROOT = Path(__file__).parent / "tasks"
LATER: dict[str, Any] = {"groups": []}  # keys that a task file of one's own, which was written before them, has not


def names() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("*.yaml"))


def task(name: str) -> EvaluationTask:
    """name: of conf/tasks/, or the path of a YAML. Raises UsageError."""
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else ROOT / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"tasks: no task {name!r}. {allowed(name, names())}, or a YAML file of your own")
    values, written = yaml_files.load_with_text(path, str(path))
    values = as_written(EvaluationTask, values, written)
    if "labels" in values:  # a label is text, in a list or a mapping
        values["labels"] = as_written(str, values["labels"], written["labels"])
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluationTask), dict(LATER, name=path.stem), values)
        chosen = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{path}: {yaml_files.first_line(error)}") from None
    assert isinstance(chosen, EvaluationTask)
    for key, text in problems(chosen):
        raise UsageError(f"{path}: {key}: {text}")
    return chosen
