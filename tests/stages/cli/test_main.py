"""The command, as it is typed: one clear error and exit status 1 for a mistake, and nothing half-written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import conf
from stages import BY_NAME, ON_DEMAND, STAGES
from stages.cli.data import CORPORA
from stages.cli.main import main
from stages.launch import preflight
from tests.stages.cli.small_corpus import PREPARE, left, recordings, rewrite

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
        r"stage run tokenizer --preset smoke --preset demo --experiment=x --data\.root=d --batch_size=3 --tokenizer\.seed=4\n",
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
def test_a_mistake_has_one_clear_error(folder: Path, capsys: pytest.CaptureFixture[str], mistake: str):
    words, message = MISTAKES[mistake]
    before = left(folder)
    assert main(words.split()) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("stage: ") and printed.err.count("stage: ") == 1
    assert re.search(message, printed.err), printed.err
    assert left(folder) == before, "nothing half-written"


@pytest.mark.parametrize("words", [["run", "tokeniser"], ["rnu", "tokenizer"], ["prepare", "esc10"], []])
def test_wrong_usage_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: stage" in capsys.readouterr().err


def test_run_all_on_a_fresh_machine_says_what_is_missing_and_where_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", "all"]) == 1
    message = capsys.readouterr().err
    for name in ("openaqa", "wavcaps", "fma"):
        assert f"corpus {name} (not in data/): " in message and f"stage prepare {name} ROOT" in message
    assert (
        "github.com/YuanGongND/ltu" in message
        and "huggingface.co/datasets/cvssp/WavCaps" in message
        and "github.com/mdeff/fma" in message
    )
    assert "stabilityai/stable-audio-open-1.0" in message and "lmsys/vicuna-7b-v1.5" in message
    assert message.startswith("stage: 5 things are missing") and message.count("\n  - ") == 5
    assert message.rstrip().endswith("stage run all --preset demo")
    assert left(folder) == [], "nothing half-written"


def test_list_and_status_name_every_stage(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()[:-1]] == list(STAGES)
    assert all(corpus in listed.splitlines()[-1] for corpus in CORPORA)
    assert main(["status"]) == 0
    assert "stage run all --preset demo" in capsys.readouterr().out
    assert main(["status", "--preset", "demo"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [
        [stage, "-" if stage in ("vae", "preference", *BY_NAME) else "missing"] for stage in STAGES
    ]
    assert left(folder) == []


def test_show_names_the_layer_of_every_value(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "tokenizer", "--preset", "demo", "--encoder.depth", "3"]) == 0
    rows = {line.split()[0]: line.split(None, 1)[1] for line in capsys.readouterr().out.splitlines()}
    assert rows["encoder.depth"].split(None, 1) == ["3", "command line"]
    assert rows["encoder.width"].split() == ["128", "conf/tokenizer/demo.yaml"]
    assert rows["runs"].split() == ["runs", "conf/base.yaml"]


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


@pytest.mark.parametrize("stage", ["all", "latents"])
def test_a_corpus_under_another_data_root_is_pointed_to(folder: Path, capsys: pytest.CaptureFixture[str], stage: str):
    recordings(folder)
    words = ["run", stage, "--preset", "smoke", "--data.corpora=mine"]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "mine (not in data/smoke/): " in message and "--name=mine --data.root=data/smoke " in message
    assert main([*PREPARE, "--data.root=data"]) == 0
    assert main(words) == 1
    message = capsys.readouterr().err
    assert re.search(r"mine \(not in data/smoke/\): .*\n    it is in data/:   --data\.root=data\n", f"{message}\n"), (
        message
    )
    assert "stage prepare" not in message
    assert main(["run", stage, "--preset", "demo", "--data.corpora=mine", "--data.root=elsewhere/deep"]) == 1
    assert "--data.root=data\n" in f"{capsys.readouterr().err}\n", "data/ is always looked in"
    (folder / "data").rename(folder / "smoke")
    (folder / "data").mkdir()
    (folder / "smoke").rename(folder / "data" / "smoke")
    assert main(["run", stage, "--preset", "demo", "--data.corpora=mine"]) == 1
    assert "--data.root=data/smoke\n" in f"{capsys.readouterr().err}\n"


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
    "no label": (
        "path,caption,split\n0.wav,low,train\n1.wav,mid,test\n2.wav,high,train\n",
        ["--openaqa.mixture.examples=1", "--openaqa.mixture.sound_to_text=0", "--openaqa.mixture.question=0", "--openaqa.mixture.conversation=0"],
        [r"openaqa: no training recording has a label \(column label\)"],
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
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, counted: bool
):
    table, words, lacks = LACKING[name]
    recordings(folder)
    (folder / "in" / "m.csv").write_text(table)
    assert main(PREPARE) == 0
    receipt = folder / "data" / "mine" / "receipt.json"
    if not counted:
        receipt.write_text(json.dumps({k: v for k, v in json.loads(receipt.read_text()).items() if k != "contents"}))
    before = left(folder)
    capsys.readouterr()
    assert main([*ALL, *words]) == 1
    message = capsys.readouterr().err
    assert re.search(
        "\n  - ".join(["mine cannot go through the whole chain:", *lacks]) + "\nWhere the CSV changes", message
    ), message
    assert left(folder) == before, "no stage was begun"


def test_a_stage_that_is_taken_from_elsewhere_needs_nothing_of_the_corpora(folder: Path):
    recordings(folder)
    (folder / "in" / "m.csv").write_text("path,label\n0.wav,low\n1.wav,mid\n")
    assert main(PREPARE) == 0

    def require(*taken: str) -> None:
        overrides = [*ALL[4:], *(f"parents.{stage}=other" for stage in taken)]
        overrides = conf.parse_overrides(overrides)
        confs = {stage: conf.compose(stage, ["smoke"], [], overrides, shared=True).conf for stage in STAGES}
        confs = {stage: one for stage, one in confs.items() if stage not in ON_DEMAND}
        preflight.require(confs, ["smoke"], [], overrides)

    for taken in (["caption", "evaluate"], ["cache"], ["latents"]):
        require(*taken)
    with pytest.raises(ValueError, match=r"chain:\n  - evaluate: "):
        require("caption")


def test_an_experiment_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["status", "--experiment=nope"]) == 1
    assert capsys.readouterr().err == "stage: no experiment 'nope' in runs/. There are: none\n"
    for name in "ab":
        (folder / "runs" / name).mkdir(parents=True)
    assert main(["status", "--experiment=nope", "--preset", "demo"]) == 1
    assert capsys.readouterr().err == "stage: no experiment 'nope' in runs/. There are: a, b\n"


def test_one_thing_is_missing_and_short_recordings_are_said(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(ALL) == 1
    assert capsys.readouterr().err.startswith("stage: 1 thing is missing:\n  - corpus mine ")
    recordings(folder)
    rewrite(folder / "in" / "0.wav", 0.09)
    assert main(PREPARE) == 0
    assert "mine: 1 recordings are shorter than 0.1 s" in capsys.readouterr().err
