"""The field's corpora: their publishers' layouts, made of tones, and the cuts that hold the right text for the right audio."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from datamodules.corpora import prepared, published
from tests.datamodules.test_folder import sound

DEFAULTS: dict[str, Any] = dict(
    split=None, fold=5, validation_fraction=0.0, label_question=None, contamination="drop", on_bad="error", workers=1
)
Rows = Sequence[Sequence[str]]


def write(path: Path, rows: Rows, encoding: str = "utf-8", **style: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, **style).writerows(rows)
    return path


def sounds(root: Path, *names: str) -> None:
    """Short tones, each of its own length: a cut's duration says which file it is of."""
    for number, name in enumerate(names):
        sound(root / name, 0.05 + 0.001 * number, 8000)


def esc50(root: Path) -> None:
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    names = ["1-100032-A-0.wav", "5-9032-A-0.wav", "1-17367-A-10.wav"]
    rows = [
        (name, name[0], "0", kind, "True", name.split("-")[1], "A")
        for name, kind in zip(names, ["dog", "dog", "sea_waves"], strict=True)
    ]
    write(root / "meta/esc50.csv", [header, *rows, rows[0]])
    sounds(root, *(f"audio/{name}" for name in names))


def fsdd(root: Path) -> None:
    sounds(root, "recordings/7_jackson_0.wav", "recordings/7_jackson_32.wav", "recordings/3_theo_5.wav")


def gtzan(root: Path) -> None:
    sounds(root, *(f"genres_original/{genre}/{genre}.0000{n}.wav" for genre in ("jazz", "hiphop") for n in range(2)))
    (root / "genres_original/jazz/jazz.00054.wav").write_bytes(b"no sound, as it is shipped")


def clotho(root: Path) -> None:
    for number, part in enumerate(("development", "validation", "evaluation")):
        name = f"Distorted, {part}.wav"
        captions = [f"{part} {n}" for n in range(1, 6)]
        write(
            root / f"clotho_captions_{part}.csv",
            [["file_name", *(f"caption_{n}" for n in range(1, 6))], [name, *captions]],
        )
        header = ["file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"]
        row = [name, "radio;caf\xe9", f"{number}7", "https://freesound.org", "[0, 1]", "x", "y"]
        write(root / f"clotho_metadata_{part}.csv", [header, row], "latin-1")
        sounds(root, f"{part}/{name}")


def audiocaps(root: Path) -> None:
    header = ["audiocap_id", "youtube_id", "start_time", "caption"]
    write(
        root / "dataset/train.csv",
        [header, ["1", "-0xzrMun0Rs", "30", "Rain, then thunder"], ["2", "aaaaaaaaaaa", "0", "A cat"]],
    )
    for number, part in enumerate(("val", "test")):
        write(
            root / f"dataset/{part}.csv",
            [header, *([f"{number}{n}", f"{part}_______", "7", f"{part} {n}"] for n in range(5))],
        )
    sounds(
        root,
        "clips/Y-0xzrMun0Rs.wav",
        "clips/aaaaaaaaaaa_000000.wav",
        "clips/val________7.wav",
        "clips/00.wav",
        "clips/10.wav",
    )


TREES: dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, str, list[str], list[str], int]]]] = {
    # path -> split, origin, captions, labels, how many questions
    "esc50": (
        esc50,
        {
            "audio/1-100032-A-0.wav": ("train", "freesound:100032", [], ["dog"], 1),
            "audio/5-9032-A-0.wav": ("test", "freesound:9032", [], ["dog"], 1),
            "audio/1-17367-A-10.wav": ("train", "freesound:17367", [], ["sea waves"], 1),
        },
    ),
    "fsdd": (
        fsdd,
        {
            "recordings/7_jackson_0.wav": (
                "test",
                "fsdd:7_jackson_0",
                ["a speaker saying the word seven"],
                ["seven"],
                1,
            ),
            "recordings/7_jackson_32.wav": (
                "train",
                "fsdd:7_jackson_32",
                ["a speaker saying the word seven"],
                ["seven"],
                1,
            ),
            "recordings/3_theo_5.wav": ("train", "fsdd:3_theo_5", ["a speaker saying the word three"], ["three"], 1),
        },
    ),
    "gtzan": (
        gtzan,
        {
            f"genres_original/{genre}/{genre}.0000{n}.wav": ("test", f"gtzan:{genre}.0000{n}", [], [label], 1)
            for genre, label in (("jazz", "jazz"), ("hiphop", "hip-hop"))
            for n in range(2)
        },
    ),
    "clotho": (
        clotho,
        {
            f"{part}/Distorted, {part}.wav": (
                split,
                f"freesound:{number}7",
                [f"{part} {n}" for n in range(1, 6)],
                [],
                0,
            )
            for number, (part, split) in enumerate(
                (("development", "train"), ("validation", "validation"), ("evaluation", "test"))
            )
        },
    ),
    "audiocaps": (
        audiocaps,
        {
            "clips/Y-0xzrMun0Rs.wav": ("train", "youtube:-0xzrMun0Rs", ["Rain, then thunder"], [], 0),
            "clips/aaaaaaaaaaa_000000.wav": ("train", "youtube:aaaaaaaaaaa", ["A cat"], [], 0),
            "clips/val________7.wav": ("validation", "youtube:val_______", [f"val {n}" for n in range(5)], [], 0),
            "clips/10.wav": ("test", "youtube:test_______", ["test 0"], [], 0),
        },
    ),
}


