"""Laws of the stage `generation`: what cannot be measured is refused with what to type."""

import pytest

from conf import compose


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["temperature=0"],
            r"temperature: at 0 all 2 sounds of a caption would be the same; more than 0, or --seeds=1",
        ),
        (["recordings=5"], r"recordings: 5 are fewer than captions=1000"),
        (["captions=0"], r"captions: 0; at least 1 is allowed"),
        (["seeds=0"], r"seeds: 0; 1 to 1000 is allowed"),
        (["top_p=0"], r"top_p: 0.0; .* is allowed"),
        (["seconds_max=0"], r"seconds_max: 0.0; .* is allowed"),
        (["embedder=null", "probe_recordings=0"], r"embedder: without an embedder and with probe_recordings=0"),
    ],
)
def test_what_cannot_be_measured_is_refused(overrides: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        compose("generation", overrides=overrides)
    assert compose("generation", overrides=["temperature=0", "seeds=1"]).conf.seeds == 1
