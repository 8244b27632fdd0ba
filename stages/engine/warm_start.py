"""Puts the weights of another run into a model: what differs is refused by name, before the first step."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from conf.errors import UsageError

MOST = 4  # names that a message lists


def check_same(
    owner: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: Iterable[str] | None = None
) -> None:
    """Raises UsageError where the values of `keys` differ (None: of all that ours has). owner: the run of `theirs`."""
    differ = [key for key in (ours if keys is None else keys) if _plain(theirs.get(key)) != _plain(ours.get(key))]
    if differ:
        each = "\n  ".join(f"{key}: {theirs.get(key)} there, {ours.get(key)} here" for key in differ)
        raise UsageError(
            f"init_from: {owner} cannot be started from:\n  {each}\nMake them equal, or leave --init_from out."
        )


def load_weights(owner: Path, module: nn.Module, state: Mapping[str, Tensor], counters: tuple[str, ...] = ()) -> None:
    """Loads `state`, but for buffers whose name ends with one of `counters`: they count the steps of this training.

    Raises UsageError that names the tensors which only one of both has, or whose shapes differ.
    """
    own = module.state_dict()
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (state, own)]
    names = sorted(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
    if names:
        each = "\n  ".join(f"{name}: {shapes[0].get(name)} there, {shapes[1].get(name)} here" for name in names[:MOST])
        more = f"\n  and {len(names) - MOST} more" if len(names) > MOST else ""
        raise UsageError(f"init_from: {owner} has tensors of other shapes:\n  {each}{more}")
    module.load_state_dict({name: own[name] if name.endswith(counters) else tensor for name, tensor in state.items()})


def _plain(value: Any) -> Any:
    """A tuple as the list that JSON makes of it."""
    return list(value) if isinstance(value, tuple) else value
