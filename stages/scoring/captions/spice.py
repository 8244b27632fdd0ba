"""SPICE 1.0 (Anderson et al. 2016, arXiv:1607.08822): F of the tuples of scene graphs. Its jar is pycocoevalcap's, its
parser's models are Stanford's.

pycocoevalcap's client downloads in its constructor and keeps a cache whose library dies on Java 17: this one does
neither.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from conf.errors import UsageError
from stages.scoring.captions.coco import CaptionScore, Tokens
from stages.scoring.captions.java_programs import LOCALE, last_lines

OPENS = ("lang", "math", "util", "util.concurrent", "net", "text")  # that its libraries reach into since Java 17


def spice(package: Path, words: Tokens, seconds: float = 7200) -> CaptionScore:
    """package: the folder of pycocoevalcap, with CoreNLP 3.6.0 in spice/lib. Items that SPICE cannot score are NaN, and
    left out of the mean.

    Raises UsageError where it fails or takes longer than `seconds`.
    """
    folder = package / "spice"
    entries = [
        {"image_id": index, "test": caption, "refs": texts}
        for index, (caption, texts) in enumerate(zip(words.captions, words.references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as name:
        given, written = Path(name) / "in.json", Path(name) / "out.json"
        given.write_text(json.dumps(entries))
        opens = [f"--add-opens=java.base/java.{part}=ALL-UNNAMED" for part in OPENS]
        command = [
            "java",
            *LOCALE,
            *opens,
            "-Xmx8G",
            "-jar",
            "spice-1.0.jar",
            str(given),
            "-out",
            str(written),
            "-subset",
            "-silent",
        ]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, timeout=seconds)
        except OSError as error:
            raise UsageError(f"SPICE did not start: {error}. Type   apt-get install default-jre-headless") from None
        except subprocess.TimeoutExpired:
            raise UsageError(f"SPICE did not end within {seconds:.0f} s for {len(entries)} captions") from None
        if done.returncode or not written.is_file():
            raise UsageError(f"SPICE failed: {last_lines(done.stderr)}")
        rows = {row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(written.read_text())}
    items = [float(rows[index]) if rows.get(index) is not None else float("nan") for index in range(len(entries))]
    good = [value for value in items if value == value]
    return CaptionScore(sum(good) / len(good) if good else float("nan"), items)
