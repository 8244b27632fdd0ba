"""Sound is found by its content and text is joined to it: what is encoded again, and what is not."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.store import chunks
from stages.cli.main import main
from tests.conftest import SMOKE

README = Path(__file__).parents[2] / "datamodules/README.md"
SECONDS = (0.5, 1.25, 3.0)  # of the corpus that is added; the last is the first's sound again, and longer than a window


def prepare(root: Path, metadata: Path, name: str) -> None:
    words = ["prepare", "folder", str(root), "--metadata", str(metadata), "--name", name, "--data.root=data"]
    assert main(words) == 0


def run(stage: str, experiment: str, *words: str) -> dict[str, Any]:
    """The receipt."""
    assert main(["run", stage, *SMOKE, f"--experiment={experiment}", *words]) == 0
    return json.loads(Path("runs", experiment, stage, "receipt.json").read_text())


def chunk_files(run_folder: Path) -> dict[str, int]:
    """Name -> inode."""
    folder = run_folder / "chunks"
    return {str(path.relative_to(folder)): path.stat().st_ino for path in folder.glob("0*/*.npy")}


@pytest.fixture
def corpora(whole: Path, tones: Path, apart: Path) -> Path:
    """A folder of its own with the experiment `one` done up to its cache, and the corpus `more` beside `tones`."""
    for name in ("latents", "tokenizer", "cache"):
        shutil.copytree(whole / name, apart / "runs/one" / name)
    (apart / "more").mkdir()
    rows = []
    for number, seconds in enumerate(SECONDS):
        times = np.arange(round(16_000 * seconds)) / 16_000
        soundfile.write(apart / f"more/{number}.wav", 0.3 * np.sin(2 * np.pi * 300 * (number + 1) * times), 16_000)
        rows.append(f"{number}.wav,{('train', 'train', 'test')[number]},a tone\n")
    shutil.copy(tones / "recordings/00.wav", apart / "more/again.wav")
    (apart / "more/metadata.csv").write_text("path,split,caption\n" + "".join(rows) + "again.wav,train,heard before\n")
    prepare(apart / "more", apart / "more/metadata.csv", "more")
    return apart


def test_the_codec_of_a_run_from_before_a_key_was_there_is_kept(corpora: Path):
    """Where the configuration of the earlier run lacks a key, it had the value of the base."""
    folder = Path("runs/one/latents")
    receipt = json.loads((folder / "receipt.json").read_text())
    assert receipt["conf"]["codec"]["mel"].pop("channels") == 1
    (folder / "receipt.json").write_text(json.dumps(receipt))
    codec, encoded = (folder / "artifact/codec/model.safetensors").read_bytes(), chunk_files(folder)
    run("latents", "one", "--data.corpora=[tones,more]")
    assert (folder / "artifact/codec/model.safetensors").read_bytes() == codec
    assert encoded.items() < chunk_files(folder).items()


def test_what_is_encoded_again(corpora: Path, tones: Path, capsys: pytest.CaptureFixture[str]):
    """A mended caption: nothing. Another corpus: its recordings that no other has. Neither touches the tokenizer."""
    rows = list(csv.DictReader((tones / "recordings/metadata.csv").open()))
    for row in rows:
        row["caption"] = row["caption"].replace("a low sound", "a deep sound")
    with (corpora / "mended.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tokenizer = json.loads(Path("runs/one/tokenizer/receipt.json").read_text())
    assert set(tokenizer["metrics"]["trained_on"]) == {"tones"}
    before = {name: json.loads(Path(f"runs/one/{name}/receipt.json").read_text()) for name in ("latents", "cache")}

    prepare(tones / "recordings", corpora / "mended.csv", "tones")
    for name, array in (("latents", "array"), ("cache", "codes")):
        earlier = chunk_files(Path("runs/one", name))
        receipt = run(name, "one")
        assert receipt["metrics"]["encoded_seconds"] == 0 and receipt["metrics"]["recordings"] == 24
        assert (receipt["artifact_hash"] == before[name]["artifact_hash"]) == (name == "latents")
        assert chunk_files(Path("runs/one", name)) == chunk_files(Path("runs/one/.old", f"{name}-1")) == earlier
        cuts, old = (chunks.read(Path(f"runs/one/{folder}/chunks")) for folder in (name, f".old/{name}-1"))
        assert "a deep sound" in {cut.supervisions[0].text for cut in cuts}
        assert all(cut.supervisions[0].text != "a deep sound" for cut in old)
        assert [cut.custom[array] for cut in cuts] == [
            str(cut.custom[array]).replace(".old/latents-1", "latents") if name == "latents" else cut.custom[array]
            for cut in old
        ]

    both = "--data.corpora=[tones,more]"
    for name in ("latents", "cache"):
        receipt = run(name, "one", both)
        assert receipt["metrics"]["encoded_seconds"] == sum(SECONDS)
        assert receipt["metrics"]["recordings"] == 28 and receipt["metrics"]["duplicates"] == 1
        cuts = {cut.id: cut for cut in chunks.read(Path(f"runs/one/{name}/chunks"))}
        keys = ("array", "offset", "length") if name == "latents" else ("codes",)
        assert [cuts["more-again"].custom[key] for key in keys] == [cuts["tones-00"].custom[key] for key in keys]
    capsys.readouterr()
    assert main(["run", "tokenizer", *SMOKE, "--experiment=one"]) == 0
    assert "done (" in capsys.readouterr().out
    assert json.loads(Path("runs/one/tokenizer/receipt.json").read_text()) == tokenizer


def test_a_tokenizer_meets_recordings_that_it_was_not_trained_on(corpora: Path):
    """One command, without latents of them; the codes are those that they have beside the tokenizer's corpus."""
    receipt = run("cache", "two", "--parents.tokenizer=one", "--data.corpora=[more]")
    assert receipt["metrics"]["encoded_seconds"] == pytest.approx(sum(SECONDS) + 0.7, abs=0.01)
    assert set(receipt["parents"]) == {"tokenizer"} and set(receipt["corpora"]) == {"more"}
    alone = {cut.id: cut.custom["codes"] for cut in chunks.read(Path("runs/two/cache/chunks"))}
    run("cache", "one", "--data.corpora=[tones,more]")  # the latents of `more` are not there either
    beside = {cut.id: cut.custom["codes"] for cut in chunks.read(Path("runs/one/cache/chunks"))}
    assert list(alone) == ["more-0", "more-1", "more-2", "more-again"]
    for name, codes in alone.items():
        assert len(codes) == len(beside[name])
        assert np.mean(np.array(codes) == np.array(beside[name])) > 0.9, name  # of batches that are padded otherwise


