"""`stage show --why`: the help of every key, and the remark of every value."""

import re
from pathlib import Path
from typing import get_origin

import pytest

import conf
from conf import schema
from conf.reasons import reasons, remarks


def test_why_a_value_is_what_it_is(tmp_path: Path):
    file = str(tmp_path / "mine.yaml")
    Path(file).write_text("quantizer:\n  kind: fsq  # mine\n")
    origins = conf.compose("tokenizer", ["demo"], [file]).origins
    why = reasons("tokenizer", ["demo"], [file], origins)
    assert why["data.on_bad"][0].startswith("a recording that cannot be read: error ends the run"), "the key's help"
    assert why["quantizer.kind"][-1] == "mine"
    assert why["quantizer.kind"][1].startswith("(conf/tokenizer/base.yaml: simvq and fsq need no statistics")
    assert "(conf/tokenizer/base.yaml: the paper's; 13.0007 bits a token)" in why["quantizer.codebook_size"], (
        "the demo has another"
    )
    base = reasons("tokenizer", [], [], conf.compose("tokenizer").origins)
    assert base["quantizer.codebook_size"][1:] == ["the paper's; 13.0007 bits a token"]


@pytest.mark.parametrize("unit", list(schema.UNITS))
def test_a_remark_belongs_to_a_key_of_the_unit(unit: str):
    """Or to one inside a mapping or list, whose keys are free."""
    known = schema.keys(unit)
    free = tuple(f"{key}." for key, field in known.items() if get_origin(field.type) in (dict, list))
    for key in reasons(unit, conf.presets(), [], {}):
        assert key in known or key.startswith(free), key


def test_remarks_of_a_yaml_file():
    """Beside a key, above it, and on the lines on which one goes on; not those at the beginning, and no # in quotes."""
    text = """\
# About the file,
# in two lines.
seed: 0             # beside
                    # and going on
trainer:            # of the section
  # above
  devices: 8
  # above, and
  # again
  num_nodes: 1      # and beside
  strategy: "a # b"

  # of nothing

openings:           # of the list
  - "#"
  - "On"            # of an item
                    # and going on
parts:
- name: "first"     # of a key in an item
  # above a key in it
  steps: 3
after: 1            # the list
"""
    assert remarks(text) == {
        "seed": "beside and going on",
        "trainer": "of the section",
        "trainer.devices": "above",
        "trainer.num_nodes": "above, and again and beside",
        "openings": "of the list; On: of an item and going on",
        "parts": "name: first: of a key in an item; steps: 3: above a key in it",
        "after": "the list",
    }


@pytest.mark.parametrize("path", sorted(conf.ROOT.rglob("*.yaml")), ids=lambda path: str(path.relative_to(conf.ROOT)))
def test_no_remark_of_a_file_is_lost(path: Path):
    """But those at its beginning, and those that stand by themselves between empty lines."""
    body = re.sub(r"\A(#.*\n)+", "", path.read_text())
    shown = " ".join(remarks(path.read_text()).values())
    for line in body.splitlines():
        unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "_" * len(match[0]), line)
        remark = re.search(r"(?:^|\s)#\s?(.*)$", unquoted)
        assert remark is None or line[remark.start(1) :].strip() in shown, line
