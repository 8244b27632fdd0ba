"""`stage sweep`: every combination is an experiment of its own; what is done is passed, and a table shows them all."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import conf
from conf.errors import UsageError
from stages.cli.main import main
from stages.cli.sweep import combinations
from stages.launch.local import environment
from stages.runs import receipts
from tests.conftest import SMOKE
from tests.stages.runs.written_experiment import WrittenExperiment

GRID = ("--grid=rate.token_rate=5,10", "--grid=quantizer.kind=vq,fsq")
NAMES = [f"swept-token_rate_{rate}-kind_{kind}" for rate in (5, 10) for kind in ("vq", "fsq")]
PATIENCE = 120.0


def test_combinations_are_a_product_with_names_that_tell_them_apart():
    points = combinations(["a.rate=1,2", "b.rate=null", "strides=[4,2,1],[2,1]", "x.file=~/my data/a.yaml"], "main")
    assert [point.keys for point in points] == [
        [f"a.rate={rate}", "b.rate=null", f"strides={strides}", "x.file=~/my data/a.yaml"]
        for rate in (1, 2)
        for strides in ("[4,2,1]", "[2,1]")
    ]
    assert points[0].experiment == "main-a.rate_1-b.rate_null-strides__4_2_1_-file__my_data_a.yaml"
    assert len({point.experiment for point in points}) == 4


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["rate"], "type --grid KEY=VALUE,VALUE"),
        (["rate="], "type --grid KEY=VALUE,VALUE"),
        (["a=1", "a=2"], "--grid a comes twice"),
        (["a=1,1"], "a value comes twice"),
        (["a=x:y,x/y"], "two combinations would be one experiment"),
        (["experiment=a,b"], "is an experiment of its own"),
        (["parents.latents=a,b"], "from the same parents"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid: list[str], message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        combinations(grid, "main")


def test_a_wrong_value_is_known_before_the_first_one_runs(stage, tones: Path, capsys):
    assert stage("sweep", "tokenizer", "--experiment=wrong", "--grid=quantizer.kind=vq,fsk") == 1
    assert "fsk" in capsys.readouterr().err
    assert stage("sweep", "tokenizer", "--experiment=wrong", "--grid=seed=1,2", "--slurm.partition=a") == 1
    assert "--slurm.partition=a is for jobs: type --submit too" in capsys.readouterr().err
    assert not list((tones / "runs").glob("wrong*"))


def test_as_jobs_each_has_a_script_of_its_own(stage, copy_of_whole, tones: Path, capsys):
    copy_of_whole("jobs", "latents")
    words = ["--rate.token_rate=null", "--grid=rate.bitrate=100,230"]  # no rate at all, but for the grid's
    assert stage("sweep", "tokenizer", "--experiment=jobs", *words, "--dry-run", "--slurm.partition=gpu") == 0
    assert "--experiment=jobs-bitrate_230 " in capsys.readouterr().out
    words = [word.replace("swept", "jobs") for word in GRID]
    assert stage("sweep", "tokenizer", "--experiment=jobs", *words, "--dry-run", "--slurm.partition=gpu") == 0
    printed = capsys.readouterr().out
    for name in NAMES:
        name = name.replace("swept", "jobs")
        (line,) = re.findall(rf"^srun .*--experiment={re.escape(name)} .*$", printed, re.MULTILINE)
        rate, kind = re.fullmatch(r"jobs-token_rate_(\d+)-kind_(\w+)", name).groups()
        assert f"--rate.token_rate={rate}" in line and f"--quantizer.kind={kind}" in line
        assert "--parents.latents=jobs" in line and "--preset smoke" in line
    assert printed.count("#SBATCH --partition=gpu") == 4
    assert [path.name for path in (tones / "runs").glob("jobs*")] == ["jobs"], "nothing was begun"


def test_compare_of_several_has_a_column_each(tmp_path: Path, capsys):
    house = WrittenExperiment(tmp_path)
    for number, seed in enumerate((0, 4, 4)):
        house.make("latents", f"of {number}", f"experiment=e{number}", f"seed={seed}")
    house.make("vae", "v", "experiment=e2")
    house.make("vae", "w", "experiment=e1", "seed=7")
    assert main(["compare", "e0", "e1", "e2", "--runs", str(house.root / "runs")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "| stage | configuration | e0 | e1 | e2 |" in printed
    assert "| latents | seed | 0 | 4 | 4 |" in printed
    assert "| vae | seed | \N{EN DASH} | 7 | 0 |" in printed and "vae is in e1, e2 alone" in printed


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_passes_what_is_done(tones: Path, copy_of_whole):
    copy_of_whole("swept", "latents")
    runs = tones / "runs"
    words = [sys.executable, "-m", "stages.cli.main", "sweep", "tokenizer", "--experiment=swept", *SMOKE, GRID[1]]
    names = ["swept-kind_vq", "swept-kind_fsq"]
    settings = {"cwd": tones, "env": {**os.environ, **environment()}, "text": True}
    first = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, **settings)
    end = time.monotonic() + PATIENCE
    while not (runs / names[1] / "tokenizer").is_dir():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert receipts.read(runs / names[0] / "tokenizer") and not receipts.read(runs / names[1] / "tokenizer")
    before = (runs / names[0] / "tokenizer/receipt.json").read_bytes()
    done = subprocess.run(words, capture_output=True, **settings)
    assert done.returncode == 0, done.stderr
    assert (runs / names[0] / "tokenizer/receipt.json").read_bytes() == before
    assert re.search(r"swept-kind_vq:\ntokenizer +done \(", done.stdout)
    table = done.stdout[done.stdout.index("| stage | configuration |") :]
    assert "| tokenizer | quantizer.kind | vq | fsq |" in table and "| tokenizer | val/latent_nmse | " in table
    kinds = {receipts.read(runs / name / "tokenizer")["conf"]["quantizer"]["kind"] for name in names}
    assert kinds == {"vq", "fsq"} and conf.compose("tokenizer").conf.quantizer.kind in kinds
