"""What breaks while a stage runs, each really broken: a clear end in bounded time, and nothing lost that was saved."""

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

from callbacks.checkpoints import NewestCheckpoints, WholeCheckpointIO
from callbacks.finite import FiniteGradients
from datamodules.atomic_files import whole_file
from stages.runs.progress import newest_checkpoint
from tests import zygote
from tests.conftest import SMOKE
from tests.interrupt import TWO_RANKS, add_callback
from tests.zygote import Ended


class Failure(L.Callback):
    """`failure` happens in the batches `at` (counted from 1) of rank `rank`, or at their end."""

    def __init__(self, failure: str, at: set[int], rank: int) -> None:
        self.failure, self.at, self.rank, self.seen = failure, at, rank, 0

    def _is_due(self, trainer: L.Trainer) -> bool:
        return self.seen in self.at and trainer.global_rank == self.rank

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        if self._is_due(trainer) and self.failure == "nan":
            batch.latents[0, 0, 0] = float("nan")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self._is_due(trainer):
            return
        if self.failure == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "full":  # the log is smaller, a checkpoint larger
            (written,) = Path(trainer.default_root_dir).glob("checkpoints/step-*.ckpt")
            resource.setrlimit(resource.RLIMIT_FSIZE, 2 * (written.stat().st_size - 1,))
        if self.failure == "vanish":
            shutil.move(module.parents["latents"].folder / "chunks", "vanished")
        if self.failure == "worker":
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)


def broken(where: Path, failure: str, at: set[int], *words: str, rank: int = 0) -> Ended:
    """`stage run tokenizer`, in which `failure` happens."""
    before = partial(add_callback, "tokenizer", partial(Failure, failure, at, rank))
    return zygote.run(["run", "tokenizer", "--parents.latents=whole", *words, *SMOKE], where, before)


def same_weights(one: Path, other: Path) -> bool:
    before, after = (load_file(folder / "tokenizer/artifact/model.safetensors") for folder in (one, other))
    return all(before[key].equal(after[key]) for key in before)


def test_a_truncated_checkpoint_is_passed_over(stage, tones: Path, whole: Path, capfd):
    ended = broken(tones, "die", {9}, "--experiment=truncated")
    assert ended.status == -signal.SIGKILL
    folder = tones / "runs/truncated/tokenizer"
    last = folder / "checkpoints/step-00000008.ckpt"
    os.truncate(last, last.stat().st_size // 2)
    (folder / "checkpoints/.part-1-step-00000012.ckpt").write_bytes(b"killed in a save")
    assert stage("run", "tokenizer", "--experiment=truncated", "--parents.latents=whole") == 0
    printed = "step-00000008.ckpt is cut short; going on from step-00000004.ckpt"
    assert capfd.readouterr().err.count(printed) == 1
    assert same_weights(whole, tones / "runs/truncated")
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_full_disk_ends_the_run_and_the_old_checkpoint_is_whole(stage, tones: Path, whole: Path):
    ended = broken(tones, "full", {5}, "--experiment=full")
    assert ended.status == 1, ended.stderr[-2000:]
    assert re.search(r"step-00000008.ckpt cannot be written \(.*too large.*\): is the disk full\?", ended.stderr)
    folder = tones / "runs/full/tokenizer"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004.ckpt"]
    assert newest_checkpoint(folder) == folder / "checkpoints/step-00000004.ckpt"
    assert stage("run", "tokenizer", "--experiment=full", "--parents.latents=whole") == 0
    assert same_weights(whole, tones / "runs/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_of_its_name(tmp_path: Path):
    writer, path = WholeCheckpointIO(whole_file), tmp_path / "step-00000004.ckpt"
    writer.save_checkpoint({"a": torch.ones(3)}, path)
    (tmp_path / f".part-{os.getpid()}-step-00000004.ckpt").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"No space left on device.*make room"):
        writer.save_checkpoint({"a": torch.zeros(100_000)}, path)
    assert torch.load(path, weights_only=True)["a"].equal(torch.ones(3))
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "tokenizer/not_finite.jsonl").read_text().splitlines()]


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_batch(tones: Path, whole: Path):
    ended = broken(tones, "nan", {6}, "--experiment=nan")
    assert ended.status == 1
    assert re.search(r"stage: step 6: loss nan.*not_finite.jsonl.*--limits.on_nan=skip", ended.stderr)
    (row,) = rows(tones / "runs/nan")
    assert row["step"] == 6 and row["rank"] == 0 and row["ids"] and len(row["ids"]) <= 4
    assert newest_checkpoint(tones / "runs/nan/tokenizer").name == "step-00000004.ckpt"  # type: ignore[union-attr]


