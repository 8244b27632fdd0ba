"""Real-time factor of a tokenizer as EnCodec defines it (Defossez et al. 2022, arXiv:2210.13438): seconds of sound
coded, or decoded, a second of the clock.

Above 1 is faster than the sound. It belongs to the machine that it was measured on, and no test or comparison depends
on it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from models.codec.interface import LatentCodec
from models.tokenizer.tokenizer import Codes, LatentTokenizer
from stages.reports.formatting import markdown_table


@torch.no_grad()
def measure(
    waveform: Tensor,
    sample_rate: int,
    codec: LatentCodec,
    tokenizers: Mapping[str, LatentTokenizer],
    sampling: Mapping[str, Mapping[str, Any]],
    steps: Mapping[str, list[int]],
    repeats: int,
) -> dict[str, Any]:
    """One window (1, C, T) at a time: the median of `repeats` after one that warms up.

    sampling, steps: of each decoder the sampler's arguments, and numbers of function evaluations.
    """
    seconds, device = waveform.shape[-1] / sample_rate, waveform.device

    def factor(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats + 1):
            _wait(device)
            began = time.perf_counter()
            work()
            _wait(device)
            times.append(time.perf_counter() - began)
        return seconds / statistics.median(times[1:])

    latents = codec.encode(waveform).mean
    frames = torch.tensor([latents.shape[1]], device=device)
    rows = [
        {"part": "encode", "decoder": "VAE alone", "steps": 0, "factor": factor(lambda: codec.encode(waveform))},
        {"part": "decode", "decoder": "VAE alone", "steps": 0, "factor": factor(lambda: codec.decode(latents))},
    ]
    for name, tokenizer in tokenizers.items():

        def encode(tokenizer: LatentTokenizer = tokenizer) -> Codes:
            return tokenizer.encode(codec.encode(waveform).mean, frames)

        codes = encode()
        rows.append({"part": "encode", "decoder": name, "steps": 0, "factor": factor(encode)})
        for count in steps[name]:

            def decode(
                tokenizer: LatentTokenizer = tokenizer, codes: Codes = codes, name: str = name, count: int = count
            ) -> Tensor:
                noise = torch.randn_like(latents)
                chosen = {**sampling[name], "num_steps": count}
                return codec.decode(tokenizer.decode(codes.codes, codes.num_codes, frames, noise=noise, **chosen))

            rows.append({"part": "decode", "decoder": name, "steps": count, "factor": factor(decode)})
    return {
        "rows": rows, "seconds": seconds, "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }  # fmt: skip


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def markdown(speed: Mapping[str, Any]) -> list[str]:
    """speed: what `measure` returned."""
    rows = [[row["part"], row["decoder"], row["steps"] or "", f"{row['factor']:.1f}"] for row in speed["rows"]]
    return [
        f"Real-time factor (seconds of sound a second, the VAE included), measured with {machine(speed)}; it belongs to that machine:",
        "",
        *markdown_table(["", "decoder", "evaluations", "real-time factor"], rows),
        "",
    ]


def machine(speed: Mapping[str, Any]) -> str:
    threads = speed["threads"]
    cores = f", {threads} thread{'s' if threads > 1 else ''}" if threads else ""
    return f"one window of {speed['seconds']:.1f} s at a time in float32 on {speed['device']}{cores}"
