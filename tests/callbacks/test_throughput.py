"""What the log says of speed and gradients is what was trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.mark.parametrize(("name", "counted"), [("tokenizer", "seconds_of_sound"), ("caption", "tokens")])
def test_log_has_rates_gradients_and_waiting(
    tones: Path, whole: Path, stage: Callable[..., int], name: str, counted: str
):
    parents = [f"--parents.{parent}=whole" for parent in ("latents", "tokenizer", "cache") if parent != name]
    words = ["--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--trainer.val_check_interval=3"]
    assert stage("run", name, f"--experiment=throughput-{name}", *parents, *words) == 0
    log = EventAccumulator(str(tones / f"runs/throughput-{name}/{name}/tensorboard"))
    log.Reload()
    values = {tag: [scalar.value for scalar in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    assert [scalar.step for scalar in log.Scalars("train/learning_rate")] == [2, 4, 6]
    for tag in (f"throughput/{counted}_per_second", "throughput/items_per_second", "train/gradient_norm"):
        assert len(values[tag]) == 3 and min(values[tag]) > 0, tag
    assert all(0 <= share <= 1 for share in values["throughput/data_wait"])
    assert len(values["throughput/steps_per_second"]) == 2  # of the first interval the start is not known
    assert "throughput/mfu" not in values  # no GPU's peak is known on a CPU
