"""`trainer.precision: auto` is measured, noted, and kept by a run that goes on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import MPSAccelerator

from conf import compose
from stages.engine import devices

TOKENIZER = ("run", "tokenizer", "--parents.latents=whole", "--trainer.precision=auto", "--trainer.max_steps=2")


@pytest.mark.parametrize(("slow", "expected"), [(torch.bfloat16, "32-true"), (torch.float32, "bf16-mixed")])
def test_the_quicker_one_is_taken(slow: torch.dtype, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_seconds", lambda left, right: 0.002 if left.dtype == slow else 0.001)
    assert devices.faster(100, 200, 500) == devices.Precision(
        expected,
        "products of 100 x 200 x 500: float32 "
        + ("20, bfloat16 10" if slow == torch.bfloat16 else "10, bfloat16 20")
        + " GFLOP/s",
    )


def test_other_work_on_the_machine_does_not_decide(monkeypatch: pytest.MonkeyPatch):
    """Four of five measurements are ten times too long."""
    calls = iter(range(1000))

    def seconds(left: torch.Tensor, right: torch.Tensor) -> float:
        busy = 1 if next(calls) % 10 in (7, 8) else 10
        return busy * (0.001 if left.dtype == torch.bfloat16 else 0.002)

    monkeypatch.setattr(devices, "_seconds", seconds)
    assert devices.faster(100, 200, 500).reason.endswith("float32 10, bfloat16 20 GFLOP/s")


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "WORLD_SIZE"])
def test_ranks_that_are_started_apart_do_not_measure(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    conf = compose("tokenizer", ["demo"]).conf
    monkeypatch.setenv(name, "2")
    assert devices.precision(conf, tmp_path).value == "32-true"


def test_a_run_that_is_begun_again_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    conf = compose("tokenizer", ["demo"]).conf
    noted, measured = devices.Precision("bf16-mixed", "noted"), devices.Precision("32-true", "measured")
    devices.keep(tmp_path, noted)
    monkeypatch.setattr(devices, "faster", lambda *size: measured)
    assert devices.precision(conf, tmp_path) == noted
    assert devices.precision(conf, tmp_path, restart=True) == measured


def test_a_gain_that_the_casts_eat_up_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices, "_seconds", lambda left, right: 0.0010 if left.dtype == torch.float32 else 0.0009)
    assert devices.faster(8, 8, 8).value == "32-true"


def test_a_receipt_says_what_was_measured(stage: Callable[..., int], whole: Path, capsys: pytest.CaptureFixture[str]):
    assert stage(*TOKENIZER, "--experiment=measured") == 0
    receipt = json.loads((whole.parent / "measured/tokenizer/receipt.json").read_text())
    chosen = receipt["precision"]
    assert chosen["value"] in ("bf16-mixed", "32-true") and "GFLOP/s" in chosen["reason"]
    assert receipt["conf"]["trainer"]["precision"] == "auto"
    assert f"tokenizer      computes in {chosen['value']}: {chosen['reason']}\n" in capsys.readouterr().err


@pytest.mark.parametrize("begun", ["bf16-mixed", "32-true"])
def test_a_run_goes_on_in_the_precision_that_it_began_with(stage: Callable[..., int], whole: Path, begun: str):
    folder = whole.parent / f"begun-{begun}/tokenizer"
    folder.mkdir(parents=True)
    devices.keep(folder, devices.Precision(begun, "as it was quicker then"))
    assert stage(*TOKENIZER, f"--experiment=begun-{begun}") == 0
    receipt = json.loads((folder / "receipt.json").read_text())
    assert receipt["precision"] == {"value": begun, "reason": "as it was quicker then"}


def test_a_macs_gpu_is_taken_only_where_it_is_asked_for(
    stage: Callable[..., int], whole: Path, monkeypatch: pytest.MonkeyPatch
):
    """It has no float64, and a stage sums in it. Here there is none, so that a run on it would fail."""
    monkeypatch.setattr(MPSAccelerator, "is_available", staticmethod(lambda: True))
    words = ["--parents.latents=whole", "--parents.tokenizer=whole", "--trainer.accelerator=auto"]
    assert stage("run", "cache", "--experiment=no-mps", *words) == 0
    assert devices.accelerator(replace(compose("cache").conf.trainer, accelerator="gpu")) == "gpu"