FOLDERS = ("fsdd", "gtzan")  # have no table: what is there is the list


def made(name: str, root: Path, out: Path, **changes: Any) -> tuple[prepared.Prepared, dict[str, Any]]:
    """What preparing said, and the cuts by path."""
    done = prepared.prepare(name, root, out, **{"name": name} | DEFAULTS | changes)
    (out / "receipt.json").write_text("{}")
    return done, {cut.recording.sources[0].source: cut for cut in CutSet.from_file(out / "cuts.jsonl.gz")}


def captions(cut: Any) -> list[str]:
    return [sup.text for sup in cut.supervisions if sup.custom["task"] == "caption"]


def asked(cut: Any) -> list[dict[str, Any]]:
    return [sup.custom for sup in cut.supervisions if sup.custom["task"] == "question"]


def test_every_corpus_of_the_registry_has_a_tree_here():
    assert set(TREES) == set(published.NAMES)


@pytest.mark.parametrize("name", TREES)
def test_a_publishers_layout_becomes_cuts(tmp_path: Path, name: str):
    """The right text for the right audio."""
    lay, expected = TREES[name]
    lay(tmp_path / "in")
    _, cuts = made(name, tmp_path / "in", tmp_path / "data" / name, on_bad="skip" if name == "audiocaps" else "error")
    found = {
        path: (cut.custom["split"], cut.custom["origin"], captions(cut), cut.custom["labels"], len(asked(cut)))
        for path, cut in cuts.items()
    }
    assert found == expected
    for path, cut in cuts.items():
        assert cut.custom["corpus"] == name
        assert cut.recording.with_path_prefix(tmp_path / "in").load_audio().shape == (1, cut.num_samples), path
        for question in asked(cut):
            assert question["question"] and question["answer"]


