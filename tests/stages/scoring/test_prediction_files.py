"""A prediction is a text or missing: nothing else is made into one."""

from pathlib import Path

import pytest

from stages.scoring.prediction_files import read_predictions


@pytest.mark.parametrize("value", ["true", "2.0", "[1]", '{"en": "a dog"}'])
def test_a_prediction_that_is_no_text_is_refused_with_its_line(tmp_path: Path, value: str):
    records = [
        '{"id": "a", "prediction": "x", "reference": "x"}',
        f'{{"id": "b", "reference": "x", "prediction": {value}}}',
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(records))
    with pytest.raises(ValueError, match=r"p\.jsonl, record 2: the prediction is .* a text is expected"):
        read_predictions(tmp_path / "p.jsonl")


def test_nan_and_null_are_missing_predictions(tmp_path: Path):
    lines = [f'{{"id": "{n}", "reference": "x", "prediction": {value}}}' for n, value in enumerate(("NaN", "null"))]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, '{"id": "c", "reference": "x", "prediction": "x"}']))
    assert [row["prediction"] for row in read_predictions(tmp_path / "p.jsonl")] == [None, None, "x"]
