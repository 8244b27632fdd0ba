"""Three recordings of half a second with their table, and what may happen to them."""

from pathlib import Path

import numpy as np
import soundfile


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def recordings(folder: Path) -> None:
    (folder / "in").mkdir()
    for number in range(3):
        wave = 0.3 * np.sin(np.arange(4000) * 0.1 * (number + 1))
        soundfile.write(folder / "in" / f"{number}.wav", wave, 8000)
    (folder / "in" / "m.csv").write_text("path,caption,split\n0.wav,low,train\n1.wav,middle,val\n2.wav,high,test\n")


PREPARE = ["prepare", "folder", "in", "--metadata", "in/m.csv", "--name", "mine"]


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def rewrite(path: Path, seconds: float, rate: int = 8000, size: int | None = None) -> None:
    """Another sound in its folder, padded to `size` bytes where that is given."""
    soundfile.write(path, 0.3 * np.sin(np.arange(int(seconds * rate)) * 0.1), rate)
    if size:
        assert path.stat().st_size < size
        with path.open("ab") as file:
            file.write(bytes(size - path.stat().st_size))
