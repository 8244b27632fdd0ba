"""What a run was computed on: a line for each of its starts, in starts.jsonl of its folder, which its receipt repeats. No torch here."""

import json
from pathlib import Path
from typing import TypedDict

FILE = "starts.jsonl"


class Start(TypedDict):
    began: str  # local time with its zone, ISO 8601
    command: str  # as it was typed
    host: str
    device: str  # of rank 0, its maker's name
    ranks: int
    nodes: int
    precision: str  # as lightning.Trainer takes it
    global_batch: dict[str, int]  # {"items": 256}, or {"tokens": 131072} at most: of an optimizer step, of all ranks
    commit: str | None  # of the code


def note(folder: Path, start: Start) -> None:
    """Appends it, on rank 0."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")


def read(folder: Path) -> list[Start]:
    """All starts, the first one first; a line that a kill cut short is none."""
    path = folder / FILE
    text = path.read_text("utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
