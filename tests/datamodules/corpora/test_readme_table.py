"""The code of datamodules/README.md that writes a table of folders named by class."""

import re
from pathlib import Path

import pytest
from lhotse import CutSet

from datamodules.corpora import folder
from tests.datamodules.recordings import DEFAULTS, sound

README = Path(__file__).parents[3] / "datamodules/README.md"
(CODE,) = (
    block
    for block in re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    if "metadata.csv" in block
)


def test_folders_by_class_with_captions_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names with blanks and umlauts, suffixes in capitals, and what a file manager leaves."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("Hund bellt/Aufnahme 1 (ö)", "Straßen Lärm/x", "Straßen Lärm/y")):
        path = sound(Path("recordings") / f"{name}.wav", 0.1, 8000 * (number + 1), 1 + number % 2)
        path.rename(path.with_suffix((".WAV", ".wav", ".Wav")[number]))
    Path("recordings/Hund bellt/Aufnahme 1 (ö).txt").write_text('Ein Hund, "laut"\n', "utf-8")
    for name in (".DS_Store", "._x.wav", "Thumbs.db"):
        (Path("recordings/Straßen Lärm") / name).write_bytes(b"\0\5\x16\7")
    exec(CODE, {})
    folder.prepare_folder(Path("recordings"), Path("recordings/metadata.csv"), Path("out"), **DEFAULTS)
    cuts = {cut.recording.sources[0].source: cut for cut in CutSet.from_file("out/cuts.jsonl.gz")}
    labels = {path: cut.custom["labels"] for path, cut in cuts.items()}
    assert labels == {
        "Hund bellt/Aufnahme 1 (ö).WAV": ["Hund bellt"],
        "Straßen Lärm/x.wav": ["Straßen Lärm"],
        "Straßen Lärm/y.Wav": ["Straßen Lärm"],
    }
    texts = [[sup.text for sup in cut.supervisions if sup.text] for cut in cuts.values()]
    assert texts == [['Ein Hund, "laut"'], [], []]
