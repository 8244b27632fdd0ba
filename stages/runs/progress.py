"""How far an unfinished run is, in the one unit that its folder has. No torch here."""

import json
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

# what a run goes on from: patterns of files in its folder; the SLURM script looks at the same ones
PRODUCTS = ("checkpoints/*", "codec/*", "chunks/*", "predictions-*")


class Progress(NamedTuple):
    done: int
    unit: str  # step | chunk | row
    total: int | None = None  # None where the folder does not say

    def __str__(self) -> str:
        if self.unit == "row":
            return f"{self.done} row{'' if self.done == 1 else 's'}"
        return f"{self.unit} {self.done} of {'?' if self.total is None else self.total}"


def progress(folder: Path, max_steps: int | None = None) -> Progress | None:
    """What an unfinished run has saved; None where it has nothing. max_steps: of its configuration."""
    if newest := newest_checkpoint(folder):
        return Progress(checkpoint_step(newest), "step", max_steps)
    if rows := sum(path.read_bytes().count(b"\n") for path in folder.glob("predictions-*.jsonl")):
        return Progress(rows, "row")
    chunks = [path for path in folder.glob("chunks/*") if path.is_dir() and not path.name.startswith(".")]
    plan = folder / "chunks" / "plan.json"
    total = len(json.loads(plan.read_text())) if plan.is_file() else None
    fitted = (folder / "codec" / "config.json").is_file()  # of latents: before its first chunk
    return Progress(len(chunks), "chunk", total) if chunks or fitted else None


def newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None."""
    return max(whole_checkpoints(folder), key=checkpoint_step, default=None)


def whole_checkpoints(folder: Path) -> list[Path]:
    """By their steps."""
    paths = sorted(folder.glob("checkpoints/step-*.ckpt"), key=checkpoint_step)
    return [path for path in paths if zipfile.is_zipfile(path)]  # its directory is at its end: a truncated one has none


def damaged_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints with more steps than the newest whole one."""
    newest = newest_checkpoint(folder)
    least = checkpoint_step(newest) if newest else -1
    return sorted(path for path in folder.glob("checkpoints/step-*.ckpt") if checkpoint_step(path) > least)


def checkpoint_step(path: Path) -> int:
    match = re.search(r"step-(\d+)", path.name)
    return int(match.group(1)) if match else 0
