"""The field's formats are read in place: the same recordings, as files or in archives, are the same cuts."""

import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording

from datamodules import sound_files
from datamodules.audio import load_sound
from datamodules.corpora import folder, formats
from datamodules.corpora.inspect import inspect
from datamodules.corpora.tables import MetadataRow
from datamodules.errors import DataError
from tests.datamodules.formats import ROWS, lhotse_cuts, parquet, shar, webdataset
from tests.datamodules.recordings import DEFAULTS, sound, table

RATE, SECONDS = 8000, 0.5


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = tmp_path / "clips"
    for number, row in enumerate(ROWS):
        sound(root / row["path"], SECONDS + number / 10, RATE, hz=200 + 100 * number)
    return root


def in_files(clips: Path, out: Path) -> list[Any]:
    folder.prepare_folder(clips, table(clips / "m.csv", ROWS), out, **DEFAULTS)
    return list(CutSet.from_file(out / "cuts.jsonl.gz"))


def prepared(read: formats.FormatRows, out: Path) -> list[Any]:
    folder.prepare_folder(read.root, Path("format"), out, read.rows, **DEFAULTS)
    return list(CutSet.from_file(out / "cuts.jsonl.gz"))


def contents(cuts: list[Any]) -> dict[str, tuple[Any, ...]]:
    """All of a cut but where its sound lies."""
    return {
        cut.id: (
            cut.duration, cut.sampling_rate, cut.custom["split"], cut.custom["sha256"], cut.custom["labels"],
            [(sup.text, sup.custom) for sup in cut.supervisions],
        )
        for cut in cuts
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["webdataset", "huggingface", "lhotse"])
def test_the_same_clips_are_the_same_cuts_and_the_same_sound(clips: Path, tmp_path: Path, kind: str):
    if kind == "webdataset":
        read = formats.read_webdataset(webdataset(clips, tmp_path / "tars"), {})
    elif kind == "huggingface":
        read = formats.read_parquet(parquet(clips, tmp_path / "parquet"), "audio", {"caption": "text"})
    else:
        lhotse_cuts(clips).to_file(tmp_path / "cuts.jsonl.gz")
        read = formats.read_lhotse(tmp_path / "cuts.jsonl.gz", {})
    files, cuts = in_files(clips, tmp_path / "data/files"), prepared(read, tmp_path / f"data/{kind}")
    assert contents(cuts) == contents(files)
    of_files = {cut.id: load_sound(cut, clips, RATE, 1) for cut in files}
    assert all(load_sound(cut, read.root, RATE, 1).equal(of_files[cut.id]) for cut in cuts)


def test_shar_has_the_same_samples(clips: Path, tmp_path: Path):
    read = formats.read_lhotse(Path(shar(clips, tmp_path / "shar")), {})
    files, cuts = in_files(clips, tmp_path / "data/files"), prepared(read, tmp_path / "data/shar")
    captions = {cut.id: [sup.text for sup in cut.supervisions] for cut in files}
    assert {cut.id: [sup.text for sup in cut.supervisions] for cut in cuts} == captions
    of_files = {cut.id: load_sound(cut, clips, RATE, 1) for cut in files}
    assert all(load_sound(cut, read.root, RATE, 1).equal(of_files[cut.id]) for cut in cuts)


