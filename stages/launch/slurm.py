"""`stage submit`: a stage, or the chain, as SLURM jobs that go on by themselves after a signal, a time limit or a requeue. No torch here.

    runs/<experiment>/slurm/<stage>.sbatch    the script; the same one may be given to sbatch by hand
                            <stage>.log       what it printed, all starts one after the other
                            jobs.json         stage -> its newest job (jobs.py)

A job is one srun with a task a device. A stage that ends with 75 (stopped, everything saved) is queued again; any other status but 0 fails the
job, and SLURM then drops the jobs that wait for it. Starts that bring it no further end it too: else it would be queued for ever.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import conf as configuration
from conf.errors import UsageError
from conf.sections.cluster import SlurmConf
from conf.sections.common import StageConf
from datamodules.atomic_files import write_whole
from stages.launch import local
from stages.runs import graph, jobs, lock
from stages.runs.graph import TypedWords
from stages.runs.progress import PRODUCTS
from stages.runs.state import begin_run, check_unfinished, run_folder, state_of

OURS = {  # options of sbatch that follow from the stage's own configuration -> what to type instead
    "ntasks": "trainer.devices and slurm.nodes",
    "ntasks_per_node": "trainer.devices",
    "gpus_per_task": "slurm.gpus-per-node: each task sees all devices of its node and takes its own",
    "array": "nothing: tasks of an array would write the same run",
    "output": "nothing: `stage logs STAGE` prints the log",
    "chdir": "nothing: the job runs where `stage submit` was typed",
    "kill_on_invalid_dep": "nothing: it is yes",
    "wrap": "nothing",
    "parsable": "nothing",
}
MOST_IDLE = 3  # starts one after the other that save nothing: its time is too short for a step
BODY = r"""# Written by:   {written_by}
export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{threads}}} PYTHONUNBUFFERED=1{variables}
echo "== job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, $(date +%FT%T), start $((${{SLURM_RESTART_COUNT:-0}} + 1))"
{setup}saved() {{  # what it goes on from
  find {run} -type f \( {products} \) -printf '%p %s\n' 2> /dev/null | sort | cksum
}}
before=$(saved)
[ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] || rm -f {idle}
# A task that stops saves and ends with 75 while others still do: srun must not end them for it, but after a minute.
srun --kill-on-bad-exit=0 --wait=60{cpus} {command}
code=$?
if [ "$code" -eq 75 ] || [ "$code" -eq 138 ]; then  # stopped; 138: by SIGUSR1, before it could listen
  if [ "$(saved)" = "$before" ]; then echo >> {idle}; else rm -f {idle}; fi
  if [ -f {idle} ] && [ "$(wc -l < {idle})" -ge {most} ]; then
    echo "== {most} starts without progress: not queued again. A longer --slurm.time, or a smaller step"
  elif ! {requeues}; then
    echo "== not finished, and slurm.requeue=false: not queued again. The same stage submit goes on"
  else
    echo "== not finished: queued again"
    scontrol requeue "$SLURM_JOB_ID" && sleep 600  # SLURM ends this script before that
  fi
