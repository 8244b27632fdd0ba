"""A training step waits for the device not at all, and a decoding a bounded number of times."""

from tests.benchmarks.gpu import Bench
from tests.benchmarks.synchronisations import count, steps


def test_no_step_waits_for_the_device():
    counted = {name: count(step) for name, step in steps(Bench(small=True)).items()}
    assert not counted["training step of the tokenizer"].lines
    # transformers' search for packed sequences
    assert set(counted["training step of the LLM"].lines.values()) <= {1}
    assert counted["decoding in 4 steps"].waits == counted["decoding in 25 steps"].waits < 15
    assert not any(one.constants for one in counted.values())


def test_what_waits_is_counted():
    import torch

    x = torch.arange(4.0)
    counted = count(lambda: (float(x[0]), x[x > 1], (x > 1).nonzero(), x.bfloat16(), x.view(2, 2), torch.tensor(1.0)))
    assert (counted.waits, counted.constants, counted.casts, counted.bytes) == (3, 1, 1, 8)