def test_a_cut_is_its_part_of_the_recording(tmp_path: Path):
    """From 0.25 s on for 0.5 s, of the second channel; another part of the file has another hash."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    recording = Recording("a", [AudioSource("file", [0, 1], "a.wav")], RATE, RATE, 1.0, channel_ids=[0, 1])
    parts = [MonoCut(f"a-{start}", start, 0.5, channel=1, recording=recording) for start in (0.25, 0.5)]
    CutSet.from_cuts(parts).to_file(tmp_path / "cuts.jsonl")
    read = formats.read_lhotse(tmp_path / "cuts.jsonl", {})
    assert read.rows[0] == MetadataRow(1, {"path": "a.wav::samples=2000+4000&channel=1"}, "a-0.25")
    first, second = prepared(read, tmp_path / "out")
    assert (first.duration, first.num_channels) == (0.5, 1)
    assert np.array_equal(load_sound(first, tmp_path, RATE, 1).numpy()[0], wave[2000:6000, 1])
    assert np.array_equal(load_sound(second, tmp_path, RATE, 1, 10, 20).numpy()[0], wave[4010:4030, 1])
    assert first.custom["sha256"] != second.custom["sha256"]


def test_what_macos_notes_of_a_file_is_no_sample(clips: Path, tmp_path: Path):
    """A tar made there has ._NAME before NAME, and a copied folder of parquet too."""
    read = formats.read_webdataset(webdataset(clips, tmp_path / "tars"), {})
    parquet(clips, tmp_path / "parquet")
    for path in [*(tmp_path / "tars").glob("*.tar"), *(tmp_path / "parquet").rglob("*.parquet")]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
            with tarfile.open(path, "w") as tar:
                for member, data in members:
                    noted = tarfile.TarInfo(f"{(Path(member.name).parent / '._').as_posix()}{Path(member.name).name}")
                    tar.addfile(noted, io.BytesIO())
                    tar.addfile(member, io.BytesIO(data))
    again = formats.read_webdataset(str(tmp_path / "tars" / "*.tar"), {})
    assert contents(prepared(again, tmp_path / "again")) == contents(in_files(clips, tmp_path / "data/files"))
    assert len(again.rows) == len(read.rows) == len(formats.read_parquet(str(tmp_path / "parquet"), "audio", {}).rows)


def test_what_cannot_be_read_is_refused_by_name(clips: Path, tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(clips / "a.wav", "a.wav")
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        tar.add(clips / "a.wav", "a.wav")
        tar.add(clips / "b.wav", "a.mono.wav")
    for pattern, message in (("a.tar.gz", "not compressed"), ("two.tar", "2 sounds"), ("x-{0..1}.tar", "no such file")):
        with pytest.raises(DataError, match=message):
            formats.read_webdataset(str(tmp_path / pattern), {})
    with pytest.raises(DataError, match=r"no column 'sound'; it has.*--audio=COLUMN"):
        formats.read_parquet(parquet(clips, tmp_path / "parquet"), "sound", {})
    mixed = lhotse_cuts(clips).to_eager()
    CutSet.from_cuts([mixed["a"].mix(mixed["b"]).with_id("m")]).to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(DataError, match="m: a MixedCut"):
        formats.read_lhotse(tmp_path / "cuts.jsonl", {})


def test_an_archive_that_is_gone_or_shorter_is_missing(clips: Path, tmp_path: Path):
    read = formats.read_webdataset(webdataset(clips, tmp_path / "tars"), {})
    shutil.move(tmp_path / "tars/shard-01.tar", tmp_path / "gone.tar")
    with pytest.raises(DataError, match=r"shard-01.tar::bytes=\d+\+\d+: missing"):
        prepared(read, tmp_path / "out")
    (tmp_path / "tars/shard-01.tar").write_bytes((tmp_path / "gone.tar").read_bytes()[:2000])
    with pytest.raises(DataError, match="ends within a member"):
        prepared(read, tmp_path / "out")


def test_a_parquet_that_names_its_files_is_read_from_them(clips: Path, tmp_path: Path):
    """As `datasets` writes one whose sounds were given as files."""
    (tmp_path / "parquet").mkdir()
    columns = {"audio": [{"bytes": None, "path": f"../clips/{row['path']}"} for row in ROWS]}
    columns |= {key: [row[key] for row in ROWS] for key in ("caption", "label", "split")}
    pq.write_table(pa.table(columns), tmp_path / "parquet/all.parquet")
    cuts = prepared(formats.read_parquet(str(tmp_path / "parquet"), "audio", {}), tmp_path / "data/parquet")
    files = in_files(clips, tmp_path / "data/files")
    assert [cut.custom["sha256"] for cut in cuts] == [cut.custom["sha256"] for cut in files]
    shutil.rmtree(clips)
    with pytest.raises(DataError, match="holds none of the 3 recordings"):
        prepared(formats.read_parquet(str(tmp_path / "parquet"), "audio", {}), tmp_path / "data/parquet")


def test_a_corpus_that_was_prepared_is_a_manifest_too(clips: Path, tmp_path: Path):
    """Of tars: its recordings are parts of them, relative to the root of its receipt. A folder of tars is a pattern."""
    webdataset(clips, tmp_path / "tars")
    read = formats.read_webdataset(str(tmp_path / "tars"), {})
    cuts = prepared(read, tmp_path / "data/one")
    (tmp_path / "data/one/receipt.json").write_text(json.dumps({"root": str(read.root)}))
    again = prepared(formats.read_lhotse(tmp_path / "data/one/cuts.jsonl.gz", {}), tmp_path / "data/two")
    captions = [[sup.text for sup in cut.supervisions] for cut in cuts]
    assert [[sup.text for sup in cut.supervisions] for cut in again] == captions
    assert [cut.custom["sha256"] for cut in again] == [cut.custom["sha256"] for cut in cuts]
    assert [cut.custom["labels"] for cut in again] == [cut.custom["labels"] for cut in cuts]


@pytest.mark.parametrize("kind", ["webdataset", "huggingface"])
def test_what_fsspec_reads_is_read(clips: Path, tmp_path: Path, kind: str):
    """In an object store, here fsspec's own in memory: nothing is copied to this machine."""
    import fsspec

    store = fsspec.filesystem("memory")
    written = webdataset(clips, tmp_path / "w") if kind == "webdataset" else parquet(clips, tmp_path / "w")
    for path in Path(written).parent.glob("*.tar") if kind == "webdataset" else Path(written).glob("*.parquet"):
        store.pipe(f"/bucket-{kind}/{path.name}", path.read_bytes())
    shutil.rmtree(tmp_path / "w")
    if kind == "webdataset":
        read = formats.read_webdataset("memory://bucket-webdataset/shard-{00..01}.tar", {})
    else:
        address = "memory://bucket-huggingface/{train,test}-00000-of-00001.parquet"
        read = formats.read_parquet(address, "audio", {"caption": "text"})
    cuts = prepared(read, tmp_path / "data/remote")
    assert contents(cuts) == contents(in_files(clips, tmp_path / "data/files"))
    of_files = {
        cut.id: load_sound(cut, clips, RATE, 1) for cut in CutSet.from_file(tmp_path / "data/files/cuts.jsonl.gz")
    }
    assert all(load_sound(cut, read.root, RATE, 1).equal(of_files[cut.id]) for cut in cuts)


