"""`stage submit` without a SLURM: what the scripts say, what is refused. tests/slurm runs them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stages.runs import jobs


@pytest.fixture
def submit(stage, capsys: pytest.CaptureFixture[str]):
    """stage submit WORDS, on the corpus `tones`; returns (exit status, what it printed)."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        status = stage("submit", *words)
        return status, "".join(capsys.readouterr())

    return run


def script(message: str, stage: str) -> list[str]:
    """The lines of one script that --dry-run printed."""
    return message.split(f"/slurm/{stage}.sbatch\n#!", 1)[1].split("\n# sbatch", 1)[0].splitlines()


def test_dry_run_prints_the_chain_and_leaves_nothing(submit, tones: Path):
    status, message = submit(
        "all", "--dry-run", "--experiment=dry", "--slurm.partition=gpu", "--slurm.time=1:00:00", "--slurm.exclusive"
    )
    assert status == 0
    assert not (tones / "runs/dry").exists()
    line = r"^# sbatch --parsable (?:--dependency=(\S+) --kill-on-invalid-dep=yes )?runs/dry/slurm/(\w+)\.sbatch$"
    waits = {name: parents for parents, name in re.findall(line, message, re.MULTILINE)}
    assert waits["latents"] == ""
    assert waits["tokenizer"] == "afterok:<latents>"
    assert waits["reconstruct"] == "afterok:<latents>:<tokenizer>:<tokenizer_mse>"
    assert "vae" not in waits
    lines = script(message, "tokenizer")
    for line in ("--partition=gpu", "--time=1:00:00", "--exclusive", "--nodes=1", "--ntasks-per-node=1", "--signal=USR1@120", "--requeue",
                 "--open-mode=append", "--output=runs/dry/slurm/tokenizer.log", f"--chdir={tones}", "--job-name=dry/tokenizer"):  # fmt: skip
        assert f"#SBATCH {line}" in lines
    (srun,) = [line for line in lines if line.startswith("srun")]
    assert f"{sys.executable} -m stages.cli.main run tokenizer --preset smoke" in srun
    assert "--slurm" not in srun


