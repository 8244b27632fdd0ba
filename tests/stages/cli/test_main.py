"""The command, as it is typed: one clear error and exit status 1 for a mistake, and nothing half-written."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import conf
from stages import BY_NAME, STAGES
from stages.cli.data import CORPORA
from stages.cli.main import main
from stages.launch import preflight
from stages.runs import corpora


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no asset in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def left(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def recordings(place: Path) -> None:
    (place / "in").mkdir()
    for number in range(3):
        wave = 0.3 * np.sin(np.arange(4000) * 0.1 * (number + 1))
        soundfile.write(place / "in" / f"{number}.wav", wave, 8000)
    (place / "in" / "m.csv").write_text("path,caption,split\n0.wav,low,train\n1.wav,middle,val\n2.wav,high,test\n")


PREPARE = ["prepare", "folder", "in", "--metadata", "in/m.csv", "--name", "mine"]

MISTAKES = {
    "unknown key": ("run tokenizer --trainer.max_step=3", r"command line: .*max_step.*max_steps"),
    "unknown key, all": ("run all --trainer.max_step=3", r"no stage has a key 'trainer\.max_step'.*trainer\.max_steps"),
    "wrong type": ("run tokenizer --trainer.max_steps=few", r"command line: trainer\.max_steps: .*'few'"),
    "wrong type, all": ("run all --preset demo seed=x", r"command line: seed: .*'x'"),
    "a word that is none": ("run tokenizer demo", r"cannot read 'demo'"),
    "unknown preset": ("run all --preset dmeo", r"--preset dmeo: no such preset\. Did you mean 'demo'\?"),
    "no such file": ("show tokenizer --conf gone.yaml", r"--conf gone\.yaml: no such file"),
    "missing corpus": (
        "run latents --preset demo --data.corpora=mine",
        r"'mine'.*\nmine \(not in data/\)(.*\n)+.*stage prepare folder ROOT",
    ),
    "missing corpus, all": (
        "run all --preset demo --data.corpora=mine",
        r"corpus mine \(not in data/\)(.*\n)+.*stage prepare folder ROOT",
    ),
    "missing parent": ("run tokenizer --preset demo", r"needs latents.*\n.*stage run latents --preset demo\n"),
    "its parent": ("run openaqa --experiment=x", r"openaqa needs tokenizer.*\n.*stage run tokenizer --experiment=x"),
    "missing parent, all that was typed": (
        "run cache --preset smoke --preset demo --experiment=x --data.root=d --batch_size=3 --tokenizer.seed=4 --latents.seed=5",
        r"stage run latents --preset smoke --preset demo --experiment=x --data\.root=d --batch_size=3 --latents\.seed=5\n",
    ),
    "a parent elsewhere": (
        "run tokenizer --preset demo --parents.latents=x",
        r"runs/x/latents has no finished run .*is x misspelt",
    ),
    "no such folder": ("prepare folder gone --metadata=m.csv", r"gone: no such folder"),
    "no metadata": (
        "prepare folder .",
        r"give --metadata FILE\.csv, as\n.*--name=mine .*columns: path, and caption, label",
    ),
    "no root": (
        "prepare folder --metadata=m.csv --name=x",
        r"give ROOT, the folder.*\n.*folder ROOT --metadata FILE\.csv --name=x",
    ),
    "an experiment that is a path": (
        "run latents --experiment=my/../x",
        r"experiment: 'my/\.\./x' names a folder",
    ),
    "no such precision": (
        "run latents --trainer.precision=fp32",
        r"command line: trainer\.precision: .*'fp32'.*32-true",
    ),
    **{
        f"weights in {precision}": (
            f"run caption --trainer.precision={precision}",
            rf"trainer\.precision: {precision}; auto, 32-true, bf16-mixed, 16-mixed are allowed.*=bf16-mixed",
        )
        for precision in ("bf16-true", "16-true", "64-true")
    },
    "keys for a verb without": ("list --seed=1", r"takes no configuration"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_has_one_clear_error(place: Path, capsys: pytest.CaptureFixture[str], mistake: str):
    words, said = MISTAKES[mistake]
    before = left(place)
    assert main(words.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("stage: ") and printed.err.count("stage: ") == 1
    assert re.search(said, printed.err), printed.err
    assert left(place) == before, "nothing half-written"


@pytest.mark.parametrize("words", [["run", "tokeniser"], ["rnu", "tokenizer"], ["prepare", "esc10"], []])
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: stage" in capsys.readouterr().err


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


SPOILED = {
    "an empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "in: the folder is empty"),
    "no recordings": (
        lambda folder: [path.unlink() for path in folder.glob("*.wav")],
        "in holds none of the 3 recordings",
    ),
    "no path": (
        lambda folder: (folder / "m.csv").write_text("file\n0.wav\n"),
        r"m\.csv: no column 'path'\. It has file",
    ),
    "no rows": (lambda folder: (folder / "m.csv").write_text("path\n"), r"m\.csv: no rows"),
    "missing": (lambda folder: (folder / "1.wav").unlink(), r"1 of 3 .*\n  1\.wav: missing\n.*--data\.on_bad=skip"),
    "silent": (lambda folder: soundfile.write(folder / "2.wav", np.zeros(4000), 8000), r"1 of 3 .*\n  2\.wav: silent"),
    "truncated": (lambda folder: halve(folder / "0.wav"), r"1 of 3 .*\n  0\.wav: truncated"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_bad_recordings_are_refused_whole(place: Path, capsys: pytest.CaptureFixture[str], name: str):
    spoil, said = SPOILED[name]
    recordings(place)
    spoil(place / "in")
    before = left(place)
    assert main(PREPARE) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("stage: ") and "Traceback" not in printed.err
    assert re.search(said, printed.err), printed.err
    assert left(place) == before, "nothing half-written"


def test_skip_goes_on_and_says_how_many(place: Path, capsys: pytest.CaptureFixture[str]):
    recordings(place)
    (place / "in" / "1.wav").unlink()
    assert main([*PREPARE, "--data.on_bad=skip"]) == 0
    printed = capsys.readouterr()
    assert "1 recordings were left out" in printed.err and "1.wav: missing" in printed.err
    assert "2 recordings (1 train, 1 test)" in printed.out


def test_a_long_list_of_bad_recordings_is_cut_and_its_file_named(place: Path, capsys: pytest.CaptureFixture[str]):
    recordings(place)
    gone = [f"gone-{number}.wav" for number in range(23)]
    with (place / "in" / "m.csv").open("a") as file:
        file.writelines(f"{name},none,train\n" for name in gone)
    listed = place / "data/mine/missing.jsonl"
    for words in (PREPARE, [*PREPARE, "--data.on_bad=skip"]):
        listed.unlink(missing_ok=True)
        assert main(words) == (words is PREPARE)
        printed = "".join(capsys.readouterr())
        assert "  gone-19.wav: missing\n  and 3 more" in printed and "data/mine/missing.jsonl" in printed
        assert [json.loads(line) for line in listed.read_text().splitlines()] == [
            {"path": name, "reason": "missing"} for name in gone
        ]
    (place / "in" / "m.csv").write_text("path,caption,split\n0.wav,low,train\n")
    assert main(PREPARE) == 0 and not listed.exists(), "nothing is missing any more"


def test_what_was_understood_of_the_table_is_said(place: Path, capsys: pytest.CaptureFixture[str]):
    recordings(place)
    (place / "in" / "m.csv").write_text(
        "path,captions,label,description,split\n0.wav,low,l,1,Training\n1.wav,middle,m,2,TRAIN\n2.wav,high,,3,eval\n"
    )
    assert main([*PREPARE, "--validation_fraction=0"]) == 0
    printed = capsys.readouterr().out
    assert "found 0 captions, 2 labels, 0 questions, 0 conversations\n" in printed
    assert printed.count("did you mean") == 1
    assert "column `captions` is kept and not read; did you mean `caption`?\n" in printed
    assert "column split: training -> train: 1, eval -> test: 1\n" in printed
    assert "for validation" not in printed, "none was asked for"
    assert "replaces" not in printed


def test_an_earlier_corpus_of_the_name_is_said_to_be_replaced(place: Path, capsys: pytest.CaptureFixture[str]):
    recordings(place)
    assert main(PREPARE) == 0 and "replaces" not in capsys.readouterr().out
    (place / "in").rename(place / "other")
    assert main([word.replace("in", "other") if word.startswith("in") else word for word in PREPARE]) == 0
    assert f"it replaces one of 3 recordings, prepared from {place / 'in'}\n" in capsys.readouterr().out


def test_recordings_are_prepared(place: Path, capsys: pytest.CaptureFixture[str]):
    recordings(place)
    assert main(PREPARE) == 0
    assert "mine" in capsys.readouterr().out
    assert sorted(path.name for path in (place / "data" / "mine").iterdir()) == ["cuts.jsonl.gz", "receipt.json"]


@pytest.mark.parametrize("value", ["1.10", "01", "2024_01_05", "on", "null", "1e3", "0x10"])
def test_a_value_is_the_text_that_was_typed(place: Path, value: str):
    recordings(place)
    (place / "in" / "m.csv").write_text(f"path,caption,take\n0.wav,low,1.1\n1.wav,middle,{value}\n2.wav,high,1\n")
    typed = ["--split_by", "take", "--test", value, "--name", value, "--validation_fraction=0"]
    assert main(["prepare", "folder", "in", "--metadata", "in/m.csv", *typed]) == 0
    name = "in" if value == "null" else value  # null is no name: the folder's
    with gzip.open(place / "data" / name / "cuts.jsonl.gz", "rt") as file:
        cuts = list(map(json.loads, file))
    assert [cut["supervisions"][0]["text"] for cut in cuts if cut["custom"]["split"] == "test"] == ["middle"]


def test_run_all_on_a_fresh_machine_says_what_is_missing_and_where_it_is(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", "all"]) == 1
    said = capsys.readouterr().err
    for name in ("openaqa", "wavcaps", "fma"):
        assert f"corpus {name} (not in data/): " in said and f"stage prepare {name} ROOT" in said
    assert (
        "github.com/YuanGongND/ltu" in said
        and "huggingface.co/datasets/cvssp/WavCaps" in said
        and "github.com/mdeff/fma" in said
    )
    assert "stabilityai/stable-audio-open-1.0" in said and "lmsys/vicuna-7b-v1.5" in said
    assert said.startswith("stage: 5 things are missing") and said.count("\n  - ") == 5
    assert said.rstrip().endswith("stage run all --preset demo")
    assert left(place) == [], "nothing half-written"


def test_list_and_status_name_every_stage(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == list(STAGES)
    assert all(corpus in listed.splitlines()[-1] for corpus in CORPORA)
    assert main(["status"]) == 0
    assert "stage run all --preset demo" in capsys.readouterr().out
    assert main(["status", "--preset", "demo"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        [stage, "-" if stage in ("vae", *BY_NAME) else "missing"] for stage in STAGES
    ]
    assert left(place) == []


def test_show_names_the_layer_of_every_value(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "tokenizer", "--preset", "demo", "--encoder.depth", "3"]) == 0
    rows = {line.split()[0]: line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()}
    assert rows["encoder.depth"].split(None, 1) == ["3", "command line"]
    assert rows["encoder.width"].split() == ["128", "conf/tokenizer/demo.yaml"]
    assert rows["runs"].split() == ["runs", "conf/base.yaml"]


def test_help_and_show_say_what_preparing_takes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["prepare", "folder", "--help"])
    explained = {line.split()[0] for line in capsys.readouterr().out.splitlines() if re.match(r"  \w[\w.]+ ", line)}
    keys = set(conf.compose("folder").origins) - {"root", "data.corpora"}
    assert keys <= explained, "root is the argument ROOT"
    assert main(["show", "folder"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["metadata"][1] == rows["root"][1] == "null" and rows["validation_fraction"][1] == "0.1"


def test_the_process_ends_with_the_status():
    """As a user sees it: one line, no traceback, 1, and nothing on standard output."""
    words = [sys.executable, "-m", "stages.cli.main", "run", "tokenizer", "--seed=x"]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("stage: command line: seed: ")


def test_a_reader_that_has_read_enough_ends_the_command_in_silence():
    command = f"{sys.executable} -m stages.cli.main show tokenizer | head -n 1"
    done = subprocess.run(command, shell=True, cwd=Path(__file__).parents[3], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_a_recording_that_broke_since_it_was_prepared_ends_the_run_before_it_writes(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    recordings(place)
    assert main(PREPARE) == 0
    halve(place / "in" / "0.wav")
    capsys.readouterr()
    before = left(place)
    assert main(["run", "latents", "--preset", "demo", "--data.corpora=mine"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"1 of 3 recordings cannot be used:\n.*0\.wav: truncated", said), said
    assert left(place) == before


@pytest.mark.parametrize("stage", ["all", "latents"])
def test_a_corpus_under_another_data_root_is_pointed_to(place: Path, capsys: pytest.CaptureFixture[str], stage: str):
    recordings(place)
    words = ["run", stage, "--preset", "smoke", "--data.corpora=mine"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "mine (not in data/smoke/): " in said and "--name=mine --data.root=data/smoke " in said
    assert main([*PREPARE, "--data.root=data"]) == 0
    assert main(words) == 1
    said = capsys.readouterr().err
    assert re.search(r"mine \(not in data/smoke/\): .*\n    it is in data/:   --data\.root=data\n", f"{said}\n"), said
    assert "stage prepare" not in said
    assert main(["run", stage, "--preset", "demo", "--data.corpora=mine", "--data.root=elsewhere/deep"]) == 1
    assert "--data.root=data\n" in f"{capsys.readouterr().err}\n", "data/ is always looked in"
    (place / "data").rename(place / "smoke")
    (place / "data").mkdir()
    (place / "smoke").rename(place / "data" / "smoke")
    assert main(["run", stage, "--preset", "demo", "--data.corpora=mine"]) == 1
    assert "--data.root=data/smoke\n" in f"{capsys.readouterr().err}\n"


def rewrite(path: Path, seconds: float, rate: int = 8000, size: int | None = None) -> None:
    """Another sound in its place, padded to `size` bytes where that is given."""
    soundfile.write(path, 0.3 * np.sin(np.arange(int(seconds * rate)) * 0.1), rate)
    if size:
        assert path.stat().st_size < size
        with path.open("ab") as file:
            file.write(bytes(size - path.stat().st_size))


REPLACED = {
    "another size": (lambda path: rewrite(path, 0.31), r"has changed since prepare: 0\.31 s, was 0\.50 s"),
    "the same size": (
        lambda path: rewrite(path, 0.31, size=path.stat().st_size),
        r"has changed since prepare: 0\.31 s, was 0\.50 s",
    ),
    "another rate": (
        lambda path: rewrite(path, 0.5, 16000),
        "has changed since prepare: 16000 Hz and 1 channels, was 8000 Hz and 1 channels",
    ),
}


@pytest.mark.parametrize("rendered", [False, True], ids=["found", "rendered"])
@pytest.mark.parametrize("how", REPLACED)
def test_a_recording_of_another_length_is_found_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], how: str, rendered: bool
):
    """rendered: the project's own corpora keep no file sizes."""
    recordings(place)
    assert main(PREPARE) == 0
    if rendered:
        forget_sizes(place / "data" / "mine" / "cuts.jsonl.gz")
    spoil, said = REPLACED[how]
    spoil(place / "in" / "0.wav")
    capsys.readouterr()
    before = left(place)
    words = ["run", "latents", "--preset", "smoke", "--data.root=data", "--data.corpora=mine"]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert re.search(rf"1 of 3 recordings cannot be used:\n.*0\.wav: {said}\n", printed), printed
    assert left(place) == before
    skipped = corpora.recordings("latents", conf.compose("latents", overrides=[*SKIP]).conf.data)
    assert re.search(rf"1 of 3 recordings are left out.*\n.*0\.wav: {said}\n", capsys.readouterr().err)
    assert [cut.id for cut in skipped.cuts] == ["mine-1", "mine-2"]


