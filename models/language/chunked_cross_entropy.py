"""Weighted cross-entropy and z-loss through a head of frozen text rows and new rows, with no (M, V) logits.

    hidden (M, D) ──► CHUNK rows at a time: logits (CHUNK, V) ──► loss, d loss / d hidden, d loss / d new rows

The gradient is made in the forward pass, as Liger does it (Hsu et al. 2024, arXiv:2410.10989), so that no logits are
computed twice; the text rows are frozen, and get none. z-loss: Chowdhery et al. 2022, arXiv:2204.02311.

Liger's own kernel is not used. It takes one weight matrix of V rows: text and new rows would be copied into one in each
step, and it would make and keep a gradient (V, D) of which the frozen rows throw away all but the new. It makes this
gradient in the logits' dtype, bfloat16, where ours is float32; and with weights a token (reduction "none") it computes
the logits twice (0.8.5).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# rows whose logits (CHUNK, V) exist at one time; `python -m tests.benchmarks.language_memory` measures others. On a CPU
# 128 x 49,152 logits stay in the cache while several passes read them: 256 rows take a sixth longer.
CHUNK = 128


class LogitTransform(NamedTuple):
    """What a model does to the output of its head: scale x logits, then softcap x tanh(logits / softcap), if any."""

    scale: float
    softcap: float | None

    @classmethod
    def from_config(cls, config: object) -> "LogitTransform":
        """config: of the text model, with the names that Gemma, Granite and Cohere give."""
        scale = 1 / (getattr(config, "logits_scaling", None) or 1.0) * (getattr(config, "logit_scale", None) or 1.0)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def derivative(self, transformed: Tensor) -> Tensor | float:
        """d transformed / d logits, as a function of the transformed logits."""
        return self.scale if self.softcap is None else self.scale * (1 - (transformed / self.softcap).square())


class CrossEntropy(NamedTuple):
    """The loss with its gradient; what it is made of without."""

    loss: Tensor  # (): sum over M of weight x (per_token + z_loss_weight x (log Z)^2)
    per_token: Tensor  # (M) cross-entropy with the target, or divergence from the teacher, in nats
    log_partition: Tensor  # (M) log Z


def chunked_cross_entropy(
    hidden: Tensor,
    text_rows: Tensor,
    text_bias: Tensor | None,
    new_rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    z_loss_weight: float,
    transform: LogitTransform,
    teacher: Tensor | None = None,
    shares: Tensor | None = None,
) -> CrossEntropy:
    """hidden (M, D), text_rows (T, D) and text_bias (T) frozen, new_rows (V - T, D), targets (M) long, weights (M).

    shares (M, K): with it targets is (M, K), and the target a distribution: shares of its K ids, which sum to 1.

    teacher (M, D): hidden states of the base LLM, which has the text ids alone. With it, the loss is the divergence
    KL(teacher || model), and the targets have no effect (Li and Hoiem 2016, arXiv:1606.09282).
    Logits are made in the dtype of hidden, or in autocast's; their softmax in float32, or float64 where they are. The
    loss can be differentiated once, not twice.
    """
    gradients = torch.is_grad_enabled() and (hidden.requires_grad or new_rows.requires_grad)
    loss, per_token, log_partition = _ChunkedCrossEntropy.apply(
        hidden, new_rows, text_rows, text_bias, targets, weights, z_loss_weight, transform, gradients, teacher, shares
    )
    return CrossEntropy(loss, per_token, log_partition)


class _ChunkedCrossEntropy(torch.autograd.Function):
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
        transform: LogitTransform,
        gradients: bool,
        teacher: Tensor | None,
        shares: Tensor | None,
    ) -> CrossEntropy:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        wide = torch.promote_types(dtype, torch.float32)
        text, new = text_rows.to(dtype), new_rows.to(dtype)
        bias = None if text_bias is None else text_bias.to(dtype)
        grad_hidden = torch.empty_like(hidden if gradients else hidden[:0])
        grad_rows = torch.zeros_like(new_rows if gradients else new_rows[:0], dtype=wide)
        per_token = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        log_partition = torch.empty_like(per_token)
        if shares is None:
            targets, shares = targets[:, None], torch.ones_like(per_token)[:, None]
        with torch.autocast(device, enabled=False):
            for start in range(0, len(hidden), CHUNK):
                chunk = slice(start, start + CHUNK)
                h, weight = hidden[chunk].to(dtype), weights[chunk].to(wide)
                text_logits = transform(F.linear(h, text, bias).to(wide))
                new_logits = transform(F.linear(h, new).to(wide))
                log_z = torch.logaddexp(text_logits.logsumexp(-1), new_logits.logsumexp(-1))
                log_partition[chunk] = log_z

                is_new = targets[chunk] >= len(text_rows)
                text_target = targets[chunk].masked_fill(is_new, 0)
                new_target = (targets[chunk] - len(text_rows)).clamp(min=0)
                share = shares[chunk].to(wide)
                if teacher is None:
                    chosen = (new_logits.gather(1, new_target), text_logits.gather(1, text_target))
                    per_token[chunk] = log_z - (share * torch.where(is_new, *chosen)).sum(1)
                else:
                    log_p = transform(F.linear(teacher[chunk].to(dtype), text, bias).to(wide)).log_softmax(-1)
                    p = log_p.exp()
                    per_token[chunk] = log_z + (p * (log_p - text_logits)).sum(-1)
                if not gradients:
                    continue

                # d loss / d logits = softmax x weight x (1 + 2 z log Z) - weight x (target or teacher), through the
                # transform; in place, for the logits are not needed any more
                factor = weight * (1 + 2 * z_loss_weight * log_z)
                text_derivative, new_derivative = transform.derivative(text_logits), transform.derivative(new_logits)
                grad_text = text_logits.sub_(log_z[:, None]).exp_().mul_(factor[:, None])
                grad_new = new_logits.sub_(log_z[:, None]).exp_().mul_(factor[:, None])
                if teacher is None:
                    grad_text.scatter_add_(1, text_target, -weight[:, None] * share * ~is_new)
                    grad_new.scatter_add_(1, new_target, -weight[:, None] * share * is_new)
                else:
                    grad_text.sub_(p.mul_(weight[:, None]))
                grad_text.mul_(text_derivative)
                grad_new.mul_(new_derivative)
                grad_hidden[chunk] = (grad_text.to(dtype) @ text + grad_new.to(dtype) @ new).to(hidden.dtype)
                exact = dtype == wide
                grad_rows += grad_new.T @ h.to(wide) if exact else (grad_new.to(dtype).T @ h).to(wide)
        loss = (weights.to(wide) * (per_token + z_loss_weight * log_partition.square())).sum()
        if gradients:
            ctx.save_for_backward(grad_hidden, grad_rows.to(new_rows.dtype))
        ctx.mark_non_differentiable(per_token, log_partition)
        return CrossEntropy(loss, per_token, log_partition)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_rows = ctx.saved_tensors
        return grad_hidden * grad_loss.to(grad_hidden.dtype), grad_rows * grad_loss.to(grad_rows.dtype), *[None] * 9
