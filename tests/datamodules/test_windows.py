"""Windows cover a recording once, have no stubs, and begin where they began whatever follows."""

from itertools import accumulate

import pytest

from conf import compose
from conf.sections.codec import LatentsConf
from datamodules.windows import WindowRule
from tests.benchmarks.windows import OOBLECK, RATES, SECONDS, clip_frames

PAPER = WindowRule.from_seconds(10.0, 44100, 2048)


@pytest.mark.parametrize("rule", [PAPER, WindowRule(215), WindowRule(1), WindowRule(4, 1), WindowRule(8, 8)])
def test_windows_cover_every_frame_once(rule: WindowRule):
    for frames in range(1, 5 * rule.frames + 2):
        lengths = rule.lengths(frames)
        assert sum(lengths) == frames and len(lengths) == rule.num_windows(frames)
        assert all(length == rule.frames for length in lengths[:-1]) and lengths[-1] <= rule.longest
        if len(lengths) > 1:
            assert lengths[-1] >= rule.shortest


def test_no_window_behind_another_is_shorter_than_a_quarter_of_it():
    assert PAPER == (216, 54)
    for frames in range(1, 3000):
        lengths = PAPER.lengths(frames)
        assert len(lengths) == 1 or 4 * min(lengths) >= PAPER.frames


def test_windows_begin_where_they_began_whatever_follows():
    for frames in range(1, 1000):
        begins = list(accumulate(PAPER.lengths(frames), initial=0))[:-1]
        longer = list(accumulate(PAPER.lengths(frames + 1), initial=0))[:-1]
        assert longer[: len(begins)] == begins


def test_a_clip_of_a_window_is_one_window_at_every_rate_of_a_codec():
    for sample_rate, hop_length in ((44100, 2048), (48000, 2048), (32000, 2048), (48000, 1920), (16000, 320)):
        for seconds in (1, 2.5, 5, 10, 10.24, 30):
            rule = WindowRule.from_seconds(seconds, sample_rate, hop_length)
            samples = round(seconds * sample_rate)
            assert rule.lengths(-(-samples // hop_length)) == [rule.frames]
            assert (rule.frames - 1) * hop_length < samples


def test_the_rule_of_a_receipt_is_that_of_its_run():
    assert WindowRule.from_facts({"window_frames": 215}) == (215, 1)  # of an earlier version: windows are as they were
    assert WindowRule(215).lengths(216) == [215, 1]
    assert WindowRule.from_facts(PAPER.facts()) == PAPER
    assert WindowRule.from_seconds(5.0, 44100, 2048).frames == round(5.0 * 44100 / 2048)  # rounded up before, too


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", SECONDS)
def test_windows_of_clips_at_the_papers_geometry(seconds: float, rate: int):
    """1, 5, 10 and 30 s by hand: 21.53, 107.67, 215.33 and 646 frames. 10.01 s is 215.55."""
    conf = compose("latents").conf
    assert isinstance(conf, LatentsConf)
    expected = {1: [22], 5: [108], 10: [216], 10.01: [216], 30: [216, 216, 214]}[seconds]
    for sample_rate, hop_length in (OOBLECK, (conf.codec.mel.sample_rate, conf.codec.mel.hop_length)):
        rule = WindowRule.from_seconds(conf.window_seconds, sample_rate, hop_length)
        assert rule.lengths(clip_frames(seconds, rate, sample_rate, hop_length)) == expected
