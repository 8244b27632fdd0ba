"""Which of a run's processes this is, before torch is imported: what Lightning, srun and torchrun tell it."""

import os


def rank() -> int:
    """0 in the first process, and in one that is alone. Of ranks that Lightning started: the number on this machine."""
    if "SLURM_STEP_ID" in os.environ:
        return int(os.environ.get("SLURM_PROCID", 0))
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)
