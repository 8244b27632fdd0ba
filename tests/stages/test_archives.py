"""The same clips as files, in tars, in Parquet and in Lhotse's Shar: the same cuts and the same codes."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.store import chunks
from stages.cli.main import main
from tests.conftest import SMOKE
from tests.datamodules.formats import ROWS, parquet, shar, webdataset
from tests.datamodules.recordings import sound, table


def test_the_same_clips_have_the_same_codes(whole: Path, tmp_path: Path):
    """Of 0.7 to 6 s, the last longer than a window. All but the hash of the bytes is the same in Shar, which holds the
    samples encoded anew.
    """
    pytest.importorskip("pyarrow")
    clips = tmp_path / "clips"
    for number, row in enumerate(ROWS):
        sound(clips / row["path"], (0.7, 2.5, 6.0)[number], 16_000, hz=200 + 300 * number)
    sources = {
        "files": ["folder", str(clips), f"--metadata={table(clips / 'm.csv', ROWS)}"],
        "tars": ["webdataset", webdataset(clips, tmp_path / "tars")],
        "parquet": ["huggingface", parquet(clips, tmp_path / "parquet"), "--caption=text"],
        "shar": ["lhotse", shar(clips, tmp_path / "shar")],
    }
    cuts, codes = dict[str, Any](), dict[str, Any]()
    for kind, words in sources.items():
        data = f"--data.root=data/{kind}"
        assert main(["prepare", *words, "--name=clips", data, "--validation_fraction=0"]) == 0
        with gzip.open(f"data/{kind}/clips/cuts.jsonl.gz") as manifest:
            cuts[kind] = {cut["id"]: described(cut) for cut in map(json.loads, manifest)}
        words = ["cache", *SMOKE, data, "--data.corpora=[clips]", f"--experiment={kind}"]
        assert main(["run", *words, f"--parents.tokenizer={whole / 'tokenizer'}"]) == 0
        codes[kind] = {cut.id: cut.custom["codes"] for cut in chunks.read(Path(f"runs/{kind}/cache/chunks"))}
    assert cuts["tars"] == cuts["parquet"] == cuts["files"]
    for cut in (*cuts["shar"].values(), *cuts["files"].values()):
        del cut["sha256"]
    assert cuts["shar"] == cuts["files"]
    assert codes["shar"] == codes["tars"] == codes["parquet"] == codes["files"]
    assert len({tuple(one) for one in codes["files"].values()}) == 3


def described(cut: dict[str, Any]) -> dict[str, Any]:
    """All of a cut but where its sound lies, and how it is written in Shar."""
    custom = {key: cut["custom"][key] for key in ("split", "labels", "corpus", "source", "sha256")}
    texts = [(sup.get("text"), sup["custom"]) for sup in cut["supervisions"]]
    recording = {key: cut["recording"][key] for key in ("id", "sampling_rate", "num_samples", "duration")}
    return {"id": cut["id"], "duration": cut["duration"], "recording": recording, "texts": texts, **custom}
