"""A stage in a process of its own, on this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from callbacks.stop import Stop

PATIENCE = 60.0  # seconds for a child to end after a second Ctrl-C


def command(stage: str, words: Sequence[str], restart: bool = False) -> list[str]:
    """The command line that runs a stage with this Python. words: its configuration."""
    return [sys.executable, "-m", "stages.cli.main", "run", stage, *words, *(["--restart"] if restart else [])]


def environment() -> dict[str, str]:
    """Variables with which `command` runs this project, whatever lies in the folder that it is typed in.

    `python -m` puts that folder first on the path: a user's conf.py or models/ would be imported in place of ours.
    Where this project itself is imported from it, not installed, its folder is named.
    """
    root = str(Path(__file__).parents[2])
    on_path = sys.path if sys.flags.safe_path else sys.path[1:]  # the first is the folder, or the script's
    if root in map(os.path.abspath, on_path):
        return {"PYTHONSAFEPATH": "1"}
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def run_in_process(stage: str, words: Sequence[str], restart: bool, stop: Stop) -> None:
    """Runs a stage; Lightning starts its other ranks with the same command line. What `stop` notes is passed on.

    Raises SystemExit with its status where that is not 0.
    """
    line = command(stage, words, restart)
    left = stop.left()
    if left is not None:
        line.append(f"--limits.seconds={max(left, 1.0)}")
    process, passed = subprocess.Popen(line, env={**os.environ, **environment()}), False
    try:
        while process.poll() is None:
            if stop.noted and not passed:
                # a terminal's Ctrl-C goes to the child too
                if stop.noted != signal.SIGINT:
                    process.send_signal(stop.noted)
                passed = True
            time.sleep(0.2)
    except KeyboardInterrupt:
        # a terminal's goes to the child too, which ends at once
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    if code := process.returncode:
        raise SystemExit(code if code > 0 else 128 - code)
