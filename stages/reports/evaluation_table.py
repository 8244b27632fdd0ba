"""The tables: what `reconstruct` and `evaluate` measured, as JSON and Markdown."""

import json
import math
from pathlib import Path
from typing import Any

from stages.reports import fewshot_table, generation_table, real_time
from stages.scoring.answers import BestGuess, Interval, bootstrap, is_right

SIGNAL = {"si_sdr": "SI-SDR, dB", "pesq": "PESQ", "stoi": "STOI"}


def answers(predictions: list[dict[str, Any]], guess: BestGuess, samples: int, seed: int) -> dict[str, dict[str, Any]]:
    """Accuracy by kind of question: with the sound, without it, the best text-only guess, chance.

    predictions: {id, source, kind, question, answer, condition, prediction}; condition "sound" or "text".
    """
    table: dict[str, dict[str, Any]] = {}
    for kind in sorted({row["kind"] for row in predictions}):
        rows = {
            condition: [row for row in predictions if row["kind"] == kind and row["condition"] == condition]
            for condition in ("sound", "text")
        }
        scored = {
            condition: bootstrap(
                [is_right(row["prediction"], row["answer"]) for row in found],
                [row["source"] for row in found],
                samples,
                seed,
            )
            for condition, found in rows.items()
        }
        guessed = bootstrap(
            [is_right(guess.guess(kind, row["question"]), row["answer"]) for row in rows["sound"]],
            [row["source"] for row in rows["sound"]], samples, seed,
        )  # fmt: skip
        table[kind] = {
            "with_sound": scored["sound"]._asdict(),
            "without_sound": scored["text"]._asdict(),
            "best_guess": guessed._asdict(),
            "chance": guess.chance(kind),
            "above_both": scored["sound"].low > max(scored["text"].value, guessed.value),
        }
    return table


