"""conf/README.md: its commands answer, its example in Python is true, and the files that it names are there."""

import re
import shlex

import pytest

import conf
from stages.cli.main import main

README = (conf.ROOT / "README.md").read_text()


@pytest.mark.parametrize("command", re.findall(r"^stage (.*)$", README, re.MULTILINE))
def test_a_command_answers(command: str, capsys: pytest.CaptureFixture[str]):
    assert main(shlex.split(command, comments=True)) == 0
    assert capsys.readouterr().out


def test_the_example_is_true():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    values: dict[str, object] = {}
    exec(code, values)
    (line,) = (line.split("#")[0] for line in code.splitlines() if "==" in line)
    assert eval(line, values)
    assert values["conf"].trainer.max_steps == 100


def test_the_files_that_it_names_are_there():
    named = set(re.findall(r"`(\w+\.py)`", README))
    assert named and all((conf.ROOT / name).is_file() for name in named)
    assert len(README.splitlines()) <= 80
