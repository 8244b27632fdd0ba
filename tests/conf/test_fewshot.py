"""Laws of the stage `fewshot`: what is no episode is refused with what to type."""

import pytest

from conf import compose


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shots=[]", r"shots: \[\]; one number of at least 1 or several different ones.*--shots=\[1,5\]"),
        ("shots=[0,1]", r"shots: \[0, 1\]"),
        ("shots=[2,2]", r"shots: \[2, 2\]"),
        ("ways=1", r"ways: 1; 2 to 1000 is allowed"),
        (
            "controls=[shuffled_code]",
            r"controls: no control is called 'shuffled_code'\. Did you mean 'shuffled_codes'\?",
        ),
        ("controls=[shuffled_codes,shuffled_codes]", r"controls: .*each comes once"),
        ("levels=0", r"levels: 0; .* is allowed"),
        ("seconds=0", r"seconds: 0.*allowed"),
        ("max_codes=0", r"max_codes: 0; .* is allowed"),
    ],
)
def test_what_is_no_episode_is_refused(override: str, message: str):
    with pytest.raises(ValueError, match=message):
        compose("fewshot", overrides=[override])
    with pytest.raises(
        ValueError, match=r"levels: 1: the LLM of caption was taught all; set it to null, or type --llm=frozen"
    ):
        compose("fewshot", overrides=["levels=1", "llm=caption"])
    assert compose("fewshot", overrides=["shots=3", "controls=[]"]).conf.shots == [3]
