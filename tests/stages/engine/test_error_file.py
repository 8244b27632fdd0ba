"""How a run that fails says so: one message for a mistake, a traceback for a bug, and error.txt for both."""

import errno
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import conf
from conf.errors import UsageError
from conf.schema import keys
from conf.sections.language import LanguageConf
from datamodules.errors import DataError
from stages import STAGES
from stages.engine import failures
from stages.runs import failures as run_failures
from tests import zygote
from tests.conftest import SMOKE
from tests.interrupt import TWO_RANKS, add_callback
from tests.zygote import Ended

CUDA = (  # as torch 2.11 writes it
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.50 GiB is free. "
    "Including non-PyTorch memory, this process has 77.58 GiB memory in use. Of the allocated memory 76.00 GiB is "
    "allocated by PyTorch, and 500.00 MiB is reserved by PyTorch but unallocated."
)
ERRORS = {
    "bug": ValueError("operands could not be broadcast together with shapes (3,) (4,)"),
    "mistake": UsageError("what came is not allowed; type another"),
    "memory": torch.OutOfMemoryError(CUDA),
}


class Raises(L.Callback):
    """The training step `at` of rank `rank` raises, as a product in it would."""

    def __init__(self, error: str, at: int, rank: int) -> None:
        self.error, self.at, self.rank = error, at, rank

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        step = module.training_step

        def raising(*arguments: Any) -> Any:
            if trainer.global_step == self.at and trainer.global_rank == self.rank:
                raise ERRORS[self.error]
            return step(*arguments)

        module.training_step = raising


def failed(where: Path, error: str, *words: str, rank: int = 0) -> Ended:
    """`stage run tokenizer`, in whose step 6 a rank raises."""
    before = partial(add_callback, "tokenizer", partial(Raises, error, 6, rank))
    return zygote.run(["run", "tokenizer", "--parents.latents=whole", *words, *SMOKE], where, before)


def test_a_bug_keeps_its_traceback_and_the_next_run_that_ends_well_has_none(stage, tones: Path, whole: Path):
    ended = failed(tones, "bug", "--experiment=bug")
    assert ended.status == 1
    file = Path("runs/bug/tokenizer/error.txt")
    assert "Traceback (most recent call last)" in ended.stderr and "in raising" in ended.stderr
    assert ended.stderr.rstrip().endswith(f"The traceback is in {file}")
    text = (tones / file).read_text()
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:+]+, rank 0, process \d+ on .+\n.*run tokenizer .*--experiment=bug", text)
    assert text.count("Traceback (most recent call last)") == 1 and str(ERRORS["bug"]) in text
    assert stage("run", "tokenizer", "--experiment=bug", "--parents.latents=whole") == 0
    assert not (tones / file).exists()


def test_a_mistake_is_one_message_and_with_debug_its_traceback(tones: Path, whole: Path):
    ended = failed(tones, "mistake", "--experiment=usage-error")
    file = Path("runs/usage-error/tokenizer/error.txt")
    message = f"stage: {ERRORS['mistake']}\nThe traceback is in {file}\n"
    assert ended.status == 1 and ended.stderr.endswith(message) and "Traceback (" not in ended.stderr
    assert "in raising" in (tones / file).read_text()
    debugged = failed(tones, "mistake", "--experiment=usage-error", "--debug")
    assert debugged.status == 1 and "in raising" in debugged.stderr
    assert debugged.stderr.endswith(f"stage: {ERRORS['mistake']}\n")


def test_the_file_is_of_the_rank_that_failed_first(tones: Path, whole: Path):
    ended = failed(tones, "bug", "--experiment=ranks", *TWO_RANKS, rank=1)
    assert ended.status == 1
    assert re.search(r"stage: tokenizer: rank 1 \(pid \d+\) ended with status 1", ended.stderr)
    text = (tones / "runs/ranks/tokenizer/error.txt").read_text()
    assert ", rank 1, process " in text.splitlines()[0] and text.count(", process ") == 1
    assert str(ERRORS["bug"]) in text and "rank 1 (pid" not in text
    assert [path.name for path in (tones / "runs/ranks/tokenizer").glob(".error*")] == []
    again = failed(tones, "mistake", "--experiment=ranks", *TWO_RANKS, rank=1)
    assert again.stdout.count("partial: step 4 of 12") == 1, "once, not by each rank"
    assert str(ERRORS["mistake"]) in (tones / "runs/ranks/tokenizer/error.txt").read_text()


