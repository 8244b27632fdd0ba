"""What is done, partial, stale or missing; whose artifact feeds whom; what is refused by name."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import conf
from conf.schema import OPERATIONAL
from datamodules.hashing import hash_folder
from stages import STAGES
from stages.runs import graph, receipts
from stages.runs.identity import differences, fingerprint
from stages.runs.progress import newest_checkpoint
from stages.runs.state import State, begin_run
from tests.stages.runs.written_experiment import WrittenExperiment


@pytest.fixture
def house(tmp_path: Path) -> WrittenExperiment:
    return WrittenExperiment(tmp_path)


def test_the_registry_is_in_an_order_in_which_it_can_run():
    seen: set[str] = set()
    for name, stage in STAGES.items():
        assert set(stage.parents) | set(stage.optional) <= seen
        seen.add(name)


def test_nothing_is_missing_and_everything_is_done(house: WrittenExperiment):
    assert {house.state(stage).word for stage in STAGES} == {"missing"}
    house.make_all()
    assert {stage: house.state(stage) for stage in STAGES} == dict.fromkeys(STAGES, State("done", "2 s"))


def test_a_receipt_holds_what_made_it(house: WrittenExperiment):
    house.corpus("first")
    latents = house.make("latents", "a")
    tokenizer = house.make("tokenizer", "b", steps=600)
    cache = house.make("cache", "c")
    assert latents["corpora"] == {"diagnostic": "first"} and latents["parents"] == {}
    assert tokenizer["parents"] == {"latents": latents["artifact_hash"]}
    assert cache["ancestors"] == {"latents": latents["artifact_hash"], "tokenizer": tokenizer["artifact_hash"]}
    stored = receipts.read(house.root / "runs" / "demo" / "tokenizer")
    assert stored == tokenizer
    assert (tokenizer["steps"], tokenizer["seconds"], tokenizer["facts"]) == (600, 2.3, {"fact": "b"})
    assert tokenizer["conf"] == conf.plain(house.conf("tokenizer")) and set(tokenizer["versions"]) == set(
        receipts.PACKAGES
    )
    assert house.state("tokenizer").detail == "600 steps, 2 s"
    assert graph.parents("cache", house.conf("cache"))["tokenizer"].facts == {"fact": "b"}


def test_a_receipt_is_json_by_the_standard(house: WrittenExperiment):
    """A number that was not measured is null: NaN is no JSON."""
    house.corpus("first")
    house.make("latents", "a")
    folder, configuration = house.root / "runs/demo/latents", house.conf("latents")
    metrics = {"val/audio_loss": float("nan"), "rows": [{"kad": float("inf"), "mel": 1.5}]}
    receipts.finish("latents", configuration, folder, {}, {}, metrics, 1, 2.0)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    read = json.loads((folder / "receipt.json").read_text(), parse_constant=refuse)
    assert read["metrics"] == {"val/audio_loss": None, "rows": [{"kad": None, "mel": 1.5}]}


def test_a_stage_is_partial_from_its_first_checkpoint_or_chunk(house: WrittenExperiment):
    house.corpus("first")
    folder = begin_run("latents", house.conf("latents"), restart=False)
    assert house.state("latents").word == "missing", "a configuration alone is no progress"
    (folder / "chunks" / "000000-aa").mkdir(parents=True)
    (folder / "chunks" / ".tmp-000001-bb-1").mkdir()
    (folder / "chunks" / "plan.json").write_text("[1, 2, 3]")
    assert house.state("latents") == State("partial", "chunk 1 of 3")
    house.checkpoint("tokenizer", 120)
    assert house.state("tokenizer") == State("partial", f"step 120 of {house.conf('tokenizer').trainer.max_steps}")


def test_a_parent_that_changed_makes_its_children_stale(house: WrittenExperiment):
    house.make_all()
    house.make("tokenizer", "other weights")
    assert house.state("tokenizer").word == "done"
    for stage in ("cache", "caption", "openaqa", "evaluate"):
        assert house.state(stage) == State("stale", "its parent tokenizer changed")
    assert house.state("tokenizer_mse").word == "done"
    (house.root / "runs" / "demo" / "latents" / "receipt.json").unlink()
    assert house.state("tokenizer_mse") == State("stale", "its parent latents is missing")


def test_a_parent_made_again_to_the_same_bytes_changes_nothing(house: WrittenExperiment):
    house.make_all()
    house.make("tokenizer", "tokenizer weights")
    assert {house.state(stage).word for stage in STAGES} == {"done"}


def test_a_configuration_that_changed_makes_a_stage_stale(house: WrittenExperiment):
    house.make_all()
    state = house.state("tokenizer", "flow.token_dropout=0.2", "seed=3")
    assert state.word == "stale"
    assert "flow.token_dropout: 0.1 -> 0.2" in state.detail and "seed: 0 -> 3" in state.detail
    assert house.state("tokenizer", "flow.token_dropout=0.2", compare=False).word == "done"


@pytest.mark.parametrize(
    "override",
    ["threads=1", "data.num_workers=7", "checkpoints.keep=9", "trainer.log_every_n_steps=1", "sample_clips=0"],
)
def test_operational_keys_leave_a_receipt_fresh(house: WrittenExperiment, override: str):
    house.make_all()
    assert override.split("=")[0].startswith(OPERATIONAL)
    assert house.state("tokenizer", override).word == "done"


def test_an_unfinished_run_of_another_configuration_is_not_gone_on_with(house: WrittenExperiment):
    house.corpus("first")
    house.make("latents", "a")
    house.checkpoint("tokenizer", 120)
    other = house.conf("tokenizer", "batch_size=8")
    assert house.state("tokenizer", "batch_size=8").word == "stale"
    with pytest.raises(ValueError, match=r"step 120 of \d+.*\n  batch_size: 16 -> 8\nGive the old values.*--restart"):
        begin_run("tokenizer", other, restart=False)
    folder = begin_run("tokenizer", house.conf("tokenizer", "threads=1"), restart=False)
    assert newest_checkpoint(folder), "an operational key may change"
    folder = begin_run("tokenizer", other, restart=True)
    assert newest_checkpoint(folder) is None
    assert OmegaConf.to_container(OmegaConf.load(folder / "conf.yaml")) == conf.plain(other)


def test_a_corpus_that_was_prepared_again_makes_latents_stale(house: WrittenExperiment):
    house.make_all()
    house.corpus("second")
    assert house.state("latents") == State("stale", "the corpus diagnostic was prepared again")


def test_an_artifact_that_is_gone_is_said(house: WrittenExperiment):
    house.make_all()
    folder = house.root / "runs" / "demo" / "tokenizer"
    (folder / "artifact" / "weights").unlink()
    (folder / "artifact").rmdir()
    assert house.state("tokenizer") == State("stale", "its artifact folder is gone")
    with pytest.raises(ValueError, match=r"tokenizer has a receipt and no artifact/.*stage run tokenizer --restart"):
        graph.parents("cache", house.conf("cache"))


def test_a_missing_parent_names_the_command_that_makes_it(house: WrittenExperiment):
    house.corpus("first")
    message = (
        r"tokenizer needs latents, and .*not started.*\n.*stage run latents --experiment=demo\n.*--parents\.latents="
    )
    with pytest.raises(ValueError, match=message):
        graph.parents("tokenizer", house.conf("tokenizer"))
    house.make("latents", "a")
    house.checkpoint("tokenizer", 120)
    with pytest.raises(ValueError, match=r"cache needs tokenizer, .*\(step 120 of \d+\)"):
        graph.parents("cache", house.conf("cache"))


def test_an_optional_parent_may_be_missing(house: WrittenExperiment):
    house.corpus("first")
    for stage in ("latents", "tokenizer", "cache", "rehearsal", "caption", "openaqa"):
        house.make(stage, stage)
    assert "tokenizer_mse" not in graph.parents("reconstruct", house.conf("reconstruct"))
    house.make("tokenizer_mse", "m")
    assert "tokenizer_mse" in graph.parents("reconstruct", house.conf("reconstruct"))


def test_parents_of_two_tokenizers_are_refused_by_name(house: WrittenExperiment):
    """The codes in a cache mean nothing to another tokenizer's decoder."""
    house.make_all()
    house.make("tokenizer", "other weights")
    message = (
        r"caption cannot join tokenizer and cache: they come from different runs of 'tokenizer'.*\n.*stage run cache"
    )
    with pytest.raises(ValueError, match=message):
        graph.parents("caption", house.conf("caption"))


