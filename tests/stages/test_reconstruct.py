"""The tokenizer's table, from the tones corpus."""

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import conf
from stages.reconstruct import Reconstruct
from stages.reports import real_time_factor, reconstruction_table
from tests.interrupt import TWO_RANKS, run_smoke


@pytest.fixture(scope="session")
def report(tones: Path, copy_of_whole) -> dict:
    import os

    from stages.cli.main import main
    from tests.conftest import SMOKE

    before = Path.cwd()
    os.chdir(tones)
    try:
        copy_of_whole("table", "latents", "tokenizer", "tokenizer_mse")
        words = ["--experiment=table", "--probe=true", "--signal=[si_sdr]"]
        assert main(["run", "reconstruct", *words, *SMOKE]) == 0
    finally:
        os.chdir(before)
    return json.loads((tones / "runs/table/reconstruct/artifact/report.json").read_text())


def rows(report: dict, decoder: str) -> dict[tuple[int, str], dict]:
    return {(row["steps"], row["condition"]): row for row in report["rows"] if row["decoder"] == decoder}


def test_every_decoder_has_its_rows(report: dict):
    assert rows(report, "flow matching").keys() == {
        (1, "sample"), (2, "sample"), (1, "mean"), (2, "mean"), (1, "shuffled tokens"),
    }  # fmt: skip
    assert rows(report, "MSE").keys() == {(1, "sample"), (1, "shuffled tokens")}
    assert report["clips"] == {"tones": 4}
    assert report["codebook"].keys() == {"flow matching", "MSE"}
    assert 0 <= report["probe"]["tones"]["latents"] <= 1


def test_references_bound_the_table(report: dict):
    vae, mean = rows(report, "VAE alone")[0, "sample"], rows(report, "mean latent")[0, "sample"]
    assert vae["latent_nmse"] < 1e-6 < mean["latent_nmse"]
    assert 0 < vae["mel"] < mean["mel"] and vae["stft"] > 0
    assert all(math.isfinite(row["latent_nmse"]) for row in report["rows"])


def test_sound_is_measured_where_it_was_asked_for(report: dict):
    flow = rows(report, "flow matching")
    assert "mel" in flow[2, "sample"] and "mel" not in flow[1, "sample"] and "mel" not in flow[2, "mean"]


def test_the_page_says_what_the_numbers_say(report: dict, tones: Path):
    page = (tones / "runs/table/reconstruct/artifact/report.md").read_text()
    value = rows(report, "MSE")[1, "sample"]["latent_nmse"]
    assert f"| MSE | 1 | sample | {value:.3f} |" in page


def test_bits_and_speed_are_printed_and_times_stay_out_of_the_artifact(report: dict, tones: Path):
    """A report is the same to the byte whenever it is made: times stand in the receipt."""
    artifact = tones / "runs/table/reconstruct/artifact"
    assert "speed" not in report and "eal-time" not in (artifact / "report.md").read_text()
    facts, bits = report["facts"], report["codebook"]["MSE"]["codebook_bits"]
    entropy = bits * facts["bitrate"] / math.log2(facts["codebook_size"]) / 1000
    assert f"| {entropy:.3f} | {facts['bitrate'] / 1000:.3f} |" in (artifact / "report.md").read_text()
    speed = json.loads((artifact.parent / "receipt.json").read_text())["metrics"]["speed"]
    assert [(row["part"], row["decoder"], row["steps"]) for row in speed["rows"]] == [
        ("encode", "VAE alone", 0), ("decode", "VAE alone", 0), ("encode", "flow matching", 0),
        ("decode", "flow matching", 1), ("decode", "flow matching", 2), ("encode", "MSE", 0), ("decode", "MSE", 1),
    ]  # fmt: skip
    assert all(row["factor"] > 0 for row in speed["rows"])
    assert 4 < speed["seconds"] <= facts["window_frames"] * facts["hop_length"] / facts["sample_rate"]
    assert "| decode | MSE | 1 | " in "\n".join(real_time_factor.markdown(speed))


