"""Ranges and laws by key, suggestions for mistyped names, and configurations of older runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

import conf
from conf.laws import Problem, about, exceptions, problems
from conf.sections.language import LanguageConf
from conf.suggest import allowed, closest, did_you_mean


@dataclass
class Inner:
    size: int | None = about("at least one", 1)
    share: float = about("a share", 0.0, 1.0)

    def laws(self) -> Iterable[Problem]:
        if self.size == 7:
            yield Problem("size", "seven")
        if self.share == 0.5:
            yield Problem("", "half")


@dataclass
class Outer:
    name: str = about("any")
    inner: Inner = about("a section")


def test_problems_have_the_whole_key():
    assert not list(problems(Outer("a", Inner(1, 1.0)))) and not list(problems(Outer("a", Inner(None, 0.0))))
    assert list(problems(Outer("a", Inner(0, 1.5)))) == [
        ("inner.size", "0; at least 1 is allowed"),
        ("inner.share", "1.5; 0.0 to 1.0 is allowed"),
    ]
    assert list(problems(Outer("a", Inner(7, 0.5)))) == [("inner.size", "seven"), ("inner", "half")]
    assert list(problems(Inner(1, float("nan")))), "NaN is in no range"


def test_exceptions_come_once_and_in_their_order():
    assert exceptions(["c", "a", "b", "c"], ["a"]) == ["c", "b"]


def test_the_most_similar_name_is_proposed():
    known = ["esc50", "clotho", "audiocaps"]
    assert closest("esc5", known) == "esc50" and closest("vggsound", known) is None
    assert did_you_mean("esc5", known) == "Did you mean 'esc50'?"
    assert did_you_mean("vggsound", known, "--help lists them") == "--help lists them"
    assert allowed("esc5", known) == "Did you mean 'esc50'? Allowed: audiocaps, clotho, esc50"
    assert allowed("vggsound", known) == "Allowed: audiocaps, clotho, esc50"
    assert allowed("x", []) == "Allowed: none"


@pytest.mark.parametrize("unit", [*conf.schema.stages(), "diagnostic", "ask", "generate", "slurm"])
def test_what_is_written_comes_back(unit: str):
    composed = conf.compose(unit, ["smoke"]).conf
    assert conf.from_plain(unit, conf.plain(composed)) == composed


def older(**changes: Any) -> dict[str, Any]:
    overrides = ["timestamps.max_seconds=6", "timestamps.step=0.5", "corpus_weights.diagnostic=2"]
    return conf.plain(conf.compose("caption", ["smoke"], overrides=overrides).conf) | changes


def test_an_older_run_lacks_keys_and_has_others():
    values = older(forgotten=3)
    del values["timestamps"], values["model"]["attention"]
    values["lora"]["scale"] = 2.0
    read = conf.from_plain("caption", values)
    assert isinstance(read, LanguageConf)
    assert (read.timestamps.max_seconds, read.timestamps.step, read.model.attention) == (None, 0.1, None)
    assert read.corpus_weights == {"diagnostic": 2.0} and read.lora.rank == values["lora"]["rank"]


def test_a_value_of_another_type_is_refused():
    with pytest.raises(ValueError, match=r"the configuration of an earlier caption: seed: Value 'x'"):
        conf.from_plain("caption", older(seed="x"))
