"""README's example of trl on an export: it runs as it is written, and its reference is the export."""

import json
import re
from pathlib import Path

import pytest

from stages.cli.main import main

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_trl_trains_pairs_on_an_export(tones: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package in ("trl", "datasets"):
        pytest.importorskip(package)
    assert main(["export", "--model", str(whole / "openaqa"), "--to", str(tmp_path / "my-model")]) == 0
    clip = str(tones / "recordings/00.wav")
    assert main(["encode", clip, "--model", str(whole / "tokenizer"), "--out", str(tmp_path / "codes.json")]) == 0
    (code,) = re.findall(
        r"```python\n(import json\nimport torch\nfrom datasets.*?)```",
        (ROOT / "stages/README.md").read_text(),
        re.DOTALL,
    )
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    logged = names["trainer"].state.log_history[-1]
    assert logged["train_loss"] == pytest.approx(0.6931, abs=1e-3), "the first step is where the reference is"
    prompt = names["tokenizer"].apply_chat_template(names["pair"]["prompt"], tokenize=False)
    ids = names["tokenizer"](prompt, add_special_tokens=False).input_ids
    codes = json.loads((tmp_path / "codes.json").read_text())["codes"]
    tokens = names["tokenizer"].convert_tokens_to_ids([f"<|sound_{code}|>" for code in codes])
    assert [number for number in ids if number in set(tokens)] == tokens, "a code is one token"
    assert (tmp_path / "my-preference/adapter_model.safetensors").is_file()
