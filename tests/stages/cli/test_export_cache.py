"""What `stage export cache` and `stage export latents` write is opened by the lines of its README, without this project."""

import json
import re
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.store import chunks
from stages.cli.main import main
from stages.runs import receipts
from tests import zygote

FORMATS = ("shar", "parquet")
README = Path(__file__).parents[3] / "datamodules/README.md"


@pytest.fixture
def cache(whole: Path, tones: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tones)
    return whole / "cache"


def exported(stage: str, kind: str, to: Path, *words: str) -> Path:
    assert main(["export", stage, f"--to={to}", f"--format={kind}", "--experiment=whole", *words]) == 0
    return to


def lines_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 5
    return code


def trained_on(stage: str, folder: Path) -> dict[tuple[str, ...], list[Any]]:
    """Captions -> what the code of the folder's README reads, of the training split; run in a process that has no path
    to this project.
    """
    array = {"cache": "codes", "latents": "latents"}[stage]
    show = f"print('row', json.dumps([captions, np.asarray({array}).tolist()]))"
    code = lines_of(folder).rstrip("\n") + "\n    " + show
    code = f"import json\nimport numpy as np\n{code}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("row ")]
    return {tuple([str(len(values)), *captions]): values for captions, values in rows}


def test_the_lines_of_the_readme_open_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The last recording of the training split, in this process."""
    pytest.importorskip("pyarrow")
    for stage, kind, name in (("cache", "shar", "sounds-as-codes"), ("latents", "parquet", "sounds-as-latents")):
        exported(stage, kind, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n([^`]*sounds-as-[^`]*)```", README.read_text())
    assert len(blocks) == 2
    for block in blocks:
        read: dict[str, Any] = {}
        exec(block, read)
        stage = "cache" if "codes" in read else "latents"
        cut = list(chunks.read(cache.parent / stage / "chunks").of_split("train"))[-1]
        assert read["captions"] == [sup.text for sup in cut.supervisions if sup.text]
        values = cut.custom["codes"] if stage == "cache" else chunks.load_array(cut)
        assert np.array_equal(read["codes" if stage == "cache" else "latents"], values)


def test_five_lines_of_pyarrow_open_it(cache: Path, tmp_path: Path):
    pytest.importorskip("pyarrow")
    for stage in ("cache", "latents"):
        cuts = list(chunks.read(cache.parent / stage / "chunks"))
        values = [cut.custom["codes"] if stage == "cache" else chunks.load_array(cut).tolist() for cut in cuts]
        wanted = {
            tuple([str(len(array)), *(sup.text for sup in cut.supervisions if sup.text)]): array
            for cut, array in zip(cuts, values, strict=True)
        }
        assert trained_on(stage, exported(stage, "parquet", tmp_path / stage)) == wanted


def test_five_lines_of_lhotse_open_it(cache: Path, tmp_path: Path):
    cuts = list(chunks.read(cache / "chunks").of_split("train"))
    wanted = {
        tuple([str(len(cut.custom["codes"])), *(sup.text for sup in cut.supervisions if sup.text)]): cut.custom["codes"]
        for cut in cuts
    }
    assert trained_on("cache", exported("cache", "shar", tmp_path / "shar")) == wanted


@pytest.mark.parametrize("stage", ["cache", "latents"])
def test_datasets_opens_it_with_its_splits(cache: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    datasets = pytest.importorskip("datasets")
    folder = exported(stage, "parquet", tmp_path / "out", "--shard-size=4")
    opened = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "datasets"))
    for split, rows in opened.items():
        cuts = list(chunks.read(cache.parent / stage / "chunks").of_split(split))
        assert [row["id"] for row in rows] == [cut.id for cut in cuts]
        if stage == "cache":
            assert [row["codes"] for row in rows] == [cut.custom["codes"] for cut in cuts]
        else:
            read = [np.array(row["latents"], np.float16) for row in rows]
            assert all(np.array_equal(a, chunks.load_array(cut)) for a, cut in zip(read, cuts, strict=True))
    assert sum(map(len, opened.values())) == 24


def test_its_facts_are_those_of_the_tokenizer(cache: Path, tmp_path: Path):
    facts = json.loads((exported("cache", "shar", tmp_path / "out") / "facts.json").read_text())
    tokenizer = receipts.read(cache.parent / "tokenizer")
    assert tokenizer is not None
    assert facts.items() >= tokenizer["facts"].items() and facts["quantizer"] == tokenizer["conf"]["quantizer"]
    assert facts["parents"]["tokenizer"] == tokenizer["artifact_hash"]
    assert sum(facts["recordings"].values()) == 24 and set(facts["recordings"]) == {"train", "validation", "test"}
    latents = json.loads((exported("latents", "shar", tmp_path / "latents") / "facts.json").read_text())
    assert len(latents["training_mean"]) == len(latents["training_std"]) == latents["latent_dim"]


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_leaves_none_and_the_same_command_goes_on(cache: Path, tmp_path: Path, kind: str):
    """Latents of a shard grow with the recordings' length: the first of them fit, and a later one does not."""
    whole = exported("latents", kind, tmp_path / "whole", "--shard-size=2")
    arrays = "data/train-*.parquet" if kind == "parquet" else "train/latents.*.tar"
    sizes = sorted(path.stat().st_size for path in whole.glob(arrays))
    words = [
        "export",
        "latents",
        f"--to={tmp_path / 'out'}",
        f"--format={kind}",
        "--experiment=whole",
        "--shard-size=2",
    ]
    ended = zygote.run(words, Path.cwd(), before=partial(limit_files, (sizes[0] + sizes[-1]) // 2))
    assert ended.status == 1 and "File too large" in ended.stderr and "the same command goes on" in ended.stderr
    assert "Traceback" not in ended.stderr and not (tmp_path / "out").exists()
    part = tmp_path / ".out.part"
    finished = {path: path.stat().st_mtime_ns for path in part.glob(arrays)}
    assert 0 < len(finished) < len(sizes) and not list(part.rglob(".part-*"))
    assert main(words) == 0 and not part.exists()
    for path, time in finished.items():
        assert (tmp_path / "out" / path.relative_to(part)).stat().st_mtime_ns == time, "it was not written again"
    for path in whole.rglob("*"):
        if path.is_file() and path.suffix != ".gz":  # whose header has its name and time
            assert (tmp_path / "out" / path.relative_to(whole)).read_bytes() == path.read_bytes(), path


def test_what_another_export_left_is_not_gone_on_with(cache: Path, tmp_path: Path):
    """Shards of four recordings, and a shard that was not whole."""
    left = exported("cache", "shar", tmp_path / "out", "--shard-size=4").rename(tmp_path / ".out.part")
    (left / "train/.part-1-codes.000009.tar").write_text("half")
    exported("cache", "shar", tmp_path / "out")
    assert len(list((tmp_path / "out/train").iterdir())) == 2 and not left.exists()


def test_what_cannot_be_exported_is_refused(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["cache", "--to=full", "--format=shar"], "full exists and is not empty"),
        (["cache", "--to=x"], "--format=shar"),
        (["cache", "--to=x", "--format=shar", "--force"], "--experiment=NAME"),
        (["cache", "--to=x", "--format=shar", "--shard-size=0"], "at least 1"),
        (["cache", "--to=a%d", "--format=shar"], "choose another name"),
        (["--to=x", "--format=shar"], "stage export cache"),
    ):
        words = [word.replace("--to=", f"--to={tmp_path}/") for word in words]
        assert main(["export", *words, *(["--experiment=whole"] if "cache" in words else [])]) == 1
        assert message in capsys.readouterr().err
    assert main(["export", "cache", "--to=x", "--format=shar", "--experiment=none"]) == 1
    assert "no finished cache in runs/none" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"] and not Path("x").exists()
    exported("cache", "shar", tmp_path / "empty")
