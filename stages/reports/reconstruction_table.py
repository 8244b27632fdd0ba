"""The table of stage `reconstruct`: what the tokenizer keeps of held-out sound."""

import math
from collections.abc import Mapping
from typing import Any

from stages.reports import real_time_factor
from stages.reports.formatting import markdown_table, number

CONDITIONS = "`sample`: one draw of the decoder; `mean`: the mean of {} draws; `shuffled tokens`: decoded from another clip's tokens, which should be worse."
SIGNAL = {"si_sdr": "SI-SDR, dB", "pesq": "PESQ", "stoi": "STOI"}


def markdown(report: Mapping[str, Any]) -> str:
    """report: report.json of the stage. All of it, group by group."""
    facts, embedded = report["facts"], any("kad" in row for row in report["rows"])
    kad = f"; KAD: kernel audio distance[{report['embedder']}] x 100, to the recordings" if embedded else ""
    columns = {"latent_nmse": "latent error", "mel": "mel", "stft": "STFT"} | ({"kad": "KAD"} if embedded else {})
    columns |= {name: SIGNAL[name] for name in report["signal"]}
    bitrates = {name: other["bitrate"] for name, other in report.get("others", {}).items()}
    lines = [
        f"# {report['experiment']}: reconstruction of held-out windows",
        "",
        f"{facts['token_rate']:.2f} tokens a second, {facts['bitrate'] / 1000:.3f} kbps nominal. Latent error: normalised MSE, 0 is perfect, 1 the mean "
        f"latent of the training data. {CONDITIONS.format(report['mean_of'])} Mel: mean absolute log-mel difference; STFT: spectral convergence plus "
        f"log-magnitude difference{kad}.",
        "",
        *_codebook(report),
        *_left_out(report),
    ]
    for group, windows in report["clips"].items():
        rows = [
            [
                row["decoder"],
                row["steps"] or "",
                row["condition"],
                *(number(row.get(key, math.nan)) for key in columns),
                *([_kbps(row["decoder"], bitrates, facts)] if bitrates else []),
            ]
            for row in report["rows"]
            if row["group"] == group
        ]
        headings = ["decoder", "evaluations", "", *columns.values(), *(["kbps"] if bitrates else [])]
        lines += ["", f"## {group}, {windows} windows", "", *markdown_table(headings, rows)]
    for corpus, row in report["probe"].items():
        scores = ", ".join(f"{name} {100 * row[name]:.1f}" for name in row if name not in ("train", "test", "classes"))
        lines += [
            "",
            f"Linear probe, {corpus}, {row['classes']} classes, {row['train']} training and {row['test']} test recordings: {scores} % "
            "(latents: mean and deviation; decoders: histogram of their codes).",
        ]
    return "\n".join([*lines, ""])


def summary(report: Mapping[str, Any]) -> list[str]:
    """Markdown for the table of `evaluate`: latent error by decoder over all windows, the codebook, real-time factors."""
    codebooks = "; ".join(
        f"{name}: perplexity {row['codebook_perplexity']:.0f}, {100 * row['codebook_used']:.0f} % of the codes used"
        for name, row in report["codebook"].items()
    )
    rows = [[*key, number(error)] for key, error in latent_errors(report).items()]
    return [
        "## Reconstruction",
        "",
        f"Normalised latent MSE, mean over {sum(report['clips'].values())} windows: 0 is perfect, 1 is the mean latent. "
        f"{CONDITIONS.format(report['mean_of'])} Codebook on held-out sound: {codebooks}.",
        "",
        *markdown_table(
            ["decoder", "function evaluations", "", "error"],
            [[name, steps or "", *rest] for name, steps, *rest in rows],
        ),
        "",
        *(real_time_factor.markdown(report["speed"]) if report["speed"] else []),
    ]


def latent_errors(report: Mapping[str, Any]) -> dict[tuple[str, int, str], float]:
    """(decoder, function evaluations, condition) -> latent error over the windows of all groups."""
    windows = report.get("clips", {})
    errors: dict[tuple[str, int, str], float] = {}
    for row in report.get("rows", []):
        if "latent_nmse" not in row:
            continue
        share = windows[row["group"]] / sum(windows.values())
        key = (row["decoder"], row["steps"], row["condition"])
        errors[key] = errors.get(key, 0.0) + share * row["latent_nmse"]
    return errors


def codes_per_second(facts: Mapping[str, Any]) -> float:
    """Codes of all levels together, Hz."""
    return float(facts["bitrate"] / math.log2(facts["codebook_size"]))


def _kbps(decoder: str, others: Mapping[str, float], facts: Mapping[str, Any]) -> str:
    if decoder in ("VAE alone", "mean latent"):
        return ""
    return f"{others.get(decoder, facts['bitrate']) / 1000:.3f}"


def _codebook(report: Mapping[str, Any]) -> list[str]:
    headings = [
        "codebook on held-out sound", "perplexity", "used", "dead", "bits a code", "nominal", "entropy, kbps", "nominal",
    ]  # fmt: skip
    rows = [
        [
            name,
            f"{row['codebook_perplexity']:.0f}",
            f"{100 * row['codebook_used']:.0f} %",
            f"{100 * (1 - row['codebook_used']):.0f} %",
            f"{row['codebook_bits']:.2f}",
            f"{math.log2(facts['codebook_size']):.2f}",
            f"{row['codebook_bits'] * codes_per_second(facts) / 1000:.3f}",
            f"{facts['bitrate'] / 1000:.3f}",
        ]
        for name, row in report["codebook"].items()
        for facts in [report.get("others", {}).get(name, report["facts"])]
    ]
    return markdown_table(headings, rows)


def _left_out(report: Mapping[str, Any]) -> list[str]:
    """How many sounds the signal's scores could not be computed for."""
    signal = report["signal"]
    if not signal:
        return []
    excluded = sum(row.get(f"{name}_excluded", 0) for row in report["rows"] for name in signal)
    names = ", ".join(SIGNAL[name] for name in signal)
    return ["", f"{names}: means over the sounds that can be scored; {excluded:.0f} could not (silent or too short)."]
