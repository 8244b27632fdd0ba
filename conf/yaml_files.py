"""YAML files of the configuration, read whole. No torch here."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from conf.errors import UsageError


def load(path: Path, origin: str) -> DictConfig:
    """Raises UsageError, which begins with `origin`, for a file that is no mapping of keys."""
    try:
        values = OmegaConf.load(path)
    except Exception as error:  # PyYAML's and OmegaConf's errors share no base
        raise UsageError(f"{origin}: not readable as YAML: {first_line(error)}") from None
    if not isinstance(values, DictConfig):
        raise UsageError(f"{origin}: holds a {type(values).__name__}, a mapping of keys is allowed")
    return values


def load_with_text(path: Path, origin: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a file, and the same with every scalar as the text of the file (`as_written` joins them)."""
    values = OmegaConf.to_container(load(path, origin))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}, yaml.load(path.read_text("utf-8"), yaml.BaseLoader)


def first_line(error: Exception) -> str:
    """What OmegaConf or PyYAML reports, with the key where it is known."""
    key = getattr(error, "full_key", None)
    text = str(error).splitlines()[0]
    return f"{key}: {text}" if key else text
