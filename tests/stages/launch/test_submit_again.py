"""`stage submit --restart`, and lines of the shell before a job, with programs of the names of SLURM's that note what they are asked."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from stages.runs.progress import PRODUCTS
from tests.stages.runs.test_lock import holder, kill


class Programs:
    """sbatch, scontrol and scancel in a folder that is first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "asked"
        for name in ("scontrol", "scancel", "squeue", "sacct"):
            self.program(name, f'echo "{name} $@" >> {self.log}')

    def program(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / name).chmod(0o755)

    def sbatch(self, body: str) -> None:
        self.program("sbatch", f'echo "sbatch $@" >> {self.log}\n{body}')

    def asked(self) -> list[str]:
        lines = self.log.read_text().splitlines()
        return [line for line in lines if not line.startswith(("squeue", "sacct"))]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Programs(folder)


def submit(stage, experiment: str, *words: str) -> int:
    return stage("submit", "tokenizer", f"--experiment={experiment}", "--restart", *words)


def test_what_sbatch_refuses_moves_nothing(stage, tones: Path, copy_of_whole, programs: Programs, capsys):
    folder = copy_of_whole("kept", "latents", "tokenizer")
    programs.sbatch("echo 'sbatch: error: invalid partition specified: none' >&2; exit 1")
    assert submit(stage, "kept") == 1
    error = capsys.readouterr().err
    assert "invalid partition" in error and "the earlier runs are where they were" in error
    assert (folder / "tokenizer/receipt.json").exists() and not (folder / ".old").exists()


def test_what_is_accepted_waits_until_the_earlier_run_is_aside(stage, tones: Path, copy_of_whole, programs: Programs):
    folder = copy_of_whole("accepted", "latents", "tokenizer")
    programs.sbatch(f"ls {folder.absolute()}/.old >> {programs.log} 2>&1; echo 7")
    assert submit(stage, "accepted") == 0
    asked = programs.asked()
    assert re.match(r"sbatch --parsable --hold .*tokenizer\.sbatch$", asked[0])
    assert "No such file" in asked[1], "moved aside before sbatch had accepted it"
    assert asked[2:] == ["scontrol release 7"]
    assert (folder / ".old/tokenizer-1/receipt.json").exists() and (folder / "tokenizer/conf.yaml").exists()


def test_a_run_that_is_being_written_is_not_moved(stage, tones: Path, copy_of_whole, programs: Programs, capsys):
    folder = copy_of_whole("written", "latents", "tokenizer")
    programs.sbatch("echo 7")
    (tones / "runs/main").symlink_to(folder)  # where `holder` locks
    process = holder(tones / "runs", "record")
    try:
        assert submit(stage, "written") == 1
    finally:
        kill(process)
        (tones / "runs/main").unlink()
    assert "is being written by another run" in capsys.readouterr().err
    assert programs.asked()[1:] == ["scancel 7"] and (folder / "tokenizer/receipt.json").exists()


@pytest.mark.parametrize(("line", "status"), [("export MADE=here", 0), ("no-such-module load cuda", 1)])
def test_lines_of_the_user_come_before_the_command(
    stage, tones: Path, programs: Programs, capsys, tmp_path: Path, line: str, status: int
):
    words = ["--experiment=set-up", "--dry-run", f"--slurm.setup=['{line}']", "--slurm.mem=64G"]
    assert stage("submit", "latents", *words) == 0
    text = capsys.readouterr().out
    script = text[text.index("#!/usr/bin/env bash") : text.index("\n# sbatch")]
    assert "\n#SBATCH --mem=64G\n" in script and "setup" not in script.split("# Written by")[0]
    programs.program("srun", f'echo "srun with $MADE" >> {programs.log}')
    variables = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if status:
        assert f"== slurm.setup ended with 127: {line}" in done.stdout and not programs.log.exists()
    else:
        assert programs.asked() == ["srun with here"]
    assert stage("submit", "latents", "--dry-run", '--slurm.setup=["a\\nb"]') == 1
    assert "slurm.setup: a value is one line" in capsys.readouterr().err


def test_the_script_sees_the_progress_of_every_stage(stage, whole: Path, capsys):
    """By the files that a run goes on from, of whatever stage."""
    assert stage("submit", "latents", "--experiment=seen", "--dry-run") == 0
    script = capsys.readouterr().out
    assert all(f"-path '*/{pattern}'" in script for pattern in PRODUCTS)
    for folder in (path.parent for path in whole.glob("*/receipt.json")):
        assert any(any(folder.glob(pattern)) for pattern in PRODUCTS), (
            f"{folder.name} saves what the script does not see"
        )
