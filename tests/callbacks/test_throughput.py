"""What the log says of speed and gradients is what was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.throughput import ThroughputLog
from stages import STAGES

COUNTED = {
    "vae": ["seconds_of_sound"],
    "tokenizer": ["seconds_of_sound", "tokens"],
    "caption": ["seconds_of_sound", "tokens"],
    "openaqa": ["seconds_of_sound", "tokens"],
}


@pytest.mark.parametrize("name", COUNTED)
def test_every_training_logs_what_it_costs(
    tones: Path, whole: Path, stage: Callable[..., int], name: str, monkeypatch: pytest.MonkeyPatch
):
    """A peak of 1 TFLOP/s in place of that of the GPU which this machine lacks."""
    begin = ThroughputLog.on_train_start

    def on_train_start(log: ThroughputLog, *given: Any) -> None:
        begin(log, *given)
        assert log.peak is None  # no peak is known of a CPU
        log.peak = 1e12

    monkeypatch.setattr(ThroughputLog, "on_train_start", on_train_start)
    parents = [f"--parents.{parent}=whole" for parent in STAGES[name].parents]
    words = ["--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--trainer.val_check_interval=3"]
    assert stage("run", name, f"--experiment=throughput-{name}", *parents, *words) == 0
    log = EventAccumulator(str(tones / f"runs/throughput-{name}/{name}/tensorboard"))
    log.Reload()
    values = {tag: [scalar.value for scalar in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    assert [scalar.step for scalar in log.Scalars("train/learning_rate")] == [2, 4, 6]
    rates = [f"throughput/{what}_per_second" for what in ("items", *COUNTED[name])]
    assert values["train/learning_rate"][0] > 0
    for tag in (*rates, "train/gradient_norm", "memory/peak_gb"):
        assert len(values[tag]) == 3 and min(values[tag]) > 0, tag
    assert all(0 <= share <= 1 for share in values["throughput/data_wait"])
    assert len(values["throughput/steps_per_second"]) == 2  # of the first interval the start is not known
    assert all(0 < share < 1 for share in values["throughput/mfu"])