fi
exit "$code"
"""
SETUP_FAILED = 'status=$?; [ "$status" -eq 0 ] || {{ echo "== slurm.setup ended with $status:" {line}; exit 1; }}'


class Planned(NamedTuple):
    stage: str
    after: tuple[str, ...]  # stages that are submitted with it
    waits: tuple[str, ...]  # jobs that were submitted earlier


def options(files: Sequence[str], overrides: Sequence[str], allowed: Sequence[str] = ()) -> SlurmConf:
    """The section `slurm`: conf/slurm/base.yaml, the --conf files, the command line ("slurm.KEY=VALUE").

    Raises UsageError for a key that no option of sbatch can be, or that is not the user's, unless it is `allowed`.
    """
    known = vars(configuration.compose("slurm").conf).keys() - {"further"}  # `setup` is ours, and no option of sbatch
    typed = []
    for item in overrides:
        key, value = item.removeprefix("slurm.").split("=", 1)
        _check_key(key.removeprefix("further."), allowed)
        if key in ("requeue", "no_requeue") and not value:
            key, value = "requeue", str(key == "requeue").lower()
        key = key if key in known or key.startswith("further.") else f"further.{key}"
        typed.append(f"slurm.{key}={value}")
    composed = configuration.compose("slurm", files=files, overrides=typed)
    for key in composed.conf.further:
        _check_key(key, allowed)
    for key, value in {**vars(composed.conf), **composed.conf.further}.items():
        for line in value if isinstance(value, list) else [value]:
            if isinstance(line, str) and re.search(r"[\r\n]", line):
                raise UsageError(f"slurm.{key}: a value is one line, here {line!r}")
    return composed.conf


def plan(
    stages: Sequence[str], confs: dict[str, StageConf], typed: TypedWords, restart: bool, submitted: dict[str, jobs.Job]
) -> list[Planned]:
    """The stages that are not done, in order, and what each waits for; says those that are left out.

    submitted: the experiment's jobs. Raises UsageError for what the job itself would be refused for, and for a stage that has a job already.
    """
    going: list[Planned] = []
    for stage in stages:
        conf, names = confs[stage], {planned.stage for planned in going}
        if stage in conf.parents:
            if stages == [stage]:
                raise UsageError(f"parents.{stage} says where {stage} is taken from, so there is nothing to submit")
            print(f"{stage:<14} taken from {conf.parents[stage]}")
            continue
        needs = [name for name in (*graph.required(stage, conf), *graph.optional(stage)) if name not in conf.parents]
        after = tuple(name for name in needs if name in names)
        earlier = [submitted[name] for name in needs if name not in names and name in submitted]
        waits = tuple(job.id for job in earlier if job.lives)
        job = submitted.get(stage)
        if job is not None and job.lives:
            raise UsageError(
                f"{stage} has a job already: {job}.   stage logs {stage} -f   follows it, scancel {job.id} ends it"
            )
        state = state_of(stage, conf, compare=True)
        if state.word == "done" and not (restart or after or waits):
            print(f"{stage:<14} done ({state.detail})")
            continue
        if not restart:
            check_unfinished(stage, conf)
        if not (after or waits):
            graph.parents(stage, conf, typed)
        devices(stage, conf)
        going.append(Planned(stage, after, waits))
    return going


def devices(stage: str, conf: StageConf) -> int:
    """Tasks a node. Raises UsageError where the number is left to the machine: a job says it before it has one."""
    given = str(conf.trainer.devices)
    if not given.isdigit() or int(given) < 1:
        raise UsageError(
            f"{stage}: trainer.devices is {given}; a job is for so many devices a node: type --trainer.devices=8"
        )
    return int(given)


def script(stage: str, conf: StageConf, options: SlurmConf, words: Sequence[str]) -> str:
    """The sbatch script of one stage. words: what configures it, for `stage run`."""
    tasks, workers = devices(stage, conf), conf.data.num_workers
    further = {key.replace("_", "-"): value for key, value in options.further.items()}
    directives: dict[str, str | None] = {
        "job-name": f"{conf.experiment}/{stage}",
        "chdir": os.getcwd(),
        "output": log_pattern(jobs.log_file(jobs.jobs_folder(conf), stage)),
        "partition": options.partition,
        "account": options.account,
        "time": options.time,
        "mem": options.mem,
        "nodes": str(conf.trainer.num_nodes),
        "ntasks-per-node": str(tasks),
        "cpus-per-task": str(max(conf.threads, 1) + workers),  # itself and its data workers
        "signal": options.signal,
        "open-mode": options.open_mode,
        "requeue": "" if options.requeue else None,
    }
    if not options.requeue:
        directives["no-requeue"] = ""
    if conf.trainer.accelerator != "cpu" and not any(key.startswith("gpus") or key == "gres" for key in further):
        directives["gpus-per-node"] = str(tasks)
    directives |= further
    cpus = directives["cpus-per-task"]
    if cpus is not None and not cpus.isdigit():
        raise UsageError(f"slurm.cpus-per-task is {cpus!r}; a number is allowed")
    body = BODY.format(
        setup=setup_lines(options),
        written_by=shlex.join(["stage", "submit", stage, *words]).replace("\n", "\n# "),
        threads=conf.threads or max(1, int(cpus or 1) - workers),
        cpus=f" --cpus-per-task={cpus}" if cpus else "",
        variables="".join(f" {name}={shlex.quote(value)}" for name, value in local.environment().items()),
        command=shlex.join(local.command(stage, words)),
        run=shlex.quote(str(run_folder(conf, stage))),
        products=" -o ".join(f"-path '*/{pattern}'" for pattern in PRODUCTS),
        idle=shlex.quote(str(jobs.jobs_folder(conf) / f"{stage}.idle")),
        most=MOST_IDLE,
        requeues=str(options.requeue).lower(),  # a command of the shell
    )
    return "\n".join(["#!/usr/bin/env bash", *directive_lines(directives), body])


def directive_lines(directives: Mapping[str, str | None]) -> list[str]:
    """Option of sbatch -> its value, "" for one without, None for one that is left out: the head of a script."""
    return [
        f"#SBATCH --{key}" + (f"={shlex.quote(value)}" if value else "")
        for key, value in directives.items()
        if value is not None
    ]


def setup_lines(options: SlurmConf) -> str:
    """slurm.setup as lines of a script, each of which ends it where it fails."""
    return "".join(f"{line}\n{SETUP_FAILED.format(line=shlex.quote(line))}\n" for line in options.setup)


def log_pattern(path: Path) -> str:
    """As sbatch reads the name of a log: %b is a number to it."""
    return str(path).replace("%", "%%")


def submit(
    going: Sequence[Planned],
    confs: dict[str, StageConf],
    options: SlurmConf,
    typed: TypedWords,
    restart: bool,
    dry: bool,
) -> None:
    """Writes and submits the scripts, each with its dependencies; `dry` prints them. Raises UsageError with what sbatch says.

    restart: the jobs wait (--hold) until sbatch has accepted them all and the earlier runs are moved aside.
    """
    texts = {
        planned.stage: script(planned.stage, confs[planned.stage], options, typed(planned.stage)) for planned in going
    }
    made: dict[str, str] = {}
    for stage, after, waits in going:
        folder = jobs.jobs_folder(confs[stage])
        path = folder / f"{stage}.sbatch"
        dependencies = [*waits, *(made.get(name, f"<{name}>") for name in after)]
        command = sbatch_command(path, dependencies, options, *(["--hold"] if restart else []))
        if dry:
            print(f"# {path}\n{texts[stage]}\n# {' '.join(command)}\n")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, texts[stage])
        try:
            made[stage] = run_sbatch(stage, command, {} if restart else made)
        except UsageError as error:
            if not restart:
                raise
            _scancel(made)
            raise UsageError(f"{error}\nNothing was submitted, and the earlier runs are where they were.") from None
        jobs.note(folder, stage, made[stage])
        print(
            f"{stage:<14} job {made[stage]}" + (f", after {', '.join(dependencies)}" if dependencies else ""),
            flush=True,
        )
    if restart and made:
        _begin_again(made, confs, "hold" in options.further)


def _begin_again(made: dict[str, str], confs: dict[str, StageConf], stays_held: bool) -> None:
    """Moves the earlier runs aside, here and once (a requeued job goes on), and lets the jobs begin. made: stage -> job."""
    try:
        with ExitStack() as claims:
            for stage in made:
                claims.enter_context(lock.claimed(stage, confs[stage]))  # none is moved where one is being written
            for stage in made:
                begin_run(stage, confs[stage], restart=True)
    except BaseException:
        _scancel(made)
        raise
    for stage, job in made.items():
        if stays_held:
            continue
        done = subprocess.run(["scontrol", "release", job], capture_output=True, text=True)
        if done.returncode:
            raise UsageError(
                f"{stage}: job {job} waits and cannot be released: {done.stderr.strip()}. scontrol release {job}"
            )


def _scancel(made: dict[str, str]) -> None:
    """Ends jobs that still wait."""
    if made:
        subprocess.run(["scancel", *made.values()], capture_output=True)


def sbatch_command(path: Path, after: Sequence[str], options: SlurmConf, *further: str) -> list[str]:
    """after: jobs that have to end well before this one begins; further: options of sbatch."""
    return ["sbatch", "--parsable", *further, *_dependency(after, options), str(path)]


def run_sbatch(name: str, command: Sequence[str], made: Mapping[str, str]) -> str:
    """The job's id. made: jobs that were submitted with it, for the message. Raises UsageError with what sbatch says."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        before = f"\nSubmitted before it: {', '.join(f'{one} {job}' for one, job in made.items())}." if made else ""
        raise UsageError(f"{name}: sbatch refuses {command[-1]}: {done.stderr.strip()}{before}")
    return done.stdout.strip().split(";")[0]  # ID;CLUSTER on a federation


def check_there(dry: bool) -> None:
    if not dry and shutil.which("sbatch") is None:
        raise UsageError(
            "sbatch is not here (not on PATH): submit where SLURM is, or look at the scripts with --dry-run"
        )


def _check_key(key: str, allowed: Sequence[str]) -> None:
    name = key.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]+(_[a-z0-9]+)*", name):
        raise UsageError(
            f"slurm.{key}: no option of sbatch is written so; its long name is taken, as --slurm.qos=high or --slurm.exclusive"
        )
    if name in OURS and name not in allowed:
        raise UsageError(f"slurm.{key} is not yours to say; what decides it: {OURS[name]}")


def _dependency(ids: Sequence[str], options: SlurmConf) -> list[str]:
    typed = options.further.get("dependency")
    if not ids:
        return []
    whole = f"afterok:{':'.join(ids)}" + (f",{typed}" if typed else "")
    return [f"--dependency={whole}", "--kill-on-invalid-dep=yes"]
