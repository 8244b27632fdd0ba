"""What every stage has, and what every stage that trains has."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from conf.laws import Problem, about


@dataclass
class DataConf:
    root: str = field(
        metadata=about(
            "folder of the prepared corpora; `stage run` needs the one that `stage prepare` was given", path=True
        )
    )
    corpora: list[str] = field(metadata=about("names of the prepared corpora to use"))
    on_bad: Literal["error", "skip"] = field(
        metadata=about(
            "a recording that cannot be read: error ends the run at once, skip goes on without it and lists it"
        )
    )
    num_workers: int = field(
        metadata=about("processes that read and prepare data; 0: the main process does it", 0, 1024)
    )


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")  # those that Lightning knows and every stage computes in


@dataclass
class TrainerConf:
    """Arguments of `lightning.Trainer`: what a stage runs on."""

    accelerator: str = field(metadata=about("cpu, gpu, or auto for a GPU where there is one"))
    devices: int | str = field(metadata=about("devices of each machine, or auto for all"))
    num_nodes: int = field(metadata=about("machines"))
    strategy: str = field(
        metadata=about("how several devices work together: auto, ddp, or another name that Lightning knows")
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"] = field(
        metadata=about(
            "number format of the computation; auto: on a GPU bf16-mixed where it is native, "
            "on a CPU the quicker one by a product that is timed"
        )
    )

    def laws(self) -> Iterable[Problem]:
        if self.precision not in PRECISIONS:
            yield Problem(
                "precision",
                f"{self.precision}; {', '.join(PRECISIONS)} are allowed: weights and their averages are float32, an "
                "optimizer's updates are below what half of it can add. Type --trainer.precision=bf16-mixed",
            )


@dataclass
class FitTrainerConf(TrainerConf):
    """Arguments of `lightning.Trainer`: how long a stage trains."""

    max_steps: int = field(metadata=about("optimizer steps of the whole training", 1))
    log_every_n_steps: int = field(metadata=about("optimizer steps between two values in the log", 1))
    val_check_interval: int = field(metadata=about("training batches between two validations", 1))
    limit_val_batches: int = field(metadata=about("batches of a validation, at most", 0))


@dataclass
class AutomaticTrainerConf(FitTrainerConf):
    """Arguments of `lightning.Trainer` that it applies by itself where a stage has one optimizer."""

    accumulate_grad_batches: int = field(metadata=about("batches of an optimizer step on each device", 1))
    gradient_clip_val: float | None = field(metadata=about("largest norm of the gradient; null: not clipped"))


@dataclass
class OptimizerConf:
    """AdamW: a linear warm-up, then a half cosine down to the final rate."""

    learning_rate: float = field(metadata=about("at the end of the warm-up"))
    final_learning_rate: float = field(metadata=about("at the last step"))
    warmup_steps: int = field(metadata=about("optimizer steps in which the rate rises from 0"))
    weight_decay: float = field(metadata=about("of matrices; norms, biases and single vectors have none"))
    betas: list[float] = field(metadata=about("decay of AdamW's two moments, as [0.9, 0.95]"))


@dataclass
class CheckpointsConf:
    every_n_steps: int = field(metadata=about("optimizer steps between two checkpoints", 1, 1 << 30))
    keep: int = field(metadata=about("newest checkpoints that are kept", 1, 1000))


@dataclass
class LimitsConf:
    """When a run stops by itself."""

    seconds: float | None = field(
        metadata=about(
            "time after which the run saves and stops with exit status 75; the same command goes on. null: none",
            1.0,
            1e9,
        )
    )
    margin: float = field(
        metadata=about("seconds before SLURM's end of the job at which the run saves and stops", 0.0, 1e6)
    )
    on_nan: Literal["stop", "skip"] = field(
        metadata=about("a loss or gradient that is not finite: stop ends the run, skip leaves that step out")
    )
    nan_in_a_row: int = field(
        metadata=about("steps left out one after the other, at which the run ends all the same", 1, 10_000)
    )


@dataclass
class StageConf:
    """What every stage has."""

    experiment: str = field(
        metadata=about("name of the experiment; a stage's run folder is <runs>/<experiment>/<stage>")
    )
    runs: str = field(metadata=about("folder of all experiments", path=True))
    seed: int = field(metadata=about("of everything random in the stage"))
    threads: int = field(metadata=about("of torch on the CPU; 0: torch chooses"))
    parents: dict[str, str] = field(
        metadata=about(
            "stage -> experiment or run folder to take that stage from, as --parents.tokenizer=OTHER", path=True
        )
    )
    data: DataConf = field(metadata=about("the corpora, and how they are read"))
    limits: LimitsConf = field(metadata=about("when the run stops by itself"))
    trainer: TrainerConf = field(metadata=about("arguments of lightning.Trainer"))

    def laws(self) -> Iterable[Problem]:
        if not re.fullmatch(r"[^./\s][^/\n]*", self.experiment):
            yield Problem(
                "experiment",
                f"{self.experiment!r} names a folder: no / in it, and no . or space at its beginning are allowed",
            )


@dataclass
class TrainingStageConf(StageConf):
    """What every stage that trains has."""

    trainer: FitTrainerConf = field(metadata=about("arguments of lightning.Trainer"))
    checkpoints: CheckpointsConf = field(metadata=about("what an interrupted training goes on from"))
