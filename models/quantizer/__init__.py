"""Continuous vectors to codes and back: six kinds behind one interface (`interface.Quantizer`).

kind               codebook                                                learns by          codes a block
vq                 follows its vectors by running means, cosine            statistics         1
simvq              frozen random vectors through one learned matrix        gradients          1
fsq                a fixed grid in a few dimensions                        nothing to learn   1
residual           a vq each level, each with a stride                     statistics         the sum of block / stride
lexical            embeddings of an LLM's words through a learned matrix   gradients          1
lexical_residual   a lexical each level, words and a stride of its own     gradients          the sum of block / stride
"""

from collections.abc import Sequence
from typing import Literal, get_args

from models.errors import ModelError
from models.quantizer.distributed import gather
from models.quantizer.fsq import FSQ
from models.quantizer.interface import Quantized, Quantizer
from models.quantizer.lexical import LexicalQuantizer, Lexicon, whole_words
from models.quantizer.nearest_code import kmeans, nearest
from models.quantizer.residual import ResidualQuantizer
from models.quantizer.simvq import SimVQ
from models.quantizer.variational import Variational
from models.quantizer.vq import VectorQuantizer

__all__ = [
    "FSQ",
    "LexicalQuantizer",
    "Lexicon",
    "Quantized",
    "Quantizer",
    "ResidualQuantizer",
    "SimVQ",
    "VectorQuantizer",
    "build",
    "gather",
    "kmeans",
    "nearest",
    "whole_words",
]

Kind = Literal["vq", "simvq", "fsq", "residual", "lexical", "lexical_residual"]


def build(
    dim: int,
    kind: Kind,
    codebook_size: int,
    code_dim: int,
    decay: float,
    commitment_weight: float,
    kmeans_iterations: int,
    reservoir_size: int,
    revive_threshold: float,
    revive_every: int,
    revive_until: int,
    seed: int,
    strides: Sequence[int],
    levels: Sequence[int],
    words: int,
    words_from: str | None,
    variational: Variational,
    kl_weight: float,
    temperature: float,
    lexicon: Lexicon | None = None,
) -> Quantizer:
    """The quantiser of a kind, which reads the arguments that it has.

    vq, residual: see `VectorQuantizer`. strides: of residual and lexical_residual. levels: of fsq. lexicon: of lexical and
    lexical_residual, `words` words of the LLM `words_from` for each level, the first level's first. Raises ModelError
    for another kind, a lexicon of another size, or a variational kind that has no random code.
    """

    def book(seed: int) -> VectorQuantizer:
        return VectorQuantizer(
            dim, codebook_size, code_dim, decay, commitment_weight, kmeans_iterations, reservoir_size,
            revive_threshold, revive_every, revive_until, seed, variational, kl_weight, temperature,
        )  # fmt: skip

    if variational != "none" and kind not in ("vq", "residual"):
        raise ModelError(
            f"variational {variational} with kind {kind}; with vq and residual it is allowed, with the others only none"
        )
    match kind:
        case "vq":
            return book(seed)
        case "simvq":
            return SimVQ(dim, codebook_size, code_dim, commitment_weight, seed)
        case "fsq":
            return FSQ(dim, list(levels))
        case "residual":
            return ResidualQuantizer([book(seed + level) for level in range(len(strides))], strides)
        case "lexical" | "lexical_residual":
            count = words * (len(strides) if kind == "lexical_residual" else 1)
            if lexicon is None or len(lexicon.words) != count:
                raise ModelError(f"kind {kind} needs a lexicon: {count} words of words_from ({words_from})")
            parts = [slice(start, start + words) for start in range(0, count, words)]
            lexicons = [Lexicon(lexicon.words[part], lexicon.embeddings[part]) for part in parts]
            books = [LexicalQuantizer(dim, code_dim, commitment_weight, one) for one in lexicons]
            return ResidualQuantizer(books, strides) if kind == "lexical_residual" else books[0]
    raise ModelError(f"kind {kind!r}; {', '.join(get_args(Kind))} are allowed")
