"""Which runs may be made longer, and what is left of the shorter one."""

from pathlib import Path

import pytest

import conf
from stages.runs import graph, receipts
from stages.runs.identity import read_identity
from stages.runs.moved_end import last_step_before_decay
from stages.runs.progress import checkpoint_step, whole_checkpoints
from stages.runs.state import State, begin_run, check_unfinished
from tests.stages.runs.written_experiment import WrittenExperiment

SHORT = ("optimizer.schedule=wsd", "trainer.max_steps=300")
LONG = ("optimizer.schedule=wsd", "trainer.max_steps=600")


@pytest.fixture
def written(tmp_path: Path) -> WrittenExperiment:
    experiment = WrittenExperiment(tmp_path)
    experiment.corpus("first")
    experiment.make("latents", "a")
    return experiment


def steps_of(folder: Path) -> list[int]:
    return [checkpoint_step(path) for path in whole_checkpoints(folder)]


def begin(written: WrittenExperiment, *overrides: str) -> Path:
    configuration = written.conf("tokenizer", *overrides)
    parents = graph.parents("tokenizer", configuration)
    return begin_run("tokenizer", configuration, False, receipts.identity_of("tokenizer", configuration, parents))


def finish_short(written: WrittenExperiment, *checkpoints: int) -> None:
    """A finished run of 300 steps, whose decay began at 270, with a child."""
    for step in checkpoints:
        written.checkpoint("tokenizer", step, *SHORT)
    written.make("tokenizer", "short", *SHORT, steps=300)
    written.make("cache", "codes")


def test_a_longer_run_keeps_what_was_before_the_decay(written: WrittenExperiment):
    finish_short(written, 260, 270, 280, 300)
    before = receipts.read(written.root / "runs/demo/tokenizer")
    assert written.state("tokenizer", *SHORT).word == "done" and written.state("cache").word == "done"
    assert written.state("tokenizer", *LONG) == State("partial", "300 steps are done; from step 270 it goes on to 600")
    folder = begin(written, *LONG)
    assert steps_of(folder) == [260, 270]
    assert receipts.read(folder) is None and receipts.read(folder.parent / ".old/tokenizer-1") == before
    assert (folder.parent / ".old/tokenizer-1/artifact/weights").read_text() == "short"
    identity = receipts.identity_of("tokenizer", written.conf("tokenizer", *LONG), {})
    assert (read_identity(folder) or identity).conf_hash == identity.conf_hash
    assert written.state("tokenizer", *LONG) == State("partial", "step 270 of 600")
    assert written.state("cache") == State("stale", "its parent tokenizer is missing")
    written.make("tokenizer", "long", *LONG, steps=600)
    assert written.state("cache") == State("stale", "its parent tokenizer changed")


def test_a_kill_between_is_the_same_again(written: WrittenExperiment):
    """Its artifact was moved and its receipt was not; or both were, and its configuration is still the old one."""
    finish_short(written, 270, 300)
    folder = written.root / "runs/demo/tokenizer"
    (folder / "artifact").rename(folder / "elsewhere")
    assert steps_of(begin(written, *LONG)) == [270]
    begin(written, *SHORT)
    written.checkpoint("tokenizer", 280, *SHORT)
    assert written.state("tokenizer", *LONG) == State("partial", "step 280 of 300")
    assert steps_of(begin(written, *LONG)) == [270]


def test_without_a_checkpoint_before_the_decay_it_is_refused(written: WrittenExperiment):
    finish_short(written, 280, 300)
    with pytest.raises(
        ValueError, match=r"max_steps=600: .*step 270 or before.*has: 280, 300\..*--init_from=\S+tokenizer"
    ):
        begin(written, *LONG)
    assert written.state("tokenizer", *SHORT).word == "done"


def test_an_unfinished_run_may_also_end_earlier_but_not_before_what_is_done(written: WrittenExperiment):
    written.checkpoint("tokenizer", 250, *LONG)
    check_unfinished("tokenizer", written.conf("tokenizer", *SHORT))
    with pytest.raises(ValueError, match=r"step 180 or before.*has: 250\."):
        check_unfinished("tokenizer", written.conf("tokenizer", "optimizer.schedule=wsd", "trainer.max_steps=200"))
    with pytest.raises(ValueError, match=r"seed: 0 -> 1"):
        check_unfinished("tokenizer", written.conf("tokenizer", *SHORT, "seed=1"))


def test_a_shorter_end_is_another_configuration_of_a_finished_run(written: WrittenExperiment):
    written.make("tokenizer", "long", *LONG, steps=600)
    assert written.state("tokenizer", *SHORT).word == "stale"


def test_the_end_of_a_curriculum_and_of_a_cosine_is_fixed():
    wsd = conf.compose("openaqa", overrides=["optimizer.schedule=wsd", "optimizer.decay_steps=500"]).conf
    assert last_step_before_decay(wsd) == wsd.trainer.max_steps - 500
    curriculum = conf.compose("openaqa", ["curriculum"], overrides=["optimizer.schedule=wsd"]).conf
    assert last_step_before_decay(curriculum) is None
    assert last_step_before_decay(conf.compose("openaqa").conf) is None
    one_of_two = conf.compose("vae", overrides=["optimizer.schedule=wsd"]).conf
    assert last_step_before_decay(one_of_two) is None


def test_a_decay_fits_into_the_training():
    with pytest.raises(ValueError, match=r"optimizer\.decay_steps: 95: with 10 of warm-up .* at most 90 is allowed"):
        conf.compose(
            "tokenizer",
            overrides=[
                "optimizer.schedule=wsd", "optimizer.decay_steps=95", "optimizer.warmup_steps=10", "trainer.max_steps=100",
            ],
        )  # fmt: skip