def test_an_archive_is_opened_once_and_again_where_it_is_another(clips: Path, tmp_path: Path):
    """Recordings of a tar cost no open each; a tar that was replaced is read as it is now."""
    written = webdataset(clips, tmp_path / "tars")
    opened: list[str] = []
    sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
    paths = [tmp_path / "tars" / row.values["path"] for row in formats.read_webdataset(written, {}).rows]
    hashes = [inspected.sha256 for inspected in inspect(paths, workers=1)]
    for path in paths:
        with sound_files.Sound(path) as one:
            assert len(one.read(one.num_samples)) == one.num_samples
    assert sum(name.endswith(".tar") for name in opened) == 2 * len({path.name[:12] for path in paths}) == 4
    shutil.rmtree(tmp_path / "tars")
    for row in ROWS:
        sound(clips / row["path"], SECONDS, RATE, hz=999)
    again = webdataset(clips, tmp_path / "tars")
    paths = [tmp_path / "tars" / row.values["path"] for row in formats.read_webdataset(again, {}).rows]
    assert not {inspected.sha256 for inspected in inspect(paths, workers=1)} & set(hashes)


def written_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


def test_captions_beside_a_sound_are_all_read_and_what_has_none_is_refused(clips: Path, tmp_path: Path):
    wave = (clips / ROWS[0]["path"]).read_bytes()
    members = {"a.wav": wave, "a.txt": b"rain", "a.json": b'{"caption": ["wind", "rain"], "text": "x"}'}
    (cut,) = prepared(formats.read_webdataset(written_tar(tmp_path / "a.tar", members), {}), tmp_path / "data/a")
    assert [sup.text for sup in cut.supervisions] == ["rain", "wind"]
    for members, message in (
        ({"a.b.wav": wave, "a.c.wav": wave}, "2 sounds in a.b.wav, a.c.wav; .* ends at the first dot"),
        ({"a.wav": wave, "b.wav": wave, "a.txt": b"x"}, "0 sounds in a.txt; .*lie one after another"),
        ({}, "no member is in its tars"),
    ):
        with pytest.raises(DataError, match=message):
            formats.read_webdataset(written_tar(tmp_path / "b.tar", members), {})


