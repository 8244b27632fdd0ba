"""On a real SLURM: the chain as dependent jobs, and a stage that is interrupted in the middle ends with the same bytes as one that was not."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stages import STAGES
from tests.conftest import SMOKE
from tests.slurm import cluster as slurm

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),  # one cluster and one chain, not one a worker
    pytest.mark.skipif(slurm.missing() is not None, reason=f"no SLURM here: {slurm.missing()}"),
]

PATIENCE = 900  # seconds for what takes a minute on a machine with nothing else to do
TWO = (
    "--tokenizer.trainer.devices=2",
    "--cache.trainer.num_nodes=2",
    "--caption.trainer.num_nodes=2",
)  # tasks of a stage
LONG = (  # a stage that is still training when its interruption comes
    "--trainer.max_steps=200", "--trainer.val_check_interval=100", "--checkpoints.every_n_steps=20", "--parents.latents=chain",
    "--parents.tokenizer=chain", "--parents.cache=chain",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[slurm.Cluster]:
    with slurm.Cluster() as cluster:
        cluster.environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        yield cluster


class Bench:
    """The command `stage` where the corpus `tones` is, with the cluster at hand."""

    def __init__(self, folder: Path, cluster: slurm.Cluster) -> None:
        self.folder, self.cluster = folder, cluster

    def stage(self, *words: str, status: int = 0) -> str:
        verbs = SMOKE if words[0] in ("run", "submit") else ()
        command = [sys.executable, "-m", "stages.cli.main", *words, *verbs]
        done = subprocess.run(command, cwd=self.folder, env=self.cluster.environment, capture_output=True, text=True)
        assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def jobs(self, experiment: str) -> dict[str, str]:
        noted = json.loads((self.folder / "runs" / experiment / "slurm/jobs.json").read_text())
        return {stage: entry["job"] for stage, entry in noted.items()}

    def job(self, experiment: str, stage: str) -> str:
        return self.jobs(experiment)[stage]

    def facts(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: key -> value."""
        words = self.cluster.ask("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def end(self, job: str) -> dict[str, str]:
        """Waits until a job is over."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        assert slurm.until(lambda: self.facts(job)["JobState"] in over, PATIENCE), self.facts(job)
        return self.facts(job)

    def log(self, experiment: str, stage: str) -> str:
        path = self.folder / "runs" / experiment / "slurm" / f"{stage}.log"
        return path.read_text() if path.is_file() else ""

    def weights(self, experiment: str, stage: str) -> dict[str, object]:
        return load_file(self.folder / "runs" / experiment / stage / "artifact/model.safetensors")


@pytest.fixture(scope="module")
def bench(tones: Path, cluster: slurm.Cluster) -> Bench:
    return Bench(tones, cluster)


@pytest.fixture(scope="module")
def chain(bench: Bench) -> str:
    """The whole chain, submitted at once and run to its end; some stages with two tasks. Returns what submit said."""
    message = bench.stage(
        "submit", "all", "--experiment=chain", "--slurm.time=1:00:00", "--slurm.comment=it's here", *TWO
    )
    bench.end(bench.job("chain", "evaluate"))
    return message


def test_the_chain_runs_as_dependent_jobs_to_its_end(bench: Bench, chain: str):
    jobs = bench.jobs("chain")
    stages = list(jobs)
    assert {"latents", "tokenizer", "reconstruct", "cache", "caption", "openaqa", "evaluate"} <= set(stages)
    facts = {name: bench.facts(job) for name, job in jobs.items()}
    assert {name: job["JobState"] for name, job in facts.items()} == dict.fromkeys(stages, "COMPLETED"), chain
    for name in stages:
        for parent in STAGES[name].parents:
            assert facts[parent]["EndTime"] <= facts[name]["StartTime"], f"{name} began before {parent} had ended"
    shapes = {name: (int(job["NumNodes"]), int(job["NumTasks"])) for name, job in facts.items()}  # nodes, tasks
    two = {"tokenizer": (1, 2), "cache": (2, 2), "caption": (2, 2)}
    assert shapes == dict.fromkeys(stages, (1, 1)) | two
    for name in two:
        assert "MEMBER: 2/2" in bench.log("chain", name)
    assert facts["latents"]["TimeLimit"] == "01:00:00"
    status = bench.stage("status", "--experiment=chain")
    assert all(re.search(rf"^ *{name} +done ", status, re.MULTILINE) for name in stages), status
    assert "[job" not in status
    followed = bench.stage("logs", "tokenizer", "--experiment=chain", "-f")
    assert followed == bench.log("chain", "tokenizer") + f"tokenizer      job {jobs['tokenizer']} completed\n"


def test_what_is_done_is_not_submitted_again(bench: Bench, chain: str):
    message = bench.stage("submit", "all", "--experiment=chain", *TWO)
    assert "job" not in message
    assert message.count(" done (") == len(bench.jobs("chain"))


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, chain: str) -> dict[str, dict[str, object]]:
    """The weights of runs without SLURM; two ranks are started by Lightning itself."""
    bench.stage("run", "tokenizer", "--experiment=calm", "--trainer.devices=2", *LONG[:4])
    bench.stage("run", "caption", "--experiment=calm", *LONG)
    return {stage: bench.weights("calm", stage) for stage in ("tokenizer", "caption")}


@pytest.mark.parametrize("how", ["requeue", "USR1"])
@pytest.mark.parametrize(("stage", "tasks"), [("tokenizer", 2), ("caption", 1)])
def test_interrupted_in_the_middle_it_ends_with_the_same_weights(
    bench: Bench, undisturbed: dict[str, dict[str, object]], stage: str, tasks: int, how: str
):
    experiment = f"{how}-{stage}"
    words = LONG[:4] if stage == "tokenizer" else LONG
    bench.stage("submit", stage, f"--experiment={experiment}", f"--trainer.devices={tasks}", *words)
    job, run = bench.job(experiment, stage), bench.folder / "runs" / experiment / stage
    assert slurm.until(lambda: list(run.glob("checkpoints/step-*.ckpt")), PATIENCE), bench.log(experiment, stage)
    if how == "requeue":
        bench.cluster.ask("scontrol", "requeue", job)
    else:
        bench.cluster.ask("scancel", "--signal=USR1", job)
    assert slurm.until(lambda: bench.facts(job)["Restarts"] == "1", PATIENCE), bench.log(experiment, stage)
    assert not (run / "receipt.json").exists(), "it was done before it was interrupted"
    assert "requeued 1 time" in bench.stage("status", f"--experiment={experiment}")
    assert bench.end(job)["JobState"] == "COMPLETED", bench.log(experiment, stage)

    assert how == "requeue" or "== not finished: queued again" in bench.log(experiment, stage)
    actual, expected = bench.weights(experiment, stage), undisturbed[stage]
    assert actual.keys() == expected.keys()
    assert all(actual[key].equal(expected[key]) for key in expected)  # type: ignore[attr-defined]


def test_a_waiting_job_is_named_and_what_needs_it_waits_with_it(bench: Bench, chain: str):
    words = ("--experiment=held", "--parents.latents=chain")
    bench.stage("submit", "tokenizer", *words, "--slurm.hold")
    job = bench.job("held", "tokenizer")
    assert "JobHeldUser" in bench.facts(job)["Reason"]
    message = bench.stage("submit", "tokenizer", *words, status=1)
    assert f"tokenizer has a job already: job {job} queued (JobHeldUser)" in message
    assert f"after {job}" in bench.stage("submit", "cache", *words)
    after = bench.job("held", "cache")
    assert bench.facts(after)["Dependency"].startswith(f"afterok:{job}")
    assert f"[job {job} queued (JobHeldUser)]" in bench.stage("status", "--experiment=held")
    bench.cluster.ask("scancel", job)
    assert bench.end(job)["JobState"] == bench.end(after)["JobState"] == "CANCELLED"
    assert f"[job {after} cancelled]" in bench.stage("status", "--experiment=held")
    assert "printed nothing" in bench.stage("logs", "cache", "--experiment=held")


def test_what_sbatch_refuses_is_said(bench: Bench, chain: str):
    message = bench.stage(
        "submit", "tokenizer", "--experiment=refused", "--parents.latents=chain", "--slurm.partition=none", status=1
    )
    assert "sbatch refuses runs/refused/slurm/tokenizer.sbatch" in message
    assert "partition" in message
    assert "Traceback" not in message


def test_a_job_without_srun_is_refused(bench: Bench, chain: str):
    """One task for two devices, and two tasks of which srun started none."""
    words = ("run", "tokenizer", "--experiment=alone", "--parents.latents=chain", "--trainer.devices=2", *SMOKE)
    command = " ".join([sys.executable, "-m", "stages.cli.main", *words])
    for tasks, message in (
        ("--ntasks=1", "2 processes were asked for"),
        ("--ntasks-per-node=2", "srun did not start this process"),
    ):
        log = bench.folder / f"alone{tasks}.log"
        name = bench.cluster.ask(
            "sbatch", "--parsable", tasks, f"--chdir={bench.folder}", f"--output={log}", f"--wrap={command}"
        )
        assert bench.end(name)["JobState"] == "FAILED"
        assert message in log.read_text()
    assert not (bench.folder / "runs/alone").exists()


def test_a_stage_that_never_gets_further_is_not_queued_for_ever(bench: Bench, chain: str):
    bench.stage("submit", "tokenizer", "--experiment=idle", "--parents.latents=chain", "--limits.seconds=1")
    job = bench.job("idle", "tokenizer")
    assert bench.end(job)["JobState"] == "FAILED"
    assert bench.facts(job)["Restarts"] == "2"
    log = bench.log("idle", "tokenizer")
    assert log.count("queued again") == 2 + 1
    assert "3 starts without progress" in log


def test_a_stage_that_fails_ends_the_chain(bench: Bench, chain: str, tmp_path: Path):
    """Its job is no longer to be queued: the status is not 75."""
    words = ("--experiment=failed", "--parents.latents=chain")
    bench.stage("submit", "tokenizer", *words, "--slurm.hold")
    job = bench.job("failed", "tokenizer")
    bench.stage("submit", "cache", *words)
    (bench.folder / "runs/failed/tokenizer").write_text("in the way")  # a file where the run folder would be
    bench.cluster.ask("scontrol", "release", job)
    assert bench.end(job)["JobState"] == "FAILED"
    assert bench.end(bench.job("failed", "cache"))["JobState"] == "CANCELLED"
    os.unlink(bench.folder / "runs/failed/tokenizer")
    assert f"[job {job} failed]" in bench.stage("status", "--experiment=failed")


def test_a_restart_moves_the_earlier_run_when_sbatch_has_accepted_it(bench: Bench, whole: Path):
    words = ("--experiment=again", "--parents.latents=whole")
    run = bench.folder / "runs/again/tokenizer"
    shutil.copytree(whole / "tokenizer", run)
    message = bench.stage("submit", "tokenizer", *words, "--restart", "--slurm.partition=none", status=1)
    assert "the earlier runs are where they were" in message and (run / "receipt.json").exists()
    setup = "--slurm.setup=['export MADE=here', 'echo set up $MADE']"
    bench.stage("submit", "tokenizer", *words, "--restart", setup)
    assert (run.parent / ".old/tokenizer-1/receipt.json").exists()
    assert bench.end(bench.job("again", "tokenizer"))["JobState"] == "COMPLETED", bench.log("again", "tokenizer")
    assert "set up here" in bench.log("again", "tokenizer") and (run / "receipt.json").exists()
