"""A stage in a process of its own, and in a folder where anything lies."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from callbacks.stop import Stop
from stages.launch import local

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with modules of the names of ours, as a Sphinx or a Django project has them."""
    (tmp_path / "conf.py").write_text("raise SystemExit('a conf.py of somebody else')")
    for name in ("models", "stages"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('{name} of somebody else')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_folder_that_a_stage_runs_in_hides_no_module_of_ours(folder_of_a_user: Path, capfd):
    with Stop(None, 0, time.monotonic()) as stop, pytest.raises(SystemExit) as ended:
        local.run_in_process("latents", ["--data.corpora=gone"], restart=False, stop=stop)
    printed = capfd.readouterr().err
    assert ended.value.code == 1
    assert printed.startswith("stage: ") and "gone (not in data/)" in printed and "somebody else" not in printed


def test_a_child_elsewhere_finds_what_a_checkout_imports(folder_of_a_user: Path):
    """Installed, or as `python -m stages.cli.main` in a checkout that is not."""
    code = "import json; from stages.launch import local; print(json.dumps(local.environment()))"
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=bare, capture_output=True, text=True, check=True)
    words = [sys.executable, "-m", "stages.cli.main", "list"]
    listed = subprocess.run(words, env=bare | json.loads(done.stdout), capture_output=True, text=True)
    assert listed.returncode == 0 and "tokenizer" in listed.stdout, listed.stderr


def test_a_folder_that_is_not_on_the_path_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), "/elsewhere"])
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    if not sys.flags.safe_path:
        assert local.environment() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}/theirs"}
    monkeypatch.setattr(sys, "path", ["", str(ROOT)])
    assert local.environment() == {"PYTHONSAFEPATH": "1"}


def test_a_package_that_hides_ours_is_named(tmp_path: Path):
    """Where Python was told to look there first, as `python -m` does."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/__init__.py").write_text("raise SystemExit('models of somebody else')")
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    words = [sys.executable, "-m", "stages.cli.main", "list"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: `import models` gives ")
    assert str(tmp_path / "models/__init__.py") in last and "python -P" in last


def test_a_child_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a second Ctrl-C, when its patience is over."""
    code = (
        "import os, signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; "
        "print(os.getpid(), file=open('part', 'w'), flush=True); os.rename('part', 'up'); time.sleep(600)"
    )
    monkeypatch.setattr(local, "command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(local, "PATIENCE", 0.2)
    monkeypatch.chdir(tmp_path)

    class Twice(Stop):
        @property
        def noted(self) -> int:
            if (tmp_path / "up").exists():
                raise KeyboardInterrupt
            return 0

        @noted.setter
        def noted(self, _: int) -> None: ...

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        local.run_in_process("latents", [], restart=False, stop=Twice(None, 0, started))
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "up").read_text()), 0)