def test_a_text_that_is_a_list_is_refused_in_every_format(clips: Path, tmp_path: Path):
    """What a program writes that made text of a list: several captions would be one."""
    wave, text = (clips / ROWS[0]["path"]).read_bytes(), "['rain', 'wind']"
    for name, content in (("a.txt", text), ("a.json", json.dumps({"caption": text})), ("a.cls", text)):
        tar = written_tar(tmp_path / f"{name}.tar", {"a.wav": wave, name: content.encode()})
        with pytest.raises(DataError, match=r"a: (caption|label) is the text .*a list without quotation marks"):
            formats.read_webdataset(tar, {})
    pq.write_table(pa.table({"audio": [wave], "caption": [text]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 0: caption is the text"):
        formats.read_parquet(str(tmp_path / "a.parquet"), "audio", {})
    cuts = lhotse_cuts(clips).to_eager()
    cuts["a"].supervisions[0].text = text
    cuts.to_file(tmp_path / "cuts.jsonl")
    with pytest.raises(DataError, match="a: caption is the text"):
        formats.read_lhotse(tmp_path / "cuts.jsonl", {})


def test_numbers_of_fields_that_are_kept_are_as_they_were_written(clips: Path, tmp_path: Path):
    """1.10 is not 1.1: a split by such a field takes the one that is asked for. A number that is a label is refused."""
    wave = (clips / ROWS[0]["path"]).read_bytes()
    tar = written_tar(tmp_path / "a.tar", {"a.wav": wave, "a.json": b'{"take": 1.10, "gain": NaN, "class": 7}'})
    (row,) = formats.read_webdataset(tar, {}).rows
    assert (row.values["take"], row.values["gain"], row.values["class"]) == ("1.10", "", "7")
    with pytest.raises(DataError, match="label is 7; a text is expected"):
        formats.read_webdataset(tar, {"label": "class"})


def test_a_message_about_a_part_of_an_archive_has_the_name_of_its_recording(clips: Path, tmp_path: Path):
    loud = io.BytesIO()
    soundfile.write(loud, np.full(4000, 9830.0, np.float32), 8000, format="WAV", subtype="FLOAT")
    members = {"x/far.wav": loud.getvalue(), "x/half.wav": (clips / ROWS[0]["path"]).read_bytes()[:3000]}
    read = formats.read_webdataset(written_tar(tmp_path / "a.tar", members), {})
    with pytest.raises(DataError, match=r"a.tar::bytes=.*: truncated.* \(mine-x-half\)\n"):
        prepared(read, tmp_path / "out")
    done = folder.prepare_folder(
        read.root, Path("format"), tmp_path / "out", read.rows, **DEFAULTS | {"on_bad": "skip"}
    )
    assert [text.partition(" ")[2] for text in done.report.loud] == ["(mine-x-far)"]


def test_a_parquet_of_bytes_is_read_and_rows_without_a_sound_are_missing(clips: Path, tmp_path: Path):
    """The first row has none: the others are inside, and no files are looked for."""
    waves = [(clips / row["path"]).read_bytes() for row in ROWS[:2]]
    nested = [{"bytes": wave, "path": f"{len(wave)}.wav"} for wave in waves]
    for number, column in enumerate([[None, *waves], [None, *nested]]):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"audio": column, "caption": ["x", "y", "z"]}), path)
        read = formats.read_parquet(str(path), "audio", {})
        first, *others = inspect([read.root / row.values["path"] for row in read.rows], workers=1)
        assert first.reason == f"missing: row 0 of {path.name} holds no sound" and [item.reason for item in others] == [
            None,
            None,
        ]
    for number, (column, message) in enumerate(
        [
            ([[0.1], [0.2]], "of the type list<.*the bytes of files"),
            (pa.array([], pa.binary()), "no row is in its parquet"),
        ]
    ):
        pq.write_table(pa.table({"audio": column}), tmp_path / f"no{number}.parquet")
        with pytest.raises(DataError, match=message):
            formats.read_parquet(str(tmp_path / f"no{number}.parquet"), "audio", {})
