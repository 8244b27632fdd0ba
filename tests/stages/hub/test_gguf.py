"""A GGUF file becomes safetensors once, whatever is killed and whoever else begins. Real files, processes and disks."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf as writer
import numpy as np
import pytest
import torch

from stages.hub import weights
from stages.hub.weights import gguf

ROOT = Path(__file__).parents[3]
WIDTH, HIDDEN = 32, 64


def write(path: Path, seed: int = 0) -> Path:
    """A Llama of one layer with an alphabet as its vocabulary, quantised to 8 bits."""
    random = np.random.default_rng(seed)
    tokens = ["<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyz", "ab"]
    file = writer.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_embedding_length(WIDTH)
    file.add_block_count(1)
    file.add_feed_forward_length(HIDDEN)
    file.add_head_count(2)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_dimension_count(16)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_token_list(tokens)
    file.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    file.add_token_merges(["a b"])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    shapes = {"token_embd": (len(tokens), WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN)}
    shapes |= {f"blk.0.ffn_{name}": (HIDDEN, WIDTH) for name in ("gate", "up")}
    shapes |= {f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        packed = writer.quants.quantize(values, writer.GGMLQuantizationType.Q8_0)
        file.add_tensor(f"{name}.weight", packed, raw_dtype=writer.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        file.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MSN_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "model.gguf")


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "llms").iterdir() if path.is_dir()]


def opening(path: Path, before: str) -> subprocess.Popen[str]:
    """Another process that opens the file; it runs `before` first, and prints at last how often it converted."""
    code = f"""
import sys
from pathlib import Path
from stages.hub.weights import gguf
make, made = gguf._make, []
gguf._make = lambda *arguments: (made.append(1), make(*arguments))
{before}
gguf.as_safetensors(Path({str(path)!r}), "float32")
print(len(made))
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def embedding(path: Path, dtype: str = "float32") -> torch.Tensor:
    return weights.load_language_model(str(path), None, dtype).model.get_input_embeddings().weight


def test_weights_are_those_of_the_file_in_every_dtype_and_are_made_once(model: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    expected = AutoModelForCausalLM.from_pretrained(model.parent, gguf_file=model.name, dtype=torch.float32)
    loaded, tokenizer = weights.load_language_model(str(model), None, "float32")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in expected.state_dict().items())
    assert tokenizer("abc").input_ids == [28, 4]  # "ab", "c"
    (folder,) = folders(tmp_path / "cache")
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert torch.equal(embedding(model, "bfloat16"), expected.get_input_embeddings().weight.bfloat16())
    moved = tmp_path / "elsewhere.gguf"
    model.rename(moved)
    assert torch.equal(embedding(moved), loaded.get_input_embeddings().weight)  # by content, whatever the name
    assert folders(tmp_path / "cache") == [folder] and (folder / "model.safetensors").stat().st_mtime_ns == made


def test_another_content_under_the_same_name_is_another_model(model: Path):
    before = embedding(model).clone()
    write(model, seed=1)
    assert not torch.equal(embedding(model), before)
    write(model, seed=0)
    assert torch.equal(embedding(model), before)


def test_a_file_that_did_not_change_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch):
    gguf.as_safetensors(model, "float32")
    monkeypatch.setattr(gguf, "file_digest", lambda path: pytest.fail("read again"))
    gguf.as_safetensors(model, "float32")


def test_of_two_processes_one_converts(model: Path, tmp_path: Path):
    both = [opening(model, ""), opening(model, "")]
    printed = [process.communicate(timeout=300) for process in both]
    assert sorted(out.strip() for out, _ in printed) == ["0", "1"], printed
    assert [path.suffix for path in folders(tmp_path / "cache")] == [".float32"]


def test_a_kill_leaves_what_the_next_start_deletes(model: Path, tmp_path: Path):
    """Killed with the weights written and the folder not yet in place."""
    killed = opening(model, "Path.rename = lambda *_: (print('written', flush=True), sys.stdin.read())")
    assert killed.stdout is not None and killed.stdout.readline().strip() == "written"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (part,) = folders(tmp_path / "cache")
    assert part.name.startswith(".") and (part / "model.safetensors").is_file()
    folder = gguf.as_safetensors(model, "float32")
    assert folders(tmp_path / "cache") == [folder] and (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("size", [0, 8192])
def test_a_full_disk_is_one_message_and_leaves_nothing(model: Path, tmp_path: Path, size: int):
    """No file may grow beyond `size` bytes: the note of the hash, or the weights, cannot be written."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"  # Python ignores SIGXFSZ
    process = opening(model, limit)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    message = errors.strip().splitlines()[-1]
    assert "model.gguf becomes safetensors in" in message and "File too large" in message and "MSN_CACHE=" in message
    assert folders(tmp_path / "cache") == []
    assert torch.equal(embedding(model), embedding(model))  # with room the same command goes on


def test_a_disk_that_is_full_in_truth(model: Path, tmp_path: Path):
    libc, cache = ctypes.CDLL(None, use_errno=True), tmp_path / "cache"
    cache.mkdir()
    if libc.mount(b"tmpfs", str(cache).encode(), b"tmpfs", 0, b"size=32k"):
        pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        with pytest.raises(ValueError, match=r"No space left on device.*MSN_CACHE=FOLDER"):
            gguf.as_safetensors(model, "float32")
        assert folders(cache) == []
    finally:
        libc.umount2(str(cache).encode(), 2)
