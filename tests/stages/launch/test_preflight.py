"""What `run all` does before its first stage."""

from pathlib import Path

import conf
from stages.launch import preflight
from stages.runs import receipts
from tests import zygote

SMALL = ["train_scenes=6", "validation_scenes=2", "test_scenes=2", "data.root=rendered"]


def render() -> None:
    preflight._render_once(conf.compose("diagnostic", ["smoke"], overrides=SMALL).conf)


def test_two_commands_side_by_side_render_the_embedded_corpus_once(tmp_path: Path):
    ended = [process.wait() for process in [zygote.start(None, tmp_path, render) for _ in range(2)]]
    assert [one.status for one in ended] == [0, 0], ended
    assert sum("10 recordings" in one.stdout for one in ended) == 1, ended
    receipt = receipts.read_corpus(tmp_path / "rendered/diagnostic")
    assert receipt is not None and receipt["recordings"] == 10
