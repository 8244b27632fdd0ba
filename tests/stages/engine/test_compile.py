"""torch.compile changes how fast a tokenizer trains, and nothing else."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn


@pytest.mark.slow
def test_a_compiled_tokenizer_trains_to_the_same_weights(
    stage, tones: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    """The graphs are captured and differentiated as for Inductor and run by aot_eager: minutes less, and no C++ compiler."""
    compiled, compile = [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self) or compile(self, backend="aot_eager"))
    for name in ("plain", "compiled"):
        words = [f"--compile={str(name == 'compiled').lower()}", "--parents.latents=whole", "--trainer.max_steps=4"]
        assert stage("run", "tokenizer", f"--experiment={name}", *words, "--quantizer.revive_until=0") == 0
    assert [type(module).__name__ for module in compiled] == ["Transformer", "DiffusionTransformer"]
    weights = [load_file(tones / f"runs/{name}/tokenizer/artifact/model.safetensors") for name in ("plain", "compiled")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)