SKIP = ("data.corpora=mine", "data.on_bad=skip")


def forget_sizes(path: Path) -> None:
    with gzip.open(path, "rt") as file:
        cuts = [json.loads(line) for line in file]
    for cut in cuts:
        del cut["custom"]["size"]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in cuts)


ALL = ["run", "all", "--preset", "smoke", "--data.root=data", "--data.corpora=mine"]
LACKING = {
    "no caption": (
        "path,label,split\n0.wav,low,train\n1.wav,mid,test\n2.wav,high,train\n",
        [],
        [r"caption: no training recording has a caption \(column caption\)"],
    ),
    "nothing said": (
        "path,caption,split\n0.wav,,train\n1.wav,mid,test\n2.wav,,train\n",
        [],
        [
            "caption: .*",
            r"openaqa: .* a caption \(column caption\) or a question \(columns question and answer, or label\) "
            r"or a conversation \(column conversation\)",
        ],
    ),
    "no test": ("path,caption\n0.wav,low\n1.wav,mid\n2.wav,high\n", [], [r"evaluate: .*split test.*column split.*--split_by.*"]),
    "other kinds": (
        "path,caption,label,split\n0.wav,low,a,train\n1.wav,mid,b,test\n2.wav,high,c,train\n",
        ["--openaqa.kinds=[order,class]"],
        [r"openaqa: no question is of the kinds order; there are class\. --openaqa\.kinds=\[\] takes all"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "an older receipt"])
@pytest.mark.parametrize("name", LACKING)
def test_run_all_asks_first_whether_every_stage_has_something(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, counted: bool
):
    table, words, lacks = LACKING[name]
    recordings(place)
    (place / "in" / "m.csv").write_text(table)
    assert main(PREPARE) == 0
    receipt = place / "data" / "mine" / "receipt.json"
    if not counted:
        receipt.write_text(json.dumps({k: v for k, v in json.loads(receipt.read_text()).items() if k != "contents"}))
    before = left(place)
    capsys.readouterr()
    assert main([*ALL, *words]) == 1
    said = capsys.readouterr().err
    assert re.search(
        "\n  - ".join(["mine cannot go through the whole chain:", *lacks]) + "\nWhere the CSV changes", said
    ), said
    assert left(place) == before, "no stage was begun"


def test_a_stage_that_is_taken_from_elsewhere_needs_nothing_of_the_corpora(place: Path):
    recordings(place)
    (place / "in" / "m.csv").write_text("path,label\n0.wav,low\n1.wav,mid\n")
    assert main(PREPARE) == 0

    def require(*taken: str) -> None:
        overrides = [*ALL[4:], *(f"parents.{stage}=other" for stage in taken)]
        overrides = conf.parse_overrides(overrides)
        confs = {stage: conf.compose(stage, ["smoke"], [], overrides, shared=True).conf for stage in STAGES}
        preflight.require(confs, ["smoke"], [], overrides)

    for taken in (["caption", "evaluate"], ["cache"], ["latents"]):
        require(*taken)
    with pytest.raises(ValueError, match=r"chain:\n  - evaluate: "):
        require("caption")


def test_a_receipt_counts_what_is_said(place: Path):
    recordings(place)
    (place / "in" / "m.csv").write_text(
        "path,caption,label,question,answer,split\n0.wav,a,low,,,train\n0.wav,b,,Is it?,yes,train\n1.wav,,,,,test\n"
    )
    assert main(PREPARE) == 0
    said = json.loads((place / "data" / "mine" / "receipt.json").read_text())["contents"]
    assert said["train"] == {
        "recordings": 1,
        "captions": 2,
        "questions": {"class": 1, "question": 1},
        "conversations": 0,
    }
    assert said["test"] == {"recordings": 1, "captions": 0, "questions": {}, "conversations": 0}


@pytest.mark.parametrize("splits", [("train", "train", "train"), ("train", "val", "test"), ("", "", "test")], ids=str)
def test_a_split_without_recordings_is_said(place: Path, capsys: pytest.CaptureFixture[str], splits: tuple[str, ...]):
    recordings(place)
    rows = [f"{number}.wav,a,{split}\n" for number, split in enumerate(splits)]
    (place / "in" / "m.csv").write_text("".join(["path,caption,split\n", *rows]))
    assert main(PREPARE) == 0
    printed = capsys.readouterr().out
    assert ("no recording is for validation: " in printed) == (splits[1] == "train")
    assert ("no recording is for test: " in printed) == ("test" not in splits)


def test_an_experiment_that_is_not_there(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", "--experiment=nope"]) == 1
    assert capsys.readouterr().err == "stage: no experiment 'nope' in runs/. There are: none\n"
    for name in "ab":
        (place / "runs" / name).mkdir(parents=True)
    assert main(["status", "--experiment=nope", "--preset", "demo"]) == 1
    assert capsys.readouterr().err == "stage: no experiment 'nope' in runs/. There are: a, b\n"


def test_one_thing_is_missing_and_short_recordings_are_said(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(ALL) == 1
    assert capsys.readouterr().err.startswith("stage: 1 thing is missing:\n  - corpus mine ")
    recordings(place)
    rewrite(place / "in" / "0.wav", 0.09)
    assert main(PREPARE) == 0
    assert "mine: 1 recordings are shorter than 0.1 s" in capsys.readouterr().err