def test_the_real_time_factor_is_sound_by_time(monkeypatch: pytest.MonkeyPatch):
    """By hand: 2 s of sound, a clock that goes on by half a second at each look."""
    looks = iter(range(1000))
    monkeypatch.setattr(real_time_factor.time, "perf_counter", lambda: 0.5 * next(looks))
    codec = SimpleNamespace(
        encode=lambda sound: SimpleNamespace(mean=torch.zeros(1, 4, 2)), decode=lambda latents: latents
    )
    speed = real_time_factor.measure(torch.zeros(1, 1, 32), 16, codec, {}, {}, {}, 3)
    assert [row["factor"] for row in speed["rows"]] == [4.0, 4.0] and speed["seconds"] == 2.0


def test_sound_is_compared_with_sound_where_it_was_asked_for(report: dict, tones: Path):
    flow, vae = rows(report, "flow matching"), rows(report, "VAE alone")[0, "sample"]
    assert math.isfinite(flow[2, "sample"]["si_sdr"]) and flow[2, "sample"]["si_sdr_excluded"] == 0
    assert "si_sdr" not in flow[1, "sample"] and vae["si_sdr"] < 5  # Griffin-Lim keeps no phase
    page = (tones / "runs/table/reconstruct/artifact/report.md").read_text()
    assert "| STFT | SI-SDR, dB |" in page and f" {vae['si_sdr']:.3f} |" in page and "0 could not" in page


def test_a_distance_without_an_embedder_is_not_in_the_table(report: dict):
    assert report["embedder"] is None and "KAD" not in reconstruction_table.markdown(report)
    rows = [row | ({"kad": 1.25} if "mel" in row else {}) for row in report["rows"]]
    page = reconstruction_table.markdown(report | {"embedder": "an-embedder", "rows": rows})
    assert "kernel audio distance[an-embedder] x 100" in page and "| STFT | KAD | SI-SDR, dB |" in page
    assert " 1.250 |" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["signal=[si_sdrr]"], "signal: no metric of sound against sound is called 'si_sdrr'. Did you mean 'si_sdr'"),
        (["signal=[stoi]", "sound=false"], "signal: stoi need sound: type --sound=true"),
    ],
)
def test_what_cannot_be_compared_with_sound_is_refused(words: list[str], message: str):
    with pytest.raises(ValueError) as refused:
        conf.compose("reconstruct", overrides=words)
    assert message in str(refused.value)


def test_a_signal_metric_whose_package_is_missing_is_refused_before_anything(monkeypatch: pytest.MonkeyPatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "pesq" else find_spec(name, *more)
    )
    composed = conf.compose("reconstruct", overrides=["signal=[si_sdr,pesq]"]).conf
    with pytest.raises(ValueError, match=r"pesq: the package pesq is not installed. Type   pip install pesq"):
        Reconstruct("reconstruct", composed, {}, Path("nowhere"))


def test_a_rank_without_a_batch_of_a_group_changes_nothing(tones: Path, whole: Path):
    """The group has one batch: rank 1 has no embedding, and what rank 0 has is all."""
    reports = []
    for name, ranks in (("alone", ()), ("two", TWO_RANKS)):
        parents = (f"--parents.{parent}=whole" for parent in ("latents", "tokenizer"))
        words = ("--embedder=logmel-64", "--speed_repeats=0", f"--experiment=embedded-{name}", *parents, *ranks)
        run_smoke(tones, "run", "reconstruct", *words)
        folder = tones / f"runs/embedded-{name}/reconstruct"
        assert len(list(folder.glob("predictions-*.jsonl"))) == 1
        reports.append((folder / "artifact/report.json").read_text().replace(f"embedded-{name}", "embedded"))
    assert reports[0] == reports[1] and '"kad"' in reports[0]
