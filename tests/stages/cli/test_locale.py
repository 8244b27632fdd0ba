"""Whatever the locale, tables, reports and the names of files are UTF-8."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.datamodules.recordings import sound

ROOT = Path(__file__).parents[3]


def test_a_locale_of_another_encoding_changes_nothing(tmp_path: Path):
    """A new process: the encoding is chosen when Python starts."""
    sound(tmp_path / "Glöckchen.wav", 0.1)
    (tmp_path / "m.csv").write_text("path,caption\nGlöckchen.wav,Eine Glocke tönt.\n", encoding="utf-8")
    words = ["prepare", "folder", str(tmp_path), "--metadata", str(tmp_path / "m.csv"), "--name", "x"]
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from stages.cli.main import main; sys.exit(main())", *words],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cut = json.loads(gzip.decompress((tmp_path / "data/x/cuts.jsonl.gz").read_bytes()))
    assert cut["supervisions"][0]["text"] == "Eine Glocke tönt."
    assert cut["recording"]["sources"][0]["source"] == "Glöckchen.wav"
