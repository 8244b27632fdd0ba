"""Evaluation tasks: by name, of conf/tasks/, or from a YAML file of your own. No torch here."""

from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.laws import problems
from conf.sections.tasks import EvaluationTask
from conf.suggest import allowed

ROOT = Path(__file__).parent / "tasks"


def names() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("*.yaml"))


def task(name: str) -> EvaluationTask:
    """name: of conf/tasks/, or the path of a YAML. Raises UsageError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"tasks: no task {name!r}. {allowed(name, names())}, or a YAML file of your own")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(EvaluationTask), {"name": path.stem}, OmegaConf.load(path))
        chosen = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(chosen, EvaluationTask)
    for key, text in problems(chosen):
        raise UsageError(f"{path}: {key}: {text}")
    return chosen
