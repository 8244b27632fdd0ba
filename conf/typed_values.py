"""Values by the type of their key: where that is text, they are the text that was typed, or written in a file.

YAML would read `1.10` as 1.1, `2024_01_05` as 20240105, `on` as true, `take #2` as take. On the command line it is used
only where a key's value is a mapping or a section, and then all that is in it is text too:

    str                 as typed                             --experiment=2024_01_05
    str | None          null is none, all else as typed      --partition=null
    int, float, bool    OmegaConf reads them                 --trainer.devices=8
    list[...]           [a, b], or one value by itself; quotation marks keep a comma, a bracket or a blank
                                                             --test=1.10    --test=[1.10, "a, b"]
    dict, section       a mapping of YAML                    --parents={tokenizer: other}
"""

import re
import types
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf

ITEM = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*?)\s*(?:,|$)""", re.DOTALL)  # and the comma behind it


# YAML's, for a key that takes text too; where only a bool is allowed OmegaConf reads them
TRUTHS = {"true": True, "on": True, "yes": True, "y": True, "false": False, "off": False, "no": False, "n": False}


def typed_value(kind: Any, node: Any) -> Any:
    """What OmegaConf is given for a key of the type `kind`. node: the text, or lists and mappings of texts.

    Text that is not of the type stays as it is: OmegaConf's message then names the key.
    Raises yaml.YAMLError for a mapping that does not parse, ValueError for text that OmegaConf cannot hold.
    """
    if isinstance(node, str):
        node = _parts(kind, node)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if bool in inner and isinstance(node, str) and node.lower() in TRUTHS:
            return TRUTHS[node.lower()]
        return None if node == "null" and types.NoneType in inner else typed_value(_chosen(inner, node), node)
    if isinstance(node, list):
        return [typed_value(inner[0] if origin is list else str, item) for item in node]
    if isinstance(node, dict):
        by_key = {field.name: field.type for field in fields(kind)} if is_dataclass(kind) else {}
        other = inner[1] if origin is dict else str
        return {key: typed_value(by_key.get(key, other), item) for key, item in node.items()}
    if kind is Any:
        return OmegaConf.from_dotlist([f"value={node}"])["value"]
    if kind is int and re.fullmatch(r"[+-]?\d+", node):
        return int(node)
    return without_interpolation(node)


def as_written(kind: Any, value: Any, written: Any) -> Any:
    """What YAML read of a file, where a key's type is text with the text of the file: `take: 1.10` is "1.10".

    value: as YAML reads it; written: the same with every scalar as text (yaml.BaseLoader). null stays None.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(value, dict) and isinstance(written, dict) and len(value) == len(written):
        by_key = {field.name: field.type for field in fields(kind)} if is_dataclass(kind) else {}
        other = inner[1] if origin is dict else kind
        pairs = zip(value.items(), written.items(), strict=True)
        return {name: as_written(by_key.get(name, other), item, text) for (_, item), (name, text) in pairs}
    if origin in (Union, types.UnionType) and value is not None and not (bool in inner and isinstance(value, bool)):
        return as_written(_chosen(inner, str(value)), value, written)
    if isinstance(value, list) and isinstance(written, list):
        item_kind = inner[0] if origin is list else kind
        return [as_written(item_kind, *pair) for pair in zip(value, written, strict=True)]
    is_scalar = value is not None and not isinstance(value, str | list | dict)
    return written if kind is str and is_scalar else value


def without_interpolation(text: str) -> str:
    """The text of which OmegaConf makes `text` again: its own `${key}` would be the value of another key.

    Raises ValueError for its sign of a missing value.
    """
    if text == "???":
        raise ValueError("??? stands for a missing value; any other text is allowed")
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _chosen(kinds: tuple[Any, ...], node: Any) -> Any:
    """The one of a union's types that a value is read as: the first that is not None, or text where it is no number."""
    kinds = tuple(kind for kind in kinds if kind is not types.NoneType)
    is_number = isinstance(node, str) and re.fullmatch(r"[+-]?\d+", node)
    return str if str in kinds and not is_number else kinds[0]


def _parts(kind: Any, text: str) -> Any:
    """A list's items and a mapping's values, as texts; text of all other kinds is returned as it is."""
    kinds = [kind, *get_args(kind)] if get_origin(kind) in (Union, types.UnionType) else [kind]
    if lists := [kind for kind in kinds if get_origin(kind) is list]:
        if text == "null" and types.NoneType in kinds:
            return text
        if is_dataclass(get_args(lists[0])[0]):
            return yaml.load(text, yaml.BaseLoader)
        return _items(text[1:-1]) if text[:1] == "[" and text[-1:] == "]" else [text] if text else []
    if any(is_dataclass(kind) or get_origin(kind) is dict for kind in kinds):
        return yaml.load(text, yaml.BaseLoader)
    return text


def _items(text: str) -> list[str]:
    """`1.10, "a, b"` -> ["1.10", "a, b"]: without the blanks around an item, and without its quotation marks."""
    items, end = [], 0
    while end < len(text):
        match = ITEM.match(text, end)
        assert match is not None, "an item may be empty"
        is_quoted = match[1][:1] in ("'", '"') and len(match[1]) > 1 and match[1][0] == match[1][-1]
        items.append(yaml.load(match[1], yaml.BaseLoader) if is_quoted else match[1])
        end = match.end()
    return items
