"""The folder that `stage export` writes, by name: what export.py writes and find_model.py and trained_model.py read. No
torch here.

DIR/  merged    config.json model.safetensors tokenizer.json ...     AutoModelForCausalLM.from_pretrained(DIR)
      adapter   adapter_config.json adapter_model.safetensors ...    PeftModel.from_pretrained(base, DIR)
      sound_tokenizer/                                               SoundTokenizer.from_pretrained(DIR/sound_tokenizer)
      make_some_noise.json README.md
"""

import json
from pathlib import Path
from typing import Any

from conf.errors import UsageError

MANIFEST = "make_some_noise.json"  # what transformers has no file for
SOUND_TOKENIZER = "sound_tokenizer"  # folder
VERSION = 1


def is_export(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises UsageError for a folder of another format."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    if manifest.get("format") != VERSION:
        raise UsageError(
            f"{folder / MANIFEST} has format {manifest.get('format')}; {VERSION} is readable here. Export again"
        )
    return manifest


def check_target(to: Path, force: bool) -> None:
    """Raises UsageError where an export may not be written."""
    if to.exists() and not (force and is_export(to)):
        raise UsageError(f"--to {to} exists already; choose another folder, or --force to replace an earlier export")
