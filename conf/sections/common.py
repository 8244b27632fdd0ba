"""What every stage has, and what those that train have."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class Data:
    root: str  # folder of the prepared corpora
    corpora: list[str]
    on_bad: Literal["error", "skip"]  # a recording that cannot be read: end at once, or go on without it and say so
    num_workers: int  # processes that read and prepare


@dataclass
class Hardware:
    accelerator: str
    devices: int | str
    num_nodes: int
    strategy: str
    # of lightning.Trainer; auto: on a GPU bf16-mixed where it is native, on a CPU the quicker one by a product that is timed
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"]


@dataclass
class Steps(Hardware):
    """Arguments of `lightning.Trainer`; steps are optimizer steps."""

    max_steps: int
    log_every_n_steps: int
    val_check_interval: int
    limit_val_batches: int


@dataclass
class Training(Steps):
    """What the Trainer does by itself where a stage has one optimizer."""

    accumulate_grad_batches: int
    gradient_clip_val: float | None


@dataclass
class Optimizer:
    learning_rate: float
    final_learning_rate: float
    warmup_steps: int
    weight_decay: float
    betas: list[float]


@dataclass
class Checkpoints:
    every_n_steps: int
    keep: int


@dataclass
class Limits:
    """When a run stops by itself."""

    seconds: float | None  # after the command began; null: none
    margin: float  # seconds before SLURM's own end of the job
    on_nan: Literal["stop", "skip"]  # a loss or gradient that is not finite: end, or leave that step out
    nan_in_a_row: int  # steps left out one after the other before it ends all the same


@dataclass
class StageConf:
    """What every stage has."""

    experiment: str
    runs: str
    seed: int
    threads: int  # of torch on the CPU; 0 leaves torch's own choice
    parents: dict[str, str]  # stage -> another experiment's name, or a run folder, to take that parent from
    data: Data
    limits: Limits
    trainer: Hardware


@dataclass
class TrainingStageConf(StageConf):
    """What every stage that trains has."""

    trainer: Steps
    checkpoints: Checkpoints
