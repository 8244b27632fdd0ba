"""Which of a run's processes this is, before torch is imported: what Lightning, srun and torchrun tell it."""

import os


def rank() -> int:
    """0 in the first process, and in one that is alone. Of ranks that Lightning started: the number on this machine."""
    if "SLURM_STEP_ID" in os.environ:
        return int(os.environ.get("SLURM_PROCID", 0))
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def is_one_of_several() -> bool:
    """Whether other processes run the same stage. Rank 0 knows of those that Lightning starts once they are started."""
    names = ("SLURM_STEP_NUM_TASKS", "WORLD_SIZE")
    return rank() > 0 or any(int(os.environ.get(name) or 1) > 1 for name in names)
