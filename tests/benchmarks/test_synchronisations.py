"""The host waits for the device a bounded number of times, however many steps the ODE has."""

from tests.benchmarks.gpu import Bench
from tests.benchmarks.synchronisations import count, steps


def test_no_step_of_the_ode_waits_for_the_device():
    counted = {name: count(step).total() for name, step in steps(Bench(small=True)).items()}
    assert counted["decoding in 4 steps"] == counted["decoding in 25 steps"] < 15
    assert counted["training step of the LLM"] and counted["training step of the tokenizer"]
