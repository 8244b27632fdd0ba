"""`stage submit prepare`: a corpus as jobs of SLURM: an array that inspects, a shard a task, and a job that joins them. No torch here.

    data/<corpus>/slurm/shards.sbatch    the array, where there is one: --slurm.array=0-31 is 32 shards
                        prepare.sbatch   the job that prepares; it begins when all shards are done
                        *.log            what they printed

A shard that is begun again takes over what it has recorded; so does the same `stage submit prepare` after a time limit.
"""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from conf.errors import UsageError
from conf.sections.cluster import SlurmConf
from conf.sections.corpora import CorpusConf
from datamodules.atomic_files import write_whole
from stages.launch import local, prepare, slurm
from stages.runs import jobs

SHARDS, PREPARE = "shards", "prepare"  # names of the jobs
BODY = """
# Written by:   {written_by}
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1{variables}
{setup}exec {command}
"""


class _Job(NamedTuple):
    name: str
    command: str  # of the shell
    log: Path
    array: str | None


def submit(
    corpus: str, configuration: CorpusConf, options: SlurmConf, words: Sequence[str], typed: Sequence[str], dry: bool
) -> None:
    """words: what configures `stage prepare CORPUS`; typed: the command that submits it. `dry` prints the scripts.

    Raises UsageError for what the jobs would be refused for, and with what sbatch says.
    """
    name = prepare.require(corpus, configuration)
    folder = Path(configuration.data.root) / name / "slurm"
    command = shlex.join([sys.executable, "-m", "stages.cli.main", "prepare", corpus, *words])
    array = options.further.get("array")
    going = [_Job(PREPARE, command, folder / f"{PREPARE}.log", None)]
    if array is not None:
        count = _count(array, len(prepare.recording_paths(corpus, name, configuration)))
        sharded = f'{command} --shard "$SLURM_ARRAY_TASK_ID/{count}"'
        going.insert(0, _Job(SHARDS, sharded, folder / f"{SHARDS}-%a.log", array))
    earlier = jobs.newest(folder).get(PREPARE)
    if earlier is not None and earlier.lives:
        raise UsageError(f"{name} has a job already: {earlier}.   scancel {earlier.id}   ends it")
    slurm.check_there(dry)
    made: dict[str, str] = {}
    for job in going:
        path = folder / f"{job.name}.sbatch"
        text = _script(f"{name}/{job.name}", job, configuration.data.num_workers, options, shlex.join(typed))
        after = [made.get(SHARDS, f"<{SHARDS}>")] if job.name == PREPARE and array is not None else []
        submitted = slurm.sbatch_command(path, after, options)
        if dry:
            print(f"# {path}\n{text}\n# {' '.join(submitted)}\n")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        made[job.name] = slurm.run_sbatch(job.name, submitted, made)
        jobs.note(folder, job.name, made[job.name])
        what = f"inspects in tasks {job.array}" if job.array else "prepares" + (f", after {after[0]}" if after else "")
        print(f"{name:<14} job {made[job.name]} {what}; its log: {job.log}", flush=True)


def _script(title: str, job: _Job, workers: int, options: SlurmConf, written_by: str) -> str:
    further = {key.replace("_", "-"): value for key, value in options.further.items() if key != "array"}
    directives = {
        "job-name": title,
        "chdir": os.getcwd(),
        "output": slurm.log_pattern(job.log).replace("%%a", "%a"),
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "mem": options.mem,
        "array": job.array,
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(1 + workers),  # itself, and the processes that decode
        "open-mode": options.open_mode,
        "requeue" if options.requeue else "no-requeue": "",
    }
    variables = "".join(f" {key}={shlex.quote(value)}" for key, value in local.environment().items())
    body = BODY.format(
        written_by=written_by.replace("\n", "\n# "), variables=variables, setup=slurm.setup_lines(options),
        command=job.command,
    )  # fmt: skip
    return "\n".join(["#!/usr/bin/env bash", *slurm.directive_lines({**directives, **further}), body])


def _count(array: str, recordings: int) -> int:
    """Shards of an array. Raises UsageError where its tasks are not 0 to N - 1, or more than the recordings."""
    match = re.fullmatch(r"0-(\d+)(%\d+)?", array)
    if match is None:
        raise UsageError(f"slurm.array={array}: 0-N is allowed, a task a shard, as 0-31 or 0-31%8")
    if (count := int(match[1]) + 1) > recordings:
        raise UsageError(f"slurm.array={array}: the table names {recordings} recordings; 0-{recordings - 1} at most")
    return count
