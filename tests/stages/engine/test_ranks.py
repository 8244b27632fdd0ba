"""Two ranks on the CPU (gloo): every stage runs, data is dealt once, and a global batch teaches what it teaches one process."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from datamodules.store import chunks
from tests.conftest import SMOKE

ROOT = Path(__file__).parents[3]
TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")

# A stage as it is, but for language batches of a fixed number of items, so that two ranks' batches are one rank's; writes losses and ids by rank.
RECORDED = """
import importlib, json, sys
from pathlib import Path
import lightning as L
import numpy as np
from datamodules.batches import NumberedBatches
from stages import STAGES
stage, size, *words = sys.argv[1:]
class Record(L.Callback):
    rows = []
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.rows.append([float(outputs["loss"]), batch.ids])
    def on_train_end(self, trainer, module):
        quantizer = getattr(getattr(module, "tokenizer", None), "quantizer", None)
        state = {} if quantizer is None else {name: value.tolist() for name, value in quantizer.state_dict().items()}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        content = {"rows": self.rows, "quantizer": state, "metrics": metrics}
        Path(f"recorded-{stage}-{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(content))
name, _, attribute = STAGES[stage].target.partition(":")
module = getattr(importlib.import_module(name), attribute)
callbacks = module.callbacks
module.callbacks = lambda self: [*callbacks(self), Record()]
if stage in ("caption", "openaqa"):
    from datamodules.language.id_batches import LanguageDataModule
    LanguageDataModule.train_sampler = lambda self, rank, world: NumberedBatches(
        np.ones(len(self.train_items[0])), [1], [int(size) // world], shuffle=True, seed=self.seed, rank=rank, world=world
    )
from stages.cli.main import main
sys.exit(main(["run", stage, *words]))
"""


def run(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words, *SMOKE], cwd=place, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("stage_name", ["tokenizer_mse", "caption"])
def test_a_global_batch_is_the_same_on_one_rank_and_on_two(tones: Path, whole: Path, stage_name: str):
    """Losses to rounding, and the same items in the same steps. Ranks are of unlike weight: windows and conversations are of unlike length."""
    script = tones / "recorded.py"
    script.write_text(RECORDED)
    parents = [f"--parents.{name}=whole" for name in ("latents", "tokenizer", "cache") if name != stage_name]
    own = ["--lora.dropout=0"] if stage_name == "caption" else []
    for world, more in ((1, []), (2, list(TWO))):
        size = [] if stage_name == "caption" else [f"--batch_size={4 // world}"]
        run(tones, str(script), stage_name, "4", f"--experiment=ranks-{world}", *parents, *own, *size, *more)
    (one,), two = (
        [json.loads((tones / f"recorded-{stage_name}-{world}-{rank}.json").read_text()) for rank in range(world)]
        for world in (1, 2)
    )
    assert len(one["rows"]) == len(two[0]["rows"]) == len(two[1]["rows"]) == 12
    for whole_row, first, second in zip(one["rows"], two[0]["rows"], two[1]["rows"], strict=True):
        assert not set(first[1]) & set(second[1])
        assert sorted(whole_row[1]) == sorted(first[1] + second[1])
        assert np.mean([first[0], second[0]]) == pytest.approx(whole_row[0], rel=1e-4)
    assert any(abs(first[0] - second[0]) > 1e-3 for first, second in zip(two[0]["rows"], two[1]["rows"], strict=True))
    assert two[0]["quantizer"] == two[1]["quantizer"] and two[0]["metrics"] == two[1]["metrics"]
    for name, value in one["quantizer"].items():
        np.testing.assert_allclose(np.array(value), np.array(two[0]["quantizer"][name]), rtol=1e-2, atol=1e-3)


def test_two_ranks_run_every_stage(tones: Path, whole: Path):
    """What latents, cache and evaluate write is dealt between ranks, each item once."""
    run(tones, "-m", "stages.cli.main", "run", "all", "--experiment=two", *TWO)
    runs = tones / "runs/two"
    assert sorted(path.parent.name for path in runs.glob("*/receipt.json")) == sorted(
        path.parent.name for path in whole.glob("*/receipt.json")
    )
    for stage_name in ("latents", "cache"):
        found, expected = (chunks.read(folder / stage_name / "chunks") for folder in (runs, whole))
        assert [cut.id for cut in found] == [cut.id for cut in expected]
        assert set(Counter(cut.id for cut in found).values()) == {1}
    found, expected = (chunks.read(folder / "latents/chunks") for folder in (runs, whole))
    pairs = zip(found, expected, strict=True)
    assert all((chunks.load_array(mine) == chunks.load_array(other)).all() for mine, other in pairs)
    asked = [(folder / "evaluate/artifact/predictions.jsonl").read_text().splitlines() for folder in (runs, whole)]
    assert [json.loads(row)["id"] for row in asked[0]] == [json.loads(row)["id"] for row in asked[1]]
    assert len(list((runs / "evaluate").glob("predictions-*.jsonl"))) == 2
    assert load_file(runs / "openaqa/artifact/model.safetensors")
