"""`stage submit prepare` without a SLURM: what the scripts say, and that what they run makes the corpus."""

import gzip
import os
import re
import subprocess
from pathlib import Path

import pytest

from stages.cli.main import main
from tests.stages.cli.small_corpus import PREPARE, recordings

SUBMIT = ["submit", *PREPARE, "--data.num_workers=3"]


def scripts(message: str) -> dict[str, str]:
    """Name -> text, of what --dry-run printed."""
    return dict(re.findall(r"^# data/mine/slurm/(\w+)\.sbatch\n(#!.*?)\n\n# sbatch", message, re.MULTILINE | re.DOTALL))


def words(script: str, task: int | None = None) -> list[str]:
    """What the script gives to `stage`, as its shell reads it."""
    line = script.rpartition("exec ")[2]
    environment = os.environ | ({} if task is None else {"SLURM_ARRAY_TASK_ID": str(task)})
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], env=environment, capture_output=True, text=True)
    python, dash_m, module, *rest = done.stdout.splitlines()
    assert (dash_m, module) == ("-m", "stages.cli.main") and Path(python).is_file()
    return rest


def test_an_array_inspects_and_the_last_job_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    recordings(tmp_path)
    options = ["--slurm.array=0-1%4", "--slurm.partition=cpu", "--slurm.mem=8G", "--slurm.setup=[true]"]
    assert main([*SUBMIT, *options, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "data").exists()
    shards, last = (scripts(printed)[name] for name in ("shards", "prepare"))
    for line in ("--array=0-1%4", "--output=data/mine/slurm/shards-%a.log", "--job-name=mine/shards"):
        assert f"#SBATCH {line}\n" in shards and f"#SBATCH {line}\n" not in last
    for line in ("--partition=cpu", "--mem=8G", "--cpus-per-task=4", "--ntasks=1", "--requeue", f"--chdir={tmp_path}"):
        assert f"#SBATCH {line}\n" in shards and f"#SBATCH {line}\n" in last
    assert (
        "# sbatch --parsable --dependency=afterok:<shards> --kill-on-invalid-dep=yes data/mine/slurm/prepare.sbatch"
        in printed
    )
    assert main(words(shards, 0)) == main(words(shards, 1)) == 0
    printed = capsys.readouterr().out
    assert "shard 0/2: 1 of 3 recordings" in printed and "shard 1/2: 2 of 3 recordings" in printed
    assert main(words(last)) == 0
    joined = capsys.readouterr()
    assert (
        "3 recordings (1 train, 1 validation, 1 test)" in joined.out
        and "3 of 3 recordings were inspected" in joined.err
    )
    with gzip.open("data/mine/cuts.jsonl.gz") as file:
        assert len(file.readlines()) == 3


def test_it_submits_both_and_notes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With an sbatch that notes what it is given, and then one that refuses."""
    recordings(tmp_path)
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "$@" >> given\nwc -l < given\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    assert main([*SUBMIT, "--slurm.array=0-1"]) == 0
    given = (tmp_path / "given").read_text().splitlines()
    assert given == [
        "--parsable data/mine/slurm/shards.sbatch",
        "--parsable --dependency=afterok:1 --kill-on-invalid-dep=yes data/mine/slurm/prepare.sbatch",
    ]
    printed = capsys.readouterr().out
    assert "job 1 inspects in tasks 0-1; its log: data/mine/slurm/shards-%a.log" in printed
    assert "job 2 prepares, after 1" in printed
    assert (tmp_path / "data/mine/slurm/shards.sbatch").read_text().startswith("#!/usr/bin/env bash\n#SBATCH ")
    sbatch.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    assert main(SUBMIT) == 1
    assert "sbatch refuses data/mine/slurm/prepare.sbatch: invalid partition" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["--slurm.array=1-3"], "slurm.array=1-3: 0-N is allowed, a task a shard, as 0-31"),
        (["--slurm.array=0-3"], "slurm.array=0-3: the table names 3 recordings; 0-2 at most"),
        (["--restart"], "submit prepare takes no --restart"),
    ],
)
def test_what_a_job_would_be_refused_for_is_refused_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    recordings(tmp_path)
    assert main([*SUBMIT, "--dry-run", *words]) == 1
    assert message in capsys.readouterr().err


def test_a_corpus_belongs_to_prepare(capsys: pytest.CaptureFixture[str]):
    assert main(["submit", "prepare", "--dry-run"]) == 1
    assert "submit prepare CORPUS ROOT: which corpus? folder, " in capsys.readouterr().err
    assert main(["submit", "all", "folder", "--dry-run"]) == 1
    assert "submit all takes no folder" in capsys.readouterr().err
    assert main(["submit", "latents", "--slurm.array=0-3", "--dry-run"]) == 1
    assert "slurm.array is not yours to say" in capsys.readouterr().err
