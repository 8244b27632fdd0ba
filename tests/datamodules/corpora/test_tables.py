"""A table of one's own: nothing of a row is lost, guessed, or changed in silence."""

import gzip
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from datamodules.corpora import folder
from datamodules.corpora.tables import read_table
from datamodules.errors import DataError
from tests.datamodules.recordings import DEFAULTS, prepared, sound, table, tone


def read(root: Path, name: str, text: str, **changes: Any) -> dict[str, Any]:
    """The cuts by path, of a table; a.wav to e.wav exist, each with its own sound."""
    for number, letter in enumerate("abcde"):
        sound(root / f"{letter}.wav", 0.05, hz=200 + 50 * number)
    (root / name).write_text(text, encoding="utf-8")
    folder.prepare_folder(root, root / name, root / "out", **DEFAULTS | changes)
    return {cut.recording.sources[0].source: cut for cut in CutSet.from_file(root / "out/cuts.jsonl.gz")}


def captions(cut: Any) -> list[str]:
    return [sup.text for sup in cut.supervisions if sup.custom["task"] == "caption"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('path,caption\na.wav,rain\nb.wav,"thunder\nc.wav,wind\nd.wav,fire\n', 3),
        ('path,caption\na.wav,"thunder\nb.wav,wind\nc.wav,fire"\n', 2),
        ('path,caption\na.wav,"a man says "hello" loudly"\n', 2),
        ('path,caption\na.wav,rain\n\nb.wav,"12" record"\n', 4),
    ],
    ids=["open to the end", "closed in a later row", "goes on", "goes on at the end"],
)
def test_a_field_that_is_not_closed_is_refused_with_its_line(tmp_path: Path, text: str, line: int):
    with pytest.raises(DataError, match=f"m.csv, line {line}: "):
        read(tmp_path, "m.csv", text)


def test_a_field_of_several_lines_is_one_text(tmp_path: Path):
    cuts = read(tmp_path, "m.csv", 'path,caption\na.wav,"rain, first\nthen ""thunder"""\n')
    assert captions(cuts["a.wav"]) == ['rain, first\nthen "thunder"']


def test_a_tsv_has_no_quoting(tmp_path: Path):
    texts = ['"Hello" says a man', 'it is 5" long', '"open', "fire", '"Stop!" she shouts.']
    rows = "".join(f"{letter}.wav\t{text}\n" for letter, text in zip("abcde", texts, strict=True))
    cuts = read(tmp_path, "m.tsv", f"path\tcaption\n{rows}")
    assert [captions(cuts[f"{letter}.wav"]) for letter in "abcde"] == [[text] for text in texts]


def test_a_list_is_several_captions_and_labels(tmp_path: Path):
    rows = [
        {"path": "a.wav", "caption": ["rain", "thunder"], "label": ["dog", "cat", "cow"]},
        {"path": "b.wav", "caption": [], "label": ["dog"], "question": "Which?", "answer": "A dog."},
        {"path": "c.wav", "caption": None, "label": []},
    ]
    cuts = read(tmp_path, "m.jsonl", "\n".join(map(json.dumps, rows)))
    assert [captions(cuts[path]) for path in ("a.wav", "b.wav", "c.wav")] == [["rain", "thunder"], [], []]
    assert [cuts[path].custom["labels"] for path in ("a.wav", "b.wav", "c.wav")] == [["dog", "cat", "cow"], ["dog"], []]
    (asked,) = [sup.custom for sup in cuts["a.wav"].supervisions if sup.custom["task"] == "question"]
    assert (asked["kind"], asked["answer"]) == ("labels", "dog; cat; cow")
    (asked,) = [sup.custom for sup in cuts["b.wav"].supervisions if sup.custom["task"] == "question"]
    assert (asked["kind"], asked["answer"]) == ("question", "A dog.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"question": "q", "answer"', "true"),
        ('"question": "q", "answer"', "2.0"),
        ('"caption"', '{"en": "fire"}'),
        ('"label"', "7"),
        ('"label"', "false"),
        ('"label"', '["dog", 7]'),
        ('"question": "q", "answer"', '["yes", "no"]'),
        ('"caption"', "Infinity"),
        ('"split"', "1"),
    ],
)
def test_a_value_that_is_no_text_is_refused_with_its_line(tmp_path: Path, field: str, value: str):
    with pytest.raises(DataError, match=r"m.jsonl, line 2: .* a text is expected"):
        read(tmp_path, "m.jsonl", f'{{"path": "a.wav"}}\n{{"path": "b.wav", {field}: {value}}}\n')


