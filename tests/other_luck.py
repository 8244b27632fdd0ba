"""A pytest plugin of tests.portable: shifts the seeds that the tests themselves set, and turns oneDNN off where it is asked to.

MSN_TESTS_SEED_OFFSET=1000    torch.manual_seed(3), called in a file of tests/, seeds with 1003; so do torch.Generator().manual_seed,
                              numpy.random.default_rng, random.seed and random.Random. Seeds of the project are its own.
MSN_TESTS_ONEDNN=off          torch's own kernels in place of oneDNN's, in the process of the tests
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

TESTS = str(Path(__file__).parent)
OFFSET = int(os.environ.get("MSN_TESTS_SEED_OFFSET", "0"))


def shifted(seed: Any, caller: str) -> Any:
    """The seed that a call from the file `caller` sets in place of `seed`."""
    return seed + OFFSET if isinstance(seed, int) and caller.startswith(TESTS) else seed


def _shifting(function: Callable[..., Any]) -> Callable[..., Any]:
    def seeded(seed: Any = None, *rest: Any) -> Any:
        return function(shifted(seed, sys._getframe(1).f_code.co_filename), *rest)

    return seeded


class _Generator(torch.Generator):
    def manual_seed(self, seed: int) -> torch.Generator:
        super().manual_seed(shifted(seed, sys._getframe(1).f_code.co_filename))
        return self


class _Random(random.Random):
    def __init__(self, seed: Any = None) -> None:
        super().__init__(shifted(seed, sys._getframe(1).f_code.co_filename))


def pytest_configure() -> None:
    if OFFSET:
        torch.manual_seed = _shifting(torch.manual_seed)
        torch.Generator = _Generator  # type: ignore[misc]
        np.random.default_rng = _shifting(np.random.default_rng)
        random.seed, random.Random = _shifting(random.seed), _Random  # type: ignore[misc]
    if os.environ.get("MSN_TESTS_ONEDNN") == "off":
        torch.backends.mkldnn.set_flags(False)
