"""torch.compile changes how fast a tokenizer trains, and nothing else; auto is for CUDA; other lengths make no new graph."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from conf import compose
from conf.errors import UsageError
from models.tokenizer.transformer import Block, Transformer
from stages.engine import devices
from tests.models.language.test_model import build


@pytest.mark.slow
def test_a_compiled_tokenizer_trains_to_the_same_weights(
    stage, tones: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
):
    """The graphs are captured and differentiated as for Inductor and run by aot_eager: minutes less, and no C++ compiler."""
    compiled, compile = [], nn.Module.compile
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self, dynamic: compiled.append(self) or compile(self, backend="aot_eager", dynamic=dynamic),
    )
    for name in ("plain", "compiled"):
        words = [f"--compile={str(name == 'compiled').lower()}", "--parents.latents=whole", "--trainer.max_steps=4"]
        assert stage("run", "tokenizer", f"--experiment={name}", *words, "--quantizer.revive_until=0") == 0
    assert {type(module) for module in compiled} == {Block} and len(compiled) == len(
        {id(module) for module in compiled}
    )
    weights = [load_file(tones / f"runs/{name}/tokenizer/artifact/model.safetensors") for name in ("plain", "compiled")]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(("setting", "device", "expected"), [
    ("auto", "cpu", False), ("auto", "mps", False), ("auto", "cuda", True), (True, "cpu", True), (False, "cuda", False),
])  # fmt: skip
def test_auto_compiles_on_cuda(setting: bool | str, device: str, expected: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name)
    assert devices.compiles(setting, torch.device(device)) == expected


def test_auto_without_a_c_compiler_leaves_layers_as_they_are(monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert not devices.compiles("auto", torch.device("cuda")) and "a C compiler" in caplog.text
    assert devices.compiles(True, torch.device("cuda"))


@pytest.mark.parametrize("written", ["auto", "true", "false"])
def test_the_base_compiles_where_it_pays_and_each_value_can_be_typed(written: str):
    value = {"auto": "auto", "true": True, "false": False}[written]
    assert compose("tokenizer").conf.compile == compose("caption").conf.model.compile == "auto"
    assert compose("tokenizer", overrides=[f"compile={written}"]).conf.compile == value
    assert compose("caption", overrides=[f"model.compile={written}"]).conf.model.compile == value


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="compile: 'always'; auto, true and false are allowed"):
        compose("tokenizer", overrides=["compile=always"])


def test_batches_of_other_lengths_make_no_new_graph(monkeypatch: pytest.MonkeyPatch):
    counter, compile = CompileCounterWithBackend("eager"), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: compile(self, backend=counter, dynamic=dynamic))
    stack = Transformer(8, 2, 1, causal=True, modulated=False)
    stack.compile_blocks()
    counts = []
    for batch, frames in ((2, 12), (3, 5), (2, 7), (4, 12)):
        x = torch.ones(batch, frames, 8, requires_grad=True)
        stack(x, torch.arange(frames), None, None).sum().backward()
        counts.append(counter.frame_count)
    assert counts[0] >= 1 and counts[1:] == counts[:1] * 3


def test_generation_runs_no_compiled_layer(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("compiled")

    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, dynamic: compile(self, backend=refuse, dynamic=dynamic))
    model = build("random:tiny")
    model.compile_layers()
    ids = torch.tensor([[5, 6, 7]])
    model.generate(ids, torch.ones_like(ids), 3, "text")
    with pytest.raises(Exception, match="compiled"):
        model.logits(ids, torch.ones_like(ids))
