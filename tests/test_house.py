"""The house itself: who knows whom, what the command imports before it answers, whose names ours are."""

import ast
import importlib.metadata
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("stages", "datamodules", "models", "callbacks", "conf")
HEAVY = ("torch", "numpy", "lightning", "lhotse", "transformers")
QUICK = [
    ["--help"],
    *[[verb, "--help"] for verb in ("list", "show", "status", "prepare", "run", "submit", "logs")],
    *[[verb, "--help"] for verb in ("ask", "generate", "encode", "decode", "export", "evaluate", "metrics")],
    ["show", "generate"],
    ["show", "slurm"],
    ["list"],
    ["prepare", "--list"],
    ["metrics"],
    ["show", "tokenizer"],
]


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import hides whom it knows"
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_only_stages_knows_the_others(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    allowed = set(PACKAGES) if package == "stages" else {package}
    strangers = {
        str(file.relative_to(ROOT)): others for file in files if (others := imported(file) & set(PACKAGES) - allowed)
    }
    assert not strangers


@pytest.mark.parametrize("package", ["models", "conf"])
def test_models_and_conf_know_no_trainer(package: str):
    """models take torch and explicit arguments, conf answers without torch."""
    forbidden = {"models": {"lightning", "omegaconf"}, "conf": {"torch", "lightning", "numpy", "lhotse"}}[package]
    assert not {str(file): found for file in (ROOT / package).rglob("*.py") if (found := imported(file) & forbidden)}


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_what_answers_imports_nothing_heavy(words: list[str]):
    code = (
        "import sys\nfrom stages.cli.main import main\n"
        f"try:\n    status = main({words!r})\nexcept SystemExit as end:\n    status = end.code\n"
        f"sys.stderr.write(repr([status, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "[0, []]"
    assert done.stdout


@pytest.mark.parametrize("words", [["--help"], ["list"], ["show", "tokenizer"]], ids=" ".join)
def test_it_answers_with_half_a_second_of_work(words: list[str]):
    """Processor time, which a busy machine does not stretch."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "stages.cli.main", *words], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_else_owns_our_names(package: str):
    """An editable install owns no name in its records, so ours may be missing there."""
    owners = importlib.metadata.packages_distributions()
    assert set(owners.get(package, [])) <= {"make-some-noise"}
