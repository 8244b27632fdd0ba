"""`stage submit`: what is asked of SLURM, as options of sbatch."""

from dataclasses import dataclass

from conf.laws import about


@dataclass
class SlurmConf:
    partition: str | None = about("of the cluster; null: its default")
    account: str | None = about("that the time is charged to; null: the user's default")
    time: str | None = about("limit of a job as sbatch takes it: minutes, or '1-12:00:00'; null: the partition's")
    mem: str | None = about("memory of each node, as 64G; 0: all of it; null: the partition's")
    nodes: int | None = about("machines of a job; null: trainer.num_nodes")
    signal: str | None = about("NAME@SECONDS: signal that is sent so many seconds before the time limit")
    requeue: bool = about("queue a job again whose machine failed or was taken from it")
    open_mode: str | None = about("append or truncate the log of a job that is started again")
    setup: list[str] = about(
        "lines of the shell that a job begins with, as ['module load cuda', 'source venv/bin/activate']; one that fails "
        "ends it"
    )
    further: dict[str, str | None] = about(
        "any other option -> its value; '' for one without a value, null to leave out one that `stage submit` writes"
    )
