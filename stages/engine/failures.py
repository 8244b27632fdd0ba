"""What an error that ends a run means, where the machine and not the code is at fault: one message with what to type.

None of them is a bug; the traceback is in the run's error.txt all the same.
"""

import errno
import re

import torch

from callbacks.errors import TrainingError
from conf.errors import UsageError
from conf.sections.common import StageConf, TrainingStageConf
from datamodules.errors import DataError
from models.errors import ModelError
from stages.runs.failures import of_machine

GOES_ON = "the same command goes on from what is saved"
GONE = (errno.ENOENT, errno.ENOTDIR)
FROM_WORKER = re.compile(r"^Caught (\w+) in DataLoader worker process \d+\.\n.*?^[\w.]*\b\1: (.*)", re.DOTALL | re.M)
ERRNO = re.compile(r"^\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", re.DOTALL)
# the first that a stage has decides how much it needs
MEMORY_KEYS = ("batching.tokens_per_batch", "batch_size", "max_codes")


def explained(stage: str, conf: StageConf, error: Exception) -> Exception | None:
    """An error to be shown in one message, in place of `error`; None where it stays as it is."""
    original = _of_worker(error)
    if isinstance(original, torch.OutOfMemoryError | MemoryError):
        return UsageError(f"{stage}: {_out_of_memory(conf, original)}")
    if "DataLoader worker (pid" in str(error):
        first = str(error).strip().splitlines()[0]
        why = "Something ended a process that reads data: often memory. Fewer data.num_workers need less of it"
        return UsageError(f"{stage}: {first}. {why}; {GOES_ON}")
    if isinstance(original, OSError):
        text = of_machine(original)
        if not text and original.errno in GONE:
            text = f"{original.strerror}: {original.filename}. Is the folder still there, and the disk"
        return UsageError(f"{stage}: {text}; {GOES_ON}") if text else None
    return original if original is not error else None


def _out_of_memory(conf: StageConf, error: Exception) -> str:
    """What to type, from the keys that the stage has."""
    sentences = str(error).strip().split(". ")[:3] if str(error).strip() else ["out of memory"]
    values = {key: _value(conf, key) for key in MEMORY_KEYS if _has(conf, key)}
    advice = [f"lower --{key} (here {'all' if value is None else value})" for key, value in values.items()][:1]
    if advice and _has(conf, "trainer.accumulate_grad_batches"):
        accumulated = _value(conf, "trainer.accumulate_grad_batches")
        advice[0] += (
            f" and raise --trainer.accumulate_grad_batches (here {accumulated}) by as much, "
            "and a step learns from as many items as before"
        )
    if isinstance(conf, TrainingStageConf) and _value(conf, "model.activation_checkpointing") is False:
        advice.append("type --model.activation_checkpointing=true, which needs less memory and more time")
    if not advice:
        advice.append("take a device with more memory")
    text = "; or ".join(advice)
    again = "" if not values else ". These keys are part of what a run is: with them it begins again, with --restart"
    return f"{'. '.join(sentences).rstrip('.')}. {text[0].upper()}{text[1:]}{again}"


def _value(conf: object, key: str) -> object | None:
    """The value of a dotted key; None where the stage does not have it."""
    for part in key.split("."):
        conf = getattr(conf, part, None)
    return conf


def _has(conf: StageConf, key: str) -> bool:
    section, _, name = key.rpartition(".")
    return hasattr(_value(conf, section) if section else conf, name)


def _of_worker(error: Exception) -> Exception:
    """What a process that reads data raised. torch gives its kind, with the worker's traceback as its message."""
    match = FROM_WORKER.match(str(error))
    if match is None:
        return error
    message = match[2].strip()
    if isinstance(error, OSError) and (parts := ERRNO.match(message)):
        return OSError(int(parts[1]), parts[2], parts[3])
    return type(error)(message) if isinstance(error, UsageError | DataError | ModelError | TrainingError) else error
