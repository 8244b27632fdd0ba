"""The tests under other rounding and other luck: `python -m tests.portable [--only NAME ...] [words for pytest]`.

Each variation is a run of pytest of its own. What ends otherwise than in the plain run hangs on the processor, on the number of threads, on a seed or on
what lies in the folder, and is printed; the exit status is 1 then, or where the plain run fails.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


class Variation(NamedTuple):
    changes: str  # what it changes, for people
    environment: dict[str, str]
    folder: Callable[[Path], Path] | None = None  # makes the folder that pytest is started in; None: the project's own


def used_folder(temporary: Path) -> Path:
    """A folder and a HOME in which the chain has run before, as the experiments `demo` and `main`, under the default folders' names."""
    folder = temporary / "used"
    (folder / "home").mkdir(parents=True)
    words = ["run", "all", "--preset", "smoke", "--data.root=data", "--experiment=demo", "--threads=1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "stages.cli", *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    (folder / "runs/main").symlink_to("demo")
    return folder


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
    "used-folder": Variation("started where the chain has run before", {}, used_folder),
}


def outcomes(report: Path) -> dict[str, str]:
    """Test -> passed, failed or skipped, of a JUnit report of pytest."""
    found = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        word = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = "failed" if found.get(name) == "failed" else word
    return found


def run(name: str, words: Sequence[str], temporary: Path) -> dict[str, str]:
    """The outcomes of one variation. Raises RuntimeError, with what pytest said, where it made no report."""
    variation = VARIATIONS[name]
    folder = variation.folder(temporary) if variation.folder else ROOT
    report = temporary / f"{name}.xml"
    report.unlink(missing_ok=True)
    given = [str(ROOT / word) if (ROOT / word.split("::")[0]).exists() else word for word in words]
    if not any((ROOT / word.split("::")[0]).exists() for word in words):
        given.append(str(ROOT / "tests"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variation.environment
    if folder != ROOT:
        cache = os.environ.get("MSN_CACHE", str(Path.home() / ".cache" / "make-some-noise"))
        environment |= {"HOME": str(folder / "home"), "MSN_CACHE": cache}
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += [
        "-p",
        "tests.other_luck",
        "-p",
        "no:cacheprovider",
        "-o",
        "junit_family=xunit1",
        f"--junitxml={report}",
        *given,
    ]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    (temporary / f"{name}.txt").write_text(done.stdout + done.stderr)
    if not report.is_file():
        raise RuntimeError(f"{name}: pytest made no report\n{(done.stdout + done.stderr)[-2000:]}")
    return outcomes(report)


def main(words: Sequence[str] | None = None) -> int:
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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where pytest's reports and what it printed stay")
    arguments, rest = parser.parse_known_args(words)
    names = ["plain", *(arguments.only or [name for name in VARIATIONS if name != "plain"])]
    status, plain = 0, {}
    with tempfile.TemporaryDirectory() as scratch:
        temporary = (arguments.keep or Path(scratch)).resolve()
        temporary.mkdir(parents=True, exist_ok=True)
        for name in names:
            started = time.monotonic()
            try:
                found = run(name, rest, temporary)
            except RuntimeError as error:
                print(error, flush=True)
                status = 1
                if name == "plain":
                    break
                continue
            plain = plain or found
            failed = [test for test, word in found.items() if word == "failed"] if name == "plain" else []
            other = {
                test: (plain.get(test, "not there"), found.get(test, "not there"))
                for test in {**plain, **found}
                if plain.get(test) != found.get(test)
            }
            counts = ", ".join(f"{list(found.values()).count(word)} {word}" for word in ("passed", "failed", "skipped"))
            print(
                f"{name:<16} {counts}; {len(other)} differ; {time.monotonic() - started:.0f} s   ({VARIATIONS[name].changes})",
                flush=True,
            )
            for test in failed:
                print(f"    {test}: failed")
            for test, (before, after) in sorted(other.items()):
                print(f"    {test}: {before} -> {after}")
            status = status or int(bool(failed or other))
    return status


if __name__ == "__main__":
    sys.exit(main())
