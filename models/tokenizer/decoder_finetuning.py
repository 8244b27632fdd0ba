"""What a finished tokenizer's decoder is trained on further, with encoder and codebook frozen: codes stay what they are.

Either flow matching as before, or mean velocities (mean_flow.py), with which one evaluation gives a sample. The velocities
that these are the mean of are those of the decoder as it was, with its guidance: they have none of the noise that
x_1 - x_0 has, and one evaluation a step then does what took two.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import ModelError
from models.tokenizer import flow, mean_flow
from models.tokenizer.tokenizer import Codes, LatentTokenizer

ERROR_FLOOR = 1e-3  # mean squared error of a frame's standardised velocity, below which less of it gains little


class DecoderTask(NamedTuple):
    """A batch of clips, and where their paths begin and end."""

    x_0: Tensor  # (B, F, D): noise, times its temperature
    x_1: Tensor  # (B, F, D): standardised latents
    codes: Codes
    num_frames: Tensor  # (B)
    mask: Tensor  # (B, F) bool: the valid frames
    key_mask: Tensor | None  # the same; None where no frame is padding

    def condition(self, tokenizer: LatentTokenizer) -> Tensor:
        """(B, F, W), of that tokenizer's decoder."""
        return tokenizer.condition(self.codes.codes, self.codes.num_codes, self.num_frames)


def freeze_codes(tokenizer: LatentTokenizer, mean: bool, knows_spans: bool = False) -> None:
    """Leaves those parameters trainable that the objective gives a gradient: of the decoder alone, without its prior's
    head. mean: the decoder learns mean velocities, and is asked for them from here on; knows_spans: it has learnt some
    before. Raises ModelError for a decoder that was trained by regression.
    """
    if tokenizer.objective != "flow":
        raise ModelError(f"a decoder of the objective {tokenizer.objective} has no velocity; one of flow is allowed")
    decoder = tokenizer.decoder
    tokenizer.requires_grad_(False)
    decoder.requires_grad_(True)
    decoder.prior_head.requires_grad_(False)
    if mean:
        decoder.no_tokens.requires_grad_(False)
        if not knows_spans:
            decoder.start_spans()
    tokenizer.mean_velocity = mean


def draw_task(
    tokenizer: LatentTokenizer,
    latents: Tensor,
    codes: Codes,
    num_frames: Tensor,
    is_padded: bool,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> DecoderTask:
    """latents (B, F, D), of which num_frames (B) are valid; codes: theirs; is_padded: whether any has fewer than F.

    temperature: of the noise that the decoder will be asked from. Flow matching learns at 1: from other noise it would
    learn another flow. Mean velocities are learnt from a velocity, which is known for noise of any size.
    """
    mask = torch.arange(latents.shape[1], device=latents.device) < num_frames[:, None]
    x_1 = tokenizer.standardized(latents, num_frames)
    x_0 = torch.randn(x_1.shape, generator=generator, device=generator.device).to(x_1.device)
    return DecoderTask(temperature * x_0, x_1, codes, num_frames, mask, mask if is_padded else None)


def flow_loss(
    tokenizer: LatentTokenizer,
    task: DecoderTask,
    token_dropout: float,
    logit_normal_share: float,
    generator: torch.Generator,
) -> Tensor:
    """(): that of the tokenizer's training for the velocity; each clip weighs the same."""
    count, device = len(task.x_1), task.x_1.device
    t = flow.stratified_times(count, logit_normal_share, generator).to(device)
    dropped = (torch.rand(count, generator=generator, device=generator.device) < token_dropout).to(device)
    x_t, velocity = flow.interpolate(task.x_0, task.x_1, t)
    condition = tokenizer.decoder.without_tokens(task.condition(tokenizer), dropped)
    return _mean(_error(tokenizer.decoder(x_t, t, condition, task.key_mask), velocity), task.mask)


def mean_flow_loss(
    tokenizer: LatentTokenizer,
    average: LatentTokenizer,
    before: LatentTokenizer,
    task: DecoderTask,
    guidance: float,
    instant_share: float,
    generator: torch.Generator,
) -> Tensor:
    """(): of mean velocities by the law of the split, whose halves `average`, the running average of the decoder, gives;
    in an instant_share of the clips r = t, and the velocity of `before`, the decoder as it was, is learnt.
    """
    spans = mean_flow.draw_spans(len(task.x_1), instant_share, generator).to(task.x_1.device)
    x_t = flow.interpolate(task.x_0, task.x_1, spans.t).x_t
    with torch.no_grad():
        velocity = before.guided_velocity(task.condition(before), task.key_mask, guidance)(x_t, spans.t, spans.t)
        halves = average.guided_velocity(task.condition(average), task.key_mask, 1.0)
        split = mean_flow.split_target(halves, x_t, spans)
        target = torch.where((spans.r > spans.t)[:, None, None], split, velocity)
    mean = tokenizer.guided_velocity(task.condition(tokenizer), task.key_mask, 1.0)
    return adaptive_error(mean(x_t, spans.t, spans.r), target, task.mask)


def adaptive_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """(): log(1 + error / ERROR_FLOOR) over frames of (B, F, D).

    Its gradient is the squared error's times 1 / (error + ERROR_FLOOR): MeanFlow's adaptive weight, by frame where
    MeanFlow weighs the clip. Silence, which one evaluation misses by little and which is heard, counts as much as sound.
    """
    return _mean((_error(prediction, target) / ERROR_FLOOR).log1p(), mask)


def _error(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, F): mean squared difference of a frame, in float32."""
    return (prediction.float() - target.float()).square().mean(-1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """values (B, F) -> (): mean over a clip's valid frames, and over clips."""
    return ((values * mask).sum(1) / mask.sum(1)).mean()
