"""tests.portable prints a test that depends on a seed, and not one that asserts a law."""

from pathlib import Path

import pytest

from tests import portable

LUCKY = """
import random

import numpy as np
import torch


def test_luck_of_torch():
    assert round(torch.rand(1, generator=torch.Generator().manual_seed(0)).item(), 4) == 0.4963


def test_luck_of_python():
    assert random.Random(0).random() == 0.8444218515250481


def test_law():
    torch.manual_seed(0)
    values = torch.randint(-9, 9, (8,)).sum() + int(np.random.default_rng(0).integers(5))
    assert values - values == 0
"""


def test_a_test_that_depends_on_a_seed_is_printed_and_a_law_is_not(
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
):
    file = Path(__file__).with_name("lucky_for_test_portable.py")
    request.addfinalizer(lambda: file.unlink(missing_ok=True))
    file.write_text(LUCKY)
    status = portable.main(["--only", "seeds-1", str(file), "-n", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    assert lines[0].startswith("plain            3 passed, 0 failed, 0 skipped; 0 differ;")
    assert lines[1].startswith("seeds-1          1 passed, 2 failed, 0 skipped; 2 differ;")
    assert [line.strip() for line in lines[2:]] == [
        "tests.lucky_for_test_portable::test_luck_of_python: passed -> failed",
        "tests.lucky_for_test_portable::test_luck_of_torch: passed -> failed",
    ]
