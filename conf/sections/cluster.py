"""What `stage submit` says to SLURM: options of sbatch."""

from dataclasses import dataclass


@dataclass
class SlurmConf:
    partition: str | None
    account: str | None
    time: str | None  # as sbatch takes it: minutes, or 1-12:00:00
    nodes: int | None
    signal: str | None  # NAME@SECONDS before the time limit
    requeue: bool
    open_mode: str | None
    further: dict[str, str | None]  # option -> value; "" is a flag, null leaves out what `stage submit` would say
