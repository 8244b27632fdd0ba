"""Metric states as JSON: saved batch by batch, added up later, in another process and without a collective."""

from typing import Any

import torch
from torchmetrics import Metric


def reset_metrics(module: torch.nn.Module) -> None:
    """Resets every metric in a module."""
    for metric in module.modules():
        if isinstance(metric, Metric):
            metric.reset()


def saved_state(metric: Metric) -> dict[str, Any]:
    """The states as numbers and lists, exact to the bit: state -> nested list; of a list state one for each tensor."""
    return {
        name: [one.tolist() for one in state] if isinstance(state, list) else state.tolist()
        for name, state in metric.metric_state.items()
    }


def add_saved_state(metric: Metric, saved: dict[str, Any]) -> None:
    """As if the metric had seen what the saved one saw: sums are added, lists grow, in the order of the calls."""
    for name, value in saved.items():
        state: Any = getattr(metric, name)
        if isinstance(state, list):
            state.extend(torch.tensor(one, dtype=torch.float64) for one in value)
        else:
            setattr(metric, name, state + torch.tensor(value, dtype=state.dtype, device=state.device))


def compute_alone(metric: Metric) -> Any:
    """The value of this process' own states: torchmetrics' wrapper would meet the other ranks."""
    return type(metric).compute(metric)
