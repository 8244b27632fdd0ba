"""The field's corpora: their publishers' layouts, made of tones, and the cuts that hold the right text for the right
audio.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

import conf
from datamodules.corpora import published
from datamodules.corpora.inspection_record import Inspector
from datamodules.corpora.published.prepare import PreparedCorpus, prepare_published
from stages.cli.main import main
from stages.runs import corpora
from tests.datamodules.publishers import (
    TREES,
    audiocaps,
    audioset,
    clotho,
    esc50,
    fsd50k,
    gtzan,
    mmau,
    sounds,
    vctk,
    wavcaps,
    write,
)
from tests.datamodules.recordings import sound

DEFAULTS: dict[str, Any] = dict(
    split=None,
    fold=5,
    validation_fraction=0.0,
    label_question=None,
    contamination="drop",
    on_bad="error",
    inspector=Inspector(1),
)

FOLDERS = ("fsdd", "gtzan")  # have no table: what is there is the list


def made(name: str, root: Path, out: Path, **changes: Any) -> tuple[PreparedCorpus, dict[str, Any]]:
    """What preparing said, and the cuts by path."""
    done = prepare_published(name, root, out, **{"name": name} | DEFAULTS | changes)
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
    actual = {
        path: (cut.custom["split"], cut.custom["origin"], captions(cut), cut.custom["labels"], len(asked(cut)))
        for path, cut in cuts.items()
    }
    assert actual == expected
    for path, cut in cuts.items():
        assert cut.custom["corpus"] == name
        assert cut.recording.with_path_prefix(tmp_path / "in").load_audio().shape == (1, cut.num_samples), path
        for question in asked(cut):
            assert question["question"] and question["answer"]


@pytest.mark.parametrize("name", [name for name in TREES if name not in FOLDERS])
def test_a_file_that_is_missing_is_counted_listed_and_refused(tmp_path: Path, name: str):
    lay, expected = TREES[name]
    lay(tmp_path / "in")
    paths = list(expected)
    (tmp_path / "in" / paths[0]).unlink()
    with pytest.raises(
        ValueError, match=r"(?s)recordings cannot be used.*: missing.*--data\.on_bad=skip.*missing\.jsonl"
    ):
        made(name, tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["missing.jsonl"]
    done, cuts = made(name, tmp_path / "in", tmp_path / "out", on_bad="skip")
    listed = [json.loads(line) for line in (tmp_path / "out" / "missing.jsonl").read_text().splitlines()]
    assert len(listed) == len(done.report.skipped) >= 1 and {row["reason"] for row in listed} == {"missing"}
    assert set(cuts) == set(expected) - {paths[0]}


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
    from datamodules.corpora.contamination import count_trained

    assert count_trained(tmp_path / "data/esc50") == {"clotho": 1}, "the other way round"
    dropped, cuts = made("clotho", *where)
    assert [path.split("/")[0] for path in cuts] == ["validation", "evaluation"]
    (row,) = (tmp_path / "data/clotho/contaminated.jsonl").read_text().splitlines()
    assert json.loads(row) == dropped.contaminated[0]._asdict()


def test_the_details_that_only_one_publisher_has(tmp_path: Path):
    """Times of strong labels, choices, speakers, aspects, and the word that WavCaps' subsets go by."""
    actual = {}
    for name in ("audioset", "mmau", "mmar", "mmsu", "vctk", "musiccaps", "wavcaps"):
        TREES[name][0](tmp_path / name)
        actual |= made(name, tmp_path / name, tmp_path / "data" / name, contamination="keep")[1]
    times, heard = asked(actual["balanced_train/Y--PJHxphWEs.wav"])
    assert (times["kind"], times["answer"]) == ("times", "Speech from 0.5 to 1.2 s; Gush from 2.0 to 10.0 s")
    assert (heard["kind"], heard["question"], heard["answer"]) == ("labels", "What sounds are heard?", "Speech; Gush")
    (choice,) = asked(actual["test-mini-audios/3fe64f3d.wav"])
    assert (choice["kind"], choice["answer"], choice["choices"]) == ("sound", "Cat", ["Dog", "Cat"])
    assert choice["question"] == "Which came first? Choose one of: Dog; Cat."
    assert (choice["fields"]["id"], choice["fields"]["difficulty"]) == ("3fe64f3d", "easy")
    (strange,) = asked(actual["audio/BV1.wav"])
    assert (strange["kind"], strange["answer"], strange["choices"]) == ("mix-sound-speech", "Owl\nMan", ["Owl", "Man"])
    (two,) = asked(actual["audio/a_1.wav"])
    assert (two["kind"], two["choices"], two["answer"]) == ("counting", ["2", "None"], "None")
    assert two["fields"] == {
        "id": "a_1", "audio_path": "./audio/a_1.wav", "task_name": "counting", "category": "Perception", "sub-category": "Linguistics",
    }  # fmt: skip
    read = actual["wav48_silence_trimmed/p225/p225_001_mic2.flac"]
    assert asked(read)[0]["answer"] == "Please call Stella."
    assert read.custom["metadata"] == {"speaker": "p225", "age": "23", "gender": "F", "accent": "English"}
    assert actual["wav/[-0Gj8-vB1q4]-[30-40].wav"].custom["metadata"]["aspects"] == ["sad", "it's slow"]
    assert actual["SoundBible_flac/2219.flac"].custom["metadata"]["subset"] == "SoundBible"


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
        '[{"id": "a", "audio_id": "a.wav", "question": "?", "choices": ["x", "z"], "answer": "y", "task": "sound"}]',
        r"record 1: the answer 'y' is none of its choices",
    ),
    "mmar": (
        "MMAR-meta.json",
        '[{"id": "a", "audio_path": "a.wav", "question": "?", "choices": "[1, 2]", "answer": "y", "modality": "sound"}]',
        r"record 1: choices is '\[1, 2\]'; a list of texts is expected",
    ),
    "mmsu": (
        "question/mmsu.jsonl",
        '{"id": "a", "audio_path": "a.wav", "question": "?", "choice_a": "x", "choice_b": "z", "answer_gt": "y", "task_name": "t"}',
        r"record 1: the answer 'y' is none of x, z",
    ),
    "mmau-pro": ("test.jsonl", '{"id": "a",\n', r"line 1: no JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_named_with_its_line(tmp_path: Path, name: str):
    file, text, message = BROKEN[name]
    TREES[name][0](tmp_path / "in")
    (tmp_path / "in" / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        made(name, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_mmau_pro_asks_is_with_choices_or_open_and_the_rest_is_counted(tmp_path: Path, caplog):
    TREES["mmau-pro"][0](tmp_path / "in")
    _, cuts = made("mmau-pro", tmp_path / "in", tmp_path / "out")
    asked = [sup.custom for cut in cuts.values() for sup in cut.supervisions]
    assert [
        ("choices" in one, one["kind"], one["question"], one["answer"]) for one in asked if one["kind"] == "open"
    ] == [(False, "open", "Who?", "A man speaks.")]
    assert [one["choices"] for one in asked if one["kind"] != "open"] == [["Owl", "Man"]] * 2
    assert (
        "questions that are left out: 1 about 2 recordings, 1 instructions to follow, 1 without choices" in caplog.text
    )


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
    printed = capsys.readouterr()
    assert [line.split() for line in printed.out.splitlines()[1:3]] == [
        ["as_20k", "2", "2", "0", "0"],
        ["fsd50k_tr", "2", "1", "1", "0"],
    ]
    assert "openaqa: 1 training recordings are in a test split and are left out" in printed.err
    receipt = json.loads(Path("data/openaqa/receipt.json").read_text())
    assert (receipt["recordings"], receipt["missing"], receipt["contaminated"]) == (2, 1, 1)
    actual = corpora.recordings(
        "latents", conf.compose("latents", overrides=["data.corpora=[audioset,fsd50k,openaqa]"]).conf.data
    )
    assert len(actual.cuts) == 3 + 3 + 2
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
            prepare_published("esc50", tmp_path / "in", tmp_path / "out", name=name, **DEFAULTS)


def test_names_that_begin_with_a_blank(tmp_path: Path):
    """Three of Clotho's do; their row in the metadata is found too."""
    clotho(tmp_path)
    (tmp_path / "development/Distorted, development.wav").rename(tmp_path / "development/ Distorted.wav")
    for name in ("captions", "metadata"):
        table = tmp_path / f"clotho_{name}_development.csv"
        text = table.read_text(encoding="latin-1").replace('"Distorted, development.wav"', " Distorted.wav")
        table.write_text(text, encoding="latin-1")
    _, cuts = made("clotho", tmp_path, tmp_path / "out")
    assert cuts["development/ Distorted.wav"].custom["origin"] == "freesound:07"


@pytest.mark.parametrize("name", ["{}_30.0-40.0.wav", "{}_30-40.flac", "Y{}.opus", "{}_30000_40000.ogg", "{}.caf"])
def test_the_downloaders_names_of_a_clip(tmp_path: Path, name: str):
    """audioset-download writes seconds with a point; others write Opus."""
    path = tmp_path / "clips" / name.format("-0xzrMun0Rs")
    path.parent.mkdir()
    suffix = path.suffix
    wave = np.sin(np.arange(4800) / 10)
    if suffix == ".opus":
        soundfile.write(path, wave, 48_000, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, wave, 48_000)
    header, row = "audiocap_id,youtube_id,start_time,caption\n", "1,-0xzrMun0Rs,30,Rain\n"
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text(header + (row if part == "train" else ""))
    done, cuts = made("audiocaps", tmp_path, tmp_path / "out")
    assert list(cuts) == [f"clips/{path.name}"] and not done.report.skipped


@pytest.mark.parametrize("name", ["fsdd", "gtzan", "vctk"])
def test_what_macos_notes_of_a_file_is_none_of_a_corpus(tmp_path: Path, name: str):
    """._NAME beside every file, as a disk of another system has them."""
    TREES[name][0](tmp_path / "in")
    _, before = made(name, tmp_path / "in", tmp_path / "before")
    for path in [path for path in (tmp_path / "in").rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    _, after = made(name, tmp_path / "in", tmp_path / "after")
    assert list(after) == list(before)
