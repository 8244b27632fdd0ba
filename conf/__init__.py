"""Configuration by layers: every value has one type (schema.py), one reason (a YAML file) and one origin.

Weakest first: `conf/base.yaml`, `conf/<folder>/base.yaml` for each folder of the unit, the same files of each preset, each `--conf FILE`, the command
line. A layer is merged on its own, so that an error names its file. No torch here: `stage show` answers at once.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.laws import check
from conf.schema import OPERATIONAL, UNITS

ROOT = Path(__file__).parent
COMMAND_LINE = "command line"


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

    overrides: "a.b=c"; one that begins with a unit's name is for that unit alone. `shared`: the overrides are meant for several units, so one
    that this unit's schema does not know is passed over (`check_shared` has seen that some unit knows it).
    Raises UsageError that names the layer, the key and the nearest right name.
    """
    schema = OmegaConf.structured(UNITS[unit].schema)
    merged: Any = schema
    origins: dict[str, str] = {}
    for layer in _layers(unit, presets, files, overrides, shared):
        _check_sections(UNITS[unit].schema, layer.values, layer.origin)
        try:
            merged = OmegaConf.merge(merged, layer.values)
        except OmegaConfBaseException as error:
            raise UsageError(f"{layer.origin}: {_first_line(error)}") from None
        for key in _leaves(layer.values):
            origins.pop(key, None)  # the last one set stands last: _origin of a section
            origins[key] = layer.origin
    try:
        conf = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{unit}: {_first_line(error)}. Give it a value in a --conf FILE or as --KEY=VALUE.") from None
    for key, problem in check(unit, plain(conf)):
        raise UsageError(f"{_origin(origins, key)}: {key}: {problem}")
    return Composed(conf, {key: _origin(origins, key) for key in _leaves(merged)})


def plain(conf: Any) -> dict[str, Any]:
    """A configuration as mappings, lists and values: what conf.yaml, receipts and artifacts hold."""
    return asdict(conf)


def from_plain(unit: str, values: dict[str, Any]) -> Any:
    """A configuration that was written by `plain`, as the unit's dataclass again: of a receipt, an artifact or a conf.yaml.

    A key that the writer did not have yet gets the value of conf/, and one that is no longer known is left out: an older run can be read.
    Raises UsageError where a value is of another type than its key.
    """
    schema = UNITS[unit].schema
    merged = OmegaConf.structured(schema)
    for layer in _layers(unit, (), (), (), shared=False):
        merged = OmegaConf.merge(merged, layer.values)
    try:
        return OmegaConf.to_object(OmegaConf.merge(merged, _known_values(schema, values)))
    except OmegaConfBaseException as error:
        raise UsageError(f"the configuration of an earlier {unit}: {_first_line(error)}") from None


def _known_values(schema: Any, values: dict[str, Any]) -> dict[str, Any]:
    """`values` without the keys that the dataclass does not have."""
    types = {field.name: field.type for field in fields(schema)}
    return {
        key: _known_values(types[key], value) if is_dataclass(types[key]) and isinstance(value, dict) else value
        for key, value in values.items()
        if key in types
    }


def presets() -> list[str]:
    """Names that `--preset` takes: every YAML that is no base and no evaluation task."""
    return sorted({path.stem for path in ROOT.rglob("*.yaml") if path.parent.name != "tasks"} - {"base"})


def parse_overrides(words: Sequence[str]) -> list[str]:
    """`--a.b=c`, `a.b=c` and `--a.b c` -> "a.b=c"; of SLURM also `--slurm.flag` -> "slurm.flag=". Raises UsageError on a word that is none of them."""
    found, words = [], list(words)
    while words:
        word = words.pop(0)
        if "=" not in word and word.startswith("--") and words and not words[0].startswith("--"):
            word = f"{word}={words.pop(0)}"
        elif "=" not in word and word.startswith("--slurm."):
            word = f"{word}="
        if not re.match(r"^(--)?[A-Za-z_][\w.-]*=", word):
            raise UsageError(f"{COMMAND_LINE}: cannot read {word!r}. A configuration key is set as --trainer.devices=8")
        key, value = word.removeprefix("--").split("=", 1)
        found.append(f"{key.replace('-', '_')}={value}")
    return found


def check_shared(units: Iterable[str], overrides: Sequence[str]) -> None:
    """Raises UsageError where an override is known to none of the units."""
    units = list(units)
    for override in overrides:
        key = override.split("=", 1)[0]
        if key.split(".")[0] in UNITS:
            continue
        if not any(_known(unit, key) for unit in units):
            raise UsageError(f"{COMMAND_LINE}: no stage has a key {key!r}.{_nearest(key, units)}")


