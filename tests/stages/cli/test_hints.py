"""What models refuse is told in facts; the command adds a key to type, and that key exists."""

import re

import pytest

import conf
from conf.schema import UNITS
from models import errors
from stages.cli.hints import HINTS, with_hint


def keys() -> set[str]:
    """Every key of every stage, as it is typed."""

    def walk(section: object, prefix: str) -> set[str]:
        if not isinstance(section, dict):
            return {prefix[:-1]}
        return {prefix[:-1]}.union(*(walk(value, f"{prefix}{key}.") for key, value in section.items()))

    needed = {"folder": ["root=r", "metadata=m.csv"], "published": ["root=r"], "questions": ["root=a.json"]}
    composed = (conf.compose(unit, [], overrides=needed.get(unit, [])).conf for unit in UNITS)
    return set().union(*(walk(conf.plain(one), "") for one in composed))


def test_every_kind_of_error_has_a_hint_that_names_keys_that_exist():
    kinds = set(errors.ModelError.__subclasses__())
    assert kinds and set(HINTS) == kinds
    known = keys()
    for hint in HINTS.values():
        named = re.findall(r"\b(?:model|prompts|batching|timestamps)\.\w+|(?<=--)\w+(?=[= ])", hint)
        assert set(named) <= known, hint
    assert sum("." in hint for hint in HINTS.values()) >= 5


@pytest.mark.parametrize("kind", list(HINTS), ids=lambda kind: kind.__name__)
def test_the_hint_is_behind_the_message(kind: type[Exception]):
    assert with_hint(kind("it was 3")) == f"it was 3. {HINTS[kind]}"
    assert with_hint(errors.ModelError("it was 3")) == "it was 3"
