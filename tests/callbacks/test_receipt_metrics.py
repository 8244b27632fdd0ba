"""A receipt's metrics are those of the whole run on all ranks, however often it was killed."""

import json
import math
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from tests import zygote
from tests.conftest import SMOKE
from tests.interrupt import TWO_RANKS, add_callback, run_smoke

INTERVAL = 2  # log_every_n_steps of the smoke preset; it trains 12 steps and validates after the last


class KillInLastValidation(L.Callback):
    """Its checkpoint is whole by then: the next start has nothing to train."""

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.global_step == trainer.max_steps and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGKILL)


class Losses(L.Callback):
    """What each step logs, to losses-RANK.json."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.rows.append(float(trainer.callback_metrics["train/audio_loss"]))
        Path(f"losses-{trainer.global_rank}.json").write_text(json.dumps(self.rows))


def metrics(tones: Path, experiment: str, stage: str) -> dict[str, Any]:
    return json.loads((tones / f"runs/{experiment}/{stage}/receipt.json").read_text())["metrics"]


@pytest.mark.parametrize("stage", ["tokenizer_mse", "caption"])
def test_a_run_that_is_killed_in_its_last_validation_has_all_metrics(tones: Path, whole: Path, stage: str):
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache") if name != stage]
    words = ["run", stage, f"--experiment=late-{stage}", *parents, *SMOKE]
    killed = zygote.run(words, tones, partial(add_callback, stage, KillInLastValidation))
    assert killed.status == -signal.SIGKILL
    ended = zygote.run(words, tones)
    assert ended.status == 0, ended.output
    expected = metrics(tones, "whole", stage)
    assert {name.split("/")[0] for name in expected} >= {"train", "val"}
    assert metrics(tones, f"late-{stage}", stage) == expected


def test_what_steps_log_is_the_mean_of_both_ranks(tones: Path, whole: Path):
    """Batches without sound to write have no audio loss (NaN), and are no part of it; a second start changes nothing."""
    parents = [f"--parents.{name}=whole" for name in ("tokenizer", "cache")]
    words = ["run", "caption", "--experiment=mean-of-ranks", *parents, *TWO_RANKS]
    run_smoke(tones, *words, before=partial(add_callback, "caption", Losses))
    last = [
        value
        for rank in (0, 1)
        for value in json.loads((tones / f"losses-{rank}.json").read_text())[-INTERVAL:]
        if not math.isnan(value)
    ]
    expected = metrics(tones, "mean-of-ranks", "caption")
    assert last and expected["train/audio_loss"] == pytest.approx(sum(last) / len(last), rel=1e-5)

    (tones / "runs/mean-of-ranks/caption/receipt.json").unlink()
    run_smoke(tones, *words)
    assert metrics(tones, "mean-of-ranks", "caption") == expected
