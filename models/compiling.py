"""torch.compile of a stack's layers, one by one: equal layers share their graphs, which are made in seconds, not minutes.

Sizes are dynamic: batches of other lengths make no new graph. What does is a mask or none, a gradient or none, autocast
or none, and an input without a gradient, so that a stack has some ten.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import nn

GRAPHS = 64  # of one layer, at most; beyond torch's 8 it would go on without compiled layers


def compile_each(layers: Iterable[nn.Module]) -> None:
    import torch._dynamo  # slow, and needed here alone

    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for layer in layers:
        layer.compile(dynamic=True)


def without_compiled_layers() -> AbstractContextManager[object]:
    """Within it layers run as they are written: generation, whose cache has another size at each step."""
    return torch.compiler.set_stance("force_eager")
