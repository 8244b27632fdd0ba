"""The progress line of a log: at every tenth and every minute, with the rate and the time left."""

import time

import pytest

from callbacks.progress import ProgressLine
from stages.cli import logs


@pytest.fixture(autouse=True)
def shown() -> None:
    """As the command shows them: on stderr."""
    logs.set_up()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_line_comes_at_every_tenth_and_every_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    line = ProgressLine("cache", 1000, "clips")
    line.start(200)
    for done, seconds in ((210, 1), (250, 30), (290, 50), (295, 80), (299, 100), (300, 120), (1000, 600)):
        clock.now = 1000.0 + seconds
        line.update(done, "loss 1")
    line.stop()
    # 250 to 290: still the third tenth, and no minute since the first line; 299: a minute after none
    assert [text.split("/")[0].split()[-1] for text in capsys.readouterr().err.splitlines()] == [
        "210", "295", "300", "1000",
    ]  # fmt: skip


def test_the_rate_is_that_of_this_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """100 clips in 100 s beside the 200 of an earlier run; 700 are left."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    line = ProgressLine("cache", 1000, "clips")
    line.start(200)
    clock.now += 100
    line.update(300)
    assert capsys.readouterr().err.rstrip().endswith("1 clips/s, 12 min left")


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]):
    line = ProgressLine("cache", 10, "clips", visible=False)
    line.start()
    line.update(10)
    line.stop()
    assert capsys.readouterr() == ("", "")
