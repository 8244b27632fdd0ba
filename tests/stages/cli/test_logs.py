"""Notes go to stderr, of several ranks those of rank 0, and errors with the rank; stdout is for the answer."""

import logging

import pytest

from stages.cli import logs


def test_a_note_is_a_line_on_stderr_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    for name in ("SLURM_STEP_ID", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    logs.set_up()
    logs.set_up()
    logging.getLogger("stages.cli.run").info("3 of %d", 4)
    logging.getLogger("stages.cli.run").debug("unseen")
    assert capsys.readouterr() == ("", "3 of 4\n")
    monkeypatch.setenv("LOCAL_RANK", "1")
    logging.getLogger("callbacks").warning("what rank 0 notes too")
    logging.getLogger("models.tokenizer").error("broken")
    assert capsys.readouterr() == ("", "rank 1: broken\n")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_PROCID", "5")
    logging.getLogger("conf").error("broken too")
    assert capsys.readouterr().err == "rank 5: broken too\n"
