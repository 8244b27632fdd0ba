"""The numbers that the paper prints, for the column beside ours: Mehta, Jojic, Gamper 2025, arXiv:2503.22275.

LTU-AS's of GTZAN are of its poster (Gong et al. 2023).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.reports.formatting import number, percent
from stages.reports.reconstruction_table import latent_errors


class Published(NamedTuple):
    what: str
    paper: str
    others: str
    corpus: str | None  # on which `ours` must be measured, alone; None: on this run's own
    key: str  # where `ours` is in a report: a decoder, a caption score or a kind of question
    note: str


PUBLISHED = (
    Published(
        "Table I: reconstruction error with flow matching, mean of ESC-50, VCTK and FMA", "0.636", "", None, "flow matching",
        "The paper's normalisation is not published in what we have; ours is the normalised latent error of this run's own windows and VAE.",
    ),
    Published("Table I: the same network with squared error", "0.700", "", None, "MSE", "As above."),
    Published(
        "Table II: Clotho, SPICE", "0.357", "LTU 0.338", "clotho", "spice",
        "No SPICE as others compute it: LTU itself reports 0.119 on Clotho. Nothing should be compared with this row.",
    ),
    Published("Table II: Clotho, FENSE", "0.414", "LTU 0.381", "clotho", "fense", ""),
    Published(
        "Table III: GTZAN, genre, %", "61.2", "LTU-AS 50.3, LTU 29.8", "gtzan", "class",
        "How the paper reads a genre from an answer is not stated in what we have.",
    ),
)  # fmt: skip


def beside(report: Mapping[str, Any], corpora: Sequence[str]) -> list[tuple[Published, str]]:
    """Each published number, and ours."""
    return [(row, _ours(report, corpora, row)) for row in PUBLISHED]


def _ours(report: Mapping[str, Any], corpora: Sequence[str], row: Published) -> str:
    if row.corpus is None:
        return _error(report["reconstruction"], row.key)
    if list(corpora) != [row.corpus]:
        return f"{row.corpus} is not in this run"
    if row.key in report["questions"]:
        return percent(report["questions"][row.key]["with_sound"]["value"])
    value = report["captions"].get("sound", {}).get(row.key)
    return number(value, absent="not measured")


def _error(reconstruction: Mapping[str, Any], decoder: str) -> str:
    """Latent error over all windows, for each number of function evaluations."""
    errors = {
        steps: error
        for (name, steps, condition), error in latent_errors(reconstruction).items()
        if name == decoder and condition == "sample"
    }
    several = len(errors) > 1
    return (
        ", ".join(number(error) + (f" ({steps} eval.)" if several else "") for steps, error in errors.items())
        or "not measured"
    )
