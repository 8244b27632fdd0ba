"""Ours beside a peer, in one run; by hand: `python -m tests.benchmarks.NAME`. Needs `pip install -e .[benchmarks]`."""
