"""The field's corpora: their publishers' layouts, made of tones, and the cuts that hold the right text for the right audio."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

import conf
from datamodules.corpora import prepared, published
from stages import prepare
from stages.cli import main
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
        "clips/13.wav",
    )


def audioset(root: Path) -> None:
    top = [
        "# Segments csv created Sun Mar  5 10:54:31 2017\n",
        "# num_ytids=2\n",
        "# YTID, start_seconds, end_seconds, positive_labels\n",
    ]
    rows = {
        "balanced_train_segments": [
            '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n',
            '--aE2O5G5WE, 0.000, 10.000, "/m/0bt9lr"\n',
        ],
        "eval_segments": ['--4gqARaEJE, 0.000, 10.000, "/m/0bt9lr"\n'],
    }
    root.mkdir(parents=True)
    for part, lines in rows.items():
        (root / f"{part}.csv").write_text("".join([*top, *lines]))
    names = [("/m/09x0r", "Speech"), ("/t/dd00088", "Gush"), ("/m/0bt9lr", "Dog, barking")]
    write(
        root / "class_labels_indices.csv",
        [["index", "mid", "display_name"], *([str(n), *pair] for n, pair in enumerate(names))],
    )
    write(root / "mid_to_display_name.tsv", names, delimiter="\t")
    header = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    events = [["--PJHxphWEs_30000", "0.5", "1.25", "/m/09x0r"], ["--PJHxphWEs_30000", "2.0", "10.0", "/t/dd00088"]]
    write(root / "audioset_train_strong.tsv", [header, *events], delimiter="\t")
    sounds(
        root,
        "balanced_train/Y--PJHxphWEs.wav",
        "balanced_train/--aE2O5G5WE_0_10000.flac",
        "eval/--4gqARaEJE_0.000_10.000.wav",
    )


def vggsound(root: Path) -> None:
    write(
        root / "vggsound.csv",
        [["---g-f_I2yQ", "1", "people marching, loud", "test"], ["--0PQM4-hqg", "30", "waterfall burbling", "train"]],
    )
    sounds(root, "audio/---g-f_I2yQ_000001.wav", "audio/--0PQM4-hqg_30000_40000.wav")


def fsd50k(root: Path) -> None:
    truth = root / "FSD50K.ground_truth"
    write(
        truth / "vocabulary.csv",
        [["0", "Electric_guitar", "/m/02sgy"], ["1", "Guitar", "/m/0342h"], ["2", "Crow", "/m/04s8yn"]],
    )
    rows = [["64760", "Electric_guitar,Guitar", "/m/02sgy,/m/0342h", "train"], ["16399", "Crow", "/m/04s8yn", "val"]]
    write(truth / "dev.csv", [["fname", "labels", "mids", "split"], *rows])
    write(truth / "eval.csv", [["fname", "labels", "mids"], ["37199", "Guitar", "/m/0342h"]])
    sounds(root, "FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/37199.wav")


def wavcaps(root: Path) -> None:
    data = {
        "AudioSet_SL/as_final.json": [{"id": "Yb0RFKhbpFJA.wav", "caption": "Wind blows.", "duration": 10.0}],
        "BBC_Sound_Effects/bbc_final.json": [{"id": "NHU05051096", "title": "x", "caption": "Birds.", "href": "y"}],
        "FreeSound/fsd_final.json": [{"id": "2219", "caption": "A bell.", "tags": ["a", "b"]}],
    }
    for name, items in data.items():
        (root / "json_files" / name).parent.mkdir(parents=True)
        (root / "json_files" / name).write_text(json.dumps({"num_captions_per_audio": 1, "data": items}))
    (root / "json_files/SoundBible").mkdir()
    (root / "json_files/SoundBible/sb_final.json").write_text(
        json.dumps([{"id": "2219", "caption": "An airplane is landing."}])
    )
    sounds(
        root, "AudioSet_SL_flac/Yb0RFKhbpFJA.flac", "BBC_Sound_Effects_flac/NHU05051096.flac", "FreeSound_flac/2219.flac",
        "SoundBible_flac/2219.flac",
    )  # fmt: skip


def musiccaps(root: Path) -> None:
    header = [
        "ytid",
        "start_s",
        "end_s",
        "audioset_positive_labels",
        "aspect_list",
        "caption",
        "author_id",
        "is_balanced_subset",
        "is_audioset_eval",
    ]
    rows = [
        [
            "-0Gj8-vB1q4",
            "30",
            "40",
            "/m/0140xf,/m/02cjck",
            "['sad', \"it's slow\"]",
            "A ballad, slow.",
            "4",
            "False",
            "True",
        ],
        ["-0SdAVK79lg", "30", "40", "/m/0155w", "['guitar']", "A guitar.", "0", "False", "False"],
    ]
    write(root / "musiccaps-public.csv", [header, *rows])
    sounds(root, "wav/[-0Gj8-vB1q4]-[30-40].wav", "wav/-0SdAVK79lg.wav")


def fma(root: Path) -> None:
    first = ["", "album", "artist", "set", "set", "track", "track", "track"]
    second = ["", "title", "name", "split", "subset", "genre_top", "genres", "title"]
    rows = [
        ["2", "AWOL", "AWOL", "training", "small", "Hip-Hop", "[21, 15]", "Food"],
        ["1005", "x", "y", "test", "small", "", "[]", "z"],
        ["3", "x", "y", "training", "large", "Rock", "[12]", "z"],
    ]
    write(root / "fma_metadata/tracks.csv", [first, second, ["track_id", *[""] * 7], *rows])
    genres = [["21", "1", "0", "Hip-Hop", "21"], ["15", "1", "0", "Electronic", "15"], ["12", "1", "0", "Rock", "12"]]
    write(root / "fma_metadata/genres.csv", [["genre_id", "#tracks", "parent", "title", "top_level"], *genres])
    sounds(root, "fma_small/000/000002.mp3", "fma_small/001/001005.mp3")


def vctk(root: Path) -> None:
    for name, text in (
        ("p225_001", "Please call Stella.\n"),
        ("p280_001", "No second microphone."),
        ("s5_002", "Ask her."),
    ):
        path = root / "txt" / name.split("_")[0] / f"{name}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (root / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n"
    )
    sounds(root, "wav48_silence_trimmed/p225/p225_001_mic2.flac", "wav48_silence_trimmed/s5/s5_002_mic2.flac")


def mmau(root: Path) -> None:
    one = {
        "id": "3fe64f3d", "audio_id": "./test-mini-audios/3fe64f3d.wav", "question": "Which came first?", "choices": ["Dog", "Cat"], "answer": "Cat",
        "dataset": "x", "task": "sound", "split": "test-mini", "category": "Reasoning", "sub-category": "Order", "difficulty": "easy",
    }  # fmt: skip
    other = dict(
        reversed({**one, "id": "b1", "audio_id": "./test-mini-audios/b1.wav", "task": "music", "answer": "Dog"}.items())
    )
    root.mkdir()
    (root / "mmau-test-mini.json").write_text(json.dumps([one, other]))
    sounds(root, "test-mini-audios/3fe64f3d.wav", "test-mini-audios/b1.wav")


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
            "clips/13.wav": ("test", "youtube:test_______", [f"test {n}" for n in range(5)], [], 0),
        },
    ),
    "audioset": (
        audioset,
        {
            "balanced_train/Y--PJHxphWEs.wav": ("train", "youtube:--PJHxphWEs", [], ["Speech", "Gush"], 2),
            "balanced_train/--aE2O5G5WE_0_10000.flac": ("train", "youtube:--aE2O5G5WE", [], ["Dog, barking"], 1),
            "eval/--4gqARaEJE_0.000_10.000.wav": ("test", "youtube:--4gqARaEJE", [], ["Dog, barking"], 1),
        },
    ),
    "vggsound": (
        vggsound,
        {
            "audio/---g-f_I2yQ_000001.wav": ("test", "youtube:---g-f_I2yQ", [], ["people marching, loud"], 1),
            "audio/--0PQM4-hqg_30000_40000.wav": ("train", "youtube:--0PQM4-hqg", [], ["waterfall burbling"], 1),
        },
    ),
    "fsd50k": (
        fsd50k,
        {
            "FSD50K.dev_audio/64760.wav": ("train", "freesound:64760", [], ["Electric guitar", "Guitar"], 1),
            "FSD50K.dev_audio/16399.wav": ("validation", "freesound:16399", [], ["Crow"], 1),
            "FSD50K.eval_audio/37199.wav": ("test", "freesound:37199", [], ["Guitar"], 1),
        },
    ),
    "wavcaps": (
        wavcaps,
        {
            "AudioSet_SL_flac/Yb0RFKhbpFJA.flac": ("train", "youtube:b0RFKhbpFJA", ["Wind blows."], [], 0),
            "BBC_Sound_Effects_flac/NHU05051096.flac": ("train", "bbc:NHU05051096", ["Birds."], [], 0),
            "FreeSound_flac/2219.flac": ("train", "freesound:2219", ["A bell."], [], 0),
            "SoundBible_flac/2219.flac": ("train", "soundbible:2219", ["An airplane is landing."], [], 0),
        },
    ),
    "musiccaps": (
        musiccaps,
        {
            "wav/[-0Gj8-vB1q4]-[30-40].wav": ("test", "youtube:-0Gj8-vB1q4", ["A ballad, slow."], [], 0),
            "wav/-0SdAVK79lg.wav": ("train", "youtube:-0SdAVK79lg", ["A guitar."], [], 0),
        },
    ),
    "fma": (
        fma,
        {
            "fma_small/000/000002.mp3": (
                "train",
                "fma:2",
                ["A piece of music. Genre: Hip-Hop, Electronic."],
                ["Hip-Hop"],
                1,
            ),
            "fma_small/001/001005.mp3": ("test", "fma:1005", [], [], 0),
        },
    ),
    "vctk": (
        vctk,
        {
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": ("test", "vctk:p225_001", [], [], 1),
            "wav48_silence_trimmed/s5/s5_002_mic2.flac": ("test", "vctk:s5_002", [], [], 1),
        },
    ),
    "mmau": (
        mmau,
        {
            "test-mini-audios/3fe64f3d.wav": ("test", "mmau:3fe64f3d", [], [], 1),
            "test-mini-audios/b1.wav": ("test", "mmau:b1", [], [], 1),
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
    _, cuts = made(name, tmp_path / "in", tmp_path / "data" / name)
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


def test_the_details_that_only_one_publisher_has(tmp_path: Path):
    """Times of strong labels, choices, speakers, aspects, and the word that WavCaps' subsets go by."""
    found = {}
    for name in ("audioset", "mmau", "vctk", "musiccaps", "wavcaps"):
        TREES[name][0](tmp_path / name)
        found |= made(name, tmp_path / name, tmp_path / "data" / name, contamination="keep")[1]
    times, heard = asked(found["balanced_train/Y--PJHxphWEs.wav"])
    assert (times["kind"], times["answer"]) == ("times", "Speech from 0.5 to 1.2 s; Gush from 2.0 to 10.0 s")
    assert (heard["kind"], heard["question"], heard["answer"]) == ("labels", "What sounds are heard?", "Speech; Gush")
    (choice,) = asked(found["test-mini-audios/3fe64f3d.wav"])
    assert (choice["kind"], choice["answer"], choice["choices"]) == ("sound", "Cat", ["Dog", "Cat"])
    assert choice["question"] == "Which came first? Choose one of: Dog; Cat."
    read = found["wav48_silence_trimmed/p225/p225_001_mic2.flac"]
    assert asked(read)[0]["answer"] == "Please call Stella."
    assert read.custom["metadata"] == {"speaker": "p225", "age": "23", "gender": "F", "accent": "English"}
    assert found["wav/[-0Gj8-vB1q4]-[30-40].wav"].custom["metadata"]["aspects"] == ["sad", "it's slow"]
    assert found["SoundBible_flac/2219.flac"].custom["metadata"]["subset"] == "SoundBible"