@pytest.mark.parametrize(("requeue", "asked"), [("true", True), ("false", False)])
def test_a_stopped_job_is_queued_again_only_where_it_may_be(submit, tmp_path: Path, requeue: str, asked: bool):
    """The script itself, with an srun that ends as a stage that was stopped, and an scontrol that notes what it is asked."""
    status, message = submit("latents", "--dry-run", "--experiment=requeue", f"--slurm.requeue={requeue}")
    assert status == 0
    for name, body in (("srun", "exit 75"), ("scontrol", 'echo "$@" >> asked; exit 1')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "runs/requeue/slurm").mkdir(parents=True)
    job = "\n".join(["#!" + script(message, "latents")[0], *script(message, "latents")[1:]])
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {"PATH": path, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    ended = subprocess.run(["bash", "-c", job], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 75 and ("== not finished: queued again" in ended.stdout) is asked, ended.stdout
    assert (tmp_path / "asked").exists() is asked
    assert asked or "slurm.requeue=false: not queued again" in ended.stdout


def test_the_script_asks_for_a_task_and_a_gpu_a_device(submit):
    words = (
        "--dry-run",
        "--experiment=dry",
        "--trainer.devices=8",
        "--slurm.nodes=2",
        "--trainer.accelerator=gpu",
        "--data.num_workers=4",
    )
    status, message = submit("latents", *words)
    assert status == 0
    lines = script(message, "latents")
    for line in ("--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=5"):
        assert f"#SBATCH {line}" in lines
    (srun,) = [line for line in lines if line.startswith("srun")]
    assert "--trainer.num_nodes=2" in srun
    assert "--cpus-per-task=5" in srun
    lines = script(submit("latents", *words, "--slurm.gres=gpu:h100:8", "--slurm.signal=USR1@600")[1], "latents")
    assert "#SBATCH --gres=gpu:h100:8" in lines
    assert "#SBATCH --signal=USR1@600" in lines
    assert not any("gpus-per-node" in line or "USR1@120" in line for line in lines)


def test_words_reach_the_command_as_they_were_typed(submit, tmp_path: Path):
    """Through the shell that runs the script."""
    strange = 'it\'s $HOME; a "b"'
    _, message = submit("latents", "--dry-run", f"--experiment={strange}", "--caption.seed=3", "--latents.seed=4")
    lines = script(message, "latents")
    (srun,) = [line for line in lines if line.startswith("srun")]
    words = subprocess.run(
        ["bash", "-c", srun.replace("srun", "printf '%s\\n'", 1)], capture_output=True, text=True
    ).stdout.splitlines()
    assert f"--experiment={strange}" in words
    assert "--latents.seed=4" in words
    assert "--caption.seed=3" not in words


def test_a_file_may_say_it_for_every_job(submit, tmp_path: Path):
    file = tmp_path / "cluster.yaml"
    file.write_text("slurm:\n  partition: long\n  further: {qos: high, exclusive: ''}\nseed: 3\n")
    status, message = submit("latents", "--dry-run", "--experiment=dry", "--conf", str(file), "--slurm.partition=short")
    assert status == 0
    lines = script(message, "latents")
    assert {"#SBATCH --partition=short", "#SBATCH --qos=high", "#SBATCH --exclusive"} <= set(lines)
    file.write_text("slurm:\n  time: 1:00:00\n  account: 007\n  further: {qos: on}\n")
    status, message = submit("latents", "--dry-run", "--experiment=dry", "--conf", str(file))
    assert status == 0
    assert {"#SBATCH --time=1:00:00", "#SBATCH --account=007", "#SBATCH --qos=on"} <= set(script(message, "latents"))


def test_what_was_typed_is_what_the_job_types(submit, tmp_path: Path):
    """As the shell reads the script; sbatch has signs of its own in the name of a log, and a comment is one line."""
    typed = ["--experiment=2024_01_05 a%b #2", f"--runs={tmp_path}/'1.10'", "--parents.vae=0x10\nrm x"]
    status, message = submit("latents", "--dry-run", *typed)
    assert status == 0
    text = "\n".join(script(message, "latents"))
    (srun,) = re.findall(r"^srun .*?(?=\ncode=)", text, re.MULTILINE | re.DOTALL)
    assert set(typed) <= set(shlex.split(srun))
    assert f"--output='{tmp_path}/'\"'\"'1.10'\"'\"'/2024_01_05 a%%b #2/slurm/latents.log'" in text
    assert "\nexport OMP_NUM_THREADS" in text and " PYTHONSAFEPATH=1" in text, "no module of the folder hides ours"
    comment = text.partition("# Written by:")[2].partition("\nexport OMP")[0]
    assert all(line.startswith("#") for line in comment.split("\n")[1:])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainer.devices=auto"], "latents: trainer.devices is auto; a job is for so many devices a node: type --trainer.devices=8"),
        (["--slurm.p=gpu"], "slurm.p: no option of sbatch is written so"),
        (["--slurm.Partition=gpu"], "slurm.Partition: no option of sbatch is written so"),
        (["--slurm.ntasks=4"], "slurm.ntasks is not yours to say"),
        (["--slurm.comment=a\nb"], "slurm.comment: a value is one line"),
        (["--slurm.nodes=two"], "nodes: Value 'two'"),
        (["--slurm.nodes=2", "--trainer.num_nodes=3"], "trainer.num_nodes is 3 and slurm.nodes 2; give one of them"),
        (["--slurm.cpus-per-task=many"], "slurm.cpus-per-task is 'many'"),
        (["--trainer.device=1"], "Did you mean: 'devices'?"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_before_anything_is_written(submit, tones: Path, words: list[str], message: str):
    status, actual = submit("latents", "--experiment=submit-mistakes", "--dry-run", *words)
    assert status == 1
    assert message in actual
    assert not (tones / "runs/submit-mistakes").exists()


def test_run_takes_no_key_of_slurm(stage, capsys: pytest.CaptureFixture[str]):
    assert stage("run", "latents", "--slurm.partition=gpu") == 1
    assert "keys of slurm are for `stage submit`" in capsys.readouterr().err


def test_without_sbatch_it_says_so(submit, tones: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    status, message = submit("latents", "--experiment=submit-mistakes")
    assert status == 1
    assert "sbatch is not here" in message
    assert not (tones / "runs/submit-mistakes").exists()
    assert submit("latents", "--experiment=submit-mistakes", "--dry-run")[0] == 0


def test_a_parent_that_nobody_makes_is_named(submit):
    status, message = submit("tokenizer", "--experiment=submit-mistakes", "--dry-run")
    assert status == 1
    assert "stage run latents" in message


def test_logs_without_a_job_say_what_to_type(stage, capsys: pytest.CaptureFixture[str], tones: Path):
    from stages.cli.main import main

    assert main(["logs", "tokenizer", "--experiment=nobody"]) == 1
    assert "`stage submit tokenizer`" in capsys.readouterr().err


def test_status_and_logs_of_a_job_that_slurm_forgot(
    stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tones: Path
):
    from stages.cli.main import main

    where = tones / "runs/forgotten/slurm"
    where.mkdir(parents=True)
    jobs.note(where, "tokenizer", "12")
    jobs.note(where, "cache", "13")
    jobs.log_file(where, "tokenizer").write_text("loss 1\n")
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["status", "--experiment=forgotten"]) == 0
    assert re.search(r"tokenizer +missing +not started   \[job 12 has left the queue\]", capsys.readouterr().out)
    assert main(["logs", "tokenizer"]) == 0
    assert capsys.readouterr().out == "loss 1\n"
    assert main(["logs", "cache", "--follow"]) == 0
    assert capsys.readouterr().out == "cache          job 13 has left the queue\n"