def test_a_gpu_without_memory_says_which_key_to_lower(tones: Path, whole: Path):
    ended = failed(tones, "memory", "--experiment=memory", "--debug")
    assert ended.status == 1
    message = ended.stderr[ended.stderr.rindex("stage: ") :]
    assert message.startswith("stage: tokenizer: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total")
    assert re.search(r"1\.50 GiB is free\. Lower --batch_size \(here \d+\)", message) and "--restart" in message
    assert "reserved by PyTorch" not in message
    text = (tones / "runs/memory/tokenizer/error.txt").read_text()
    assert CUDA in text and "in raising" in text, "the traceback is that of the allocation"


@pytest.mark.parametrize("stage_name", list(STAGES))
def test_every_stage_has_a_key_that_lowers_its_memory(stage_name: str):
    composed = conf.compose(stage_name, ["smoke"], overrides=["data.corpora=tones"]).conf
    explained = str(failures.explained(stage_name, composed, torch.OutOfMemoryError(CUDA)))
    named = re.findall(r"--([a-z_.]+)", explained.replace("--restart", ""))
    assert named and set(named) <= set(keys(stage_name))
    assert ("model.activation_checkpointing" in named) == isinstance(composed, LanguageConf)
    assert named[0] in ("batch_size", "batching.tokens_per_batch", "max_codes")


class Breaks(Dataset[int]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DataError("a.wav: cannot be read\nb.wav: neither"), "a.wav: cannot be read\nb.wav: neither"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "latents: x: No space left on device. The disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "latents: No such file or directory: x. Is the"),
        (PermissionError(errno.EACCES, "Permission denied"), "latents: Permission denied. Give this user leave"),
    ],
)  # fmt: skip
def test_an_error_of_a_process_that_reads_is_the_error_itself(error: Exception, text: str):
    composed = conf.compose("latents", ["smoke"], overrides=["data.corpora=tones"]).conf
    with pytest.raises(type(error)) as caught:
        next(iter(DataLoader(Breaks(error), num_workers=1)))
    explained = failures.explained("latents", composed, caught.value)
    assert str(explained).startswith(text) and "Traceback" not in str(explained)


def test_an_error_that_is_no_machine_s_is_a_bug():
    composed = conf.compose("latents", ["smoke"], overrides=["data.corpora=tones"]).conf
    for error in (ValueError("a"), RuntimeError("b"), OSError(), ConnectionResetError(errno.ECONNRESET, "reset")):
        assert failures.explained("latents", composed, error) is None
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Breaks(RuntimeError("a bug")), num_workers=1)))
    assert failures.explained("latents", composed, caught.value) is None


def test_an_errno_decides_and_no_word_of_a_message(tmp_path: Path):
    try:
        (tmp_path / ("a" * 300)).write_text("")
    except OSError as error:
        assert re.search(r"aaa: File name too long\. A shorter name", run_failures.of_machine(error))
    assert run_failures.of_machine(OSError("No space left on device")) == ""
    assert "ulimit -n" in run_failures.of_machine(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))


def test_a_second_rank_leaves_the_file_of_the_first(tmp_path: Path):
    for text in ("first", "second"):
        with pytest.raises(ValueError, match=text) as caught, run_failures.kept(tmp_path):
            raise ValueError(text)
        assert caught.value.__notes__ == [f"The traceback is in {tmp_path / 'error.txt'}"]
    assert "ValueError: first" in (tmp_path / "error.txt").read_text()
    run_failures.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError) as caught, run_failures.kept(tmp_path / "no run"):
        raise ValueError from OSError()
    assert caught.value.__notes__ == ["The same command with --debug shows the traceback"]
    with pytest.raises(ValueError) as caught, run_failures.kept(tmp_path / "no run"):
        raise ValueError
    assert not hasattr(caught.value, "__notes__"), "a mistake without a story"
    assert list(tmp_path.iterdir()) == [], "no folder is made for it"