@pytest.mark.parametrize("name", [name for name in TREES if name not in FOLDERS])
def test_a_file_that_is_missing_is_counted_listed_and_refused(tmp_path: Path, name: str):
    lay, expected = TREES[name]
    lay(tmp_path / "in")
    there = list(expected)
    (tmp_path / "in" / there[0]).unlink()
    with pytest.raises(
        ValueError, match=r"(?s)recordings cannot be used.*: missing.*--data\.on_bad=skip.*missing\.jsonl"
    ):
        made(name, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["missing.jsonl"]
    done, cuts = made(name, tmp_path / "in", tmp_path / "out", on_bad="skip")
    listed = [json.loads(line) for line in (tmp_path / "out" / "missing.jsonl").read_text().splitlines()]
    assert len(listed) == len(done.report.skipped) >= 1 and {row["reason"] for row in listed} == {"missing"}
    assert set(cuts) == set(expected) - {there[0]}


@pytest.mark.parametrize("name", [name for name in TREES if name != "fsdd"])
def test_without_its_files_it_says_where_to_get_them(tmp_path: Path, name: str):
    (tmp_path / "other.txt").touch()
    with pytest.raises(ValueError, match=r"no .*It is part of the download: .*stage prepare --list"):
        made(name, tmp_path, tmp_path / "out")


def test_rows_that_repeat_are_counted(tmp_path: Path):
    esc50(tmp_path / "in")
    done, _ = made("esc50", tmp_path / "in", tmp_path / "out")
    assert done.repeated == 1


def test_a_fold_that_is_not_there_and_the_one_asked_for(tmp_path: Path):
    esc50(tmp_path / "in")
    with pytest.raises(ValueError, match=r"--fold=4: .*esc50\.csv has the folds 1, 5"):
        made("esc50", tmp_path / "in", tmp_path / "out", fold=4)
    done, _ = made("esc50", tmp_path / "in", tmp_path / "out", fold=1)
    assert done.report.splits == {"train": 1, "validation": 0, "test": 2}


def test_gtzans_broken_piece_is_left_out_without_leave_and_another_is_not(tmp_path: Path):
    gtzan(tmp_path / "in")
    done, _ = made("gtzan", tmp_path / "in", tmp_path / "out")
    assert [path for path, _ in done.report.skipped] == ["genres_original/jazz/jazz.00054.wav"]
    (tmp_path / "in/genres_original/jazz/jazz.00001.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 5 recordings .*\n.*jazz\.00001\.wav: empty file"):
        made("gtzan", tmp_path / "in", tmp_path / "out")


def test_gtzans_filtered_lists(tmp_path: Path):
    gtzan(tmp_path)
    (tmp_path / "train_filtered.txt").write_text("jazz/jazz.00000.wav\n")
    with pytest.raises(ValueError, match="without the other lists"):
        made("gtzan", tmp_path, tmp_path / "out")
    (tmp_path / "valid_filtered.txt").write_text("jazz/jazz.00001.wav\n")
    (tmp_path / "test_filtered.txt").write_text("hiphop/hiphop.00001.wav\n")
    done, cuts = made("gtzan", tmp_path, tmp_path / "out")
    assert done.report.splits == {"train": 1, "validation": 1, "test": 1} and len(cuts) == 3


def test_a_path_out_of_the_root_is_refused(tmp_path: Path):
    esc50(tmp_path / "in")
    sound(tmp_path / "secret.wav")
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    write(tmp_path / "in/meta/esc50.csv", [header, ["../../secret.wav", "5", "0", "dog", "True", "1", "A"]])
    with pytest.raises(ValueError, match=r"esc50\.csv, line 2: 'audio/\.\./\.\./secret\.wav' lies outside"):
        made("esc50", tmp_path / "in", tmp_path / "out")


def test_a_table_without_a_column_or_a_field(tmp_path: Path):
    write(tmp_path / "meta/esc50.csv", [["filename", "fold"], ["a.wav", "5"]])
    with pytest.raises(ValueError, match=r"esc50\.csv: no column 'category'. It has filename, fold"):
        made("esc50", tmp_path, tmp_path / "out")
    write(tmp_path / "meta/esc50.csv", [["filename", "fold", "category", "src_file"], ["a.wav", "5"]])
    with pytest.raises(ValueError, match=r"esc50\.csv, line 2: 2 fields, 4 are expected"):
        made("esc50", tmp_path, tmp_path / "out")


def test_training_recordings_of_anothers_test_split(tmp_path: Path):
    """Freesound 9032 is tested on in ESC-50; here Clotho's development part holds it too."""
    esc50(tmp_path / "esc")
    clotho(tmp_path / "clo")
    path = tmp_path / "clo/clotho_metadata_development.csv"
    path.write_bytes(path.read_bytes().replace(b",07,", b",9032,"))
    made("esc50", tmp_path / "esc", tmp_path / "data/esc50")
    where = (tmp_path / "clo", tmp_path / "data/clotho")
    kept, cuts = made("clotho", *where, contamination="keep")
    assert len(kept.contaminated) == 1 and len(cuts) == 3
    with pytest.raises(
        ValueError, match=r"1 training recordings are in a test split:\n.*freesound:9032, in the test split of esc50"
    ):
        made("clotho", *where, contamination="error")
    from datamodules.corpora.contamination import trained

    assert trained(tmp_path / "data/esc50") == {"clotho": 1}, "the other way round"
    dropped, cuts = made("clotho", *where)
    assert [path.split("/")[0] for path in cuts] == ["validation", "evaluation"]
    (row,) = (tmp_path / "data/clotho/contaminated.jsonl").read_text().splitlines()
    assert json.loads(row) == dropped.contaminated[0]._asdict()
