"""Told to stop, by a signal or by the clock, a stage ends with status 75 and what the same command needs to end with the same bytes."""

import re
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from callbacks.stop import INTERRUPTED, JOB_END, LIMIT, STOPPED, Stop
from datamodules.store import chunks
from tests.interrupt import TWO_RANKS, interrupt


def words(experiment: str, *parents: str) -> list[str]:
    return [f"--experiment={experiment}", *(f"--parents.{parent}=whole" for parent in parents)]


def same_weights(one: Path, other: Path) -> bool:
    before, after = (load_file(folder / "artifact/model.safetensors") for folder in (one, other))
    return before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)


@pytest.mark.parametrize(
    ("name", "sent", "batches", "options"),
    [
        ("tokenizer", signal.SIGUSR1, 5, []),
        ("tokenizer", signal.SIGTERM, 7, ["--data.num_workers=2"]),
        ("caption", signal.SIGUSR1, 3, ["--data.num_workers=2"]),
        ("openaqa", signal.SIGTERM, 10, []),
        ("openaqa", signal.SIGINT, 4, ["--data.num_workers=2"]),
    ],
)
def test_stopped_training_goes_on_to_the_weights_of_the_undisturbed_run(
    stage, tones: Path, whole: Path, name: str, sent: signal.Signals, batches: int, options: list[str]
):
    """At batches that are no multiple of checkpoints.every_n_steps: what is gone on from was saved for the signal."""
    parents = [parent for parent in ("latents", "tokenizer", "cache", "caption") if parent != name]
    mine = [*words(f"stopped-{name}-{sent.name}", *parents), *options]
    ended = interrupt(tones, name, batches, *mine, sent=sent)
    assert ended.status == (INTERRUPTED if sent == signal.SIGINT else STOPPED), ended.output
    # the signal may be seen after its own step, or after the next
    said = re.search(
        rf"^{name} +stopped at step (\d+) of 12 by {sent.name}; the same command goes on$", ended.output, re.M
    )
    assert said and int(said.group(1)) in (batches, batches + 1)
    run = tones / "runs" / f"stopped-{name}-{sent.name}" / name
    assert (run / f"checkpoints/step-{int(said.group(1)):08d}.ckpt").is_file() and not (run / "receipt.json").exists()
    assert stage("run", name, *mine) == 0
    assert same_weights(whole / name, run)


def test_a_second_interrupt_from_the_keyboard_does_not_wait():
    with Stop(None, 60, began=0) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.reason() == signal.SIGINT and stop.words(signal.SIGINT) == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_limit_of_time_stops_training(tones: Path, whole: Path, stage):
    mine = words("limited", "latents")
    ended = interrupt(tones, "tokenizer", 3, *mine, "--limits.seconds=1.5", sent=0)
    assert ended.status == STOPPED, ended.output
    assert re.search(r"stopped at step [0-3] of 12 by limits.seconds=1.5; the same command goes on", ended.output)
    assert stage("run", "tokenizer", *mine) == 0
    assert same_weights(whole / "tokenizer", tones / "runs/limited/tokenizer")


def test_the_clock_of_a_limit_and_of_slurm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    monkeypatch.setattr("time.time", lambda: 5000.0)
    assert Stop(None, 60, began=0).reason() == 0
    assert Stop(1001, 60, began=0).reason() == 0 and Stop(1001, 60, began=0).left() == 1
    assert Stop(1000, 60, began=0).reason() == LIMIT
    monkeypatch.setenv("SLURM_JOB_END_TIME", "5061")
    assert Stop(None, 60, began=0).reason() == 0
    monkeypatch.setenv("SLURM_JOB_END_TIME", "5060")
    assert Stop(None, 60, began=0).reason() == JOB_END
    assert "SLURM" in Stop(None, 60, began=0).words(JOB_END)
    assert Stop(None, 60, began=0).words(LIMIT) == "limits.seconds"  # of another rank


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_a_stopped_prediction_keeps_what_it_wrote(stage, tones: Path, whole: Path, sent: signal.Signals):
    mine = words(f"stopped-cache-{sent.name}", "latents", "tokenizer")
    ended = interrupt(tones, "cache", 1, *mine, sent=sent)
    assert ended.status == STOPPED, ended.output
    assert re.search(
        rf"^cache +stopped at chunk 1 of \d+ by {sent.name}; the same command goes on$", ended.output, re.M
    )
    assert stage("run", "cache", *mine) == 0
    found, expected = (
        chunks.read(folder / "cache/chunks") for folder in (tones / "runs" / f"stopped-cache-{sent.name}", whole)
    )
    assert [(cut.id, cut.custom["codes"]) for cut in found] == [(cut.id, cut.custom["codes"]) for cut in expected]


def test_a_limit_of_time_stops_a_prediction_and_the_chain_it_is_of(stage, tones: Path, whole: Path):
    """`run all` in one process: the stage's status is the command's, and the next stage does not begin."""
    mine = ["--experiment=limited-all", "--limits.seconds=1.5"]
    ended = interrupt(tones, "all", 1, *mine, "--data.num_workers=1", sent=0)
    assert ended.status == STOPPED, ended.output
    said = r"^latents +stopped at (the beginning|chunk 1 of \d+) by limits.seconds=1.5; the same command goes on$"
    assert re.search(said, ended.output, re.M), ended.output
    assert [path.name for path in (tones / "runs/limited-all").iterdir()] == ["latents"]
    assert stage("run", "latents", "--experiment=limited-all") == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_two_ranks_stop_at_the_same_step(tones: Path, whole: Path, rank: int):
    """The signal reaches one of them."""
    mine, undisturbed = words(f"stopped-two-{rank}", "latents"), words("undisturbed-two", "latents")
    assert interrupt(tones, "tokenizer", 0, *undisturbed, *TWO_RANKS).status == 0
    ended = interrupt(tones, "tokenizer", 6, *mine, *TWO_RANKS, sent=signal.SIGUSR1, rank=rank)
    assert ended.status == STOPPED, ended.output
    assert ended.output.count("stopped at step 6 of 12 by SIGUSR1; the same command goes on") == 1, ended.output
    assert interrupt(tones, "tokenizer", 0, *mine, *TWO_RANKS).status == 0
    runs = tones / "runs"
    assert same_weights(runs / "undisturbed-two/tokenizer", runs / f"stopped-two-{rank}/tokenizer")


def test_two_ranks_stop_a_prediction(tones: Path, whole: Path):
    mine = words("stopped-cache-two", "latents", "tokenizer")
    ended = interrupt(tones, "cache", 1, *mine, *TWO_RANKS, sent=signal.SIGTERM, rank=1)
    assert ended.status == STOPPED, ended.output
    assert re.search(r"^cache +stopped at chunk \d of \d by SIGTERM; the same command goes on$", ended.output, re.M)
    assert interrupt(tones, "cache", 0, *mine, *TWO_RANKS).status == 0
    found, expected = (chunks.read(folder / "cache/chunks") for folder in (tones / "runs/stopped-cache-two", whole))
    assert [(cut.id, cut.custom["codes"]) for cut in found] == [(cut.id, cut.custom["codes"]) for cut in expected]
