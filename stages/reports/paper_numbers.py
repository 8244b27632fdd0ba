"""The numbers that the paper prints, for the column beside ours: Mehta, Jojic, Gamper 2025, arXiv:2503.22275.

LTU-AS's of GTZAN are of its poster (Gong et al. 2023).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Published(NamedTuple):
    what: str
    paper: str
    others: str
    corpus: str | None  # that `ours` must be measured on, alone; None: on this run's own
    key: str  # where `ours` stands: a decoder, a caption score or a kind of question
    note: str


class Beside(NamedTuple):
    what: str
    paper: str
    others: str
    ours: str
    note: str


PUBLISHED = (
    Published(
        "Table I: reconstruction error with flow matching, mean of ESC-50, VCTK and FMA", "0.636", "", None, "flow matching",
        "The paper's normalisation is not published in what we have; ours is the normalised latent error of this run's own windows and VAE.",
    ),
    Published("Table I: the same network with squared error", "0.700", "", None, "MSE", "As above."),
    Published(
        "Table II: Clotho, SPICE", "0.357", "LTU 0.338", "clotho", "spice",
        "No SPICE as others compute it: LTU itself reports 0.119 on Clotho. Nothing is to be held against this row.",
    ),
    Published("Table II: Clotho, FENSE", "0.414", "LTU 0.381", "clotho", "fense", ""),
    Published(
        "Table III: GTZAN, genre, %", "61.2", "LTU-AS 50.3, LTU 29.8", "gtzan", "class",
        "How the paper reads a genre from an answer is not stated in what we have.",
    ),
)  # fmt: skip


def beside(found: dict[str, Any], corpora: Sequence[str]) -> list[Beside]:
    return [Beside(row.what, row.paper, row.others, _ours(found, corpora, row), row.note) for row in PUBLISHED]


def _ours(found: dict[str, Any], corpora: Sequence[str], row: Published) -> str:
    if row.corpus is None:
        return _error(found["reconstruction"], row.key)
    if list(corpora) != [row.corpus]:
        return f"{row.corpus} is not in this run"
    if row.key in found["questions"]:
        return f"{100 * found['questions'][row.key]['with_sound']['value']:.1f}"
    value = found["captions"].get("sound", {}).get(row.key, math.nan)
    return "not measured" if value is None or math.isnan(value) else f"{value:.3f}"


def _error(found: dict[str, Any], decoder: str) -> str:
    """Over all windows, for each number of function evaluations."""
    windows = found.get("clips", {})
    errors: dict[int, float] = {}
    for row in found.get("rows", []):
        if row["decoder"] == decoder and row["condition"] == "sample":
            share = windows[row["group"]] / sum(windows.values())
            errors[row["steps"]] = errors.get(row["steps"], 0.0) + share * row["latent_nmse"]
    several = len(errors) > 1
    return (
        ", ".join(f"{error:.3f}" + (f" ({steps} eval.)" if several else "") for steps, error in errors.items())
        or "not measured"
    )
