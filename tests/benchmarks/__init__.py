"""Ours beside a named peer, and experiments over seeds; by hand: `python -m tests.benchmarks.NAME`. Needs `pip install -e .[dev,benchmarks]`."""
