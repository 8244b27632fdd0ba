"""The commands of every README are commands: each is read by the parser, and composes."""

import re
import shlex
from pathlib import Path

import pytest

import conf
from conf.schema import UNITS
from stages import STAGES
from stages.cli import main
from stages.cli.data import CORPORA

ROOT = Path(__file__).parents[1]
READMES = sorted(
    path
    for path in ROOT.rglob("README.md")
    if not any(part.startswith(".") or part in ("runs", "data") for part in path.relative_to(ROOT).parts)
)
README = (ROOT / "README.md").read_text().replace("\\\n", "")


def commands(readme: Path) -> set[str]:
    """The stage commands of a page: in backticks, or lines of a block of code."""
    text = readme.read_text().replace("\\\n", "")
    spans, lines = r"`(stage [a-z][^`]*)`", r"^(?:.*&& )?(stage [a-z].*)$"
    return set(re.findall(spans, text)) | set(re.findall(lines, text, re.MULTILINE))


COMMANDS = sorted({(str(path.relative_to(ROOT)), command) for path in READMES for command in commands(path)})


def test_the_readme_is_a_page():
    assert len(README.splitlines()) <= 140


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page: Path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            linked = linked / "README.md" if linked.is_dir() else linked
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_readmes_name_commands():
    assert {"README.md", "datamodules/README.md"} <= {name for name, _ in COMMANDS}
    assert sum(name == "README.md" for name, _ in COMMANDS) >= 5


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_command_is_understood(name: str, command: str):
    words = shlex.split(command, comments=True)[1:]
    arguments, rest = main._parser().parse_known_args(words)
    overrides = conf.parse_overrides(rest)
    unit = getattr(arguments, "stage", None) or getattr(arguments, "unit", None) or getattr(arguments, "corpus", None)
    if unit == "prepare":  # stage submit prepare CORPUS ROOT
        unit, arguments.root = arguments.corpus
        overrides = [item for item in overrides if not item.startswith("slurm.")]
    unit = CORPORA.get(unit, unit) if hasattr(arguments, "corpus") else unit
    units = list(STAGES) if unit in (None, "all") else [unit]
    if getattr(arguments, "root", None):
        overrides.append(f"root={arguments.root}")
    conf.check_shared(UNITS, overrides)
    for unit in units if hasattr(arguments, "preset") else []:
        conf.compose(unit, arguments.preset, [], overrides, shared=len(units) > 1)


def test_the_two_marked_blocks_are_there():
    assert re.search(r"<!-- main job -->\n```\n.*stage run all --preset demo\n```", README)
    assert re.search(r"<!-- tests -->\n```\n.*pytest.*\n```", README)
