"""One small quantiser of every kind, and how the tests train it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from models.quantizer import (
    Lexicon,
    Quantizer,
    build,
)

DIM, SIZE, LENGTH = 6, 8, 11
SETTINGS = {
    "dim": DIM, "kind": "vq", "codebook_size": SIZE, "code_dim": 4, "decay": 0.6, "commitment_weight": 0.25,
    "kmeans_iterations": 5, "reservoir_size": 20, "revive_threshold": 0.3, "revive_every": 4, "revive_until": 30,
    "seed": 3, "strides": [4, 2, 1], "levels": [4, 3, 2], "words": SIZE, "words_from": None, "variational": "none",
    "kl_weight": 0.1, "temperature": 0.3,
}  # fmt: skip
LEXICON = Lexicon([f"word{n}" for n in range(SIZE)], torch.randn(SIZE, 10, generator=torch.Generator().manual_seed(5)))
LEXICONS = Lexicon(
    [f"word{n}" for n in range(2 * SIZE)], torch.randn(2 * SIZE, 10, generator=torch.Generator().manual_seed(6))
)
KINDS: dict[str, dict[str, object]] = {
    "vq": {},
    "gumbel": {"variational": "gumbel"},
    "gaussian": {"variational": "gaussian"},
    "simvq": {"kind": "simvq"},
    "fsq": {"kind": "fsq"},
    "residual 4 2 1": {"kind": "residual"},
    "residual 1 1": {"kind": "residual", "strides": [1, 1]},
    "residual gumbel": {"kind": "residual", "strides": [2, 2], "variational": "gumbel"},
    "lexical": {"kind": "lexical", "lexicon": LEXICON},
    "lexical 2 1": {"kind": "lexical_residual", "strides": [2, 1], "lexicon": LEXICONS},
}
LEVELS = {
    "residual 4 2 1": (0, 1, 1, 2, 2, 2, 2), "residual 1 1": (0, 1), "residual gumbel": (0, 1), "lexical 2 1": (0, 1, 1),
}  # fmt: skip
BLOCK = {"residual 4 2 1": 4, "residual gumbel": 2, "lexical 2 1": 2}
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, **changes: object) -> Quantizer:
    torch.manual_seed(0)
    return build(**(SETTINGS | KINDS[kind] | changes))  # type: ignore[arg-type]


def batch(step: int) -> tuple[Tensor, Tensor]:
    """latents (4, LENGTH, DIM) in clusters, so that codes die; and a mask of padding, one clip all padding at times."""
    generator = torch.Generator().manual_seed(100 + step)
    centres = torch.randn(3, DIM, generator=torch.Generator().manual_seed(9))
    owner = torch.randint(3, (4, LENGTH), generator=generator)
    latents = centres[owner] + 0.3 * torch.randn(4, LENGTH, DIM, generator=generator)
    return latents, torch.arange(LENGTH) < torch.randint(0, LENGTH + 1, (4, 1), generator=generator)


def learn(model: Quantizer, steps: range) -> Quantizer:
    """Latents pulled to zero, so that gradients move what they move: plain gradient descent has no state."""
    for step in steps:
        latents, mask = batch(step)
        actual = model(latents, mask, update=True)
        loss = actual.loss + ((actual.quantized - latents) * mask[..., None]).square().mean()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.05 * parameter.grad
    return model


def trained(kind: str, steps: int, **changes: object) -> Quantizer:
    return learn(make(kind, **changes), range(steps))


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


def valid_codes(model: Quantizer, mask: Tensor) -> Tensor:
    """(B, S): the codes of the blocks that hold a valid token."""
    return torch.arange(model.num_codes(mask.shape[1])) < model.num_codes(mask.sum(1))[:, None]
