"""The tests under other rounding and other luck: `python -m tests.portable [--only NAME ...] [pytest arguments]`.

Each variation is a separate run of pytest. A test whose outcome differs from the plain run depends on the processor, on the number of threads, on a
seed, on the environment or on the folder: it is printed, and the exit status is 1. The exit status is also 1 where the plain run fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


class Variation(NamedTuple):
    changes: str  # printed beside the outcomes
    environment: dict[str, str]
    folder: Callable[[Path], Path] | None = None  # makes the folder that pytest is started in; None: the project's


def used_folder(temporary: Path) -> Path:
    """A folder where the chain has run before, as the experiments `demo` and `main`, with data/ and runs/; home/ has the user's cache."""
    folder = temporary / "used"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "home/.cache").mkdir(parents=True)
    (folder / "home/.cache/make-some-noise").symlink_to(
        Path(os.environ.get("MSN_CACHE") or Path.home() / ".cache/make-some-noise").expanduser().absolute()
    )
    arguments = ["run", "all", "--preset", "smoke", "--data.root=data", "--experiment=demo", "--threads=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "stages.cli", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    (folder / "runs/main").symlink_to("demo")
    return folder


# Variables that a cluster's job, a launcher of ranks and a user of the Hugging Face Hub leave in the environment.
JOB = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_JOB_END_TIME": "1"} | {
    "RANK": "3", "LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere", "MSN_PRECISION": "/=bf16-mixed",
}  # fmt: skip

VARIATIONS = {
    "plain": Variation("nothing", {}),
    "one-thread": Variation("one thread", {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
    "four-threads": Variation(
        "four threads", {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}
    ),
    "cpu-default": Variation("kernels for any processor", {"ATEN_CPU_CAPABILITY": "default"}),
    "cpu-avx2": Variation("kernels for AVX2", {"ATEN_CPU_CAPABILITY": "avx2"}),
    "mkl-compatible": Variation("MKL's kernels for any processor", {"MKL_CBWR": "COMPATIBLE"}),
    "onednn-off": Variation("oneDNN off", {"MSN_TESTS_ONEDNN": "off", "ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "seeds-1": Variation("every seed of the tests + 1,000", {"MSN_TESTS_SEED_OFFSET": "1000"}),
    "seeds-2": Variation("every seed of the tests + 77,777", {"MSN_TESTS_SEED_OFFSET": "77777"}),
    "seeds-all": Variation(
        "every seed of tests, models and stages + 4,242", {"MSN_TESTS_SEED_OFFSET": "4242", "MSN_TESTS_SEEDS": "all"}
    ),
    "used-folder": Variation("started where the chain has run before, in a job's environment", JOB, used_folder),
}


def outcomes(report: Path) -> dict[str, str]:
    """Test -> passed, failed or skipped, of a JUnit report of pytest."""
    outcome = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        this = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome[name] = "failed" if outcome.get(name) == "failed" else this
    return outcome


def run(name: str, arguments: Sequence[str], temporary: Path, limit: float) -> dict[str, str]:
    """The outcomes of one variation. NAME.txt gets pytest's output. Raises RuntimeError where there is no report after `limit` seconds."""
    variation = VARIATIONS[name]
    folder = variation.folder(temporary) if variation.folder else ROOT
    report, printed = temporary / f"{name}.xml", temporary / f"{name}.txt"
    report.unlink(missing_ok=True)
    given = [str(ROOT / argument) if (ROOT / argument.split("::")[0]).exists() else argument for argument in arguments]
    if not any((ROOT / argument.split("::")[0]).exists() for argument in arguments):
        given.append(str(ROOT / "tests"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MSN_TESTS_")}
    environment = inherited | {"PYTHONPATH": str(ROOT)} | variation.environment
    if folder != ROOT:
        environment |= {"HOME": str(folder / "home")}
        environment.pop("MSN_CACHE", None)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-p", "tests.other_luck", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
    with printed.open("w") as file, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, f"--junitxml={report}", *given],
            cwd=folder,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=limit,
        )
    if not report.is_file():
        raise RuntimeError(f"pytest made no report\n{printed.read_text()[-2000:]}")
    return outcomes(report)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.portable", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[name for name in VARIATIONS if name != "plain"],
        metavar="NAME",
        help=f"{', '.join(VARIATIONS)}; again for more",
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep pytest's reports and output there")
    parser.add_argument(
        "--limit", type=float, default=3600, metavar="SECONDS", help="end a variation after this time (3600)"
    )
    options, rest = parser.parse_known_args(argv)
    names = ["plain", *(options.only or [name for name in VARIATIONS if name != "plain"])]
    status, plain = 0, {}
    with tempfile.TemporaryDirectory() as scratch:
        temporary = (options.keep or Path(scratch)).absolute()
        temporary.mkdir(parents=True, exist_ok=True)
        for name in names:
            started = time.monotonic()
            try:
                outcome = run(name, rest, temporary, options.limit)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                print(f"{name:<16} {error}", flush=True)
                status = 1
                if name == "plain":
                    break
                continue
            plain = plain or outcome
            failed = [test for test, result in outcome.items() if result == "failed"] if name == "plain" else []
            other = {
                test: (plain.get(test, "missing"), outcome.get(test, "missing"))
                for test in {**plain, **outcome}
                if plain.get(test) != outcome.get(test)
            }
            counts = ", ".join(
                f"{list(outcome.values()).count(kind)} {kind}" for kind in ("passed", "failed", "skipped")
            )
            seconds = f"{time.monotonic() - started:.0f} s"
            print(f"{name:<16} {counts}; {len(other)} differ; {seconds}   ({VARIATIONS[name].changes})")
            for test in failed:
                print(f"    {test}: failed")
            for test, (before, after) in sorted(other.items()):
                print(f"    {test}: {before} -> {after}")
            sys.stdout.flush()
            status = status or int(bool(failed or other))
    return status


if __name__ == "__main__":
    sys.exit(main())
