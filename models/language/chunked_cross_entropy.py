"""Weighted cross-entropy and z-loss through a head of frozen text rows and new rows, with no (M, V) logits.

    hidden (M, D) ──► CHUNK rows at a time: logits (CHUNK, V) ──► loss, and at once d loss / d hidden, d loss / d new rows

The gradient is made in the forward pass, as Liger does it (Hsu et al. 2024, arXiv:2410.10989), so that no logits are computed twice; the text rows are
frozen, and get none. z-loss: Chowdhery et al. 2022, arXiv:2204.02311.

Liger's own kernel is not used. It takes one weight matrix of V rows: text and new rows would be copied into one in each step, and it would make and keep a
gradient (V, D) of which the frozen rows throw away all but the new. It makes this gradient in the logits' dtype, bfloat16, where ours is float32; and with
weights a token (reduction "none") it computes the logits twice (0.8.5).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = (
    256  # rows whose logits (CHUNK, V) exist at one time; `python -m tests.benchmarks.language_memory` measures others
)


class Shape(NamedTuple):
    """What a model does to the output of its head: scale x logits, then softcap x tanh(logits / softcap) where there is one."""

    scale: float
    softcap: float | None

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """config: of the text model, with the names that Gemma, Granite and Cohere give."""
        scale = 1 / (getattr(config, "logits_scaling", None) or 1.0) * (getattr(config, "logit_scale", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class Entropy(NamedTuple):
    loss: Tensor  # (): sum over M of weight x (entropy + z_loss_weight x (log Z)^2)
    entropy: Tensor  # (M) cross-entropy with the target, or divergence from the teacher, in nats, without gradient
    log_partition: Tensor  # (M) log Z, without gradient


def weighted_entropy(
    hidden: Tensor,
    text_rows: Tensor,
    text_bias: Tensor | None,
    new_rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    z_loss_weight: float,
    shape: Shape,
    teacher: Tensor | None = None,
) -> Entropy:
    """hidden (M, D), text_rows (T, D) and text_bias (T) frozen, new_rows (V - T, D), targets (M) long, weights (M).

    teacher (M, D): hidden states of the LLM as it came, which knows the text ids alone. Then the entropy is the divergence KL(teacher || model), and
    the targets are not looked at (Li and Hoiem 2016, arXiv:1606.09282).
    Logits are made in the dtype of hidden (under autocast, its dtype) and looked at in float32, or float64 where they are. One gradient, not two.
    """
    gradients = torch.is_grad_enabled() and (hidden.requires_grad or new_rows.requires_grad)
    return Entropy(
        *_WeightedEntropy.apply(
            hidden, new_rows, text_rows, text_bias, targets, weights, z_loss_weight, shape, gradients, teacher
        )
    )


class _WeightedEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        new_rows: Tensor,
        text_rows: Tensor,
        text_bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        z_loss_weight: float,
        shape: Shape,
        gradients: bool,
        teacher: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        size = len(text_rows)
        text, new = text_rows.to(dtype), new_rows.to(dtype)
        bias = None if text_bias is None else text_bias.to(dtype)
        grad_hidden = torch.empty_like(hidden) if gradients else None
        grad_rows = torch.zeros_like(new_rows, dtype=wide) if gradients else None
        entropy = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        log_partition = torch.empty_like(entropy)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), CHUNK):
                part = slice(start, start + CHUNK)
                h, target = hidden[part].to(dtype), targets[part]
                logits = [shape(F.linear(h, text, bias).to(wide)), shape(F.linear(h, new).to(wide))]
                log_z = torch.logaddexp(logits[0].logsumexp(-1), logits[1].logsumexp(-1))
                log_partition[part] = log_z
                is_new = target >= size
                places = [target.masked_fill(is_new, 0)[:, None], (target - size).clamp(min=0)[:, None]]
                if teacher is None:
                    own = torch.where(
                        is_new, logits[1].gather(1, places[1])[:, 0], logits[0].gather(1, places[0])[:, 0]
                    )
                    entropy[part] = log_z - own
                else:
                    told = shape(F.linear(teacher[part].to(dtype), text, bias).to(wide)).log_softmax(-1)
                    share = told.exp()
                    entropy[part] = log_z + (share * (told - logits[0])).sum(-1)
                if not gradients:
                    continue
                weight = weights[part].to(wide)
                factor = weight * (1 + 2 * z_loss_weight * log_z)
                slopes = []
                for number, found in enumerate(logits):
                    bend = None if shape.softcap is None else shape.scale * (1 - (found / shape.softcap).square())
                    slope = (
                        found.sub_(log_z[:, None]).exp_().mul_(factor[:, None])
                    )  # in place: logits are gone after it
                    if teacher is None:
                        here = weight * (is_new == bool(number))
                        slope.scatter_add_(1, places[number], -here[:, None])
                    elif number == 0:
                        slope.sub_(share.mul_(weight[:, None]))
                    slopes.append(slope.mul_(shape.scale if bend is None else bend))
                inner = [slope.to(dtype) for slope in slopes]
                grad_hidden[part] = (inner[0] @ text + inner[1] @ new).to(hidden.dtype)
                grad_rows += (slopes[1].T @ h.to(wide)) if dtype == wide else (inner[1].T @ h).to(wide)
        loss = (weights.to(wide) * (entropy + z_loss_weight * log_partition.square())).sum()
        if gradients:
            ctx.save_for_backward(grad_hidden, grad_rows.to(new_rows.dtype))
        ctx.mark_non_differentiable(entropy, log_partition)
        return loss, entropy, log_partition

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_rows = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_rows * grad_loss.to(grad_rows.dtype), *[None] * 8