def test_null_and_nan_are_missing_and_other_columns_keep_what_was_written(tmp_path: Path):
    row = '{"path": "a.wav", "caption": NaN, "label": null, "take": 1.10, "loud": true, "gain": NaN, "at": [1, "x"]}'
    cut = read(tmp_path, "m.jsonl", row)["a.wav"]
    assert not cut.supervisions and cut.custom["labels"] == []
    assert cut.custom["metadata"] == {"take": "1.10", "loud": "true", "gain": "", "at": '[1, "x"]'}


def test_texts_that_a_program_writes_where_it_has_none_are_named(tmp_path: Path):
    for letter in "abc":
        sound(tmp_path / f"{letter}.wav", 0.05)
    rows = [
        {"path": "a.wav", "caption": "nan"},
        {"path": "b.wav", "caption": "banana"},
        {"path": "c.wav", "label": "None"},
    ]
    assert folder.prepare_folder(
        tmp_path, table(tmp_path / "m.csv", rows), tmp_path / "out", **DEFAULTS
    ).null_texts == [
        "None",
        "nan",
    ]


def test_half_of_a_character_is_refused_with_its_line(tmp_path: Path):
    with pytest.raises(DataError, match=r"m.jsonl, line 1: caption holds .* surrogate"):
        read(tmp_path, "m.jsonl", '{"path": "a.wav", "caption": "rain \\ud83d"}')
    assert captions(read(tmp_path, "m.jsonl", '{"path": "a.wav", "caption": "\\ud83d\\ude00"}')["a.wav"]) == [
        "\U0001f600"
    ]


def test_several_labels_are_one_question(tmp_path: Path):
    cuts = read(tmp_path, "m.csv", "path,label\na.wav,dog\na.wav,cat\na.wav,dog\nb.wav,dog\n")
    (asked,), (other,) = cuts["a.wav"].supervisions, cuts["b.wav"].supervisions
    assert (asked.custom["kind"], asked.custom["answer"]) == ("labels", "dog; cat")
    assert (other.custom["kind"], other.custom["answer"]) == ("class", "dog")


def test_near_values_of_a_split_are_named(tmp_path: Path):
    text = "path,fold,caption\na.wav,test,rain\nb.wav,Test,wind\nc.wav,train,fire\n"
    with pytest.raises(DataError, match=r"fold is 'test' in some rows and 'Test' in others.*--test=\[test,Test\]"):
        read(tmp_path, "m.csv", text, split_by="fold", test=["test"])
    cuts = read(tmp_path, "m.csv", text, split_by="fold", test=["test", "Test"])
    assert [cuts[f"{letter}.wav"].custom["split"] for letter in "abc"] == ["test", "test", "train"]


@pytest.mark.parametrize(
    ("written", "lies"),
    [
        (r"sub\x.wav", "sub/x.wav"),
        (unicodedata.normalize("NFC", "Glöckchen_é.wav"), unicodedata.normalize("NFD", "Glöckchen_é.wav")),
        (unicodedata.normalize("NFD", "ä/Glöckchen.wav"), unicodedata.normalize("NFC", "ä/Glöckchen.wav")),
        (" x.wav", " x.wav"),
        ("x.wav", " x.wav"),
        (" x.wav ", "x.wav"),
        (r"sub\ x.wav", "sub/x.wav"),
    ],
)
def test_a_path_is_found_as_another_system_writes_it(tmp_path: Path, written: str, lies: str):
    sound(tmp_path / lies, 0.05)
    assert list(read(tmp_path, "m.csv", f'path,caption\na.wav,x\n"{written}",rain\n')) == ["a.wav", lies]


