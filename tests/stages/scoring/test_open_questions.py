"""Questions whose answers others judge: read from a file, listed, written, and not scored."""

import json
from pathlib import Path

from stages.cli.main import main


def test_open_questions_of_mmau_pro_are_listed_and_written_and_not_scored(tmp_path: Path, capsys):
    """In a file as their script reads it: questions with choices, open ones, and instructions to follow."""
    closed = {"id": "1", "question": "Who?", "choices": ["Owl", "Man"], "answer": "Man", "category": "speech"}
    open_one = {"id": "2", "question": "Why?", "choices": None, "answer": "He is sad.", "category": "open"}
    form = {
        "id": "3",
        "question": "Write it in capitals.",
        "choices": None,
        "answer": None,
        "category": "instruction following",
    }
    records = [one | {"model_output": said} for one, said in ((closed, "Man"), (open_one, "Sad."), (form, "IT"))]
    predictions = tmp_path / "p.json"
    predictions.write_text("\n".join(map(json.dumps, records)))
    words = ["evaluate", "--predictions", str(predictions), "--out", str(tmp_path / "out")]
    assert main([*words, "--task=mmau-pro", "--task=mmau-pro-open", "--write=mmau"]) == 0
    printed = "".join(capsys.readouterr())
    assert (
        "1 items expected, 1 answered, 0 failed.\n\nNot scored here" in printed
        and "1 instructions to follow" in printed
    )
    reports = json.loads((tmp_path / "out/report.json").read_text())["tasks"]
    assert reports["mmau-pro"]["conditions"]["with_sound"]["accuracy"]["count"] == 1
    assert reports["mmau-pro-open"]["conditions"] == {"with_sound": {}}
    (one,) = json.loads((tmp_path / "out/mmau-pro-open.mmau.json").read_text())
    assert one.items() >= (open_one | {"choices": [], "model_output": "Sad."}).items()
    again = ["evaluate", "--predictions", str(tmp_path / "out/mmau-pro-open.mmau.json"), "--task"]
    assert main([*again, "mmau-pro-open"]) == 0 and main([*again, "mmau-pro"]) == 1
    assert "it asks none of the file's questions, as 2: open" in capsys.readouterr().err
