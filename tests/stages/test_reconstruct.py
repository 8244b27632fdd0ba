"""The tokenizer's table, from the tones corpus."""

import json
import math
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def report(tones: Path) -> dict:
    import os

    from stages.cli import main
    from tests.conftest import SMOKE

    before = Path.cwd()
    os.chdir(tones)
    try:
        for name in ("latents", "tokenizer", "tokenizer_mse", "reconstruct"):
            words = ["--reconstruct.probe=true"] if name == "reconstruct" else []
            assert main(["run", name, "--experiment=table", *words, *SMOKE]) == 0
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
