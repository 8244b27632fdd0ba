"""Notes go to stderr, with the rank where there are several; stdout is for the answer."""

import logging

import pytest

from stages.cli import logs


def test_a_note_is_a_line_on_stderr_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    logs.set_up()
    logs.set_up()
    logging.getLogger("stages.cli.run").info("3 of %d", 4)
    logging.getLogger("stages.cli.run").debug("unseen")
    assert capsys.readouterr() == ("", "3 of 4\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    logging.getLogger("callbacks").info("first")
    monkeypatch.setenv("LOCAL_RANK", "1")
    logging.getLogger("models.tokenizer").warning("second")
    assert capsys.readouterr() == ("", "rank 0: first\nrank 1: second\n")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    logging.getLogger("conf").info("third")
    assert capsys.readouterr().err == "rank 5: third\n"
