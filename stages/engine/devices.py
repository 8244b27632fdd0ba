"""The precision that a run computes in: what is configured or, for `auto`, the quicker one on the processor at hand."""

import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch.accelerators import MPSAccelerator
from torch import Tensor

from conf.sections.codec import VaeConf
from conf.sections.common import StageConf, TrainerConf, TrainingStageConf
from conf.sections.language import LanguageConf
from conf.sections.tokenizer import DecoderFinetuningConf, TokenizerConf
from datamodules.atomic_files import write_whole

log = logging.getLogger(__name__)

CHOSEN = "MSN_PRECISION"  # environment: "<run folder>=<precision>", for the ranks that Lightning starts
GAIN = 1.25  # bfloat16 products that are less quick than this are slower in all, for their inputs are cast first
ROWS, WIDTH = 1024, 1024  # of the product that is timed, at most; the width of an LLM is not known before it is loaded


class Precision(NamedTuple):
    value: str  # as lightning.Trainer takes it
    reason: str


def precision(conf: StageConf, folder: Path, restart: bool = False) -> Precision:
    """What `trainer.precision` comes to in this run; folder: of the run.

    An unfinished run goes on in the precision that it began with, unless it is begun again (restart).
    """
    trainer = conf.trainer
    if trainer.precision != "auto":
        return Precision(trainer.precision, "as configured")
    folder_of_value, _, chosen = os.environ.get(CHOSEN, "").rpartition("=")
    if folder_of_value == str(folder):
        return Precision(chosen, "measured by rank 0")
    if not restart and (begun := _begun(folder)) is not None:
        return begun
    if trainer.accelerator != "cpu" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision("bf16-mixed" if native else "32-true", f"{torch.cuda.get_device_name()} decides")
    started_apart = any(int(os.environ.get(name, "1")) > 1 for name in ("SLURM_NTASKS", "WORLD_SIZE"))
    if started_apart or trainer.num_nodes > 1:
        return Precision(
            "32-true", "ranks on CPUs that are not started by this one do not measure: they could disagree"
        )
    measured = faster(*_size(conf))
    os.environ[CHOSEN] = f"{folder}={measured.value}"
    return measured


def compiles(setting: bool | str, device: torch.device) -> bool:
    """What a `compile` comes to on a device: auto is true on CUDA where what torch.compile needs is installed."""
    if setting != "auto" or device.type != "cuda":
        return setting is True
    missing = [] if importlib.util.find_spec("triton") else ["Triton"]
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        missing.append("a C compiler")
    if missing:
        log.warning("compile=auto: %s is not installed, so layers run as they are written", " and ".join(missing))
    return not missing


def memory(conf: StageConf) -> tuple[float, str] | None:
    """Bytes and name of the GPU that a run would take; None where it takes none."""
    if conf.trainer.accelerator == "cpu" or not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return float(device.total_memory), device.name


def device_name(device: torch.device) -> str:
    """Its maker's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return model.group(1) if model else platform.processor() or platform.machine()


def global_batch(conf: StageConf, ranks: int) -> dict[str, int]:
    """What an optimizer step sees on all ranks: items, or at most so many tokens; nothing where a stage does not train."""
    if not isinstance(conf, TrainingStageConf):
        return {}
    batches = ranks * getattr(conf.trainer, "accumulate_grad_batches", 1)
    if isinstance(conf, LanguageConf):
        return {"tokens": conf.batching.tokens_per_batch * batches}
    assert isinstance(conf, TokenizerConf | DecoderFinetuningConf | VaeConf)
    return {"items": conf.batch_size * batches}


def accelerator(trainer: TrainerConf) -> str:
    """`auto` is a Mac's GPU to Lightning: it has no float64, which metrics and losses are summed in, so the CPU is taken there."""
    if trainer.accelerator == "auto" and MPSAccelerator.is_available():
        return "cpu"
    return trainer.accelerator


def keep(folder: Path, chosen: Precision) -> None:
    """Notes the precision that a run begins with."""
    write_whole(folder / "precision.json", json.dumps(chosen._asdict()))


def faster(rows: int, inner: int, columns: int, repeats: int = 20) -> Precision:
    """Times (rows, inner) x (inner, columns) on the CPU in float32 and in bfloat16, in turns; stops early after a second.

    The quickest of each counts: other work on the machine slows some down, and what they say must not change a run.
    """
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    pairs = {dtype: (torch.ones(rows, inner, dtype=dtype), torch.ones(inner, columns, dtype=dtype)) for dtype in times}
    started = time.perf_counter()
    for turn in range(repeats):
        for dtype, pair in pairs.items():
            times[dtype].append(_seconds(*pair))
        if turn >= 3 and time.perf_counter() - started > 1:
            break
    exact, rough = (2e-9 * rows * inner * columns / min(times[dtype][1:]) for dtype in (torch.float32, torch.bfloat16))
    value = "bf16-mixed" if rough >= GAIN * exact else "32-true"
    return Precision(
        value, f"products of {rows} x {inner} x {columns}: float32 {exact:.0f}, bfloat16 {rough:.0f} GFLOP/s"
    )


def _seconds(left: Tensor, right: Tensor) -> float:
    started = time.perf_counter()
    left @ right
    return time.perf_counter() - started


def _size(conf: StageConf) -> tuple[int, int, int]:
    """Rows, inner size and columns of the product that a step of this stage is mostly made of."""
    if isinstance(conf, LanguageConf):
        return min(conf.batching.tokens_per_batch, ROWS), WIDTH, WIDTH
    if isinstance(conf, TokenizerConf):
        return ROWS, conf.decoder.width, 4 * conf.decoder.width
    return ROWS, WIDTH, WIDTH


def _begun(folder: Path) -> Precision | None:
    """The precision of the unfinished run in this folder; None where there is none."""
    path = folder / "precision.json"
    if not path.is_file() or (folder / "receipt.json").is_file():
        return None
    return Precision(**json.loads(path.read_text()))