def test_lhotse_alone_opens_a_corpus_its_latents_and_its_codes(corpora: Path, tones: Path):
    """README's lines, in a process that knows nothing of this project."""
    (lines,) = re.findall(r"```python\n(from lhotse import CutSet\n\nrecordings.*?)```", README.read_text(), re.DOTALL)
    lines = lines.replace("data/mine", "data/tones").replace("runs/main", "runs/one")
    lines = lines.replace('"recordings"', repr(str(tones / "recordings")))
    assert len([line for line in lines.splitlines() if line and not line.startswith("#")]) == 5
    show = "print(json.dumps([sound.shape, latents.tolist(), codes.tolist()]))"
    for name in ("latents", "cache"):
        run(name, "one", "--data.corpora=[tones,more]")  # the runs were copied: their paths are of the original
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import json\n{lines}\n{show}"], capture_output=True, text=True, cwd=corpora
    )
    assert done.returncode == 0, done.stderr
    sound, latents, codes = json.loads(done.stdout.splitlines()[-1])
    first_cuts = [chunks.read(Path(f"runs/one/{name}/chunks"))[0] for name in ("latents", "cache")]
    assert sound == [1, first_cuts[0].recording.num_samples]
    assert (
        np.array_equal(np.array(latents, np.float16), chunks.load_array(first_cuts[0]))
        and codes == first_cuts[1].custom["codes"]
    )
