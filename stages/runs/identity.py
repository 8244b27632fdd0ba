"""What makes two runs the same run: the keys of the configuration that decide the result. No torch here."""

import hashlib
import json
from typing import Any

from conf import plain
from conf.schema import OPERATIONAL, OPERATIONAL_OF_CHUNKS
from conf.sections.common import StageConf
from conf.sections.corpora import CorpusConf

Configuration = StageConf | CorpusConf | dict[str, Any]  # typed, or the mapping of a receipt or a conf.yaml


def fingerprint(conf: Configuration) -> str:
    """Hash of the keys that decide the result, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(_deciding(conf), sort_keys=True).encode()).hexdigest()


def differences(old: Configuration, new: Configuration) -> list[str]:
    """ "key: old -> new" for each key that decides the result."""
    before, after = _deciding(old), _deciding(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys]


def _deciding(conf: Configuration) -> dict[str, Any]:
    """ "key.key" -> value, without the operational keys: devices, folders, how often to save."""
    values = conf if isinstance(conf, dict) else plain(conf)
    return _flat(values, OPERATIONAL + (OPERATIONAL_OF_CHUNKS if "recordings_per_chunk" in values else ()))


def _flat(node: Any, without: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    if prefix.rstrip(".") in without:
        return {}
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    return {
        path: value for key, child in node.items() for path, value in _flat(child, without, f"{prefix}{key}.").items()
    }
