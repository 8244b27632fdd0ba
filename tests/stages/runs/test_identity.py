"""A run that was stopped in the middle never goes on with another parent, corpus or configuration than it was begun with."""

import dataclasses
import json
from pathlib import Path

import pytest

from stages import STAGES
from stages.cli import logs
from stages.runs import graph, receipts
from stages.runs.identity import read_identity
from stages.runs.state import State, begin_run, check_unfinished
from stages.runs.warm_start import source_of
from tests.interrupt import interrupt
from tests.stages.runs.written_experiment import WrittenExperiment

BEFORE_EVALUATE = ("latents", "tokenizer", "cache", "rehearsal", "caption", "openaqa", "text_to_sound")


def test_a_run_that_an_older_version_began_is_taken_up_with_what_it_has(stage, tones: Path, copy_of_whole):
    folder = copy_of_whole("older", "latents") / "tokenizer"
    interrupt(tones, "tokenizer", 5, "--experiment=older")
    (folder / "run.json").unlink()
    assert stage("run", "tokenizer", "--experiment=older") == 0
    receipt, begun = receipts.read(folder), read_identity(folder)
    assert receipt and begun and receipt["steps"] == 12 and receipt["parents"] == begun.parents


@pytest.fixture
def written(tmp_path: Path) -> WrittenExperiment:
    experiment = WrittenExperiment(tmp_path)
    experiment.corpus("first")
    return experiment


def begin_with_a_row(written: WrittenExperiment, stage: str) -> Path:
    conf = written.conf(stage)
    folder = begin_run(stage, conf, False, receipts.identity_of(stage, conf, graph.parents(stage, conf)))
    (folder / "predictions-0.jsonl").write_text("{}\n")
    return folder


def go_on(written: WrittenExperiment, stage: str) -> None:
    conf = written.conf(stage)
    check_unfinished(stage, conf, receipts.identity_of(stage, conf, graph.parents(stage, conf)))


def test_a_corpus_that_was_prepared_again_is_refused_by_name(written: WrittenExperiment):
    for name in BEFORE_EVALUATE:
        written.make(name, name)
    begin_with_a_row(written, "generation")
    go_on(written, "generation")
    written.corpus("second")
    assert written.state("generation") == State(
        "stale", "1 row, begun with something else: the corpus diagnostic was prepared again"
    )
    with pytest.raises(ValueError, match="the corpus diagnostic was prepared again"):
        check_unfinished("generation", written.conf("generation"))


def test_a_parent_that_comes_later_is_refused_but_where_the_export_alone_reads_it(written: WrittenExperiment):
    for name in BEFORE_EVALUATE:
        written.make(name, name)
    begin_with_a_row(written, "reconstruct")
    begin_with_a_row(written, "evaluate")
    written.make("tokenizer_mse", "later")
    with pytest.raises(ValueError, match="its parent tokenizer_mse is new"):
        go_on(written, "reconstruct")
    folder = begin_run("reconstruct", written.conf("reconstruct"), restart=True)
    assert read_identity(folder) is None, "what has no parents yet is tied to none"
    written.make("reconstruct", "later")
    go_on(written, "evaluate")
    assert all(set(one.shown) <= set(one.optional) for one in STAGES.values())


def test_a_run_without_a_product_may_begin_with_anything(written: WrittenExperiment):
    written.make("latents", "a")
    conf = written.conf("tokenizer")
    for seed in (0, 1):
        conf = dataclasses.replace(conf, seed=seed)
        identity = receipts.identity_of("tokenizer", conf, graph.parents("tokenizer", conf))
        assert read_identity(begin_run("tokenizer", conf, False, identity)) == identity


def test_another_commit_goes_on_and_is_noted(written: WrittenExperiment, capsys):
    logs.set_up()
    written.make("latents", "a")
    conf = written.conf("tokenizer")
    identity = receipts.identity_of("tokenizer", conf, graph.parents("tokenizer", conf))
    begin_run("tokenizer", conf, False, identity._replace(commit="0123456789ab"))
    written.checkpoint("tokenizer", 120)
    begin_run("tokenizer", conf, False, identity._replace(commit="ba9876543210"))
    assert "begun by the code of commit 0123456789ab, and goes on by that of ba9876543210" in capsys.readouterr().err
    assert (read_identity(written.root / "runs/demo/tokenizer") or identity).commit == "0123456789ab"


def test_a_configuration_that_is_gone_is_compared_by_its_hash(written: WrittenExperiment):
    written.make("latents", "a")
    (begin_with_a_row(written, "tokenizer") / "conf.yaml").unlink()
    go_on(written, "tokenizer")
    conf = dataclasses.replace(written.conf("tokenizer"), seed=5)
    with pytest.raises(ValueError, match=r"its configuration, and its conf\.yaml is gone"):
        check_unfinished("tokenizer", conf)


def test_a_damaged_identity_is_named(written: WrittenExperiment):
    written.make("latents", "a")
    path = written.checkpoint("tokenizer", 120).parents[1] / "run.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged.*--restart"):
        written.state("tokenizer")


def test_the_run_that_it_starts_from_is_part_of_what_a_run_is(written: WrittenExperiment):
    """Its weights, not its path: a source that is trained again, or another one, is refused."""
    written.make("latents", "a")
    source = written.make("tokenizer", "first")
    moved = written.root / "moved"
    written.root.joinpath("runs/demo/tokenizer").rename(moved)
    conf = dataclasses.replace(written.conf("tokenizer"), init_from=str(moved))
    identity = receipts.identity_of("tokenizer", conf, graph.parents("tokenizer", conf), source_of("tokenizer", conf))
    assert identity.init_from == source["artifact_hash"]
    begin_run("tokenizer", conf, False, identity)
    written.checkpoint("tokenizer", 120, f"init_from={moved}")
    assert moved.rename(written.root / "elsewhere")
    same = dataclasses.replace(conf, init_from=str(written.root / "elsewhere"))
    check_unfinished("tokenizer", same)
    with pytest.raises(ValueError, match=r"the run of init_from: [0-9a-f]{12} -> none"):
        check_unfinished("tokenizer", dataclasses.replace(conf, init_from=None))
    receipt = json.loads((written.root / "elsewhere/receipt.json").read_text())
    (written.root / "elsewhere/receipt.json").write_text(json.dumps({**receipt, "artifact_hash": "0" * 64}))
    with pytest.raises(ValueError, match=r"the run of init_from: [0-9a-f]{12} -> 000000000000"):
        check_unfinished("tokenizer", same)


def test_a_finished_run_is_not_begun_again_from_other_weights_without_asking(written: WrittenExperiment):
    written.make("latents", "a")
    written.make("tokenizer", "source")
    moved = written.root / "moved"
    written.root.joinpath("runs/demo/tokenizer").rename(moved)
    written.make("tokenizer", "plain")
    conf = dataclasses.replace(written.conf("tokenizer"), init_from=str(moved))
    with pytest.raises(ValueError, match=r"is finished.*\n  the run of init_from: none -> [0-9a-f]{12}\n.*--restart"):
        begin_run("tokenizer", conf, False)
    assert (written.root / "runs/demo/tokenizer/receipt.json").exists()
    begin_run("tokenizer", conf, True)
    assert not (written.root / "runs/demo/tokenizer/receipt.json").exists()
