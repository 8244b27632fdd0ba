"""What makes two runs the same run: the keys of the configuration that decide the result, the parents, the corpora. No torch here.

It is written to run.json before a run's first product, and compared whenever there is any: steps, chunks or rows of two
parents, or of two configurations, are never mixed.
"""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from conf import plain
from conf.errors import UsageError
from conf.schema import OPERATIONAL, OPERATIONAL_OF_CHUNKS
from conf.sections.common import StageConf
from conf.sections.corpora import CorpusConf
from datamodules.atomic_files import write_whole

FILE = "run.json"
Configuration = StageConf | CorpusConf | dict[str, Any]  # typed, or the mapping of a receipt or a conf.yaml


class Identity(NamedTuple):
    """What decides the products of a run."""

    conf_hash: str  # `fingerprint` of its configuration, which stands in conf.yaml
    parents: dict[str, str]  # stage -> hash of its artifact
    corpora: dict[str, str]  # name -> hash of the prepared cuts, of a stage that reads sound
    commit: str | None  # of the code
    init_from: str | None = None  # hash of the artifact that the training starts from


def write_identity(folder: Path, identity: Identity) -> None:
    write_whole(folder / FILE, json.dumps(identity._asdict(), indent=1))


def read_identity(folder: Path) -> Identity | None:
    """What the run in this folder was begun with; None where there is none, or an older version began it."""
    path = folder / FILE
    try:
        return Identity(**json.loads(path.read_text())) if path.is_file() else None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}). Type --restart to begin again (the old run is kept)") from None


def code_commit() -> str | None:
    """The commit of the code that runs, with + where the tree has changes.

    None outside a checkout of this project: where it is installed in a folder of another repository, that one's commit
    says nothing.
    """
    root = Path(__file__).parents[2]
    if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):
        return None
    return _git(root, "describe", "--always", "--dirty=+", "--abbrev=12")


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def fingerprint(conf: Configuration) -> str:
    """Hash of the keys that decide the result, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(deciding(conf), sort_keys=True).encode()).hexdigest()


def differences(old: Configuration, new: Configuration) -> list[str]:
    """ "key: old -> new" for each key that decides the result."""
    before, after = deciding(old), deciding(new)
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in changed_keys(old, new)]


def changed_keys(old: Configuration, new: Configuration) -> list[str]:
    """Keys that decide the result, and have another value."""
    before, after = deciding(old), deciding(new)
    return [key for key in {**before, **after} if before.get(key) != after.get(key)]


def deciding(conf: Configuration) -> dict[str, Any]:
    """ "key.key" -> value of the keys that decide the result: not those of folders, workers, how often to save."""
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