def test_a_path_that_could_be_two_files_is_missing(tmp_path: Path):
    for name in ("x .wav", "x.wav "):
        sound(tmp_path / "sub" / name.strip(), 0.05)
    for name in (" y.wav", "  y.wav"):
        shutil.copy(tmp_path / "sub/x.wav", tmp_path / "sub" / name)
    with pytest.raises(DataError, match=r"sub/y.wav: missing"):
        read(tmp_path, "m.csv", "path,caption\na.wav,x\nsub/y.wav,rain\n")


def test_the_same_bytes_in_train_and_test_are_contamination(tmp_path: Path):
    sound(tmp_path / "a.wav")
    sound(tmp_path / "b.wav", hz=300)
    shutil.copy(tmp_path / "a.wav", tmp_path / "copy.wav")
    rows = [
        {"path": "a.wav", "split": "train"},
        {"path": "b.wav", "split": "train"},
        {"path": "copy.wav", "split": "test"},
    ]
    report, cuts = prepared(tmp_path, rows, contamination="drop")
    assert list(cuts) == ["b.wav", "copy.wav"] and [row.id for row in report.contaminated] == ["mine-a"]
    (listed,) = (tmp_path / "out/contaminated.jsonl").read_text().splitlines()
    assert json.loads(listed)["test_of"] == "out"
    assert list(prepared(tmp_path, rows, contamination="keep")[1]) == ["a.wav", "b.wav", "copy.wav"]
    with pytest.raises(DataError, match="1 training recordings are in a test split:\n  mine-a: sha256:"):
        prepared(tmp_path, rows, contamination="error")


def test_the_same_bytes_in_another_corpus_are_contamination(tmp_path: Path):
    sound(tmp_path / "a.wav")
    read(tmp_path, "m.csv", "path,split\na.wav,test\nb.wav,train\n")
    shutil.move(tmp_path / "out", tmp_path / "data/one")
    (tmp_path / "data/one/receipt.json").write_text("{}")
    metadata = table(tmp_path / "n.csv", [{"path": "a.wav", "split": "train"}, {"path": "c.wav", "split": "train"}])
    settings = DEFAULTS | {"contamination": "drop"}
    report = folder.prepare_folder(tmp_path, metadata, tmp_path / "data/two", **settings).report
    assert [(row.id, row.test_of) for row in report.contaminated] == [("mine-a", "one")] and report.recordings == 1


