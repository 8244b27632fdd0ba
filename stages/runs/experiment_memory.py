"""What an experiment was begun with: the presets, files and keys that were typed, in runs/<experiment>/experiment.yaml.

A command that names the experiment needs none of them again. What is typed then is added, and wins over what is
remembered; it is remembered as soon as a stage has begun with it. A key that was typed for one stage is remembered for
that stage, presets and files for the whole experiment. The file is made to be edited: what is taken out is forgotten.
No torch here.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from conf import concerns
from conf.errors import UsageError
from conf.schema import UNITS
from datamodules.atomic_files import write_whole

FILE = "experiment.yaml"
OF_A_COMMAND = ("experiment", "runs", "limits")  # keys that say which experiment it is, and when one start ends
HEAD = "# What this experiment was begun with. Commands that name it need none of it again; take out what is to be forgotten.\n"


class Typed(NamedTuple):
    """Words of a command line that configure an experiment."""

    presets: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()  # "seed=1" for all stages that have it, "tokenizer.seed=1" for one
    without: tuple[str, ...] = ()  # stages that are left out of `all`

    def for_stage(self, stage: str) -> "Typed":
        """With the keys that concern one stage alone, and those of its job."""
        return self._replace(keys=tuple(key for key in self.keys if key.startswith("slurm.") or concerns(stage, key)))


def read(folder: Path) -> Typed:
    """Of an experiment's folder; empty where nothing is remembered. Raises UsageError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return Typed()
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
        return Typed(**{name: tuple(map(str, words or ())) for name, words in values.items()})
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        names = ", ".join(Typed._fields)
        raise UsageError(f"{path} is damaged ({error}). It has lists of words: {names}. Mend or remove it") from None


def write(folder: Path, typed: Typed) -> None:
    if typed == read(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    values = {name: list(words) for name, words in typed._asdict().items() if words}
    write_whole(folder / FILE, HEAD + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def added(remembered: Typed, typed: Typed, stage: str | None) -> Typed:
    """What is to be remembered, where `typed` was typed for one stage, or for all of them (None)."""
    keys = list(remembered.keys)
    for item in typed.keys:
        head, _, rest = _name(item).partition(".")
        if (rest if head in UNITS else head).split(".")[0] in OF_A_COMMAND or (not stage and item in keys):
            continue
        if stage and head not in UNITS:
            if item == _newest(keys, stage, _name(item)):
                continue
            item = f"{stage}.{item}"
        keys = [*(key for key in keys if _name(key) != _name(item)), item]
    files = [str(Path(name).absolute()) for name in typed.files]
    return Typed(
        _joined(remembered.presets, typed.presets),
        _joined(remembered.files, files),
        tuple(keys),
        _joined(remembered.without, typed.without),
    )


def together(remembered: Typed, typed: Typed, stage: str | None) -> Typed:
    """What a command for one stage, or for all of them (None), runs with: what is remembered, weaker, and what was typed.

    What is typed again for all of them leaves one stage the value of its own that it was given since.
    """
    files = [str(Path(name).absolute()) for name in typed.files]
    if stage:
        remembered, keys = remembered.for_stage(stage), typed.keys
    else:
        keys = tuple(key for key in typed.keys if key not in remembered.keys)
    return Typed(
        _joined(remembered.presets, typed.presets),
        _joined(remembered.files, files) if remembered.files else typed.files,
        (*remembered.keys, *keys),
        _joined(remembered.without, typed.without),
    )


def words_not_typed(whole: Typed, typed: Typed, stage: str | None) -> list[str]:
    """The words of a command for what it runs with beside what was typed."""
    given = typed._replace(files=tuple(str(Path(name).absolute()) for name in typed.files))
    options = zip(("preset", "conf", "without"), (0, 1, 3), strict=True)
    words = [word for name, at in options for one in whole[at] if one not in given[at] for word in (f"--{name}", one)]
    keys = dict.fromkeys(key.removeprefix(f"{stage}.") for key in whole.keys)
    return [*words, *(f"--{key}" for key in keys if key not in typed.keys)]


def _joined(remembered: Sequence[str], typed: Iterable[str]) -> tuple[str, ...]:
    """What was typed, where it repeats what is remembered in its order; else what is new behind what is remembered."""
    typed = list(typed)
    rest = iter(typed)
    if all(name in rest for name in remembered):
        return tuple(typed)
    return (*remembered, *(name for name in typed if name not in remembered))


def _newest(keys: Sequence[str], stage: str, name: str) -> str | None:
    """The item that decides a stage's key, without the stage's name."""
    items = [key.removeprefix(f"{stage}.") for key in keys if concerns(stage, key)]
    return next((item for item in reversed(items) if _name(item) == name), None)


def _name(item: str) -> str:
    return item.split("=", 1)[0]