def test_the_cure_of_parents_that_do_not_fit_is_named_and_cures(house: WrittenExperiment):
    """What one parent was made with is another experiment's: that is what the other parents are to be taken from."""
    house.make_all()
    for stage in ("latents", "tokenizer", "cache"):
        house.make(stage, f"{stage} of p", "experiment=p")
    for stage, taken, cure in (
        ("cache", "tokenizer", ["parents.latents=demo"]),
        ("openaqa", "caption", ["parents.tokenizer=demo", "parents.cache=demo"]),
    ):
        words = ["experiment=p", f"parents.{taken}=demo", *(["mixture.text=0"] if stage == "openaqa" else [])]
        typed = " ".join(f"--{key}" for key in cure)
        with pytest.raises(ValueError, match=rf"cannot join .*\n.*\nor take what goes together:   {typed}$"):
            graph.parents(stage, house.conf(stage, *words))
        graph.parents(stage, house.conf(stage, *words, *cure))
    house.make("latents", "latents of nobody else", "experiment=demo")
    with pytest.raises(ValueError, match="cannot join") as caught:
        graph.parents("cache", house.conf("cache", "experiment=p", "parents.tokenizer=demo"))
    assert "goes together" not in str(caught.value), "nobody has those latents any more"


def test_a_parent_elsewhere_that_is_not_there_names_those_that_are(house: WrittenExperiment):
    house.make_all()
    house.make("latents", "a", "experiment=other")
    message = r"runs/dmeo/{} has no finished run \(not started\): is dmeo misspelt\? {}$"
    with pytest.raises(ValueError, match=message.format("latents", "There are: demo, other")):
        graph.parents("tokenizer", house.conf("tokenizer", "experiment=p", "parents.latents=dmeo"))
    (house.root / "runs" / "demo" / "vae" / "receipt.json").unlink()
    with pytest.raises(ValueError, match=message.format("vae", r"No experiment in .*runs/ has a finished vae")):
        graph.parents("latents", house.conf("latents", "codec.kind=trained", "parents.vae=dmeo"))
    with pytest.raises(ValueError, match=message.format("tokenizer_mse", "There are: demo")):
        graph.parents("reconstruct", house.conf("reconstruct", "parents.tokenizer_mse=dmeo"))


