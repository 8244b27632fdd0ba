"""Two ranks on the CPU (gloo): every stage runs, data is dealt once, and a global batch teaches what it teaches one process."""

import json
import os
import socket
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
from safetensors.torch import load_file

from datamodules.batches import NumberedBatches
from datamodules.store import chunks
from stages import STAGES
from tests import zygote
from tests.conftest import SMOKE
from tests.interrupt import TWO_RANKS, add_callback, interrupt, run_smoke

# two items of each recording
LANGUAGE = {"caption": (), "preference": ("--pairs.absent=[random]", "--batching.questions_together=1")}


class Record(L.Callback):
    """Writes losses and ids of each step, and at the end the quantiser and the metrics, to recorded-STAGE-WORLD-RANK.json."""

    def __init__(self, stage: str) -> None:
        self.stage, self.rows = stage, []

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append([float(outputs["loss"]), list(batch.ids)])

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        quantizer = getattr(getattr(module, "tokenizer", None), "quantizer", None)
        state = {} if quantizer is None else {name: value.tolist() for name, value in quantizer.state_dict().items()}
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        content = {"rows": self.rows, "quantizer": state, "metrics": metrics}
        Path(f"recorded-{self.stage}-{trainer.world_size}-{trainer.global_rank}.json").write_text(json.dumps(content))


class NoteStart(L.Callback):
    """Writes the step that a rank begins at to began-RANK, and ends the run."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        Path(f"began-{trainer.global_rank}").write_text(str(trainer.global_step))
        trainer.strategy.barrier()
        raise SystemExit(3)


def see_an_older_listing() -> None:
    """Ranks other than the first see a run folder without a checkpoint, as on a file system that is shared."""
    from stages.engine import runner

    newest = runner.newest_checkpoint
    runner.newest_checkpoint = lambda folder: None if int(os.environ.get("LOCAL_RANK", "0")) else newest(folder)
    add_callback("tokenizer_mse", NoteStart)


def record(stage: str, items: int) -> None:
    """The stage as it is, recorded; language batches are of `items` items over all ranks, so that two ranks' batches are one rank's."""
    add_callback(stage, partial(Record, stage))
    if stage in LANGUAGE:
        from datamodules.language.id_batches import LanguageDataModule

        LanguageDataModule.train_sampler = lambda self, rank, world: NumberedBatches(
            np.ones(len(self.train_items[0])),
            [1],
            [items // world],
            shuffle=True,
            seed=self.seed,
            rank=rank,
            world=world,
        )


@pytest.mark.parametrize("stage_name", ["tokenizer_mse", "caption", pytest.param("preference", marks=pytest.mark.slow)])
def test_a_global_batch_is_the_same_on_one_rank_and_on_two(tones: Path, whole: Path, stage_name: str):
    """Losses to rounding, and the same items in the same steps. Ranks are of unlike weight: windows and conversations are of unlike length."""
    parents = [f"--parents.{name}=whole" for name in STAGES[stage_name].parents]
    no_dropout = ["--lora.dropout=0", *LANGUAGE[stage_name]] if stage_name in LANGUAGE else []
    for world, more in ((1, []), (2, list(TWO_RANKS))):
        size = [] if stage_name in LANGUAGE else [f"--batch_size={4 // world}"]
        words = ["run", stage_name, f"--experiment=ranks-{world}", *parents, *no_dropout, *size, *more]
        run_smoke(tones, *words, before=partial(record, stage_name, 4))
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


def test_all_ranks_go_on_from_the_checkpoint_that_the_first_sees(tones: Path, whole: Path):
    """Ranks that a launcher of a cluster starts, as torchrun does; those that Lightning starts are of one machine."""
    words = ["--experiment=older-listing", "--parents.latents=whole", *TWO_RANKS]
    interrupt(tones, "tokenizer_mse", 6, *words)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    line = ["run", "tokenizer_mse", *words, *SMOKE]
    ranks = [
        zygote.start(line, tones, see_an_older_listing, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(2)
    ]
    outputs = [process.wait().output for process in ranks]
    began = [(tones / f"began-{rank}") for rank in range(2)]
    assert all(file.is_file() for file in began), outputs
    assert [file.read_text() for file in began] == ["4", "4"]


def test_two_ranks_run_every_stage(tones: Path, whole: Path):
    """What latents, cache and evaluate write is dealt between ranks, each item once."""
    run_smoke(tones, "run", "all", "--experiment=all-two", *TWO_RANKS)
    runs = tones / "runs/all-two"
    assert sorted(path.parent.name for path in runs.glob("*/receipt.json")) == sorted(
        path.parent.name for path in whole.glob("*/receipt.json")
    )
    for stage_name in ("latents", "cache"):
        made, expected = (chunks.read(folder / stage_name / "chunks") for folder in (runs, whole))
        assert [cut.id for cut in made] == [cut.id for cut in expected]
        assert set(Counter(cut.id for cut in made).values()) == {1}
    made, expected = (chunks.read(folder / "latents/chunks") for folder in (runs, whole))
    pairs = zip(made, expected, strict=True)
    assert all((chunks.load_array(one) == chunks.load_array(other)).all() for one, other in pairs)
    asked = [(folder / "evaluate/artifact/predictions.jsonl").read_text().splitlines() for folder in (runs, whole)]
    assert [json.loads(row)["id"] for row in asked[0]] == [json.loads(row)["id"] for row in asked[1]]
    assert len(list((runs / "evaluate").glob("predictions-*.jsonl"))) == 2
    assert load_file(runs / "openaqa/artifact/model.safetensors")
