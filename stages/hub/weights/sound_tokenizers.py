"""Sound tokenizers of `transformers` from a hub id or a folder. What cannot be used is refused by name."""

from pathlib import Path
from typing import Any, NamedTuple

from conf.errors import UsageError
from stages.hub.weights.sources import resolve

EXAMPLES = "kyutai/mimi, facebook/encodec_24khz, descript/dac_44khz, hf-audio/xcodec-hubert-general"


class LoadedTokenizer(NamedTuple):
    model: Any  # of transformers, float32, on the CPU
    revision: str | None  # commit of the hub; None for a folder


def load_sound_tokenizer(source: str, revision: str | None) -> LoadedTokenizer:
    """Raises UsageError where nothing can be loaded, for another kind of model, and for weights that are not all there."""
    import torch
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    from models.tokenizer.pretrained import FAMILIES

    logging.disable_progress_bar()
    resolved = resolve(source)
    try:
        config = AutoConfig.from_pretrained(resolved, revision=revision)
        if config.model_type not in FAMILIES:
            raise UsageError(
                f"{source} is a model of the kind {config.model_type}. Sound tokenizers of the kinds {', '.join(FAMILIES)} "
                f"are allowed, as {EXAMPLES}"
            )
        model, info = AutoModel.from_pretrained(
            resolved, revision=revision, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        text = " ".join(str(error).split())
        raise UsageError(
            f"{source}: no sound tokenizer could be loaded ({text}). Type --source=FOLDER, or a hub id that this machine "
            f"reaches or has cached (hf download {source}), as {EXAMPLES}"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise UsageError(
            f"{source} has no {missing[0]} (of {len(missing)} weights that are missing): it would be random. Is the "
            "download whole?"
        )
    return LoadedTokenizer(model.eval(), None if Path(resolved).exists() else getattr(config, "_commit_hash", None))
