"""Anybody's own recordings: every format in, every row kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from datamodules.corpora import folder
from tests.datamodules.recordings import DEFAULTS, FORMATS, prepared, sound, table


@pytest.mark.parametrize("rate, channels", [(8000, 1), (22050, 2), (44100, 1), (48000, 2)])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_rate_and_number_of_channels(tmp_path: Path, suffix: str, rate: int, channels: int):
    path = sound(tmp_path / "in" / f"a.{suffix}", 0.75, rate, channels)
    report, cuts = prepared(tmp_path, [{"path": f"in/a.{suffix}", "caption": "a tone"}])
    cut = cuts[f"in/a.{suffix}"]
    assert (cut.sampling_rate, cut.num_channels) == (rate, channels)
    assert cut.duration == pytest.approx(0.75, abs=0.1 if suffix == "mp3" else 1e-4), (
        "MPEG frames have a whole number of 1152 samples"
    )
    assert report.seconds == pytest.approx(cut.duration, abs=1e-3)
    assert (report.recordings, report.splits) == (1, {"train": 1, "validation": 0, "test": 0})
    assert cut.custom["size"] == path.stat().st_size


def test_rows_of_one_path_are_one_recording(tmp_path: Path):
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav")
    rows = [
        {"path": "a.wav", "caption": "one", "take": "7"},
        {"path": "./a.wav", "caption": "two"},
        {"path": "a.wav", "caption": "one"},
        {"path": "a.wav", "question": "How many?", "answer": "two"},
        {"path": "b.wav", "caption": "three"},
    ]
    report, cuts = prepared(tmp_path, rows)
    assert report.recordings == 2
    assert [sup.text for sup in cuts["a.wav"].supervisions if sup.custom["task"] == "caption"] == ["one", "two"], (
        "said twice, kept once"
    )
    asked = [sup.custom for sup in cuts["a.wav"].supervisions if sup.custom["task"] == "question"]
    assert asked == [{"task": "question", "kind": "question", "question": "How many?", "answer": "two"}]
    assert cuts["a.wav"].custom["metadata"] == {"take": "7"}, "other columns are kept"
    identities = [sup.id for cut in cuts.values() for sup in cut.supervisions]
    assert len(set(identities)) == len(identities) == 4


def test_a_label_without_a_question_gets_the_class_question(tmp_path: Path):
    for name in "ab":
        sound(tmp_path / f"{name}.wav")
    rows = [
        {"path": "a.wav", "label": "dog"},
        {"path": "b.wav", "label": "cat", "question": "Which animal?", "answer": "a cat"},
    ]
    _, cuts = prepared(tmp_path, rows, label_question="What sound is this?")
    (asked,) = cuts["a.wav"].supervisions
    assert asked.custom == {"task": "question", "kind": "class", "question": "What sound is this?", "answer": "dog"}
    assert cuts["a.wav"].custom["labels"] == ["dog"]
    (asked,) = cuts["b.wav"].supervisions
    assert (asked.custom["kind"], asked.custom["question"]) == ("question", "Which animal?")


def test_split_by_a_column(tmp_path: Path):
    for fold in range(1, 6):
        sound(tmp_path / f"{fold}.wav")
    rows = [{"path": f"{fold}.wav", "fold": str(fold)} for fold in range(1, 6)]
    report, cuts = prepared(tmp_path, rows, split_by="fold", test=["4", "5"], validation=["3"])
    assert [cuts[f"{fold}.wav"].custom["split"] for fold in range(1, 6)] == [
        "train",
        "train",
        "validation",
        "test",
        "test",
    ]
    assert report.splits == {"train": 2, "validation": 1, "test": 2}


def test_the_split_column_knows_the_usual_names(tmp_path: Path):
    for name in folder.SPLIT_SPELLINGS:
        sound(tmp_path / f"{name}.wav", 0.05)
    _, cuts = prepared(tmp_path, [{"path": f"{name}.wav", "split": name.title()} for name in folder.SPLIT_SPELLINGS])
    wanted = {
        "train": ["train", "training"],
        "validation": ["val", "valid", "validation", "dev"],
        "test": ["test", "eval"],
    }
    actual = {split: [cuts[f"{name}.wav"].custom["split"] for name in names] for split, names in wanted.items()}
    assert actual == {split: [split] * len(names) for split, names in wanted.items()}


def test_the_validation_share_goes_by_source_and_hangs_on_nothing_else(tmp_path: Path):
    """200 takes of 100 sources: a source is on one side, the share is near, the order of the rows does not matter."""
    rows = [
        {"path": f"{number}.wav", "source": f"s{number // 2}", "split": "test" if number < 20 else ""}
        for number in range(200)
    ]
    for row in rows:
        sound(tmp_path / row["path"], 0.01)
    _, cuts = prepared(tmp_path, rows, validation_fraction=0.2)
    sides: dict[str, set[str]] = {}
    for cut in cuts.values():
        sides.setdefault(cut.custom["source"], set()).add(cut.custom["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert [cuts[f"{number}.wav"].custom["split"] for number in range(20)] == ["test"] * 20
    assert 0.1 < sum(side == {"validation"} for side in sides.values()) / 90 < 0.3, "three standard deviations"
    _, again = prepared(tmp_path, rows[::-1], validation_fraction=0.2)
    assert {path: cut.custom["split"] for path, cut in cuts.items()} == {
        path: cut.custom["split"] for path, cut in again.items()
    }


def test_a_named_validation_split_is_not_added_to(tmp_path: Path):
    for number in range(20):
        sound(tmp_path / f"{number}.wav", 0.05)
    report, _ = prepared(
        tmp_path,
        [{"path": f"{number}.wav", "split": "val" if number == 3 else ""} for number in range(20)],
        validation_fraction=0.5,
    )
    assert report.splits == {"train": 19, "validation": 1, "test": 0}


def test_what_the_split_column_says_is_never_moved(tmp_path: Path):
    """Not a recording that it calls train, nor another one of its source; those it says nothing of are shared out."""
    for number in range(20):
        sound(tmp_path / f"{number}.wav", 0.05)
    listed = [{"path": f"{number}.wav", "split": "train" if number < 15 else "test"} for number in range(20)]
    report, _ = prepared(tmp_path, listed, validation_fraction=0.5)
    assert report.splits == {"train": 15, "validation": 0, "test": 5}
    mixed = [
        row | {"source": f"s{n % 10}", "split": row["split"] if n in (0, 1) else ""} for n, row in enumerate(listed)
    ]
    _, cuts = prepared(tmp_path, mixed, validation_fraction=0.9)
    validation = {int(path.split(".")[0]) for path, cut in cuts.items() if cut.custom["split"] == "validation"}
    assert validation and not validation & {0, 1, 10, 11}


def test_ids_are_unique_and_plain(tmp_path: Path):
    paths = ["a b.wav", "a-b.wav", "a/b.wav", "a/b.flac", "ä.wav", "ö.wav", "c.wav"]
    for path in paths:
        sound(tmp_path / path, 0.05)
    _, cuts = prepared(tmp_path, [{"path": path, "caption": "x"} for path in paths])
    identities = [cut.id for cut in cuts.values()]
    assert len(set(identities)) == len(paths)
    assert all(
        set(identity) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
        for identity in identities
    )
    assert cuts["c.wav"].id == "mine-c"


def test_a_table_with_tabs_and_one_with_a_byte_order_mark(tmp_path: Path):
    sound(tmp_path / "a.wav")
    tabs = table(tmp_path / "m.tsv", [{"path": "a.wav", "caption": "one, two"}])
    assert folder.prepare_folder(tmp_path, tabs, tmp_path / "tabs", **DEFAULTS).report.recordings == 1
    marked = tmp_path / "m.csv"
    marked.write_bytes("\ufeffpath,caption\r\na.wav,one\r\n".encode())
    assert folder.prepare_folder(tmp_path, marked, tmp_path / "marked", **DEFAULTS).report.recordings == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("file,caption\na.wav,x\n", r"no column 'path'\. It has file, caption; known are path, caption"),
        ("", r"no column 'path'\. It has none"),
        ("file\na.wav\n", "others are kept$"),
        ("Datei;caption\na.wav;x\n", r"It has Datei, caption; .*others are kept$"),
        ("path\tcaption\na.wav\tx\n", "Separate columns by commas; by tabs in a .tsv$"),
        ("path,caption\n", "no rows"),
        ("path,caption\n,x\n", "line 2: the path is empty"),
        ("path,question\na.wav,why\n", "line 2: a question and its answer go together"),
        ("path,split\na.wav,trian\n", "line 2: split 'trian'; allowed are train"),
        ("path,split\na.wav,train\na.wav,test\n", r"a\.wav is in the splits test and train"),
    ],
)
def test_a_table_that_cannot_be_read_so(tmp_path: Path, text: str, reason: str):
    sound(tmp_path / "a.wav")
    metadata = tmp_path / "m.csv"
    metadata.write_text(text)
    with pytest.raises(ValueError, match=rf"m\.csv.*{reason}"):
        folder.prepare_folder(tmp_path, metadata, tmp_path / "out", **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_folders_and_columns_that_are_not_there(tmp_path: Path):
    metadata = table(tmp_path / "m.csv", [{"path": "a.wav"}])
    with pytest.raises(ValueError, match="gone: no such folder"):
        folder.prepare_folder(tmp_path / "gone", metadata, tmp_path / "out", **DEFAULTS)
    with pytest.raises(ValueError, match=r"gone\.csv: no such file"):
        folder.prepare_folder(tmp_path, tmp_path / "gone.csv", tmp_path / "out", **DEFAULTS)
    with pytest.raises(ValueError, match=r"no column 'fold' to split by\. It has path"):
        folder.prepare_folder(tmp_path, metadata, tmp_path / "out", **DEFAULTS | {"split_by": "fold"})
    with pytest.raises(ValueError, match="--name=a/b: letters"):
        folder.prepare_folder(tmp_path, metadata, tmp_path / "out", **DEFAULTS | {"name": "a/b"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: the folder is empty"):
        folder.prepare_folder(tmp_path / "empty", metadata, tmp_path / "out", **DEFAULTS)
    (tmp_path / "empty" / "other.txt").touch()
    with pytest.raises(ValueError, match=r"holds none of the 1 recordings that .*m\.csv names, the first 'a\.wav'"):
        folder.prepare_folder(tmp_path / "empty", metadata, tmp_path / "out", **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_nothing_of_a_row_is_lost_or_guessed(tmp_path: Path):
    """An unquoted comma, a column that comes twice, another encoding, lines that no number of rows gives."""
    sound(tmp_path / "a.wav")
    for text, reason in (
        ("path,caption\na.wav,rain, then thunder\n", "line 2: 3 fields under 2 columns.*in quotes"),
        ('path,caption\n\na.wav,"two\nlines"\na.wav\n', "line 5: 1 fields under 2 columns"),
        ("path,caption,caption\na.wav,x,y\n", "column 'caption' comes 2 times"),
        ("path,caption\na.wav,Stra\xdfe\n", "is not UTF-8"),
    ):
        (tmp_path / "m.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"m\.csv.*{reason}"):
            folder.prepare_folder(tmp_path, tmp_path / "m.csv", tmp_path / "out", **DEFAULTS)


@pytest.mark.parametrize("path", ["../a.wav", "in/../../a.wav", "/elsewhere/a.wav"])
def test_a_path_outside_the_root_is_refused(tmp_path: Path, path: str):
    sound(tmp_path / "in" / "b.wav")
    with pytest.raises(ValueError, match=r"line 2: .*a\.wav' lies outside"):
        prepared(tmp_path, [{"path": path}])


def test_an_absolute_path_inside_the_root_is_kept_relative(tmp_path: Path):
    path = sound(tmp_path / "in" / "a.wav")
    _, cuts = prepared(tmp_path, [{"path": str(path)}, {"path": "in/./a.wav"}])
    assert list(cuts) == ["in/a.wav"]


def test_objects_a_line_are_read_as_well(tmp_path: Path):
    sound(tmp_path / "a.wav")
    metadata = tmp_path / "m.jsonl"
    metadata.write_text('{"path": "a.wav", "caption": "one, two", "label": null, "fold": 4}\n\n')
    report = folder.prepare_folder(
        tmp_path, metadata, tmp_path / "out", **DEFAULTS | {"split_by": "fold", "test": ["4"]}
    ).report
    assert report.splits["test"] == 1
    for text, reason in (
        ('{"path"', "line 1: no JSON"),
        ('["a.wav"]', "one object a line"),
        ('{"file": 1}', "no column 'path'"),
    ):
        metadata.write_text(text)
        with pytest.raises(ValueError, match=reason):
            folder.prepare_folder(tmp_path, metadata, tmp_path / "out", **DEFAULTS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"test": ["4"]}, "say which, as --split_by=fold"),
        ({"split_by": "fold"}, "needs --test=VALUE, --validation=VALUE or both. The column holds 1, 2$"),
        ({"split_by": "fold", "test": ["5"]}, "no row has fold '5'. The column holds 1, 2$"),
        ({"split_by": "fold", "test": ["1"], "validation": ["1"]}, "'1' is in --test and in --validation"),
    ],
)
def test_a_split_that_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str):
    with pytest.raises(ValueError, match=reason):
        prepared(tmp_path, [{"path": "a.wav", "fold": "1"}, {"path": "b.wav", "fold": "2"}], **changes)


def test_a_named_source_in_train_and_test_is_refused(tmp_path: Path):
    rows = [{"path": f"{n}.wav", "source": "s", "split": split} for n, split in enumerate(("train", "test"))]
    with pytest.raises(ValueError, match="1 sources are in train and in test, the first 's'"):
        prepared(tmp_path, rows)


def test_equal_stems_in_two_folders_are_two_sources_and_a_few_sources_are_shared_out(tmp_path: Path):
    """Two recordings are enough for a validation split, and one never empties the training split."""
    sound(tmp_path / "x" / "a.wav")
    sound(tmp_path / "y" / "a.wav")
    report, cuts = prepared(tmp_path, [{"path": "x/a.wav"}, {"path": "y/a.wav"}], validation_fraction=0.1)
    assert report.splits == {"train": 1, "validation": 1, "test": 0}
    assert {cut.custom["source"] for cut in cuts.values()} == {"mine-x/a", "mine-y/a"}
    report, _ = prepared(tmp_path, [{"path": "x/a.wav"}], validation_fraction=0.9)
    assert report.splits["train"] == 1


def test_other_columns_that_differ_are_all_kept(tmp_path: Path):
    sound(tmp_path / "a.wav")
    _, cuts = prepared(tmp_path, [{"path": "a.wav", "by": name, "take": "7", "note": ""} for name in ("x", "y", "x")])
    assert cuts["a.wav"].custom["metadata"] == {"by": ["x", "y"], "take": "7", "note": ""}


def test_an_earlier_receipt_goes_with_its_cuts(tmp_path: Path):
    """A receipt never stands beside cuts that it does not describe."""
    sound(tmp_path / "a.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "receipt.json").write_text("{}")
    with pytest.raises(ValueError, match="missing"):
        prepared(tmp_path, [{"path": "a.wav"}, {"path": "b.wav"}])
    assert (tmp_path / "out" / "receipt.json").exists()
    prepared(tmp_path, [{"path": "a.wav"}])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cuts.jsonl.gz"]


def test_the_manifest_says_what_was_decoded(tmp_path: Path):
    """A stereo file is a MultiCut that loads, with the samples that decoding gave and both channels captioned."""
    sound(tmp_path / "a.mp3", 0.7, 44100, 2)
    _, cuts = prepared(tmp_path, [{"path": "a.mp3", "caption": "x"}])
    cut = cuts["a.mp3"]
    samples = soundfile.read(tmp_path / "a.mp3")[0].shape[0]
    assert (cut.num_samples, cut.supervisions[0].channel) == (samples, [0, 1])
    assert cut.supervisions[0].duration == cut.duration
    np.testing.assert_allclose(
        cut.recording.with_path_prefix(tmp_path).load_audio(), soundfile.read(tmp_path / "a.mp3")[0].T, atol=1e-4
    )


def talk(*sounds: str) -> str:
    content = [*({"sound": name} for name in sounds), "Which?"]
    return json.dumps([{"role": "user", "content": content}, {"role": "assistant", "content": "the first"}])


def test_conversations_name_their_sounds_by_path_and_carry_their_ids(tmp_path: Path):
    """In a CSV cell; and a question has the kind that its column says."""
    for name in ("a.wav", "in/b.wav"):
        sound(tmp_path / name)
    rows = [
        {
            "path": "a.wav",
            "conversation": talk("self", "in/b.wav"),
            "question": "Which?",
            "answer": "it",
            "kind": "order",
        },
        {"path": "a.wav", "conversation": "", "question": "What?", "answer": "it", "kind": ""},
        {"path": "in/b.wav", "conversation": talk(str(tmp_path / "a.wav")), "question": "", "answer": "", "kind": ""},
    ]
    _, cuts = prepared(tmp_path, rows)
    first, second = cuts["a.wav"], cuts["in/b.wav"]
    assert [sup.custom.get("kind") for sup in first.supervisions] == ["order", "question", None]
    given = first.supervisions[-1].custom
    assert given["task"] == "conversation"
    assert given["turns"][0] == {"role": "user", "content": [{"sound": "self"}, {"sound": second.id}, "Which?"]}
    assert given["turns"][1] == {"role": "assistant", "content": ["the first"]}
    assert second.supervisions[0].custom["turns"][0]["content"][0] == {"sound": first.id}
    assert "conversation" not in first.custom["metadata"] and "kind" not in first.custom["metadata"]


@pytest.mark.parametrize(
    "conversation, message",
    [
        (talk("gone.wav"), r"line 2: conversation: the sound 'gone\.wav' has no row of its own"),
        (talk("test.wav"), r"line 2: conversation: a\.wav is in the split train and test\.wav in test"),
        (talk("../x.wav"), r"line 2: '\.\./x\.wav' lies outside"),
        ("hello", r"line 2: conversation: no JSON"),
        (
            '[{"role": "assistant", "content": "x"}]',
            r"line 2: conversation, turn 1: the role is 'assistant'; user is expected",
        ),
    ],
)
def test_a_conversation_that_cannot_be_is_refused(tmp_path: Path, conversation: str, message: str):
    for name in ("a.wav", "test.wav"):
        sound(tmp_path / name)
    rows = [{"path": "a.wav", "conversation": conversation, "split": "train"}, {"path": "test.wav", "split": "test"}]
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, rows)


def test_a_conversation_about_a_bad_recording_is_refused_when_bad_ones_are_left_out(tmp_path: Path):
    sound(tmp_path / "a.wav")
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    rows = [{"path": "a.wav", "conversation": talk("bad.wav")}, {"path": "bad.wav", "conversation": ""}]
    with pytest.raises(ValueError, match=r"line 2: the conversation names mine-bad, which cannot be read"):
        prepared(tmp_path, rows, on_bad="skip", name="mine")


def test_a_question_with_several_answers_is_named(tmp_path: Path):
    rows = [
        {"path": path, "question": question, "answer": answer}
        for path, question, answer in (
            ("a.wav", "What?", "dog"), ("a.wav", "What?", "cat"), ("b.wav", "What?", "dog"), ("b.wav", "What?", "dog"),
            ("c.wav", "What?", "dog"), ("c.wav", "Which?", "cat"),
        )
    ]  # fmt: skip
    for path in "abc":
        sound(tmp_path / f"{path}.wav")
    done = folder.prepare_folder(tmp_path, table(tmp_path / "m.csv", rows), tmp_path / "out", **DEFAULTS)
    assert done.answered_twice == ["a.wav"]


def test_labels_that_differ_in_case_or_form_are_named(tmp_path: Path):
    labels = ["Dog", "dog", "cat", "caf\u00e9", "cafe\u0301", "C", "C#"]
    rows = [{"path": f"{n}.wav", "label": label} for n, label in enumerate(labels)]
    for row in rows:
        sound(tmp_path / row["path"])
    done = folder.prepare_folder(tmp_path, table(tmp_path / "m.csv", rows), tmp_path / "out", **DEFAULTS)
    assert done.similar_labels == [["Dog", "dog"], ["cafe\u0301", "caf\u00e9"]]