BROKEN = {
    "audioset": ("class_labels_indices.csv", "index,mid,display_name\n", r"line 4: /m/09x0r is not in .*class_labels"),
    "vggsound": ("vggsound.csv", "a,1,x,dev\n", r"line 1: split 'dev'; train and test"),
    "fsd50k": (
        "FSD50K.ground_truth/eval.csv",
        "fname,labels,mids\n1,Cat,/m/1\n",
        r"line 2: the label 'Cat' is not in .*vocabulary",
    ),
    "wavcaps": (
        "json_files/FreeSound/fsd_final.json",
        '{"data": [{"id": "1"}]}',
        r"fsd_final\.json, record 1: an object with id and caption",
    ),
    "musiccaps": (
        "musiccaps-public.csv",
        "ytid,start_s,end_s,aspect_list,caption,is_audioset_eval\na,0,10,pop,x,True\n",
        r"line 2: aspect_list is a list",
    ),
    "fma": ("fma_metadata/tracks.csv", "a,b\nc,d\n", r"tracks\.csv: its three header lines"),
    "mmau": (
        "mmau-test-mini.json",
        '[{"id": "a", "audio_id": "a.wav", "question": "?", "choices": ["x"], "answer": "y", "task": "sound"}]',
        r"record 1: the answer 'y' is none of its choices",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, name: str):
    file, text, message = BROKEN[name]
    TREES[name][0](tmp_path / "in")
    (tmp_path / "in" / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        made(name, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_of_a_corpus_in_one_split(tmp_path: Path):
    """--split=train takes VCTK, which its file calls test, for training."""
    vctk(tmp_path / "in")
    done, _ = made("vctk", tmp_path / "in", tmp_path / "out", split="train", validation_fraction=0.5)
    assert done.report.splits == {"train": 1, "validation": 1, "test": 0}


def test_mmau_leaves_no_path_out_of_the_root(tmp_path: Path):
    mmau(tmp_path / "in")
    path = tmp_path / "in/mmau-test-mini.json"
    path.write_text(path.read_text().replace("./test-mini-audios/b1.wav", "../../etc/b1.wav"))
    with pytest.raises(ValueError, match=r"record 2: '\.\./\.\./etc/b1\.wav' lies outside"):
        made("mmau", tmp_path / "in", tmp_path / "out")


def test_the_command_prepares_lists_and_joins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Two corpora and OpenAQA's questions about them, by the command; the stages find every recording again."""
    monkeypatch.chdir(tmp_path)
    audioset(tmp_path / "as")
    fsd50k(tmp_path / "fsd")
    assert main(["prepare", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"{name}: " in listed for name in (*TREES, "openaqa"))
    assert main(["prepare", "audioset", "as", "--validation_fraction=0"]) == 0
    assert main(["prepare", "fsd50k", "fsd"]) == 0
    records = [
        {
            "instruction": "What?",
            "output": "Speech.",
            "audio_id": f"/x/{clip}.flac",
            "dataset": dataset,
            "task": "open-ended question",
        }
        for clip, dataset in (
            ("--PJHxphWEs", "as_20k"),
            ("--4gqARaEJE", "as_20k"),
            ("64760", "fsd50k_tr"),
            ("1", "fsd50k_tr"),
        )
    ]
    Path("q.json").write_text(json.dumps(records))
    capsys.readouterr()
    assert main(["prepare", "openaqa", "q.json"]) == 1
    assert "1 recordings are in no prepared corpus" in capsys.readouterr().err
    assert main(["prepare", "openaqa", "q.json", "--data.on_bad=skip"]) == 0
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()[1:3]] == [
        ["as_20k", "2", "2", "0", "0"],
        ["fsd50k_tr", "2", "1", "1", "0"],
    ]
    assert "openaqa: 1 training recordings are in a test split and are left out" in said
    receipt = json.loads(Path("data/openaqa/receipt.json").read_text())
    assert (receipt["recordings"], receipt["missing"], receipt["contaminated"]) == (2, 1, 1)
    found = prepare.recordings(
        "latents", conf.compose("latents", overrides=["data.corpora=[audioset,fsd50k,openaqa]"]).conf
    )
    assert len(found.cuts) == 3 + 3 + 2
    assert main(["prepare", "openaqa"]) == 1
    assert "ROOT is not given" in capsys.readouterr().err


def test_a_clip_with_several_files_is_taken_once_and_said(tmp_path: Path):
    """The one in the folder of its split comes first; a number of another subset is no other file of it."""
    audiocaps(tmp_path / "in")
    sounds(tmp_path / "in", "train/aaaaaaaaaaa.wav", "zoo/Yaaaaaaaaaaa.flac")
    done, cuts = made("audiocaps", tmp_path / "in", tmp_path / "out")
    assert "train/aaaaaaaaaaa.wav" in cuts and "clips/aaaaaaaaaaa_000000.wav" not in cuts
    assert done.several == {}, "the others lie in no folder of the split"
    sounds(tmp_path / "in", "training/Yaaaaaaaaaaa.flac")
    done, cuts = made("audiocaps", tmp_path / "in", tmp_path / "out")
    assert done.several == {"train/aaaaaaaaaaa.wav": ["training/Yaaaaaaaaaaa.flac"]} and len(cuts) == 4
    wavcaps(tmp_path / "wav")
    assert made("wavcaps", tmp_path / "wav", tmp_path / "other")[0].several == {}


def test_a_name_that_leaves_the_data_root_is_refused(tmp_path: Path):
    esc50(tmp_path / "in")
    for name in ("../x", "..", "a b"):
        with pytest.raises(ValueError, match=r"--name=.*letters, digits"):
            prepared.prepare("esc50", tmp_path / "in", tmp_path / "out", name=name, **DEFAULTS)
