"""What a metric may need beside Python code: a package, a program on the PATH, a file of known sha256. No torch here."""

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

Reason = str | None  # why a need is not met and what to type; None where it is met


class Need(NamedTuple):
    what: str
    check: Callable[[], Reason]


def package(name: str, extra: str) -> Need:
    def check() -> Reason:
        installed = importlib.util.find_spec(name.replace("-", "_")) is not None
        return None if installed else f"the package {name} is not installed. Type   pip install {extra}"

    return Need(f"package {name}", check)


def program(name: str, fix: str) -> Need:
    return Need(
        f"program {name}", lambda: None if shutil.which(name) else f"no program {name!r} on the PATH. Type   {fix}"
    )


def package_file(owner: str, path: str, sha256: str, fix: str) -> Need:
    """A file inside a package's folder, of a known hash."""

    def check() -> Reason:
        folder = package_folder(owner)
        if folder is None:
            return None  # the package's own need says so
        file = folder / path
        if not file.is_file():
            return f"{file} is missing. {fix}"
        actual = _sha256(file, file.stat().st_mtime_ns)
        return None if actual == sha256 else f"{file} has sha256 {actual}, not {sha256}. {fix}"

    return Need(f"{owner}/{path} (sha256 {sha256[:12]}...)", check)


def package_folder(owner: str) -> Path | None:
    """The folder of an installed package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(owner)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0]) if folders else None


def package_file_of_any_hash(owner: str, path: str, fix: str) -> Need:
    """A file inside a package's folder that its publisher gives no hash of."""

    def check() -> Reason:
        folder = package_folder(owner)
        return None if folder is None or (folder / path).is_file() else f"{folder / path} is missing. {fix}"

    return Need(f"{owner}/{path}", check)


def cached_file(name: str, sha256: str, origin: str) -> Need:
    """A file that people put into the cache folder of metrics by hand."""

    def check() -> Reason:
        file = cache_path(name)
        if not file.is_file():
            return f"{file} is missing. Put it there by hand; it comes from {origin}"
        actual = _sha256(file, file.stat().st_mtime_ns)
        return None if actual == sha256 else f"{file} has sha256 {actual}, not {sha256}. It comes from {origin}"

    return Need(f"{name} (sha256 {sha256[:12]}...)", check)


def cache_path(name: str) -> Path:
    """Where a file of a metric lies in the cache."""
    home = os.environ.get("MSN_CACHE") or Path.home() / ".cache" / "make-some-noise"
    return Path(home).expanduser() / "metrics" / name


@cache
def _sha256(path: Path, _: int) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
