"""README's commands are commands: each is read by the parser, and composes."""

import re
import shlex
from pathlib import Path

import pytest

import conf
from conf.schema import UNITS
from stages import STAGES
from stages.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text().replace("\\\n", "")
COMMANDS = sorted(
    set(re.findall(r"`(stage [a-z][^`]*)`", README))
    | set(re.findall(r"^(?:.*&& )?(stage [a-z].*)$", README, re.MULTILINE))
)


def test_readme_names_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str):
    words = shlex.split(command)[1:]
    arguments, rest = main._parser().parse_known_args(words)
    overrides = conf.parse_overrides(rest)
    unit = getattr(arguments, "stage", None) or getattr(arguments, "unit", None) or getattr(arguments, "corpus", None)
    unit = main.CORPORA.get(unit, unit) if hasattr(arguments, "corpus") else unit
    units = list(STAGES) if unit in (None, "all") else [unit]
    if getattr(arguments, "root", None):
        overrides.append(f"root={arguments.root}")
    conf.check_shared(UNITS, overrides)
    for name in units if hasattr(arguments, "preset") else []:
        conf.compose(name, arguments.preset, [], overrides, shared=len(units) > 1)


def test_the_two_marked_blocks_are_there():
    assert re.search(r"<!-- main job -->\n```\n.*stage run all --preset demo\n```", README)
    assert re.search(r"<!-- tests -->\n```\n.*pytest.*\n```", README)
