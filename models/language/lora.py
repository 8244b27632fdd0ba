"""LoRA on every linear layer but the head: y = W x + s B A x with W frozen. Hu et al. 2021, arXiv:2106.09685.

    x (..., I) ──┬─► W (O, I), frozen ───────────────┬─► y (..., O)
                 └─► A (r, I) ──► B (O, r) ──► s = alpha / r

Names, initial values and numbers are those of peft. One autograd function makes both products: autograd alone would
keep and cast x twice, and add in extra passes.
"""

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def attach_lora(model: PreTrainedModel, rank: int, alpha: float, dropout: float, seed: int) -> None:
    """LoRA on every linear layer but the head, in place. seed: of the matrices A; B is 0.

    A model with transposed matrices (GPT-2) or stacked ones (mixtures of experts) gets the layers of peft.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if _needs_peft(model):
            from peft import LoraConfig, inject_adapter_in_model  # slow to import

            lora = LoraConfig(
                r=rank,
                lora_alpha=alpha,  # type: ignore[arg-type]  # peft says int, and takes any number
                lora_dropout=dropout,
                target_modules="all-linear",
                bias="none",
            )
            inject_adapter_in_model(lora, model)
            return
        head = model.get_output_embeddings()
        linear = [
            (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head
        ]
        for name, layer in linear:
            model.set_submodule(name, LoraLinear(layer, rank, alpha, dropout))


@contextlib.contextmanager
def without_lora(model: nn.Module) -> Iterator[None]:
    """Within it the model is the LLM as it came."""
    ours = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
    theirs: list[Any] = []
    if "peft" in sys.modules:
        from peft.tuners.tuners_utils import BaseTunerLayer

        theirs = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    for layer in ours:
        layer.enabled = False
    for layer in theirs:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in ours:
            layer.enabled = True
        for layer in theirs:
            layer.enable_adapters(True)


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter."""

    def __init__(self, base_layer: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base_layer = base_layer
        device, scale = base_layer.weight.device, alpha / rank
        first = nn.Linear(base_layer.in_features, rank, bias=False)
        second = nn.Linear(rank, base_layer.out_features, bias=False)
        nn.init.kaiming_uniform_(first.weight, a=math.sqrt(5))  # again, as peft does
        nn.init.zeros_(second.weight)
        # peft keeps several adapters by name
        self.lora_A = nn.ModuleDict({"default": first.to(device)})
        self.lora_B = nn.ModuleDict({"default": second.to(device)})
        self.scale, self.dropout, self.enabled = scale, dropout, True
        self.merged: Tensor | None = None  # (O, I) in the frozen layer's dtype, in place of W, A and B

    @property
    def weight(self) -> Tensor:
        """(O, I) of the frozen layer: some models look at its dtype."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """(O) of the frozen layer."""
        return self.base_layer.bias

    @torch.no_grad()
    def merge(self) -> None:
        """W + s B A, summed in float32 and rounded once to the dtype of W, is used until `merged` is None again.

        W stays as it is. What A and B learn meanwhile has no effect.
        """
        first, second = self.lora_A["default"], self.lora_B["default"]
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        added = second.weight.float() @ first.weight.float()
        weight = self.base_layer.weight
        self.merged = torch.add(weight.float(), added, alpha=self.scale).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O), in the dtype of the frozen layer's output."""
        if not self.enabled:
            return self.base_layer(x)
        if self.merged is not None:
            return F.linear(x, self.merged, self.base_layer.bias)
        first, second = self.lora_A["default"], self.lora_B["default"]
        assert isinstance(first, nn.Linear)
        if (self.training and self.dropout) or torch.compiler.is_compiling():
            y: Tensor = self.base_layer(x)
            dropped = F.dropout(x.to(first.weight.dtype), self.dropout, self.training)
            return (y + second(first(dropped)) * self.scale).to(y.dtype)
        parts: tuple[Any, ...] = (
            x,
            self.base_layer.weight,
            self.base_layer.bias,
            first.weight,
            second.weight,
            self.scale,
        )
        if not torch.is_grad_enabled():
            return _products(*parts).y.view(*x.shape[:-1], -1)
        fused: Tensor = _FusedLora.apply(*parts)
        return fused


class _Products(NamedTuple):
    """Of M rows; W, A and B in the dtypes that they were used in."""

    y: Tensor  # (M, O)
    rows: Tensor  # (M, I) x
    weight: Tensor  # (O, I)
    first: Tensor  # (r, I)
    second: Tensor  # (O, r)
    inner: Tensor  # (M, r) A x


def _products(x: Tensor, weight: Tensor, bias: Tensor | None, first: Tensor, second: Tensor, scale: float) -> _Products:
    device = x.device.type
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False) if narrow else contextlib.nullcontext():
        rows = x.reshape(-1, x.shape[-1]).to(narrow or weight.dtype)
        dtype = narrow or first.dtype  # of the adapter
        weight, first, second = weight.to(rows.dtype), first.to(dtype), second.to(dtype)
        y = F.linear(rows, weight, None if bias is None else bias.to(rows.dtype))
        inner = F.linear(rows.to(dtype), first)
        y = y.addmm_(inner, second.T, alpha=scale) if dtype == y.dtype else _added(y, scale * inner @ second.T)
    return _Products(y, rows, weight, first, second, inner)


class _FusedLora(torch.autograd.Function):
    """x (..., I), weight (O, I) and bias (O) frozen, first (r, I), second (O, r) -> (..., O). Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, first: Tensor, second: Tensor, scale: float
    ) -> Tensor:
        y, *saved = _products(x, weight, bias, first, second, scale)
        ctx.save_for_backward(*saved)
        ctx.scale, ctx.shape, ctx.dtype = scale, x.shape, x.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, first, second, inner = ctx.saved_tensors
        device, dtype = rows.device.type, first.dtype
        with torch.autocast(device, enabled=False):
            grad = grad.reshape(-1, grad.shape[-1]).to(rows.dtype)
            wide = grad.to(dtype)
            grad_inner = wide @ second * ctx.scale
            grad_x = None
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight
                if dtype == grad_x.dtype:
                    grad_x.addmm_(grad_inner, first)
                else:
                    grad_x = _added(grad_x, grad_inner @ first)
                grad_x = grad_x.view(ctx.shape).to(ctx.dtype)
            grad_first = grad_inner.T @ rows.to(dtype)
            grad_second = (wide.T @ inner) * ctx.scale
        return grad_x, None, None, grad_first, grad_second, None


def _added(narrow: Tensor, wide: Tensor) -> Tensor:
    return (narrow + wide).to(narrow.dtype)


def _needs_peft(model: PreTrainedModel) -> bool:
    """Whether some matrices of a model's layers are not those of nn.Linear."""
    stacked = any(parameter.dim() > 2 for parameter in model.parameters())
    return stacked or any(isinstance(layer, Conv1D) for layer in model.modules())