def test_a_parent_may_come_from_another_experiment_or_folder(house: WrittenExperiment):
    house.make_all()
    folder = house.root / "runs" / "demo" / "latents"
    for where in ("demo", str(folder)):
        parents = graph.parents("tokenizer", house.conf("tokenizer", "experiment=other", f"parents.latents={where}"))
        assert parents["latents"].folder == folder


def test_a_foreign_stage_is_no_parent(house: WrittenExperiment):
    """A run folder given for a parent must hold that stage's run."""
    house.make_all()
    wrong = house.root / "runs" / "demo" / "openaqa"
    with pytest.raises(ValueError, match=r"demo/openaqa holds a run of openaqa, and cache needs one of tokenizer"):
        graph.parents("cache", house.conf("cache", f"parents.tokenizer={wrong}"))
    twin = house.root / "runs" / "demo" / "tokenizer_mse"
    assert graph.parents("cache", house.conf("cache", f"parents.tokenizer={twin}")), "the twin is a tokenizer"


@pytest.mark.parametrize("text", ["", '{"stage": "tok', "[]"])
def test_a_damaged_receipt_is_named(house: WrittenExperiment, text: str):
    house.make_all()
    path = house.root / "runs" / "demo" / "tokenizer" / "receipt.json"
    path.write_text(text)
    for ask in (lambda: house.state("tokenizer"), lambda: graph.parents("cache", house.conf("cache"))):
        with pytest.raises(ValueError, match=r"tokenizer/receipt\.json is damaged .*Remove it"):
            ask()


def test_an_earlier_run_is_moved_aside_and_kept(house: WrittenExperiment):
    house.make_all()
    runs = house.root / "runs" / "demo"
    for number in (1, 2):
        folder = begin_run("tokenizer", house.conf("tokenizer"), restart=True)
        assert folder == runs / "tokenizer" and not (folder / "artifact").exists()
        assert (runs / ".old" / f"tokenizer-{number}" / "conf.yaml").is_file()
    assert (runs / ".old" / "tokenizer-1" / "artifact" / "weights").read_text() == "tokenizer weights"
    assert not (runs / ".old" / "tokenizer-3").exists()


def test_numbers_go_on_past_nine_and_stages_with_like_names_do_not_mix(house: WrittenExperiment):
    """tokenizer-... and tokenizer_mse-... lie side by side."""
    house.make_all()
    for _ in range(11):
        begin_run("tokenizer", house.conf("tokenizer"), restart=True)
    begin_run("tokenizer_mse", house.conf("tokenizer_mse"), restart=True)
    names = {path.name for path in (house.root / "runs" / "demo" / ".old").iterdir()}
    assert names == {f"tokenizer-{number}" for number in range(1, 12)} | {"tokenizer_mse-1"}


def test_the_newest_whole_checkpoint_is_found(house: WrittenExperiment):
    house.corpus("first")
    house.make("latents", "a")
    oldest, middle, newest = (house.checkpoint("tokenizer", step) for step in (80, 999_999, 1_000_000))
    folder = newest.parents[1]
    assert newest_checkpoint(folder) == newest
    newest.write_bytes(newest.read_bytes()[:-100])
    assert newest_checkpoint(folder) == middle, "by number, not by name or time"
    middle.write_bytes(b"")
    oldest.touch()
    assert newest_checkpoint(folder) == oldest
    oldest.unlink()
    assert newest_checkpoint(folder) is None


def test_a_fingerprint_knows_every_key_that_decides(house: WrittenExperiment):
    base = house.conf("tokenizer")
    assert fingerprint(base) == fingerprint(json.loads(json.dumps(conf.plain(base))))
    assert differences(base, base) == []
    changed = house.conf("tokenizer", "encoder.depth=1")
    assert differences(base, changed) == ["encoder.depth: 2 -> 1"]
    assert fingerprint(base) != fingerprint(changed)


def test_a_hash_knows_names_and_contents(tmp_path: Path):
    def of(files: dict[str, str]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return hash_folder(folder)

    assert of({"a": "1", "b/c": "2"}) == of({"b/c": "2", "a": "1"})
    others = [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a/b": "1"}, {"a": "1", "b": ""}, {"a": "", "b": "1"}]
    assert len({of(files) for files in others}) == len(others)
