"""A training whose end is moved: it goes on from its last checkpoint before its learning rate fell. No torch here.

With the schedule `wsd` (Hu et al. 2024, arXiv:2404.06395) trainer.max_steps decides the decay alone. A run of other
max_steps is the same up to there, finished or not:

    300 steps   warm-up ─ stable ─────────┐270  decay ─ 300
    600 steps   warm-up ─ stable ─────────┴──────── stable ─────────┐540  decay ─ 600
"""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from conf import from_plain
from conf.errors import UsageError
from conf.sections.common import StageConf, TrainingStageConf
from stages.runs.identity import changed_keys
from stages.runs.progress import checkpoint_step, whole_checkpoints

log = logging.getLogger(__name__)
MAX_STEPS = "trainer.max_steps"


class MovedEnd(NamedTuple):
    before: int  # trainer.max_steps of the run as it was begun
    after: int
    most: int  # steps up to which both are alike
    step: int | None  # of the newest checkpoint among these; None where none is left


def last_step_before_decay(conf: StageConf) -> int | None:
    """Steps that do not depend on trainer.max_steps. None where its end cannot be moved: with a cosine, or a curriculum,
    whose entries each have a schedule of their own.
    """
    if not isinstance(conf, TrainingStageConf) or getattr(conf, "curriculum", None):
        return None
    optimizers = conf.optimizers().values()
    if any(optimizer.schedule != "wsd" for optimizer in optimizers):
        return None
    return min(optimizer.decay_start(conf.trainer.max_steps) for optimizer in optimizers)


def moved_end(stage: str, folder: Path, begun: dict[str, Any], conf: StageConf, finished: bool) -> MovedEnd | None:
    """How a run goes on that was begun with the configuration `begun`, where its end alone is moved; else None.

    finished: an end that comes earlier is no end for it.
    """
    if not isinstance(conf, TrainingStageConf) or not (changed := changed_keys(begun, conf)):
        return None
    before: TrainingStageConf = from_plain(stage, begun)
    ends = {MAX_STEPS, *(f"{name}.decay_steps" for name in conf.optimizers())}
    first, second = last_step_before_decay(before), last_step_before_decay(conf)
    if not ends.issuperset(changed) or first is None or second is None:
        return None
    if finished and conf.trainer.max_steps <= before.trainer.max_steps:
        return None
    most = min(first, second)
    shared = [step for path in whole_checkpoints(folder) if (step := checkpoint_step(path)) <= most]
    return MovedEnd(before.trainer.max_steps, conf.trainer.max_steps, most, max(shared, default=None))


def check_moved_end(folder: Path, moved: MovedEnd) -> None:
    """Raises UsageError where no checkpoint is left that both have in common."""
    if moved.step is not None:
        return
    saved = ", ".join(str(checkpoint_step(path)) for path in whole_checkpoints(folder)) or "none"
    raise UsageError(
        f"{folder} cannot go on to {MAX_STEPS}={moved.after}: that needs a checkpoint of step {moved.most} or before, where "
        f"no learning rate has fallen yet, and it has: {saved}. Give {MAX_STEPS}={moved.before} or a later end, --restart "
        f"to begin again (the old run is kept), or another --experiment=NAME with --init_from={folder}"
    )


def drop_decay(folder: Path, moved: MovedEnd) -> None:
    """Removes the checkpoints behind the one that is gone on from: their rates fell."""
    assert moved.step is not None
    for path in whole_checkpoints(folder):
        if checkpoint_step(path) > moved.step:
            path.unlink()
    text = "%-14s goes on from step %d: its end is moved from %d to %d steps"
    log.info(text, folder.name, moved.step, moved.before, moved.after)


def why_not(changed: list[str], conf: StageConf) -> str:
    """What to say of a run that is refused for its keys `changed`, where its end is among them; else nothing."""
    if MAX_STEPS not in changed or last_step_before_decay(conf) is not None:
        return ""
    what = (
        "each entry of a curriculum has a schedule of its own"
        if getattr(conf, "curriculum", None)
        else "the cosine falls towards it from the warm-up on"
    )
    return (
        f"\n{MAX_STEPS} cannot be moved: {what}. A run that is begun with --optimizer.schedule=wsd (and no curriculum) can be "
        "made longer; --init_from=RUN in another --experiment=NAME starts from this run's weights, with a new optimizer."
    )
