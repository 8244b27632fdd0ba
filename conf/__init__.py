"""Configuration by layers: every value has a type and a help (conf/sections), a reason (a YAML file) and an origin.

Weakest first: `conf/base.yaml`, `conf/<folder>/base.yaml` for each folder of the unit, the same files of each preset,
each `--conf FILE`, the command line. A layer is merged by itself, so that an error names its file. No torch here:
`stage show` answers at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import yaml_files
from conf.errors import UsageError
from conf.laws import Problem, exceptions, expand_home, problems
from conf.overrides import COMMAND_LINE, check_shared, concerns, decides, for_unit, parse_overrides, typed_values
from conf.schema import UNITS, stages
from conf.sections.common import StageConf
from conf.suggest import allowed
from conf.typed_values import as_written
from conf.yaml_files import first_line

__all__ = [
    "COMMAND_LINE", "ROOT", "Composed", "check_shared", "compose", "concerns", "decides", "experiment_folder", "from_plain", "layer_files",
    "parse_overrides", "plain", "presets", "units_of",
]  # fmt: skip

ROOT = Path(__file__).parent


class Composed(NamedTuple):
    conf: Any  # of the unit's dataclass, as TokenizerConf
    origins: dict[str, str]  # "trainer.devices" -> "conf/tokenizer/demo.yaml"


class Layer(NamedTuple):
    origin: str
    values: DictConfig


def compose(
    unit: str,
    presets: Sequence[str] = (),
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    shared: bool = False,
) -> Composed:
    """The configuration of one unit (a stage, or a corpus that `stage prepare` makes) and where each value came from.

    overrides: "a.b=c"; one that begins with a unit's name is for that unit alone. shared: they are meant for several
    units, so one that this unit does not know is left out (`check_shared` has checked that some unit knows it).
    Raises UsageError that names the layer, the key and the most similar key.
    """
    schema = UNITS[unit].schema
    merged: Any = OmegaConf.structured(schema)
    origins: dict[str, str] = {}
    for layer in _layers(unit, presets, files, overrides, shared):
        _check_sections(schema, layer.values, layer.origin)
        try:
            merged = OmegaConf.merge(merged, layer.values)
        except OmegaConfBaseException as error:
            raise UsageError(f"{layer.origin}: {first_line(error)}") from None
        for key in _leaves(layer.values):
            origins.pop(key, None)  # the key that was set last comes last: _origin of a section
            origins[key] = layer.origin
    try:
        conf = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{unit}: {first_line(error)}. Give it a value in a --conf FILE or as --KEY=VALUE.") from None
    expand_home(conf)
    for key, text in (*_unknown_parents(conf), *problems(conf)):
        raise UsageError(f"{_origin(origins, key)}: {key}: {text}")
    return Composed(conf, {key: _origin(origins, key) for key in _leaves(merged)})


def experiment_folder(
    unit: str, presets: Sequence[str], files: Sequence[str], overrides: Sequence[str], shared: bool = False
) -> Path:
    """<runs>/<experiment> of a command, without the rest of its configuration: what the experiment remembers completes it."""
    values: dict[str, Any] = {}
    for layer in _layers(unit, presets, files, overrides, shared):
        values |= {key: layer.values[key] for key in ("runs", "experiment") if key in layer.values}
    return Path(str(values["runs"])).expanduser() / str(values["experiment"])


def plain(conf: Any) -> dict[str, Any]:
    """A configuration as mappings, lists and values: what conf.yaml, receipts and artifacts hold."""
    return asdict(conf)


def from_plain(unit: str, values: dict[str, Any]) -> Any:
    """A configuration that `plain` wrote, of a receipt, an artifact or a conf.yaml, as the unit's dataclass again.

    A key that the writer did not have yet gets the value of the base, and one that is no longer known is left out: an
    older run can be read.
    Raises UsageError where a value is of another type than its key.
    """
    try:
        return OmegaConf.to_object(OmegaConf.merge(_base(unit), _known_values(UNITS[unit].schema, values)))
    except OmegaConfBaseException as error:
        raise UsageError(f"the configuration of an earlier {unit}: {first_line(error)}") from None


@cache
def _base(unit: str) -> Any:
    """The unit's values without a preset. To be merged, not changed: `stage status` reads dozens of receipts."""
    merged: Any = OmegaConf.structured(UNITS[unit].schema)
    for layer in _layers(unit, (), (), (), shared=False):
        merged = OmegaConf.merge(merged, layer.values)
    return merged


