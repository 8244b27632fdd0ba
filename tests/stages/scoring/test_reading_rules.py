"""Free text to labels: the table of 100 answers, and laws that hold for every rule."""

import subprocess
import sys

import pytest

from stages.scoring.reading_rules import (
    RULES,
    Label,
    choice,
    final_answer,
    labelled,
    named,
    nearest,
    whole_word,
)
from tests.benchmarks.reading import LABELS, rows


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_reads_the_hundred_answers_as_the_table_says(rule: str):
    actual = {row["answer"]: RULES[rule](str(row["answer"]), LABELS) for row in rows()}
    assert len(actual) == 100
    assert {text: reading.label or reading.why for text, reading in actual.items()} == {
        row["answer"]: row[rule] for row in rows()
    }


def test_no_rule_but_nearest_reads_a_label_that_a_person_does_not():
    """Save one: a letter that says otherwise means nothing to a rule that knows no letters."""
    for name, rule in RULES.items():
        wrong = [
            row["answer"] for row in rows() if (got := rule(str(row["answer"]), LABELS).label) and got != row["person"]
        ]
        assert wrong == (["(A) cat"] if name == "whole_word" else [])


def test_nearest_asks_the_embedding_only_where_no_label_is_named():
    asked: list[str] = []

    def similarities(text, names):
        asked.append(text)
        return [float(name == "rain") for name in names]

    for text in ("", "I cannot tell.", "It is not a dog.", "a dog and a cat"):
        assert nearest(text, LABELS, similarities).label is None
    assert nearest("a kitten", LABELS, similarities).label == "cat"
    assert asked == []
    assert nearest("drizzle on a roof", LABELS, similarities).label == "rain"
    assert asked == ["drizzle on a roof"]


def test_choices_are_compared_by_what_they_say():
    """27 questions of MMAU's test-mini have the same choice twice; others differ in order alone."""
    twice = [Label("Piano"), Label("violin"), Label("piano")]
    assert {str(choice(text, twice).label).lower() for text in ("(A)", "C. Piano", "(C) Piano", "piano")} == {"piano"}
    orders = [Label("frustration, neutral"), Label("neutral, frustration")]
    assert choice("neutral, frustration", orders).label == "neutral, frustration"
    assert choice("(C)", twice[:2]).label is None


def test_all_affirmed_labels_of_a_recording_with_several():
    assert named("A dog barks in the rain, but there is no cat.", LABELS) == {"dog", "rain"}
    assert named("I cannot tell whether it is a dog.", LABELS) == set()


def test_yes_and_no_are_labels_though_no_denies():
    yes_no = [Label("yes"), Label("no")]
    assert whole_word("No.", yes_no).label == whole_word("No, there is no dog", yes_no).label == "no"
    assert whole_word("Yes, there is.", yes_no).label == "yes"


def test_two_labels_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"'dog' and 'hound' are both called 'Dog'"):
        labelled({"dog": [], "hound": ["Dog"]})


def test_reading_needs_no_torch():
    code = "import sys, stages.scoring.reading_rules; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.assets
def test_the_sentence_encoder_is_the_genuine_one_and_its_floor_is_not_zero():
    from models.metrics.sentence_embedding import similarity
    from stages.hub import weights

    if weights.sentences_missing("all-MiniLM-L6-v2", fetch=False):
        pytest.skip("all-MiniLM-L6-v2 is not in the cache")
    embed = weights.load_sentences("all-MiniLM-L6-v2")
    near, far = embed.cosines("a dog barks", ["a puppy is barking", "rain falls on a roof"])
    assert near > 0.6 > 0.4 > far
    alone, together = embed(["a dog barks"]), embed(["a dog barks", "a much longer sentence about rain on a roof"])[:1]
    assert (alone - together).abs().max() < 1e-6
    actual = similarity(embed, ["a dog barks", "rain falls"], [["a barking dog"], ["heavy rain", "it rains"]])
    assert actual.matched > 0.7 > actual.shuffled > 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>A cat? <answer>cat</answer> No.</think>\nA dog.", "\nA dog."),
        ("<think>cat</think><answer> (B) dog </answer>", " (B) dog "),
        ("It may be a cat. <answer>dog", "dog"),
        (r"Not a cat, so \boxed{\text{dog}}.", "dog"),
        ("<think>A cat, and then", "<think>A cat, and then"),
        ("a dog", "a dog"),
    ],
)
def test_what_a_model_reasons_is_not_its_answer(text: str, answer: str):
    assert final_answer(text) == answer