def test_batches_that_are_not_finite_are_left_out_up_to_a_number_in_a_row(tones: Path, whole: Path):
    skip = ["--limits.on_nan=skip", "--limits.nan_in_a_row=2"]
    ended = broken(tones, "nan", {3, 6, 7}, "--experiment=skipped", *skip)
    assert ended.status == 0, ended.stderr[-2000:]
    assert [row["step"] for row in rows(tones / "runs/skipped")] == [3, 6, 7]
    weights = load_file(tones / "runs/skipped/tokenizer/artifact/model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())
    ended = broken(tones, "nan", {6, 7, 8}, "--experiment=too-many", *skip)
    assert ended.status == 1 and "limits.nan_in_a_row=2" in ended.stderr


class TwoOptimizers(L.LightningModule):
    """As the stage vae: a second optimizer whose gradients are fine steps first, then the Trainer's own."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.automatic_optimization, self.bad = False, bad
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(2)) for _ in range(2)])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()  # type: ignore[misc]
        second._on_before_step = second._on_after_step = lambda: None
        for optimizer, weight, factor in (
            (second, self.weights[1], 1.0),
            (first, self.weights[0], float("nan") if batch_idx + 1 in self.bad else 1.0),
        ):
            optimizer.zero_grad()
            self.manual_backward(factor * weight.sum())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([weight], lr=0.1) for weight in self.weights]


class _Batch(NamedTuple):
    ids: list[str]


@pytest.mark.parametrize(("bad", "ends"), [({1, 2, 4, 5}, False), ({2, 3, 4}, True)])
def test_a_good_step_of_a_second_optimizer_does_not_hide_a_bad_one(tmp_path: Path, bad: set[int], ends: bool):
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_checkpointing=False,
        max_steps=6, callbacks=[FiniteGradients(tmp_path, "skip", 2)],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader([_Batch([str(n)]) for n in range(6)], batch_size=None, collate_fn=lambda b: b)
    module = TwoOptimizers(bad)
    if ends:
        with pytest.raises(ValueError, match=r"step 4: .* as 2 steps just before it \(limits.nan_in_a_row=2\)"):
            trainer.fit(module, loader)
    else:
        trainer.fit(module, loader)
        assert module.weights[0].detach().allclose(torch.full((2,), 0.8))  # two good steps of six
    written = [json.loads(line)["step"] for line in (tmp_path / "not_finite.jsonl").read_text().splitlines()]
    assert written == sorted(bad)


class _Saving(NamedTuple):
    """What `NewestCheckpoints.save` asks of a trainer."""

    global_step: int
    is_global_zero: bool = True

    def save_checkpoint(self, path: Path) -> None:
        torch.save({}, path)


def test_a_damaged_newer_checkpoint_does_not_cost_the_new_one(tmp_path: Path):
    (tmp_path / "step-00000100.ckpt").write_bytes(b"whole")
    (tmp_path / "step-00000200.ckpt").write_bytes(b"cut sh")
    checkpoints = NewestCheckpoints(tmp_path, 50, keep=1)
    for step, left in ((150, ["150", "200"]), (200, ["200"]), (250, ["250"])):
        checkpoints.save(_Saving(step))  # type: ignore[arg-type]
        assert [path.stem[-3:] for path in sorted(tmp_path.iterdir())] == left


def test_ranks_leave_out_the_same_step(tones: Path, whole: Path):
    """Only rank 1 has the bad batch; rank 0 writes its own ids, which were fine, and leaves the step out too."""
    ended = broken(tones, "nan", {5}, "--experiment=nan-two", "--limits.on_nan=skip", *TWO_RANKS, rank=1)
    assert ended.status == 0, ended.stderr[-2000:]
    left_out = sorted(rows(tones / "runs/nan-two"), key=lambda row: row["rank"])
    assert [(row["step"], row["rank"]) for row in left_out] == [(5, 0), (5, 1)]
    assert left_out[0]["losses"][0] == left_out[0]["losses"][0] and left_out[1]["losses"][0] != left_out[1]["losses"][0]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_is_named_and_the_other_ends(tones: Path, whole: Path, rank: int):
    began = time.monotonic()
    ended = broken(tones, "die", {6}, f"--experiment=dead-{rank}", *TWO_RANKS, rank=rank)
    assert ended.status == (-signal.SIGKILL if rank == 0 else 1)
    printed = "rank 0 died" if rank == 0 else r"rank 1 \(pid \d+\) was killed by SIGKILL"
    assert re.search(rf"stage: tokenizer: {printed}.*the same command goes on", ended.stderr), ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - began < 240  # of it, a minute after the death: the rest is the start, on a busy machine
    assert not ended.survivors()


def test_a_worker_that_dies_is_one_line(tones: Path, whole: Path):
    again = {3, 4, 5, 6, 7, 8}  # at the end of an epoch nobody misses a worker any more
    ended = broken(tones, "worker", again, "--experiment=worker", "--data.num_workers=2")
    assert ended.status == 1 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    assert re.search(
        r"stage: tokenizer: DataLoader worker.*(killed by signal: Killed|exited unexpectedly).*the same command goes on",
        ended.stderr,  # torch has both messages: it depends on who sees the death first
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_folder_that_vanishes_is_one_line(tones: Path, copy_of_whole, workers: int):
    words = ["--experiment=vanished", "--parents.latents=vanishing", f"--data.num_workers={workers}"]
    copy_of_whole("vanishing", "latents")
    ended = broken(tones, "vanish", {3}, *words)
    shutil.rmtree(tones / "runs/vanishing")
    shutil.rmtree(tones / "vanished")
    assert ended.status == 1 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
    assert re.search(
        r"stage: tokenizer: .*No such file or directory.*(cuts.jsonl|cuts.json|plan.npy|arrays.npy).*the same command goes on",
        ended.stderr,
    )


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "words", [["--trainer.accelerator=gpu"], ["--trainer.accelerator=auto", "--trainer.devices=8"]]
)
def test_gpus_that_are_not_here_are_said_in_one_line(stage, tones: Path, whole: Path, words: list[str], capsys):
    assert stage("run", "tokenizer", "--experiment=gpus", "--parents.latents=whole", *words) == 1
    printed = capsys.readouterr().err
    assert "there is no GPU here; for " in printed and printed.rstrip().endswith("--trainer.accelerator=cpu")
    assert not (tones / "runs/gpus/tokenizer/checkpoints").exists()


def test_a_validation_batch_of_one_clip_leaves_the_others_gap(stage, tones: Path, whole: Path):
    """Three windows in batches of two, or of one: the mean of those that have another clip, or no value at all."""
    words = [
        "--parents.latents=whole",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.limit_val_batches=9",
    ]
    for size, measured in ((2, True), (1, False)):
        assert stage("run", "tokenizer_mse", f"--experiment=gap-{size}", *words, f"--batch_size={size}") == 0
        metrics = json.loads((tones / f"runs/gap-{size}/tokenizer_mse/receipt.json").read_text())["metrics"]
        assert metrics["val/items"] % 2 == 1, "no batch of one clip"
        gaps = [value for name, value in metrics.items() if "token_gap" in name]
        assert len(gaps) == 3 * measured and all(gap == gap for gap in gaps)


def test_a_temporary_folder_too_long_for_sockets_ends_at_once(stage, whole: Path, tmp_path: Path, monkeypatch, capsys):
    """Workers hand over through sockets in it, whose paths end at 108 bytes: without them they are waited for for ever."""
    folder = tmp_path / ("x" * 76)
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    words = ["run", "tokenizer", "--experiment=long-tmp", "--parents.latents=whole"]
    assert stage(*words, "--data.num_workers=1") == 1
    assert re.search(r"TMPDIR is \d+ bytes long.*at most 75 are allowed\. Type TMPDIR=/tmp", capsys.readouterr().err)
