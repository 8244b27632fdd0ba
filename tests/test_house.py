"""The house itself: who knows whom, what the command imports before it answers, whose names ours are."""

import importlib.metadata
import os
import resource
import shutil
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
    *[[verb, "--help"] for verb in ("compare", "clean", "sweep")],
    *[[verb, "--help"] for verb in ("ask", "generate", "encode", "decode", "serve", "export", "evaluate", "metrics")],
    ["show", "generate"],
    ["show", "serve"],
    ["show", "slurm"],
    ["list"],
    ["prepare", "--list"],
    ["metrics"],
    ["runs"],
    ["show", "tokenizer"],
]


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter's word on the contracts of pyproject.toml, over the rooms in `root`."""
    words = ["-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)


def test_rooms_know_each_other_downwards_only():
    done = contracts(ROOT)
    assert done.returncode == 0 and " 0 broken" in done.stdout, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "imported", "broken"),
    [
        ("stages/hub/model_card.py", "stages.engine.runner", "downwards only"),
        ("stages/vae.py", "stages.launch.prepare", "downwards only"),
        ("stages/vae.py", "stages.cache", "downwards only"),
        ("datamodules/crops.py", "conf.schema", "datamodules, models and callbacks know no other room"),
        ("models/tokenizer/flow.py", "lightning", "models take explicit arguments and know no trainer"),
        ("conf/schema.py", "torch", "conf answers without torch"),
    ],
)
def test_a_contract_that_is_broken_is_named(tmp_path: Path, file: str, imported: str, broken: str):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text() + f"\nimport {imported}  # noqa\n")
    done = contracts(tmp_path)
    assert done.returncode == 1 and f"{broken} BROKEN" in done.stdout, done.stdout


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
def test_it_answers_with_a_few_times_the_work_of_its_yaml_reader(words: list[str]):
    """Processor time, as a ratio: three imports of omegaconf when it was written, where that of torch is twenty."""

    def seconds(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [(seconds(["-m", "stages.cli.main", *words]), seconds(["-c", "import omegaconf"])) for _ in range(3)]
    assert min(ours for ours, _ in rounds) < 5 * min(reader for _, reader in rounds)


def test_an_answer_needs_no_trainer_no_corpora_and_no_peft():
    """What `stage ask` imports: transformers' part of it is three seconds of work, and none of these is added to them."""
    modules = "stages.hub.sound_files, stages.hub.sound_tokenizer, stages.hub.trained_model, stages.hub.text_to_sound"
    names = ("lhotse", "lightning", "peft", "torchmetrics", "sklearn", "pandas", "tensorboard")
    code = f"import sys, {modules}; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_else_owns_our_names(package: str):
    """An editable install owns no name in its records, so ours may be missing there."""
    owners = importlib.metadata.packages_distributions()
    assert set(owners.get(package, [])) <= {"make-some-noise"}