def reconstruction(found: dict[str, Any]) -> str:
    """The tokenizer's table, group by group."""
    facts, signal, embedded = found["facts"], found["signal"], any("kad" in row for row in found["rows"])
    kad = f"; KAD: kernel audio distance[{found['embedder']}] x 100, to the recordings" if embedded else ""
    heard = {"latent_nmse": "latent error", "mel": "mel", "stft": "STFT"} | ({"kad": "KAD"} if embedded else {})
    columns = heard | {name: SIGNAL[name] for name in signal}
    lines = [
        f"# {found['experiment']}: reconstruction of held-out windows",
        "",
        f"{facts['token_rate']:.2f} tokens a second, {facts['bitrate'] / 1000:.3f} kbps nominal. Latent error: normalised MSE, 0 is perfect, 1 the mean "
        f"latent of the training data. `mean`: of {found['mean_of']} samples. Mel: mean absolute log-mel difference; STFT: spectral convergence plus "
        f"log-magnitude difference{kad}.",
        "",
        "| codebook on held-out sound | perplexity | used | dead | bits a code | nominal | entropy, kbps | nominal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["codebook"].items():
        lines.append(
            f"| {name} | {row['codebook_perplexity']:.0f} | {100 * row['codebook_used']:.0f} % | {100 * (1 - row['codebook_used']):.0f} % "
            f"| {row['codebook_bits']:.2f} | {math.log2(facts['codebook_size']):.2f} "
            f"| {row['codebook_bits'] * codes_per_second(facts) / 1000:.3f} | {facts['bitrate'] / 1000:.3f} |"
        )
    if signal:
        lost = sum(row.get(f"{name}_excluded", 0) for row in found["rows"] for name in signal)
        said = ", ".join(SIGNAL[name] for name in signal)
        lines += ["", f"{said}: means over the sounds that can be scored; {lost:.0f} could not (silent or too short)."]
    for group, clips in found["clips"].items():
        lines += [
            "",
            f"## {group}, {clips} windows",
            "",
            "| decoder | evaluations | | " + " | ".join(columns.values()) + " |",
            "|---|---|---|" + "---|" * len(columns),
        ]
        for row in found["rows"]:
            if row["group"] == group:
                values = [_number(row.get(key, math.nan)) for key in columns]
                lines.append(
                    f"| {row['decoder']} | {row['steps'] or ''} | {row['condition']} | " + " | ".join(values) + " |"
                )
    for corpus, row in found["probe"].items():
        scores = ", ".join(f"{name} {100 * row[name]:.1f}" for name in row if name not in ("train", "test", "classes"))
        lines += [
            "",
            f"Linear probe, {corpus}, {row['classes']} classes, {row['train']} training and {row['test']} test recordings: {scores} % "
            "(latents: mean and deviation; decoders: histogram of their codes).",
        ]
    return "\n".join([*lines, ""])


def codes_per_second(facts: dict[str, Any]) -> float:
    """Of all levels together."""
    return facts["bitrate"] / math.log2(facts["codebook_size"])


def write(folder: Path, report: dict[str, Any]) -> None:
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "report.md").write_text(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    lines = [f"# {report['experiment']}: held-out scores", ""]
    facts = report["facts"]
    lines += [
        f"{facts['token_rate']:.2f} tokens a second, {_codes(facts)}, {facts['bitrate'] / 1000:.3f} kbps nominal.",
        "",
    ]
    if report["reconstruction"]:
        lines += _summary(report["reconstruction"])
    lines += [
        "## Questions",
        "",
        "Accuracy by exact match, in percent, with the 95 % interval by clip. Best guess: the best way, on training questions, to "
        "answer from the text alone.",
        "",
        "| kind | n | with the sound | the same LLM without it | best guess | chance | interval above both |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, row in report["questions"].items():
        lines.append(
            f"| {kind} | {row['with_sound']['count']} | {_percent(Interval(**row['with_sound']))} | {_percent(Interval(**row['without_sound']))} "
            f"| {100 * row['best_guess']['value']:.1f} | {100 * row['chance']:.1f} | {'yes' if row['above_both'] else 'no'} |"
        )
    lines += [
        "",
        f"## Captions, {report['captions']['count']} clips",
        "",
        "| | with the sound | another clip's sound | without |",
        "|---|---|---|---|",
    ]
    for name in report["captions"]["sound"]:
        values = [report["captions"][condition][name] for condition in ("sound", "other", "text")]
        lines.append(f"| {name} | " + " | ".join(_number(value) for value in values) + " |")
    lines += [
        *further(report),
        "",
        f"{report['expected']} items expected, {report['scored']} scored, {report['expected'] - report['scored']} failed.",
        "",
    ]
    return "\n".join(lines)


def further(report: dict[str, Any]) -> list[str]:
    """What other stages measured of the LLM, where they were run."""
    lines: list[str] = []
    if "few_shot" in report:
        lines += ["", f"## Few-shot, {report['few_shot']['ways']} ways", "", *fewshot_table.lines(report["few_shot"])]
    if "generation" in report:
        lines += ["", "## Sound from captions", "", *generation_table.lines(report["generation"])]
    return lines


def _summary(found: dict[str, Any]) -> list[str]:
    """Of the tokenizer's table: latent error by decoder, over all windows."""
    lines = [
        "## Reconstruction",
        "",
        f"Normalised latent MSE, mean over {sum(found['clips'].values())} windows: 0 is perfect, 1 is the mean latent. Codebook on held-out sound: "
        + "; ".join(
            f"{name}: perplexity {row['codebook_perplexity']:.0f}, {100 * row['codebook_used']:.0f} % of the codes used"
            for name, row in found["codebook"].items()
        )
        + ".",
        "",
        "| decoder | function evaluations | | error |",
        "|---|---|---|---|",
    ]
    rows: dict[tuple[str, int, str], float] = {}
    for row in found["rows"]:
        share = found["clips"][row["group"]] / sum(found["clips"].values())
        key = (row["decoder"], row["steps"], row["condition"])
        rows[key] = rows.get(key, 0.0) + share * row["latent_nmse"]
    lines += [
        f"| {name} | {steps or ''} | {condition} | {_number(value)} |"
        for (name, steps, condition), value in rows.items()
    ]
    return [*lines, "", *(real_time.lines(found["speed"]) if found["speed"] else [])]


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _number(value: float) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.3f}"


def _codes(facts: dict[str, Any]) -> str:
    levels = facts["num_codebooks"]
    return f"{facts['codebook_size']} codes" + (f" on each of {levels} levels" if levels > 1 else "")
