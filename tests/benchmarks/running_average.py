"""Error of the decoder that is kept, early in training: a running average with and without warm-up.

    python -m tests.benchmarks.running_average [--steps 100 300 1000] [--width 64] [--batch-size 16]

One training of a small tokenizer with the base preset's decay, optimizer and losses, on random band-limited latents at
the paper's geometry (64 channels, 216 frames, 17.7 tokens a second); two averages follow it. Prints the error of held
out latents, normalised, after encoder, codes and each decoder with 10 evaluations; 1 is the error of the mean latent.
"""

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from conf import compose
from conf.sections.tokenizer import TokenizerConf
from models.running_average import RunningAverage
from models.tokenizer.tokenizer import LatentTokenizer
from stages.engine import optim
from stages.hub.artifacts import build_tokenizer

FACTS = {"latent_dim": 64, "frame_rate": 44100 / 2048}
FRAMES = 216


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    small = [
        f"{part}.{key}" for part in ("encoder", "decoder") for key in (f"width={given.width}", "depth=2", "heads=2")
    ]
    rest = [
        "rate.bitrate=null",
        "rate.token_rate=17.7",
        "quantizer.codebook_size=256",
        "quantizer.reservoir_size=5120",
        "optimizer.warmup_steps=50",
    ]
    conf = compose("tokenizer", overrides=[*small, *rest]).conf
    assert isinstance(conf, TokenizerConf)
    model = build_tokenizer(conf, FACTS)
    constant = AveragedModel(model.decoder, multi_avg_fn=get_ema_multi_avg_fn(conf.ema_decay))
    warm = RunningAverage(model.decoder, conf.ema_decay)
    configured: Any = optim.configure(model.named_parameters(), conf.optimizer, conf.trainer.max_steps)
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    generator = torch.Generator().manual_seed(1)
    held_out = _latents(32, torch.Generator().manual_seed(2))
    print(f"decay {conf.ema_decay}")
    print("| steps | constant decay | with warm-up | the last weights |")
    print("|---|---|---|---|")
    for step in range(1, max(given.steps) + 1):
        latents = _latents(given.batch_size, generator)
        optimizer.zero_grad()
        model.training_loss(latents, _all_frames(latents), generator).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        constant.update_parameters(model.decoder)
        warm.update(model.decoder)
        if step in given.steps:
            errors = [_error(model, decoder, held_out) for decoder in (constant.module, warm.module, model.decoder)]
            print(f"| {step} | " + " | ".join(f"{error:.3f}" for error in errors) + " |")


def _latents(count: int, generator: torch.Generator) -> Tensor:
    """(count, F, 64) of variance 1: noise of few directions, slow in time."""
    slow = torch.randn(count, FRAMES // 8 + 2, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(slow.mT, size=FRAMES, mode="linear").mT
    mixing = torch.randn(4, 64, generator=torch.Generator().manual_seed(3)) / 2
    return 1.2 * smooth @ mixing


def _all_frames(latents: Tensor) -> Tensor:
    return torch.full((len(latents),), latents.shape[1])


@torch.no_grad()
def _error(model: LatentTokenizer, decoder: Any, latents: Tensor) -> float:
    tokenizer = copy.copy(model)
    tokenizer._modules = {**model._modules, "decoder": decoder}
    tokenizer.eval()
    codes = tokenizer.encode(latents, _all_frames(latents))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(4))
    decoded = tokenizer.decode(*codes, _all_frames(latents), num_steps=10, solver="euler", guidance=1.0, noise=noise)
    model.train()
    return float((decoded - latents).square().mean() / latents.var())


if __name__ == "__main__":
    main()