def presets() -> list[str]:
    """Names that `--preset` takes: every YAML that is no base and no evaluation task."""
    return sorted({path.stem for path in ROOT.rglob("*.yaml") if path.parent.name != "tasks"} - {"base"})


def units_of(preset: str) -> list[str]:
    """The units that have a file of this preset: it changes nothing of the others."""
    return [unit for unit in UNITS if any(path.stem == preset for path, _ in layer_files(unit, [preset]))]


def layer_files(unit: str, presets: Sequence[str]) -> Iterable[tuple[Path, str]]:
    """The YAML files of a unit, weakest first, each with its origin: "conf/tokenizer/demo.yaml"."""
    for name in ("base", *presets):
        for folder in UNITS[unit].folders:
            path = ROOT / folder / f"{name}.yaml"
            if path.is_file():
                yield path, f"conf/{path.relative_to(ROOT)}"


def _layers(
    unit: str, chosen: Sequence[str], files: Sequence[str], overrides: Sequence[str], shared: bool
) -> Iterable[Layer]:
    for name in exceptions(chosen, presets()):
        raise UsageError(f"--preset {name}: no such preset. {allowed(name, presets())}")
    for path, origin in layer_files(unit, chosen):
        yield Layer(origin, _own_file(path, origin, path.stat().st_mtime_ns))
    for name in files:
        if not Path(name).is_file():
            raise UsageError(f"--conf {name}: no such file")
        values, written = yaml_files.load_with_text(Path(name), name)
        plain_keys = {field.name for field in fields(UNITS[unit].schema) if not is_dataclass(field.type)}
        for_stages = {
            key: value
            for key, value in values.items()
            if key not in UNITS or (key in plain_keys and not isinstance(value, dict))
        }
        if unit != "slurm":
            yield _as_written(unit, name, for_stages, {key: written.get(key) for key in for_stages})
        if unit in values:
            yield _as_written(unit, name, values[unit], written.get(unit))
    yield Layer(COMMAND_LINE, typed_values(unit, for_unit(unit, overrides, shared)))


@cache
def _own_file(path: Path, origin: str, modified: int) -> DictConfig:
    """A file of conf/, which several units read. To be merged, not changed."""
    return yaml_files.load(path, origin)


def _as_written(unit: str, origin: str, values: Any, written: Any) -> Layer:
    """A layer of a file of the user's own, in which text is the text of the file."""
    return Layer(origin, OmegaConf.create(as_written(UNITS[unit].schema, values, written)))


def _known_values(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """`values` without the keys that the dataclass does not have."""
    types = {field.name: field.type for field in fields(schema)}
    return {
        key: _known_values(types[key], value) if is_dataclass(types[key]) and isinstance(value, dict) else value
        for key, value in values.items()
        if key in types
    }


def _unknown_parents(conf: Any) -> Iterable[Problem]:
    for name in exceptions(conf.parents, stages()) if isinstance(conf, StageConf) else ():
        yield Problem(f"parents.{name}", f"no stage is called {name!r}. {allowed(name, stages())}")


def _check_sections(schema: Any, values: DictConfig, origin: str, prefix: str = "") -> None:
    """Raises UsageError where a section, mapping or list is given as another: OmegaConf's message names no key."""
    for field in fields(schema):
        if field.name not in values:
            continue
        key, child = f"{prefix}{field.name}", values._get_node(field.name)
        kind = get_origin(field.type)
        if is_dataclass(field.type):
            if not isinstance(child, DictConfig) or child._is_none():
                inside = ", ".join(inner.name for inner in fields(field.type))
                raise UsageError(f"{origin}: {key}: a section is no value, here {child}. Its keys: {inside}")
            _check_sections(field.type, child, origin, f"{key}.")
        elif (kind is list and isinstance(child, DictConfig)) or (kind is dict and not isinstance(child, DictConfig)):
            wanted = "a list, as [a, b]," if kind is list else "a mapping, as {a: b},"
            raise UsageError(f"{origin}: {key}: {wanted} is allowed, here {child}")


def _leaves(node: DictConfig, prefix: str = "") -> Iterable[str]:
    for key in node:
        path = f"{prefix}{key!s}"
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and len(child):
            yield from _leaves(child, f"{path}.")
        else:
            yield path


def _origin(origins: dict[str, str], key: str) -> str:
    """The layer that set a key, or, for a section, the one that set its last value."""
    inside = [origin for path, origin in origins.items() if path == key or path.startswith(f"{key}.")]
    return inside[-1] if inside else "conf/schema.py"