def test_levels_that_a_codec_cannot_use_are_named(tmp_path: Path):
    wave = tone(0.1, 8000, 1)
    soundfile.write(tmp_path / "opposite.wav", np.concatenate([wave, -wave], 1), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", wave * 32768, 8000, subtype="FLOAT")
    sound(tmp_path / "plain.wav", channels=2)
    report, _ = prepared(tmp_path, [{"path": f"{name}.wav"} for name in ("opposite", "loud", "plain")])
    assert (report.loud, report.cancelling) == (["loud.wav"], ["opposite.wav"])


def test_what_is_written_is_ascii_whatever_the_locale(tmp_path: Path):
    cuts = read(tmp_path, "m.csv", "path,caption\na.wav,Eine Glocke tönt.\n")
    assert captions(cuts["a.wav"]) == ["Eine Glocke tönt."]
    assert gzip.decompress((tmp_path / "out/cuts.jsonl.gz").read_bytes()).isascii()


@pytest.mark.parametrize(
    ("written", "lies"),
    [("Clips/A.WAV", "clips/a.wav"), (r"clips\x.WAV", "clips/x.wav"), ("GLÖCKCHEN.wav", "Glöckchen.wav")],
)
def test_a_path_in_other_letters_is_missing_and_the_near_one_is_named(tmp_path: Path, written: str, lies: str):
    sound(tmp_path / lies, 0.05)
    with pytest.raises(DataError, match=f"missing. There is {lies}: upper and lower case differ"):
        read(tmp_path, "m.csv", f"path,caption\na.wav,x\n{written},rain\n")
    with pytest.raises(DataError, match=f"holds none of the 1 .*There is {lies}: upper and lower case differ"):
        read(tmp_path, "m.csv", f"path,caption\n{written},rain\n")


def test_of_two_near_paths_none_is_named(tmp_path: Path):
    for name in ("sub/x.wav", "sub/X.wav"):
        sound(tmp_path / name, 0.05)
    with pytest.raises(DataError, match=r"X.WAV: missing\n"):
        read(tmp_path, "m.csv", "path,caption\na.wav,x\nsub/X.WAV,rain\n")


def test_a_spreadsheet_with_semicolons_is_read(tmp_path: Path):
    """As it is saved where numbers have a decimal comma: a byte order mark, Windows' line ends, and commas in its text."""
    text = '\ufeffpath;caption;label;level\r\na.wav;"rain, loud; then wind";rain;-12,5\r\nb.wav;a "short" bell;;\r\n'
    cuts = read(tmp_path, "m.csv", text)
    assert captions(cuts["a.wav"])[0] == "rain, loud; then wind" and captions(cuts["b.wav"]) == ['a "short" bell']
    assert cuts["a.wav"].custom["metadata"] == {"level": "-12,5"} and cuts["a.wav"].custom["labels"] == ["rain"]
    for row, message in (
        ("b.wav;rain; wind;;", 'line 3: 5 fields under 4 columns.*"rain; then thunder"'),
        ('b.wav;"x\nc.wav;y;;";x;', "line 3: a field in quotes goes over several lines.*row of c.wav"),
    ):
        with pytest.raises(DataError, match=message):
            read(tmp_path, "m.csv", f"path;caption;label;level\na.wav;x;;\n{row}\nd.wav;y;;\n")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", 'path,caption\na.wav, "rain"\n', "line 2: .* is quoted behind a blank"),
        ("m.csv", 'path,caption\na.wav, "rain, thunder"\n', "line 2: 3 fields .*no blank before them"),
        ("m.tsv", 'path\tcaption\na.wav\t"rain\tthunder"\n', "line 2: 3 fields .*A TSV has no quoting"),
        ("m.jsonl", '{"path": "a.wav", "caption": "x", "caption": "y"}\n', "line 1: .*'caption' comes 2 times"),
        ("m.ndjson", '{"path": "a.wav", "path": "b.wav"}\n', "line 1: .*'path' comes 2 times"),
        ("m.json", '[{"path": "a.wav"}]', "one a line, and call it .jsonl"),
        ("m.jsonl", '{\n "path": "a.wav"\n}\n', "line 1: no JSON .*One object a line is expected"),
        ("m.csv", "path,caption,label\na.wav,rain\n", "line 2: 2 fields .*Each column has a field in each row"),
        ("m.csv", "path,label\na.wav,\"['dog', 'cat']\"\n", "line 2: label is the text .*Write a row for each"),
        ("m.csv", "path,label\na.wav,\"('dog', 'cat')\"\n", "line 2: label is the text "),
        ("m.csv", "path,caption\na.wav,\"{'en': 'rain'}\"\n", "line 2: caption is the text "),
        ("m.jsonl", """{"path": "a.wav", "caption": "['rain', 'wind']"}\n""", "line 1: caption is the text "),
        ("m.jsonl", """{"path": "a.wav", "label": ["dog", "['cat']"]}\n""", "line 1: label is the text "),
        ("m.tsv", 'path\tcaption\na.wav\t["rain", "wind"]\n', "line 2: caption is the text "),
        ("m.csv", "path,caption\na.wav,ra\0in\n", "line 2: a field has a NUL"),
        ("m.csv", "path,caption\na.wav,rain\n".encode("utf-16-le").decode(), "is not UTF-8 .it has a NUL"),
        ("m.xlsx", "PK", "Save the sheet as CSV"),
        ("m.parquet", "PAR1", "stage prepare huggingface"),
    ],
)
def test_what_would_be_lost_is_refused_with_its_cure(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / "a.wav").touch()
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path, tmp_path / name)


def test_brackets_that_are_no_list_are_text_and_blank_lines_no_header(tmp_path: Path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.csv").write_text("\n,\npath,caption\na.wav,[music]\na.wav,[1]\n")
    assert [row.values["caption"] for row in read_table(tmp_path, tmp_path / "m.csv")] == ["[music]", "[1]"]


def test_a_quotation_behind_a_blank_of_a_quoted_field_is_text(tmp_path: Path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "m.csv").write_text('path,caption\na.wav," ""rain"" he said"\n')
    assert read_table(tmp_path, tmp_path / "m.csv")[0].values["caption"] == '"rain" he said'
