"""What a metric may need beside Python code: a package, a program on the PATH, a file of known sha256. No torch here.

A need is a function that says why it is not met and what to type; None where it is met.
"""

import importlib.util
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from datamodules.hashing import file_digest
from stages.hub.weights.wheels import cache_folder

Reason = str | None
Need = Callable[[], Reason]


def package(name: str, extra: str) -> Need:
    def check() -> Reason:
        installed = importlib.util.find_spec(name.replace("-", "_")) is not None
        return None if installed else f"the package {name} is not installed. Type   pip install {extra}"

    return check


def program(name: str, fix: str) -> Need:
    return lambda: None if shutil.which(name) else f"no program {name!r} on the PATH. Type   {fix}"


def package_folder(owner: str) -> Path | None:
    """The folder of an installed package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(owner)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def package_file(owner: str, path: str, sha256: str | None, fix: str) -> Need:
    """A file inside a package's folder; sha256: None where its publisher gives none."""

    def check() -> Reason:
        folder = package_folder(owner)
        # without the package, its own need says so
        return None if folder is None else _missing_file(folder / path, sha256, fix, fix)

    return check


def cached_file(name: str, sha256: str, origin: str) -> Need:
    """A file that people put into the cache folder of metrics by hand."""
    by_hand = f"Put it there by hand; it comes from {origin}"
    return lambda: _missing_file(cache_path(name), sha256, by_hand, f"It comes from {origin}")


def cache_path(name: str) -> Path:
    """Where a file of a metric lies in the cache."""
    return cache_folder() / "metrics" / name


def _missing_file(file: Path, sha256: str | None, if_missing: str, if_another: str) -> Reason:
    if not file.is_file():
        return f"{file} is missing. {if_missing}"
    if sha256 is None or (actual := _sha256(file, file.stat().st_mtime_ns)) == sha256:
        return None
    return f"{file} has sha256 {actual}, not {sha256}. {if_another}"


@cache
def _sha256(path: Path, _: int) -> str:
    return file_digest(path)
