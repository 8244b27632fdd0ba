"""How reports write numbers and tables: one place for all of them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # it imports torch
    from stages.scoring.intervals import Interval

ABSENT = "\N{EN DASH}"  # where a table has no number because none can exist


def write_report(folder: Path, report: Mapping[str, object], text: str) -> None:
    """report.json, and report.md with the text."""
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "report.md").write_text(text)


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table; a cell is written as str() writes it."""
    return [_line(headings), "|" + "---|" * len(headings), *(_line(row) for row in rows)]


def number(value: float | None, digits: int = 3, absent: str = "n/a") -> str:
    return absent if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share as percent, without the sign."""
    return number(None if value is None else 100 * value, 1)


def percent_interval(row: "Mapping[str, Any] | Interval") -> str:
    """`86.2 [82.5, 89.9]` for a share; row: an Interval, or one as a report has it."""
    value, low, high = _ends(row)
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def number_interval(row: "Mapping[str, Any] | Interval") -> str:
    """`4.750 [3.130, 6.380]`, without the ends where there are none."""
    value, low, high = _ends(row)
    return number(value) if math.isnan(value) or math.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _ends(row: "Mapping[str, Any] | Interval") -> tuple[float, float, float]:
    if isinstance(row, Mapping):
        return row["value"], row["low"], row["high"]
    return row.value, row.low, row.high


def _line(cells: Sequence[object]) -> str:
    """Empty cells are written as one blank."""
    return "|" + "".join(f" {cell} |" if str(cell) else " |" for cell in cells)
