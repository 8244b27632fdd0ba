"""A pytest plugin of tests.portable: shifts seeds and turns oneDNN off, as these variables of the environment ask.

MSN_TESTS_SEED_OFFSET=1000    added to each integer seed of torch.manual_seed, torch.Generator().manual_seed, numpy.random.default_rng,
                              random.seed and random.Random, where the call stands in a file of tests/
MSN_TESTS_SEEDS=all           or in a file of models/, stages/ or callbacks/, or in Lightning's seed_everything: this shifts `seed=0`
                              arguments, the seeds of the configuration, and so all random models, also in the processes of `stage` that
                              the tests fork. Seeds of datamodules/ stay: Lhotse's sampler and new processes draw from the same ones.
MSN_TESTS_ONEDNN=off          torch's kernels in place of oneDNN's
"""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
OFFSET = int(os.environ.get("MSN_TESTS_SEED_OFFSET", "0"))
ALL = os.environ.get("MSN_TESTS_SEEDS") == "all"
IN_A_NEW_PROCESS = "from tests import other_luck; other_luck.apply()\n"  # pytest's plugins are not in it
SHIFTED = tuple(str(ROOT / room) + os.sep for room in ("tests", *(("models", "stages", "callbacks") if ALL else ())))


def shifted(seed: Any, caller: str) -> Any:
    """The seed that a call from the file `caller` sets in place of `seed`."""
    shifts = caller.startswith(SHIFTED) or (ALL and caller.endswith("lightning/fabric/utilities/seed.py"))
    return seed + OFFSET if isinstance(seed, int) and shifts else seed


def handed(seed: int) -> int:
    """The seed that a test hands to the project where the test seeds torch with `seed` by itself: both are shifted alike."""
    return seed if ALL else seed + OFFSET


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


def apply() -> None:
    """Shift the seeds of this process from now on. A name that was imported from numpy, torch or random before is not shifted."""
    if OFFSET:
        torch.manual_seed = _shifting(torch.manual_seed)
        torch.Generator = _Generator  # type: ignore[misc]
        np.random.default_rng = _shifting(np.random.default_rng)
        random.seed, random.Random = _shifting(random.seed), _Random  # type: ignore[misc]
    if os.environ.get("MSN_TESTS_ONEDNN") == "off":
        torch.backends.mkldnn.set_flags(False)


def pytest_configure() -> None:
    apply()
