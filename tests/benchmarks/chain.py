"""What the experiments share: the command, in this process' folder, with a line that says what is run."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def stage(*words: str) -> None:
    """`stage WORDS`; ends the experiment where it fails. A stage that is done is not run again."""
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", "stages.cli.main", *words], capture_output=True, text=True)
    print(f"stage {shlex.join(words)}: {time.monotonic() - begun:.0f} s", flush=True)
    if ended.returncode:
        raise SystemExit(ended.stdout[-2000:] + ended.stderr)


def run(name: str, experiment: str, *words: str) -> dict[str, Any]:
    """A stage's receipt, made if there is none."""
    receipt = Path("runs") / experiment / name / "receipt.json"
    if not receipt.is_file():
        stage("run", name, "--experiment", experiment, *words)
    return json.loads(receipt.read_text())
