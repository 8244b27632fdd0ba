"""What every stage has, and what every stage that trains has."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from conf.laws import Problem, about


@dataclass
class DataConf:
    root: str = about(
        "folder of the prepared corpora; `stage run` needs the one that `stage prepare` was given", path=True
    )
    corpora: list[str] = about("names of the prepared corpora to use")
    on_bad: Literal["error", "skip"] = about(
        "a recording that cannot be read: error ends the run at once, skip goes on without it and lists it"
    )
    num_workers: int = about("processes that read and prepare data; 0: the main process does it", 0, 1024)


PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")  # those that Lightning knows and every stage computes in


def compile_problems(value: bool | str) -> Iterable[Problem]:
    """The law of every `compile`."""
    if isinstance(value, str) and value != "auto":
        yield Problem("compile", f"{value!r}; auto, true and false are allowed")


@dataclass
class TrainerConf:
    """Arguments of `lightning.Trainer`: what a stage runs on."""

    accelerator: str = about("cpu, gpu, or auto for a GPU where there is one")
    devices: int | str = about("devices of each machine, or auto for all")
    num_nodes: int = about("machines")
    strategy: str = about("how several devices work together: auto, ddp, or another name that Lightning knows")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"] = about(
        "number format of the computation; auto: on a GPU bf16-mixed where it is native, "
        "on a CPU the quicker one by a product that is timed"
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

    max_steps: int = about("optimizer steps of the whole training", 1)
    log_every_n_steps: int = about("optimizer steps between two values in the log", 1)
    logger: list[Literal["tensorboard", "csv", "wandb", "mlflow"]] = about(
        "where numbers, sounds and pictures of the training are shown, as [tensorboard, wandb]; []: nowhere"
    )
    val_check_interval: int = about("training batches between two validations", 1)
    limit_val_batches: int = about("batches of a validation, at most", 0)


@dataclass
class AutomaticTrainerConf(FitTrainerConf):
    """Arguments of `lightning.Trainer` that it applies by itself where a stage has one optimizer."""

    accumulate_grad_batches: int = about("batches of an optimizer step on each device", 1)
    gradient_clip_val: float | None = about("largest norm of the gradient; null: not clipped")


@dataclass
class OptimizerConf:
    """AdamW: a linear warm-up, then down to the final rate."""

    learning_rate: float = about("at the end of the warm-up")
    final_learning_rate: float = about("at the last step")
    warmup_steps: int = about("optimizer steps in which the rate rises from 0")
    schedule: Literal["cosine", "wsd"] = about(
        "after the warm-up: cosine falls until trainer.max_steps, which cannot be moved then; wsd (warm-up, stable, "
        "decay) stays, and falls in the last decay_steps, so that trainer.max_steps can be raised later"
    )
    decay_steps: int | None = about("wsd: last steps, in which the rate falls; null: a tenth of all", 1)
    weight_decay: float = about("of matrices; norms, biases and single vectors have none")
    betas: list[float] = about("decay of AdamW's two moments, as [0.9, 0.95]")

    def decay_start(self, max_steps: int) -> int:
        """Step at which the rate begins to fall, in a training (or a part of one) of max_steps."""
        if self.schedule == "cosine":
            return self.warmup_steps
        return max(self.warmup_steps, max_steps - (self.decay_steps or -(-max_steps // 10)))


@dataclass
class CheckpointsConf:
    every_n_steps: int = about("optimizer steps between two checkpoints", 1, 1 << 30)
    keep: int = about("newest checkpoints that are kept", 1, 1000)


@dataclass
class LimitsConf:
    """When a run stops by itself."""

    seconds: float | None = about(
        "time after which the run saves and stops with exit status 75; the same command goes on. null: none", 1.0, 1e9
    )
    margin: float = about("seconds before SLURM's end of the job at which the run saves and stops", 0.0, 1e6)
    on_nan: Literal["stop", "skip"] = about(
        "a loss or gradient that is not finite: stop ends the run, skip leaves that step out"
    )
    nan_in_a_row: int = about("steps left out one after the other, at which the run ends all the same", 1, 10_000)


@dataclass
class StageConf:
    """What every stage has."""

    experiment: str = about("name of the experiment; a stage's run folder is <runs>/<experiment>/<stage>")
    runs: str = about("folder of all experiments", path=True)
    seed: int = about("of everything random in the stage")
    threads: int = about("of torch on the CPU; 0: torch chooses")
    parents: dict[str, str] = about(
        "stage -> experiment or run folder to take that stage from, as --parents.tokenizer=OTHER", path=True
    )
    data: DataConf = about("the corpora, and how they are read")
    limits: LimitsConf = about("when the run stops by itself")
    trainer: TrainerConf = about("arguments of lightning.Trainer")

    def laws(self) -> Iterable[Problem]:
        if not re.fullmatch(r"[^./\s][^/\n]*", self.experiment):
            yield Problem(
                "experiment",
                f"{self.experiment!r} names a folder: no / in it, and no . or space at its beginning are allowed",
            )


@dataclass
class TrainingStageConf(StageConf):
    """What every stage that trains has."""

    trainer: FitTrainerConf = about("arguments of lightning.Trainer")
    checkpoints: CheckpointsConf = about("what an interrupted training goes on from")
    init_from: str | None = about(
        "finished run whose weights the training starts from, with a new optimizer: an experiment that has this stage, or a "
        "run folder; null: none",
        path=True,
    )

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        for name, optimizer in self.optimizers().items():
            steps, warmup, most = optimizer.decay_steps, optimizer.warmup_steps, self.trainer.max_steps
            if optimizer.schedule == "wsd" and steps is not None and warmup + steps > most:
                yield Problem(
                    f"{name}.decay_steps",
                    f"{steps}: with {warmup} of warm-up that is more than trainer.max_steps={most}; at most "
                    f"{max(0, most - warmup)} is allowed, or null for a tenth of all",
                )

    def optimizers(self) -> dict[str, OptimizerConf]:
        """Key -> section."""
        return {name: value for name, value in vars(self).items() if isinstance(value, OptimizerConf)}
