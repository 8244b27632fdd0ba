"""Evaluation tasks by name, or from a file of one's own. No torch here."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.laws import nearest
from conf.sections.tasks import Task

ROOT = Path(__file__).parent / "tasks"
LABELLED = ("whole_word", "nearest", "named", "likelihood", "ltu")  # readings that choose among labels


def names() -> list[str]:
    return sorted(path.stem for path in ROOT.glob("*.yaml"))


def task(name: str) -> dict[str, Any]:
    """A task's values and its `name`; `name` is of conf/tasks/, or the path of a YAML. Raises UsageError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / f"{name}.yaml"
    if not path.is_file():
        raise UsageError(f"tasks: no task {name!r}. {nearest(name, names())}, or a YAML file of your own")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Task), OmegaConf.load(path))
        found = OmegaConf.to_container(merged, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(found, dict)
    for key, problem in _laws(found):
        raise UsageError(f"{path}: {key}: {problem}")
    return {"name": path.stem, **{str(key): value for key, value in found.items()}}


def _laws(values: dict[Any, Any]) -> list[tuple[str, str]]:
    ask, reading, found = values["ask"], values["reading"], []
    if not values["metrics"]:
        found.append(("metrics", "none are named; `stage metrics` lists them"))
    if (ask == "captions") != (reading == "none"):
        found.append(("reading", f"{reading!r}; captions are not read (none), and nothing else is left unread"))
    if ask == "labels" and not values["labels"]:
        found.append(("labels", "a list, names with aliases, or corpus for what the corpus has"))
    if ask == "labels" and reading not in LABELLED and reading != "exact":
        found.append(("reading", f"{reading!r}; labels are read by exact, {', '.join(LABELLED)}"))
    if ask == "choices" and reading not in ("choice", "mmau", "likelihood"):
        found.append(("reading", f"{reading!r}; choices are read by choice, likelihood or mmau"))
    if ask == "questions" and reading not in ("exact", "nearest", "whole_word"):
        found.append(("reading", f"{reading!r}; questions are read by exact, whole_word or nearest"))
    if reading in ("nearest", "ltu") and not values["encoder"]:
        found.append(("encoder", f"{reading} needs an encoder of sentences, as all-MiniLM-L6-v2"))
    others = [name for name in values["metrics"] if name != "accuracy" and not name.startswith("similarity[")]
    if ask in ("questions", "choices") and others:
        found.append(
            ("metrics", f"{', '.join(others)}; questions are scored by accuracy, open ones by similarity[...] too")
        )
    if "mean_average_precision" in values["metrics"] and len(values["metrics"]) > 1:
        found.append(("metrics", "mean_average_precision is of recordings with several labels and stands alone"))
    if "{}" not in values["template"]:
        found.append(("template", f"{values['template']!r} has no {{}} in it"))
    return found
