"""A GGUF file as a folder that transformers opens: made once for each content, and mapped into memory at every later
start.

    $MSN_CACHE/llms/<sha256 of the file>.<dtype>/   config.json, model.safetensors, the tokenizer's files
    $MSN_CACHE/llms/.<hash of its path>.json        its size, time of change and sha256: it is read through once
"""

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from conf.errors import UsageError
from datamodules.atomic_files import write_whole
from datamodules.hashing import file_digest
from stages.hub.weights.wheels import cache_folder

SMALL = 1 << 30  # bytes of a GGUF file: below it float32 is kept for every dtype, so that one conversion serves all


def as_safetensors(path: Path, dtype: str) -> Path:
    """The folder with the weights of a GGUF file in `dtype`, or wider, and its tokenizer.

    Whoever comes first makes it, under a lock, and moves it into place when it is whole; a kill leaves a folder that
    the next one deletes. Raises UsageError where it cannot be written, or gguf is not installed.
    """
    cache = cache_folder() / "llms"
    with _writing(path, cache):
        cache.mkdir(parents=True, exist_ok=True)
        folder = cache / f"{_sha256(path, cache)}.{'float32' if path.stat().st_size < SMALL else dtype}"
        if folder.is_dir():
            return folder
        lock = FileLock(cache / f".{folder.name}.lock")
        lock.acquire()
    try:
        if not folder.is_dir():
            for part in cache.glob(f".{folder.name}-*"):  # of a process that was killed
                shutil.rmtree(part)
            _make(path, folder)
    finally:
        lock.release()
    return folder


def _sha256(path: Path, cache: Path) -> str:
    """Of the file's content; computed again where its size or time of change is another."""
    state, name = path.stat(), str(path.resolve())
    expected = {"path": name, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    note = cache / f".{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        saved = json.loads(note.read_text())
        digest: str = saved.pop("sha256")
        if saved == expected:
            return digest
    digest = file_digest(path)
    write_whole(note, json.dumps(expected | {"sha256": digest}))
    return digest


def _make(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = getattr(torch, folder.suffix[1:])
    try:
        with _silent():
            loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except ImportError as error:
        raise UsageError(f"{path.name}: GGUF needs one more package. Type pip install gguf.") from error
    del loaded.config.quantization_config  # the weights are plain by now, and transformers would refuse to save them
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(loaded.config, dtype=dtype)
    plain.load_state_dict(loaded.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = loaded.generation_config
    with _writing(path, folder.parent):
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            plain.save_pretrained(part)
            tokenizer.save_pretrained(part)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


@contextlib.contextmanager
def _writing(path: Path, cache: Path) -> Iterator[None]:
    """A full, read-only or broken disk is one message."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UsageError(
            f"{path.name} becomes safetensors in {cache}, which cannot be written ({error}). Make room there, or type "
            "MSN_CACHE=FOLDER before the command"
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """transformers' hints on packed weights, which are unpacked once here, and its bar of a second."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(before)