def _layers(
    unit: str, presets_: Sequence[str], files: Sequence[str], overrides: Sequence[str], shared: bool
) -> Iterable[Layer]:
    folders = UNITS[unit].folders
    for name in ("base", *presets_):
        if name not in {"base", *presets()}:
            raise UsageError(f"--preset {name}: no such preset. There are: {', '.join(presets())}")
        for folder in folders:
            path = ROOT / folder / f"{name}.yaml"
            if path.is_file():
                yield _load(path, f"conf/{path.relative_to(ROOT)}")
    for name in files:
        if not Path(name).is_file():
            raise UsageError(f"--conf {name}: no such file")
        layer = _load(Path(name), name)
        sections = {key: layer.values.pop(key) for key in list(layer.values) if key in UNITS}
        if unit != "slurm":  # what a file says outside of a unit's section is for the stages
            yield layer
        if unit in sections:
            yield Layer(name, sections[unit])
    yield _command_line(unit, overrides, shared)


def _command_line(unit: str, overrides: Sequence[str], shared: bool) -> Layer:
    mine = []
    for override in overrides:
        head, _, rest = override.partition(".")
        if head in UNITS and "=" not in head:
            mine += [rest] if head == unit else []
        elif not shared or _known(unit, override.split("=", 1)[0]):
            mine.append(override)
    try:
        return Layer(COMMAND_LINE, OmegaConf.from_dotlist([_listed(unit, item) for item in mine]))
    except Exception as error:  # a YAML value that does not parse: whatever PyYAML raises
        raise UsageError(f"{COMMAND_LINE}: {_first_line(error)}") from None


def _listed(unit: str, override: str) -> str:
    """--test 4 for --test=[4]: one value of a list needs no brackets."""
    key, value = override.split("=", 1)
    node: Any = UNITS[unit].schema
    for part in key.split("."):
        node = next((field.type for field in fields(node) if field.name == part), None) if is_dataclass(node) else None
    return f"{key}=[{value}]" if get_origin(node) is list and not value.startswith("[") else override


def _load(path: Path, origin: str) -> Layer:
    try:
        values = OmegaConf.load(path)
    except Exception as error:  # PyYAML's and OmegaConf's errors share no base
        raise UsageError(f"{origin}: not readable as YAML: {_first_line(error)}") from None
    if not isinstance(values, DictConfig):
        raise UsageError(f"{origin}: holds a {type(values).__name__}, a mapping of keys is allowed")
    return Layer(origin, values)


def _check_sections(owner: Any, values: DictConfig, origin: str, prefix: str = "") -> None:
    """Raises UsageError where a section, mapping or list is given as another: OmegaConf's own words name no key."""
    for field in fields(owner):
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
        path = f"{prefix}{key}"
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and len(child):
            yield from _leaves(child, f"{path}.")
        else:
            yield path


def _origin(origins: dict[str, str], key: str) -> str:
    """The layer that set a key, or, for a section, the one that set its last value."""
    inside = [origin for path, origin in origins.items() if path == key or path.startswith(f"{key}.")]
    return inside[-1] if inside else "conf/schema.py"


def _known(unit: str, key: str) -> bool:
    owner: Any = UNITS[unit].schema
    for part in key.split("."):
        if get_origin(owner) is dict:
            return True
        owner = {field.name: field.type for field in fields(owner)}.get(part) if is_dataclass(owner) else None
        if owner is None:
            return False
    return True


def _nearest(key: str, units: Iterable[str]) -> str:
    paths = {(unit, path) for unit in units for path in _paths(UNITS[unit].schema)}
    known = {path for _, path in paths} | {f"{unit}.{path}" for unit, path in paths}
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f" Did you mean: {near[0]!r}?" if near else ""


def _paths(owner: Any, prefix: str = "") -> Iterable[str]:
    for field in fields(owner):
        yield f"{prefix}{field.name}"
        if is_dataclass(field.type):
            yield from _paths(field.type, f"{prefix}{field.name}.")


def _first_line(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    text = str(error).splitlines()[0]
    return f"{key}: {text}" if key else text


def concerns(unit: str, override: str) -> bool:
    """Whether an override that was given to several units is for this one."""
    key = override.split("=", 1)[0]
    head = key.split(".")[0]
    return head == unit if head in UNITS else _known(unit, key)


def decides(override: str) -> bool:
    """Whether an override decides results: not where a run lies, what it reads, or how fast it goes."""
    path = override.split("=", 1)[0].split(".")
    path = path[1:] if path[0] in UNITS else path
    return not any(".".join(path[:length]) in OPERATIONAL for length in range(1, len(path) + 1))
